//! Sessions without a network.

use std::collections::VecDeque;

use proptest::prelude::*;
use tidegate_event::{Block, Filter, Qos, record};

use super::records::{Detached, Flight, Malformed, Position, Record, Subscription, What};
use super::stored::Stored;
use crate::bus::Options;
use crate::listener::codec::Will;

fn subscription(filter: &str, greeting: bool) -> Subscription {
    let options = Options {
        qos: Qos::ExactlyOnce,
        no_local: true,
        retain_as_published: false,
        identifier: Some(300),
    };
    Subscription { filter: Filter::new(filter).unwrap(), options, from: 70_000, greeting }
}

fn flight(id: u16, lsn: u64) -> Flight {
    Flight { id, qos: Qos::ExactlyOnce, what: What::Event(lsn) }
}

fn shared(id: u16, group: &str, lsn: u64) -> Flight {
    Flight { id, qos: Qos::AtLeastOnce, what: What::Shared(group.into(), lsn) }
}

fn will() -> Will {
    Will {
        delay: 5,
        topic: "gone".into(),
        qos: Qos::AtLeastOnce,
        retain: true,
        properties: vec![1, 2],
        payload: vec![0, 255],
    }
}

fn every_record() -> Vec<Record<'static>> {
    let retained = Flight { id: 9, qos: Qos::AtLeastOnce, what: What::Retained("a/b".into()) };
    vec![
        Record::Opened { expiry: u32::MAX },
        Record::Attached { expiry: 0 },
        Record::Detached(Detached { at: -1, expiry: 60, will: Some(will()) }),
        Record::Detached(Detached { at: 1 << 50, expiry: 60, will: None }),
        Record::Ended,
        Record::Subscribed(vec![subscription("a/+", true), subscription("#", false)].into()),
        Record::Unsubscribed(vec![Filter::new("a/#").unwrap()].into()),
        Record::Greeted,
        Record::Sent(vec![flight(1, u64::MAX), retained].into()),
        Record::Sent(
            vec![
                shared(2, "$share/g/a", 70_000),
                flight(3, 4),
                shared(4, "$share/g/a", 8),
                shared(5, "$share/h/a", 8),
            ]
            .into(),
        ),
        Record::Received(vec![1, 65535].into()),
        Record::Done(vec![7].into()),
        Record::Released(vec![].into()),
        Record::Taken(vec![3].into()),
        Record::Position(Position { next: 5, last_id: 3, unsent: Some(4) }),
        Record::Position(Position { next: 5, last_id: 3, unsent: None }),
        Record::Owned("anna".into()),
    ]
}

fn read(bytes: &[u8]) -> Vec<Result<Option<(&str, Record<'static>)>, Malformed>> {
    let blocks = record::blocks(bytes).map_while(Result::ok);
    let controls = blocks.filter_map(|block| match block {
        Block::Control { control, body } => Some(Record::read(control, body)),
        Block::Events(_) => None,
    });
    controls.collect()
}

#[test]
fn every_record_reads_back_as_it_was_written() {
    let mut bytes = Vec::new();
    every_record().iter().for_each(|record| record.write("pump", &mut bytes));
    let records: Vec<_> = read(&bytes).into_iter().map(|read| read.unwrap().unwrap()).collect();
    assert!(records.iter().all(|(client, _)| *client == "pump"));
    let records: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
    assert_eq!(records, every_record());
}

#[test]
fn a_damaged_record_is_malformed_and_never_a_panic() {
    for record in every_record() {
        let mut bytes = Vec::new();
        record.write("pump", &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            read(&flipped);
        }
        // Behind the block's header.
        for end in 6..bytes.len() {
            let _ = Record::read(bytes[5], &bytes[6..end]);
        }
    }
}

#[test]
fn a_type_that_is_not_known_is_passed_over() {
    assert_eq!(Record::read(200, b"anything"), Ok(None));
}

fn apply(stored: &mut Stored, records: &[Record<'_>]) {
    records.iter().for_each(|record| stored.apply(record));
}

#[test]
fn deliveries_keep_their_order_and_go_on_behind_the_last() {
    let mut stored = Stored::new(60);
    apply(
        &mut stored,
        &[
            Record::Sent(vec![flight(1, 10), flight(2, 12), flight(3, 13)].into()),
            Record::Received(vec![2].into()),
            Record::Done(vec![1].into()),
            Record::Sent(vec![flight(1, 20)].into()),
        ],
    );
    let expected = [(flight(2, 12), true), (flight(3, 13), false), (flight(1, 20), false)];
    assert_eq!(stored.outgoing, VecDeque::from(expected));
    assert_eq!((stored.next, stored.last_id, stored.oldest_flight()), (21, 1, Some(13)));
}

#[test]
fn what_a_group_gave_does_not_move_a_session_on_and_qos_1_of_it_is_for_others() {
    let mut stored = Stored::new(60);
    let sent = |flights: Vec<Flight>| Record::Sent(flights.into());
    apply(&mut stored, &[sent(vec![flight(1, 10), shared(2, "$share/g/a", 90)])]);
    let begun = Flight { qos: Qos::ExactlyOnce, ..shared(3, "$share/g/a", 5) };
    apply(&mut stored, &[sent(vec![begun, shared(4, "$share/g/a", 7)])]);
    assert_eq!((stored.next, stored.oldest_flight()), (11, Some(5)));
    let shared: Vec<_> = stored.shared().into_values().collect();
    assert_eq!(shared, [[90, 7]]);
}

#[test]
fn a_session_that_is_opened_has_nothing_of_the_one_before() {
    let mut stored = Stored::new(60);
    apply(&mut stored, &every_record()[5..10]);
    stored.apply(&Record::Opened { expiry: 9 });
    assert_eq!(stored, Stored::new(9));
}

#[test]
fn what_the_state_holds_makes_the_session_anew() {
    let mut stored = Stored::new(60);
    let records = every_record();
    apply(&mut stored, &records[5..10]);
    stored.apply(&Record::Taken(vec![4, 5].into()));
    stored.apply(&Record::Sent(vec![flight(2, 9), flight(3, 11)].into()));
    stored.apply(&Record::Received(vec![2].into()));
    for detached in [None, Some(&records[2])] {
        detached.iter().for_each(|record| stored.apply(record));
        let encoded = stored.encode(Some(8));
        assert_eq!(Stored::decode(&encoded), Some((stored.clone(), Some(8))));
    }
}

/// Records as a session makes them, about few ids, so that they meet.
fn records() -> impl Strategy<Value = Record<'static>> {
    let ids = proptest::collection::vec(1..5_u16, 1..3);
    prop_oneof![
        (1..5_u16, 1..90_u64).prop_map(|(id, lsn)| Record::Sent(vec![flight(id, lsn)].into())),
        ids.clone().prop_map(|ids| Record::Received(ids.into())),
        ids.clone().prop_map(|ids| Record::Done(ids.into())),
        ids.clone().prop_map(|ids| Record::Released(ids.into())),
        ids.prop_map(|ids| Record::Taken(ids.into())),
        any::<bool>()
            .prop_map(|greeting| Record::Subscribed(vec![subscription("a", greeting)].into())),
        Just(Record::Unsubscribed(vec![Filter::new("a").unwrap()].into())),
        Just(Record::Greeted),
        (0..9_u32).prop_map(|expiry| Record::Opened { expiry }),
        (0..9_u32).prop_map(|expiry| Record::Attached { expiry }),
        (0..9_u32).prop_map(|expiry| {
            Record::Detached(Detached { at: 0, expiry, will: Some(will()) })
        }),
    ]
}

proptest! {
    /// What is saved may be newer than what it claims to cover: then a part of the log comes twice.
    #[test]
    fn the_last_part_may_be_applied_twice(
        history in proptest::collection::vec(records(), 0..30),
        at in 0..30_usize,
    ) {
        let mut once = Stored::default();
        apply(&mut once, &history);
        let mut twice = once.clone();
        apply(&mut twice, &history[at.min(history.len())..]);
        prop_assert_eq!(once, twice);
    }
}
