//! The read model behind the page and the API: what arrived, by device; alerts; the latest events.
//!
//! Bounded whatever arrives: [`MAX_DEVICES`] devices, [`MAX_ALERTS`](alert::MAX_ALERTS) alerts, the
//! last [`LATEST`] events, and of an event's data the first [`MAX_SHOWN`] bytes.

pub(super) mod alert;
pub(super) mod device;
mod rate;

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use tidegate_event::Lsn;
use tidegate_event::cloudevents::parse::{CloudEvent, Data};

use alert::Alerts;
use device::Device;
pub(super) use rate::Rate;

/// Sources with a row of their own; the events of further ones are only counted.
pub(super) const MAX_DEVICES: usize = 10_000;
/// Bytes of a source beyond which it has no row of its own.
pub(super) const MAX_SOURCE: usize = 512;
/// The latest events that are kept in memory.
pub(super) const LATEST: usize = 50;
/// Bytes of a text that is shown, where it is an event's data, subject or type.
pub(super) const MAX_SHOWN: usize = 512;

/// An event in the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored<'a> {
    /// Its place in the store.
    pub(super) lsn: Lsn,
    pub(super) event: &'a CloudEvent<'a>,
}

/// An event as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Shown {
    /// Its place in the store.
    pub(super) lsn: Lsn,
    pub(super) source: Box<str>,
    #[serde(rename = "type")]
    pub(super) kind: Box<str>,
    pub(super) subject: Option<Box<str>>,
    /// The attribute, as sent.
    pub(super) time: Option<Box<str>>,
    /// The data as text; Base64 where it is binary.
    pub(super) data: Option<Box<str>>,
    /// Whether it was cut.
    pub(super) cut: bool,
}

/// Everything that is counted over the receiver's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    /// Events stored.
    pub(super) events: u64,
    /// Bytes of their JSON.
    pub(super) bytes: u64,
    /// Events that came again and were not stored again.
    pub(super) duplicates: u64,
    /// Events with a lower LSN than one of the same source before.
    pub(super) out_of_order: u64,
    /// Requests refused because of what was in them.
    pub(super) refused: u64,
    /// Events of sources beyond [`MAX_DEVICES`].
    pub(super) without_device: u64,
}

/// The read model.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Model {
    pub(super) totals: Totals,
    pub(super) devices: Vec<Device>,
    #[serde(skip)]
    by_source: HashMap<Box<str>, usize>,
    pub(super) alerts: Alerts,
    pub(super) latest: VecDeque<Shown>,
    /// Counts changes of devices: each device carries that of its last one.
    pub(super) revision: u64,
    #[serde(skip)]
    touched: Vec<usize>,
}

impl Model {
    /// To be called after the model was read from a snapshot.
    pub(super) fn index(&mut self) {
        let sources = self.devices.iter().enumerate();
        self.by_source = sources.map(|(at, device)| (device.source.clone(), at)).collect();
    }

    /// Takes `events` in, which were received at `unix_micros`.
    pub(super) fn apply(&mut self, events: &[Stored<'_>], unix_micros: i64) {
        for (index, stored) in events.iter().enumerate() {
            let event = stored.event;
            self.totals.events += 1;
            self.totals.bytes += event.raw.len() as u64;
            if event.kind.starts_with(alert::TYPE_PREFIX) {
                // Of an edge service rather than a device: no row of its own.
                self.alerts.apply(event);
                continue;
            }
            let Some(at) = self.device(event) else {
                self.totals.without_device += 1;
                continue;
            };
            let device = &mut self.devices[at];
            if device.count_event(stored, index) {
                self.touched.push(at);
            }
            if device.is_out_of_order(event) {
                device.out_of_order += 1;
                self.totals.out_of_order += 1;
            }
        }
        for at in self.touched.drain(..) {
            self.revision += 1;
            let device = &mut self.devices[at];
            device.revision = self.revision;
            device.show_last(events, unix_micros);
        }
        let latest = events.len().saturating_sub(LATEST);
        for stored in &events[latest..] {
            if self.latest.len() == LATEST {
                self.latest.pop_front();
            }
            self.latest.push_back(Shown::new(stored));
        }
    }

    fn device(&mut self, event: &CloudEvent<'_>) -> Option<usize> {
        if let Some(at) = self.by_source.get(event.source.as_ref()) {
            return Some(*at);
        }
        if self.devices.len() >= MAX_DEVICES || event.source.len() > MAX_SOURCE {
            return None;
        }
        let device = Device::new(&event.source);
        self.devices.push(device);
        self.by_source.insert(event.source.as_ref().into(), self.devices.len() - 1);
        Some(self.devices.len() - 1)
    }

    /// A copy for the snapshot.
    pub(super) fn to_keep(&self) -> Self {
        Self {
            totals: self.totals,
            devices: self.devices.clone(),
            by_source: HashMap::new(),
            alerts: self.alerts.clone(),
            latest: self.latest.clone(),
            revision: self.revision,
            touched: Vec::new(),
        }
    }

    /// The device with this source.
    pub(super) fn find(&self, source: &str) -> Option<&Device> {
        self.by_source.get(source).map(|at| &self.devices[*at])
    }
}

impl Shown {
    pub(super) fn new(stored: &Stored<'_>) -> Self {
        let event = stored.event;
        let data = match &event.data {
            Data::None => None,
            Data::Json(text) => Some(*text),
            Data::Base64(text) => Some(text.as_ref()),
        };
        Self {
            lsn: stored.lsn,
            source: shown(&event.source).into(),
            kind: shown(&event.kind).into(),
            subject: event.subject.as_deref().map(|text| shown(text).into()),
            time: event.time.as_deref().map(|text| shown(text).into()),
            data: data.map(|text| shown(text).into()),
            cut: data.is_some_and(|text| text.len() > MAX_SHOWN),
        }
    }
}

/// The beginning of `text`, up to [`MAX_SHOWN`] bytes.
pub(super) fn shown(text: &str) -> &str {
    let mut end = text.len().min(MAX_SHOWN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
