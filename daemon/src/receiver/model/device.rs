//! One row of the page: a source and what it last said.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tidegate_event::Lsn;
use tidegate_event::cloudevents::parse::{CloudEvent, Data};
use tidegate_event::percent;

use super::{Shown, Stored, shown};

/// The last events of a device that can be asked for.
pub(in crate::receiver) const RECENT: usize = 20;
/// Numbers in a device's curve.
const SAMPLES: usize = 40;
/// Microseconds between two of them, at least.
const SAMPLE_EVERY: i64 = 250_000;
/// Bytes of data in which a number is looked for.
const MAX_PARSED: usize = 4096;
/// Microseconds without a number from the topic of the curve after which another may have it.
const TOPIC_SILENT: i64 = 60_000_000;
/// Lanes of a gateway in which a device's order is followed.
const MAX_ORDERS: usize = 4;

/// A source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::receiver) struct Device {
    pub(in crate::receiver) source: Box<str>,
    /// The last segment of `/gateway/<gateway>/device/<device>`; else the source itself.
    pub(in crate::receiver) name: Box<str>,
    pub(in crate::receiver) gateway: Option<Box<str>>,
    pub(in crate::receiver) events: u64,
    pub(in crate::receiver) out_of_order: u64,
    pub(in crate::receiver) last: Option<Shown>,
    /// The topic of `value` and `samples`: numbers of several would make no curve. One that
    /// brought a number, until it falls silent.
    pub(in crate::receiver) subject: Option<Box<str>>,
    /// The number in the last event of that topic that had one.
    pub(in crate::receiver) value: Option<f64>,
    /// The numbers before, sampled.
    pub(in crate::receiver) samples: VecDeque<f64>,
    sampled: i64,
    /// Where its last events lie in the store.
    pub(in crate::receiver) recent: VecDeque<Lsn>,
    /// [`Model::revision`](super::Model::revision) at its last change.
    pub(in crate::receiver) revision: u64,
    /// Epoch, lane and the highest LSN.
    highest: Vec<(u64, u8, Lsn)>,
    /// Its last event among those that are being applied.
    #[serde(skip)]
    last_index: Option<usize>,
    /// The last one that may belong to the curve.
    #[serde(skip)]
    number_index: Option<usize>,
}

impl Device {
    pub(super) fn new(source: &str) -> Self {
        let own = source.strip_prefix("/gateway/").and_then(|rest| rest.split_once("/device/"));
        let decoded = |text: &str| percent::decode(text).unwrap_or(text.into()).into_owned().into();
        Self {
            source: source.into(),
            name: own.map_or_else(|| source.into(), |(_, device)| decoded(device)),
            gateway: own.map(|(gateway, _)| decoded(gateway)),
            events: 0,
            out_of_order: 0,
            last: None,
            subject: None,
            value: None,
            samples: VecDeque::new(),
            sampled: i64::MIN,
            recent: VecDeque::new(),
            revision: 0,
            highest: Vec::new(),
            last_index: None,
            number_index: None,
        }
    }

    /// Counts the event at `index`; true if it is this device's first of those being applied.
    pub(super) fn count_event(&mut self, Stored { lsn, event }: &Stored<'_>, index: usize) -> bool {
        self.events += 1;
        if self.subject.as_deref().is_none_or(|subject| event.subject.as_deref() == Some(subject)) {
            self.number_index = Some(index);
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(*lsn);
        self.last_index.replace(index).is_none()
    }

    /// Whether an event of this device with a higher LSN was there before.
    pub(super) fn is_out_of_order(&mut self, event: &CloudEvent<'_>) -> bool {
        let Some(id) = event.place() else { return false };
        let same =
            |(epoch, lane, _): &&mut (u64, u8, Lsn)| (*epoch, *lane) == (id.epoch.0, id.lane.0);
        match self.highest.iter_mut().find(same) {
            Some((_, _, highest)) if id.lsn < *highest => true,
            Some((_, _, highest)) => {
                *highest = id.lsn;
                false
            }
            None => {
                if self.highest.len() == MAX_ORDERS {
                    self.highest.remove(0);
                }
                self.highest.push((id.epoch.0, id.lane.0, id.lsn));
                false
            }
        }
    }

    /// Takes over its last event of `events`, and the last number of its curve's topic.
    pub(super) fn show_last(&mut self, events: &[Stored<'_>], unix_micros: i64) {
        let stored = |index: Option<usize>| index.and_then(|index| events.get(index));
        let numbered = stored(self.number_index.take());
        if let Some(last) = stored(self.last_index.take()) {
            self.last = Some(Shown::new(last));
        }
        let since = unix_micros.saturating_sub(self.sampled);
        let Some((number, subject)) = numbered.and_then(|stored| {
            Some((number(&stored.event.data)?, stored.event.subject.as_deref()))
        }) else {
            if self.subject.is_some() && since >= TOPIC_SILENT {
                (self.subject, self.samples) = (None, VecDeque::new());
            }
            return;
        };
        if self.subject.as_deref() != subject {
            self.subject = subject.map(|text| shown(text).into());
        }
        self.value = Some(number);
        if since >= SAMPLE_EVERY {
            self.sampled = unix_micros;
            if self.samples.len() == SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(number);
        }
    }
}

/// The number that an event is about: its data, or the member `value`, or the first number in it.
fn number(data: &Data<'_>) -> Option<f64> {
    let Data::Json(text) = data else { return None };
    if text.len() > MAX_PARSED {
        return None;
    }
    match serde_json::from_str(text).ok()? {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::Object(members) => {
            let value = members.get("value").and_then(serde_json::Value::as_f64);
            value.or_else(|| members.values().find_map(serde_json::Value::as_f64))
        }
        _ => None,
    }
}
