//! What the lanes of an event mean for its forwarding: who goes first, and how old it may become.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_event::{EventRef, Lane, Property, Received};

use crate::clock;
use crate::log::Log;
use crate::state::LaneSet;

/// What a lane says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// Higher goes first.
    pub(super) priority: u8,
    /// Older events are not sent.
    pub(super) max_age: Option<Duration>,
}

/// The lanes that the config knows. Others are treated as lane 0.
#[derive(Debug)]
pub(super) struct Rules {
    by_lane: BTreeMap<Lane, Rule>,
    default: Rule,
    /// Of every lane that there can be: it is asked for each event.
    max_ages: Vec<Option<Duration>>,
}

impl Rules {
    /// Those of the log.
    pub(super) fn of(log: &Log) -> Self {
        let lanes = log.lanes();
        let rule = |lane| {
            let rule = lanes.rule(lane);
            Rule { priority: rule.priority, max_age: rule.max_age }
        };
        Self::new(lanes.all().map(|lane| (lane, rule(lane))))
    }

    pub(super) fn new(rules: impl IntoIterator<Item = (Lane, Rule)>) -> Self {
        let mut by_lane: BTreeMap<Lane, Rule> = rules.into_iter().collect();
        let default = *by_lane.entry(Lane(0)).or_default();
        let max_age = |lane| by_lane.get(&Lane(lane)).unwrap_or(&default).max_age;
        let max_ages = (0..=u8::MAX).map(max_age).collect();
        Self { by_lane, default, max_ages }
    }

    /// The lanes in `lanes` by priority, the highest first. What no other has, the last one takes.
    pub(super) fn classes(&self, lanes: LaneSet) -> Vec<LaneSet> {
        let mut classes: BTreeMap<u8, LaneSet> = BTreeMap::new();
        for (lane, rule) in self.by_lane.iter().filter(|(lane, _)| lanes.contains(**lane)) {
            let class = classes.entry(rule.priority).or_default();
            *class = class.with(*lane);
        }
        let mut classes: Vec<LaneSet> = classes.into_values().rev().collect();
        let named = classes.iter().fold(LaneSet::default(), |all, class| all.union(*class));
        match classes.last_mut() {
            Some(last) => *last = last.union(lanes.without(named)),
            None => classes.push(lanes),
        }
        classes
    }

    /// The highest priority of these lanes.
    pub(super) fn priority(&self, lanes: LaneSet) -> u8 {
        let known = self.by_lane.iter().filter(|(lane, _)| lanes.contains(**lane));
        known.map(|(_, rule)| rule.priority).max().unwrap_or(self.default.priority)
    }

    /// Whether an event is too old to be sent, at `now` (microseconds since 1970). Where the clock is not
    /// set, or was not when the event came, nobody knows, and it is sent.
    pub(super) fn is_expired(&self, event: &EventRef<'_>, now: i64) -> bool {
        let Received::Synced { unix_micros } = event.received else { return false };
        if !clock::is_set(now) || !clock::is_set(unix_micros) {
            return false;
        }
        let age = u64::try_from(now.saturating_sub(unix_micros)).unwrap_or_default();
        let age = Duration::from_micros(age);
        if self.max_ages[usize::from(event.lane.0)].is_some_and(|max| age > max) {
            return true;
        }
        // MQTT 5, 3.3.2.3.3: "if the Message Expiry Interval has passed […] the Server MUST delete the copy".
        !event.properties.is_empty()
            && event.properties.iter().any(|property| {
                matches!(property, Property::MessageExpiry(seconds)
                    if age >= Duration::from_secs(seconds.into()))
            })
    }
}

#[cfg(test)]
mod tests {
    use tidegate_event::record::Properties;
    use tidegate_event::{Epoch, EventId, Qos};

    use super::*;

    /// 2026-11-21T08:00:00Z.
    const NOW: i64 = 1_795_248_000_000_000;

    fn rule(priority: u8) -> Rule {
        Rule { priority, max_age: None }
    }

    fn set(lanes: &[u8]) -> LaneSet {
        lanes.iter().copied().map(Lane).collect()
    }

    #[test]
    fn lanes_of_one_priority_go_together_and_unknown_ones_with_the_last() {
        let rules = Rules::new([
            (Lane(0), rule(3)),
            (Lane(1), rule(9)),
            (Lane(2), rule(3)),
            (Lane(5), rule(0)),
        ]);
        let all = rules.classes(LaneSet::ALL);
        let last = LaneSet::ALL.without(set(&[0, 1, 2]));
        assert_eq!(all, [set(&[1]), set(&[0, 2]), last]);
        assert_eq!(all.iter().map(|class| rules.priority(*class)).collect::<Vec<_>>(), [9, 3, 0]);
        assert_eq!(rules.classes(set(&[0, 1])), [set(&[1]), set(&[0])]);
        assert_eq!(rules.classes(set(&[77])), [set(&[77])]);
        assert_eq!(rules.priority(set(&[77])), 3, "as lane 0");
        assert_eq!(Rules::new([]).classes(LaneSet::ALL), [LaneSet::ALL]);
    }

    #[test]
    fn an_event_expires_by_its_lane_or_as_its_publisher_said_if_the_clock_is_right() {
        let minute = Duration::from_secs(60);
        let rules = Rules::new([
            (Lane(0), Rule::default()),
            (Lane(1), Rule { priority: 9, max_age: Some(minute) }),
        ]);
        let mut list = Vec::new();
        Property::MessageExpiry(60).write(&mut list);
        let event = |lane: u8, received, properties| EventRef {
            id: EventId { epoch: Epoch(1), lane: Lane(0), lsn: 1 },
            lane: Lane(lane),
            received,
            origin: "o",
            topic: "t",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::new(properties),
            payload: b"",
        };
        let ago = |seconds: i64| Received::Synced { unix_micros: NOW - seconds * 1_000_000 };
        assert!(!rules.is_expired(&event(1, ago(60), &[]), NOW));
        assert!(rules.is_expired(&event(1, ago(61), &[]), NOW));
        assert!(!rules.is_expired(&event(0, ago(1_000_000), &[]), NOW));
        assert!(rules.is_expired(&event(0, ago(60), &list), NOW));
        assert!(!rules.is_expired(&event(0, ago(59), &list), NOW));
        assert!(!rules.is_expired(&event(1, ago(-100), &list), NOW), "of the future");
        let unset = Received::SinceBoot { unix_micros: 5, boot: 1, nanos: 1 };
        assert!(!rules.is_expired(&event(1, unset, &list), NOW));
        assert!(!rules.is_expired(&event(1, Received::Synced { unix_micros: 5 }, &list), NOW));
        assert!(!rules.is_expired(&event(1, ago(1_000_000_000), &list), 77), "not set now");
    }
}
