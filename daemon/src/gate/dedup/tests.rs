use tidegate_config::Span;
use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Lane, Property, Qos, Received};

use super::*;
use crate::log::{Append, FileSystem, Options};

fn dedup(max_events: usize) -> Dedup {
    Dedup::new(&Config { window: Span::seconds(60), max_events })
}

fn first(dedup: &Dedup, id: &str) -> Mark {
    match dedup.enter(dedup.key("/s", id)) {
        Arrival::First(mark) => mark,
        other => panic!("{id} is not the first: {other:?}"),
    }
}

fn is_known(dedup: &Dedup, id: &str) -> bool {
    !matches!(dedup.enter(dedup.key("/s", id)), Arrival::First(_))
}

#[test]
fn source_and_id_together_tell_events_apart() {
    let dedup = dedup(10);
    first(&dedup, "1").stored();
    assert!(is_known(&dedup, "1") && !is_known(&dedup, "2"));
    assert!(matches!(dedup.enter(dedup.key("/other", "1")), Arrival::First(_)));
    assert!(matches!(dedup.enter(dedup.key("/s1", "")), Arrival::First(_)));
    assert_eq!(dedup.metrics.duplicates.get(), 1);
}

#[tokio::test]
async fn a_second_copy_waits_for_the_first_and_learns_what_became_of_it() {
    let dedup = dedup(10);
    for is_stored in [true, false] {
        let mark = first(&dedup, "1");
        let Arrival::OfPending(pending) = dedup.enter(dedup.key("/s", "1")) else {
            panic!("it is not pending");
        };
        let (waited, ()) = tokio::join!(pending.is_stored(), async {
            if is_stored { mark.stored() } else { drop(mark) }
        });
        assert_eq!((waited, is_known(&dedup, "1")), (is_stored, is_stored));
        dedup.table().seen.clear();
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_remembered_for_the_window() {
    let dedup = dedup(10);
    first(&dedup, "1").stored();
    tokio::time::advance(Duration::from_secs(30)).await;
    first(&dedup, "2").stored();
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(!is_known(&dedup, "1") && is_known(&dedup, "2"));
    assert_eq!(dedup.metrics.forgotten.get(), 0);
}

#[test]
fn memory_is_bounded_and_the_oldest_goes_first() {
    let dedup = dedup(100);
    for id in 0..10_000 {
        first(&dedup, &id.to_string()).stored();
    }
    let table = dedup.table();
    assert!(table.seen.len() <= 101 && table.order.len() <= 101, "{}", table.order.len());
    drop(table);
    assert!(is_known(&dedup, "9999") && !is_known(&dedup, "5"));
    assert!(dedup.metrics.forgotten.get() > 9000);
}

#[test]
fn a_window_of_nothing_or_no_events_turns_it_off() {
    let off = Dedup::new(&Config { window: Span::seconds(0), max_events: 10 });
    for dedup in [off, dedup(0)] {
        first(&dedup, "1").stored();
        first(&dedup, "1").stored();
        assert!(dedup.table().order.is_empty());
    }
}

#[tokio::test]
async fn what_is_in_the_log_is_known_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        dir: dir.path().join("log"),
        lane: Lane(0),
        max_size: 1 << 20,
        segment_size: 1 << 18,
        max_delay: Duration::ZERO,
        max_bytes: 1 << 16,
        ..Options::default()
    };
    let (log, _) = Log::open(Arc::new(FileSystem), options).unwrap();
    for (id, age) in [("old", 3_600_000_000), ("new", 1_000_000)] {
        let mut properties = Vec::new();
        for (name, value) in [("specversion", "1.0"), ("id", id), ("source", "/s"), ("type", "t")] {
            Property::User(name, value).write(&mut properties);
        }
        let unix_micros = clock::unix_micros() - age;
        let mut block = BlockBuilder::new("d", Received::Synced { unix_micros });
        block.push(&Draft {
            topic: "t",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::new(&properties),
            payload: b"1",
        });
        let Append::Accepted(commit) = log.append(&mut block) else { panic!("no room") };
        commit.await.unwrap();
    }
    let dedup = dedup(10);
    dedup.restore(&log);
    assert!(is_known(&dedup, "new") && !is_known(&dedup, "old"));
}
