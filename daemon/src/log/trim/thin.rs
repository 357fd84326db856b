//! Which events of a lane stand for the others of their topic and interval. Pure.

use std::collections::HashMap;

use serde_json::Value;
use tidegate_event::{EventRef, Lsn};

use crate::log::{Downsample, Keep};

/// Topics and intervals that are told apart at once; events of others are kept.
const MOST: usize = 1 << 16;

/// Looks at events in order.
#[derive(Debug)]
pub(super) struct Thinning<'a> {
    downsample: &'a Downsample,
    /// By topic and interval.
    groups: HashMap<(String, i64), Group>,
    /// Events of no group.
    others: Vec<Lsn>,
}

/// The events of one topic in one interval.
#[derive(Debug)]
struct Group {
    /// The one that is kept so far.
    kept: Lsn,
    /// Its number, where it is compared by that.
    number: Option<f64>,
    /// Of the mean: the sum, how many, and the newest payload with a number in it.
    sum: f64,
    count: u32,
    payload: Option<Value>,
}

impl<'a> Thinning<'a> {
    pub(super) fn new(downsample: &'a Downsample) -> Self {
        Self { downsample, groups: HashMap::new(), others: Vec::new() }
    }

    pub(super) fn look(&mut self, event: &EventRef<'_>) {
        let micros = i64::try_from(self.downsample.interval.as_micros()).unwrap_or(i64::MAX);
        let interval = event.received.unix_micros().div_euclid(micros.max(1));
        let key = (event.topic.to_owned(), interval);
        if self.groups.len() >= MOST && !self.groups.contains_key(&key) {
            self.others.push(event.lsn());
            return;
        }
        let lsn = event.lsn();
        let (number, payload) = match &self.downsample.keep {
            Keep::Last => (None, None),
            Keep::Mean(pointer) | Keep::Min(pointer) | Keep::Max(pointer) => {
                let payload: Option<Value> = serde_json::from_slice(event.payload).ok();
                (payload.as_ref().and_then(|it| it.pointer(pointer)?.as_f64()), payload)
            }
        };
        let group = self.groups.entry(key).or_insert(Group {
            kept: lsn,
            number: None,
            sum: 0.0,
            count: 0,
            payload: None,
        });
        let is_better = match &self.downsample.keep {
            Keep::Last => true,
            // One without a number stands for the others only where none has one.
            Keep::Mean(_) => number.is_some() || group.number.is_none(),
            Keep::Min(_) => is_better(number, group.number, |new, old| new < old),
            Keep::Max(_) => is_better(number, group.number, |new, old| new > old),
        };
        if is_better {
            (group.kept, group.number) = (lsn, number);
        }
        if matches!(self.downsample.keep, Keep::Mean(_))
            && let Some(number) = number
        {
            group.sum += number;
            group.count += 1;
            group.payload = payload;
        }
    }

    /// The events that are kept; those whose payload changes, with that.
    pub(super) fn decided(self) -> HashMap<Lsn, Option<Vec<u8>>> {
        let mut kept: HashMap<_, _> = self.others.into_iter().map(|lsn| (lsn, None)).collect();
        for group in self.groups.into_values() {
            let changed = match (&self.downsample.keep, group.payload) {
                (Keep::Mean(pointer), Some(payload)) if group.count > 1 => {
                    with_number(payload, pointer, group.sum / f64::from(group.count))
                }
                _ => None,
            };
            kept.insert(group.kept, changed);
        }
        kept
    }
}

fn is_better(new: Option<f64>, old: Option<f64>, better: impl Fn(f64, f64) -> bool) -> bool {
    match (new, old) {
        (Some(new), Some(old)) => better(new, old),
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (None, None) => true,
    }
}

fn with_number(mut payload: Value, pointer: &str, number: f64) -> Option<Vec<u8>> {
    *payload.pointer_mut(pointer)? = serde_json::Number::from_f64(number)?.into();
    serde_json::to_vec(&payload).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_event::record::Properties;
    use tidegate_event::{Epoch, EventId, Lane, Qos, Received};

    use super::*;

    fn kept(keep: Keep, events: &[(&str, i64, &str)]) -> Vec<(Lsn, Option<String>)> {
        let downsample = Downsample { interval: Duration::from_secs(60), keep };
        let mut thinning = Thinning::new(&downsample);
        for (lsn, (topic, second, payload)) in (1..).zip(events) {
            thinning.look(&EventRef {
                id: EventId { epoch: Epoch(1), lane: Lane(0), lsn },
                lane: Lane(2),
                received: Received::Synced { unix_micros: second * 1_000_000 },
                origin: "",
                topic,
                qos: Qos::AtLeastOnce,
                retain: false,
                properties: Properties::default(),
                payload: payload.as_bytes(),
            });
        }
        let text = |payload: Vec<u8>| String::from_utf8(payload).unwrap();
        let mut kept: Vec<_> =
            thinning.decided().into_iter().map(|(lsn, it)| (lsn, it.map(text))).collect();
        kept.sort();
        kept
    }

    const EVENTS: &[(&str, i64, &str)] = &[
        ("a", 0, r#"{"t":3,"unit":"K"}"#),
        ("a", 10, r#"{"t":1}"#),
        ("b", 20, "off"),
        ("a", 59, r#"{"t":2,"n":7}"#),
        ("a", 60, r#"{"t":9}"#),
        ("b", 61, "on"),
        ("b", 62, r#"{"t":"high"}"#),
    ];

    #[test]
    fn the_last_of_a_topic_and_interval_is_kept() {
        let plain = |lsns: &[Lsn]| lsns.iter().map(|lsn| (*lsn, None)).collect::<Vec<_>>();
        assert_eq!(kept(Keep::Last, EVENTS), plain(&[3, 4, 5, 7]));
        assert_eq!(kept(Keep::Min("/t".into()), EVENTS), plain(&[2, 3, 5, 7]));
        assert_eq!(kept(Keep::Max("/t".into()), EVENTS), plain(&[1, 3, 5, 7]));
    }

    #[test]
    fn the_mean_stands_in_the_newest_payload_that_has_a_number() {
        let kept = kept(Keep::Mean("/t".into()), EVENTS);
        let mean = Some(r#"{"n":7,"t":2.0}"#.to_owned());
        assert_eq!(kept, [(3, None), (4, mean), (5, None), (7, None)]);
    }

    #[test]
    fn a_payload_may_be_the_number() {
        let events = [("a", 0, "1"), ("a", 1, "2"), ("a", 2, "nan"), ("a", 3, "6")];
        assert_eq!(kept(Keep::Mean(String::new()), &events), [(4, Some("3.0".to_owned()))]);
    }
}
