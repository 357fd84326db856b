//! Which events of a lane stand for the others of their topic and interval. Pure.
//!
//! It looks at all of them, and then says of each what becomes of it. Of the events themselves nothing is held:
//! JSON takes many times its bytes in memory.

use std::collections::HashMap;

use serde_json::Value;
use tidegate_event::{EventRef, Lsn};

use crate::log::rewrite::Fate;
use crate::log::{Downsample, Keep};

/// Topics and intervals that are told apart at once; events of others are kept.
const MOST: usize = 1 << 16;

/// Looks at events in order.
#[derive(Debug)]
pub(super) struct Thinning<'a> {
    downsample: &'a Downsample,
    /// By interval and topic.
    groups: HashMap<i64, HashMap<String, Group>>,
    /// How many.
    count: usize,
}

/// The events of one topic in one interval.
#[derive(Debug)]
struct Group {
    /// The one that is kept so far.
    kept: Lsn,
    /// Its number, where it is compared by that.
    number: Option<f64>,
    /// Of the mean: the sum, and how many. The one that is kept is the newest of these.
    sum: f64,
    count: u32,
}

impl<'a> Thinning<'a> {
    pub(super) fn new(downsample: &'a Downsample) -> Self {
        Self { downsample, groups: HashMap::new(), count: 0 }
    }

    fn interval(&self, event: &EventRef<'_>) -> i64 {
        let micros = i64::try_from(self.downsample.interval.as_micros()).unwrap_or(i64::MAX);
        event.received.unix_micros().div_euclid(micros.max(1))
    }

    fn number(&self, event: &EventRef<'_>) -> Option<f64> {
        let pointer = match &self.downsample.keep {
            Keep::Last => return None,
            Keep::Mean(pointer) | Keep::Min(pointer) | Keep::Max(pointer) => pointer,
        };
        let payload: Value = serde_json::from_slice(event.payload).ok()?;
        payload.pointer(pointer)?.as_f64()
    }

    pub(super) fn look(&mut self, event: &EventRef<'_>) {
        let interval = self.interval(event);
        let is_known =
            self.groups.get(&interval).is_some_and(|topics| topics.contains_key(event.topic));
        if !is_known && self.count >= MOST {
            return;
        }
        let (lsn, number) = (event.lsn(), self.number(event));
        let topics = self.groups.entry(interval).or_default();
        if !is_known {
            self.count += 1;
            let group = Group { kept: lsn, number: None, sum: 0.0, count: 0 };
            topics.insert(event.topic.to_owned(), group);
        }
        let Some(group) = topics.get_mut(event.topic) else { return };
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
        if let Some(number) = number {
            group.sum += number;
            group.count += 1;
        }
    }

    fn group(&self, event: &EventRef<'_>) -> Option<&Group> {
        self.groups.get(&self.interval(event))?.get(event.topic)
    }

    /// Whether another one stands for an event that was looked at.
    pub(super) fn is_gone(&self, event: &EventRef<'_>) -> bool {
        self.group(event).is_some_and(|group| group.kept != event.lsn())
    }

    /// What becomes of an event that was looked at.
    pub(super) fn fate(&self, event: &EventRef<'_>) -> Fate {
        match (&self.downsample.keep, self.group(event)) {
            (_, Some(group)) if group.kept != event.lsn() => Fate::Gone(event.lane),
            (Keep::Mean(pointer), Some(group)) if group.count > 1 => {
                let mean = group.sum / f64::from(group.count);
                with_number(event.payload, pointer, mean).map_or(Fate::Kept, Fate::Changed)
            }
            _ => Fate::Kept,
        }
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

fn with_number(payload: &[u8], pointer: &str, number: f64) -> Option<Vec<u8>> {
    let mut payload: Value = serde_json::from_slice(payload).ok()?;
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
        let events: Vec<_> = (1..).zip(events).map(event).collect();
        events.iter().for_each(|event| thinning.look(event));
        let fates = events.iter().map(|event| (event, thinning.fate(event)));
        let kept = fates.filter_map(|(event, fate)| {
            assert_eq!(thinning.is_gone(event), fate == Fate::Gone(event.lane));
            match fate {
                Fate::Kept => Some((event.lsn(), None)),
                Fate::Changed(payload) => {
                    Some((event.lsn(), Some(String::from_utf8(payload).unwrap())))
                }
                Fate::Gone(_) => None,
            }
        });
        kept.collect()
    }

    fn event<'a>((lsn, (topic, second, payload)): (Lsn, &'a (&str, i64, &str))) -> EventRef<'a> {
        EventRef {
            id: EventId { epoch: Epoch(1), lane: Lane(0), lsn },
            lane: Lane(2),
            received: Received::Synced { unix_micros: second * 1_000_000 },
            origin: "",
            topic,
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            payload: payload.as_bytes(),
        }
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

    #[test]
    fn beyond_a_number_of_topics_and_intervals_others_are_kept() {
        let downsample = Downsample { interval: Duration::from_secs(60), keep: Keep::Last };
        let mut thinning = Thinning::new(&downsample);
        let topics: Vec<String> = (0..=MOST).map(|number| number.to_string()).collect();
        let once = topics.iter().map(|topic| (topic.as_str(), 1, ""));
        let twice: Vec<_> = once.clone().chain(once).collect();
        let events: Vec<_> = (1..).zip(&twice).map(event).collect();
        events.iter().for_each(|event| thinning.look(event));
        assert_eq!(thinning.count, MOST);
        let gone: Vec<Lsn> =
            events.iter().filter(|it| thinning.is_gone(it)).map(EventRef::lsn).collect();
        assert!(gone.into_iter().eq(1..=MOST as Lsn), "the last topic has both");
    }
}
