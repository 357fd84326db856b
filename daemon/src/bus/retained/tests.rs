//! Retained messages, with a state on disk.

use proptest::prelude::*;
use tempfile::TempDir;
use tidegate_event::{Property, Qos, Received};

use super::*;
use crate::bus::TREE;
use crate::state::State;

struct Fixture {
    dir: TempDir,
    state: State,
    retained: Retained,
}

impl Fixture {
    fn new(max_count: usize) -> Self {
        Self::on(tempfile::tempdir().unwrap(), max_count)
    }

    fn on(dir: TempDir, max_count: usize) -> Self {
        Self::within(dir, Bounds { count: max_count, bytes: u64::MAX })
    }

    fn within(dir: TempDir, bounds: Bounds) -> Self {
        let (state, _) = State::open(dir.path()).unwrap();
        let tree = state.tree(TREE).unwrap();
        let retained =
            Retained::load(tree, bounds, Memory::new(64 << 20), Metrics::default()).unwrap();
        Self { dir, state, retained }
    }

    fn reopen(self) -> Self {
        let Self { dir, state, retained } = self;
        drop((state, retained));
        Self::on(dir, 1000)
    }

    fn publish(&mut self, topic: &str, payload: &[u8]) {
        self.publish_with(topic, &[], payload);
    }

    fn publish_with(&mut self, topic: &str, list: &[u8], payload: &[u8]) {
        self.retained.apply(&EventRef {
            lane: Lane(0),
            id: EventId { epoch: Epoch(1), lane: Lane(0), lsn: 1 },
            received: Received::Synced { unix_micros: unix_micros() - 10_000_000 },
            origin: "sensor",
            topic,
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: Properties::new(list),
            payload,
        });
    }

    fn topics(&self, filter: &str) -> Vec<&str> {
        let filter = Filter::new(filter).unwrap();
        self.retained.matching(&filter).map(|entry| entry.event.topic()).collect()
    }
}

#[test]
fn the_last_message_of_a_topic_counts_and_an_empty_one_removes_it() {
    let mut fixture = Fixture::new(10);
    fixture.publish("a", b"1");
    fixture.publish("a", b"2");
    fixture.publish("b", b"1");
    fixture.publish("b", b"");
    fixture.publish("never", b"");
    assert_eq!(fixture.topics("#"), ["a"]);
    let filter = Filter::everything();
    assert_eq!(fixture.retained.matching(&filter).next().unwrap().event.payload(), b"2");
    let filled = fixture.retained.memory.used();
    fixture.publish("a", b"33");
    assert_eq!(fixture.retained.memory.used(), filled + 1);
    fixture.publish("a", b"");
    assert_eq!(fixture.retained.memory.used(), 0);
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let mut fixture = Fixture::new(10);
    let mut list = Vec::new();
    Property::User("unit", "°C").write(&mut list);
    fixture.publish_with("a", &list, b"1");
    fixture.publish("b", b"1");
    fixture.retained.write(5);
    fixture.publish("b", b"");
    fixture.retained.write(7);
    let fixture = fixture.reopen();
    assert_eq!((fixture.topics("#"), fixture.retained.applied()), (vec!["a"], 7));
    let filter = Filter::everything();
    let entry = fixture.retained.matching(&filter).next().unwrap();
    assert_eq!((&*entry.origin, entry.event.payload()), ("sensor", &b"1"[..]));
    assert_eq!(entry.event.properties().as_bytes(), list);
    assert!(fixture.retained.memory.used() > entry.event.size());
}

#[test]
fn beyond_the_bound_the_newer_message_is_not_kept_and_counted() {
    let mut fixture = Fixture::new(2);
    for topic in ["a", "b", "c"] {
        fixture.publish(topic, b"x");
    }
    fixture.publish("a", b"y");
    assert_eq!(fixture.topics("#"), ["a", "b"]);
    assert_eq!(fixture.retained.metrics.retained_refused.get(), 1);
    fixture.publish("b", b"");
    fixture.publish("c", b"x");
    assert_eq!(fixture.topics("#"), ["a", "c"]);
}

#[test]
fn a_message_whose_time_is_over_is_not_found() {
    let mut fixture = Fixture::new(2);
    let mut list = Vec::new();
    Property::MessageExpiry(5).write(&mut list);
    fixture.publish_with("dead", &list, b"x");
    fixture.publish("live", b"x");
    assert_eq!(fixture.topics("#"), ["live"]);
}

#[test]
fn writing_is_due_soon_after_a_change_and_now_and_then_without() {
    let mut fixture = Fixture::new(1000);
    let retained = &fixture.retained;
    let since = retained.since;
    assert_eq!(retained.due(0), None);
    assert_eq!(retained.due(1), Some(since + POSITION_DELAY));
    assert_eq!(retained.due(MAX_POSITION_GAP), Some(since + CHANGE_DELAY));
    fixture.publish("a", b"x");
    assert_eq!(fixture.retained.due(1), Some(fixture.retained.since + CHANGE_DELAY));
    for number in 0..MAX_CHANGES {
        fixture.publish(&number.to_string(), b"x");
    }
    assert_eq!(fixture.retained.due(1), Some(fixture.retained.since));
    fixture.retained.write(1);
    assert_eq!(fixture.retained.due(1), None);
}

proptest! {
    // The search by prefix against the definition.
    #[test]
    fn it_finds_what_the_filter_matches(
        topics in prop::collection::btree_set("(a|b|ab|/){1,6}", 1..30),
        filter in "(a|b|ab|/|\\+/|/\\+/){0,5}(\\+|#|a|)",
    ) {
        let Ok(parsed) = Filter::new(&filter) else { return Ok(()) };
        let mut fixture = Fixture::new(1000);
        for topic in &topics {
            fixture.publish(topic, b"x");
        }
        let expected: Vec<&str> =
            topics.iter().map(String::as_str).filter(|topic| parsed.matches(topic)).collect();
        prop_assert_eq!(fixture.topics(&filter), expected, "{}", filter);
    }
}

#[test]
fn they_take_a_quarter_of_the_memory_and_no_more() {
    let mut fixture = Fixture::new(1000);
    let payload = vec![0; 1 << 20];
    for n in 0..20 {
        fixture.publish(&n.to_string(), &payload);
    }
    let kept = fixture.topics("#").len();
    assert_eq!(kept, 15, "of 64 MiB, and each takes a little more than it says");
    assert_eq!(fixture.retained.metrics.retained_refused.get(), 5);
    fixture.publish("0", b"");
    fixture.publish("19", &payload);
    assert_eq!(fixture.topics("19").len(), 1);
}

#[test]
fn bytes_beyond_the_bound_are_not_kept_and_what_goes_gives_them_back() {
    let one = stored("t/0", "sensor", &[], &[0; 500]);
    let bounds = Bounds { count: 1000, bytes: 2 * one };
    let mut fixture = Fixture::within(tempfile::tempdir().unwrap(), bounds);
    fixture.publish("t/0", &[0; 500]);
    fixture.publish("t/1", &[0; 500]);
    fixture.publish("t/2", b"x");
    assert_eq!(fixture.topics("#"), ["t/0", "t/1"]);
    assert_eq!(fixture.retained.metrics.retained_refused.get(), 1);
    assert_eq!(fixture.retained.metrics.retained_bytes.get() as u64, 2 * one);
    fixture.publish("t/1", &[0; 499]);
    fixture.publish("t/1", &[0; 501]);
    assert_eq!(fixture.topics("#"), ["t/0"], "the old one is not what was published last");
    fixture.publish("t/0", b"");
    assert_eq!(fixture.retained.metrics.retained_bytes.get(), 0);
    fixture.publish("t/3", &[0; 500]);
    fixture.retained.write(7);
    let fixture = fixture.reopen();
    assert_eq!(fixture.topics("#"), ["t/3"]);
    assert_eq!(fixture.retained.metrics.retained_bytes.get() as u64, one);
}
