use std::collections::BTreeSet;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::batch::{Limits, OpenBatch};
use super::*;

const LIMITS: Limits = Limits { events: 100, bytes: 1000, array: true };

fn batch(partitions: Partitions, lsns: &[Lsn]) -> Batch {
    let mut batch = OpenBatch::new(partitions, Instant::now(), 0, LIMITS);
    for lsn in lsns {
        batch.push(*lsn, *lsn as i64, LIMITS, |out| out.push(b'1'));
    }
    batch.close()
}

const ONE: StreamId = StreamId(1);
const RANK: Rank = Rank { is_historical: false, behind: 9 };
const FIRST: Rank = Rank { is_historical: false, behind: 0 };
const HISTORY: Rank = Rank { is_historical: true, behind: 0 };

/// The number of the next batch to go, and its first LSN.
fn next(in_flight: &mut InFlight) -> Option<(FlightId, Lsn)> {
    in_flight.next(true).map(|departure| (departure.id, departure.batch.first()))
}

#[test]
fn a_batch_passes_those_that_wait_for_a_partition_and_not_its_own() {
    let mut in_flight = InFlight::new(3);
    let (a, b, c) = (Partitions::one(0), Partitions::one(1), Partitions::one(2));
    for (partitions, lsn) in [(a, 1), (a.with(b), 2), (b, 3), (c, 4)] {
        in_flight.push(batch(partitions, &[lsn]), ONE, RANK);
    }
    let (of_a, lsn) = next(&mut in_flight).unwrap();
    assert_eq!(lsn, 1);
    let (of_c, lsn) = next(&mut in_flight).unwrap();
    assert_eq!(lsn, 4, "2 and 3 wait for 1");
    assert!(next(&mut in_flight).is_none());
    in_flight.done(of_a);
    assert_eq!(in_flight.first(ONE), Some(2));
    let (of_both, lsn) = next(&mut in_flight).unwrap();
    assert_eq!(lsn, 2);
    assert!(next(&mut in_flight).is_none());
    in_flight.done(of_c);
    in_flight.done(of_both);
    let (of_b, lsn) = next(&mut in_flight).unwrap();
    assert_eq!(lsn, 3);
    in_flight.done(of_b);
    assert!(in_flight.is_empty() && in_flight.first(ONE).is_none() && in_flight.bytes() == 0);
}

#[test]
fn streams_of_a_higher_rank_go_first_and_a_backlog_leaves_a_place() {
    let mut in_flight = InFlight::new(2);
    let (all, two, three) = (Partitions::one(0), StreamId(2), StreamId(3));
    in_flight.push(batch(all, &[1]), ONE, HISTORY);
    in_flight.push(batch(Partitions::one(1), &[2]), ONE, HISTORY);
    assert!(in_flight.next(false).is_none(), "it is not to go yet");
    assert_eq!(next(&mut in_flight).unwrap().1, 1);
    assert!(next(&mut in_flight).is_none(), "the last place is for newer events");
    in_flight.push(batch(all, &[10]), two, RANK);
    in_flight.push(batch(all, &[11]), three, FIRST);
    let (first, lsn) = next(&mut in_flight).unwrap();
    assert_eq!(lsn, 11);
    in_flight.done(first);
    assert_eq!(next(&mut in_flight).unwrap().1, 10);
    assert!(in_flight.has_history());
    let mut alone = InFlight::new(1);
    alone.push(batch(all, &[1]), ONE, HISTORY);
    assert_eq!(next(&mut alone).unwrap().1, 1, "where there is one place, it is for all");
}

#[test]
fn what_flies_holds_up_all_streams_that_its_own_was_divided_into() {
    let mut in_flight = InFlight::new(4);
    let (all, part) = (Partitions::one(0), StreamId(2));
    in_flight.push(batch(all, &[1, 5]), ONE, RANK);
    in_flight.push(batch(all, &[6, 7]), ONE, RANK);
    let departure = in_flight.next(true).unwrap();
    let flight = departure.id;
    departure.contact.ask();
    assert_eq!(in_flight.withdraw(ONE), [6, 7]);
    in_flight.divide(ONE, part);
    assert_eq!((in_flight.first(ONE), in_flight.first(part)), (Some(1), Some(1)));
    in_flight.push(batch(all, &[7]), part, FIRST);
    assert!(next(&mut in_flight).is_none(), "an event of the part may fly");
    in_flight.done(flight);
    let (flight, lsn) = next(&mut in_flight).unwrap();
    assert_eq!((lsn, in_flight.first(ONE)), (7, None));

    in_flight.push(batch(all, &[8]), part, FIRST);
    in_flight.push(batch(all, &[6]), ONE, RANK);
    in_flight.unite(part, ONE, FIRST);
    assert_eq!((in_flight.first(ONE), in_flight.first(part)), (Some(6), None));
    assert!(next(&mut in_flight).is_none());
    in_flight.done(flight);
    let (flight, lsn) = next(&mut in_flight).unwrap();
    assert_eq!(lsn, 8);
    assert!(next(&mut in_flight).is_none(), "one batch of a partition at a time");
    in_flight.done(flight);
    assert_eq!(next(&mut in_flight).unwrap().1, 6);
}

#[test]
fn what_flies_goes_before_the_newest_events_of_its_sources_and_is_not_theirs() {
    let mut in_flight = InFlight::new(4);
    let (a, b, live, later) = (Partitions::one(0), Partitions::one(1), StreamId(2), StreamId(3));
    in_flight.push(batch(a, &[1]), ONE, RANK);
    let (flight, _) = next(&mut in_flight).unwrap();
    in_flight.precede(ONE, live);
    assert_eq!(in_flight.first(live), None, "it does not hold the cursor back");
    in_flight.push(batch(a, &[8]), live, FIRST);
    in_flight.push(batch(b, &[9]), live, FIRST);
    assert_eq!(next(&mut in_flight).unwrap().1, 9);
    assert!(next(&mut in_flight).is_none());
    // Divided once more before it is answered.
    assert_eq!(in_flight.withdraw(live), [8, 9]);
    in_flight.precede(live, later);
    in_flight.push(batch(a, &[11]), later, FIRST);
    assert!(next(&mut in_flight).is_none());
    in_flight.done(flight);
    assert_eq!(next(&mut in_flight).unwrap().1, 11);
}

#[test]
fn what_the_bus_has_nothing_of_is_taken_back() {
    let mut in_flight = InFlight::new(8);
    for partition in 0..5 {
        in_flight.push(batch(Partitions::one(partition), &[partition as Lsn + 1]), ONE, RANK);
    }
    let flights: Vec<Departure> = std::iter::from_fn(|| in_flight.next(true)).collect();
    // Not sent; being sent; sent, and it failed; sent, and the bus took some; the same, and the rest failed.
    flights[1..].iter().for_each(|flight| flight.contact.ask());
    flights[2].contact.failed();
    flights[3..].iter().for_each(|flight| flight.contact.answered());
    flights[4].contact.ask();
    flights[4].contact.failed();
    in_flight.hold(ONE);
    in_flight.push(batch(Partitions::one(7), &[8]), ONE, RANK);
    assert!(in_flight.next(true).is_none(), "they wait");
    in_flight.push(batch(Partitions::one(7), &[9]), StreamId(2), RANK);
    assert_eq!(next(&mut in_flight).unwrap().1, 9, "others do not");
    let mut back = in_flight.withdraw(ONE);
    back.sort_unstable();
    assert_eq!(back, [1, 3, 8]);
    let stay: Vec<bool> = flights.iter().map(|flight| in_flight.flies(flight.id)).collect();
    assert_eq!(stay, [false, true, false, true, true]);
    assert_eq!(in_flight.first(ONE), Some(2));
    in_flight.let_go();
    in_flight.push(batch(Partitions::one(0), &[1]), ONE, RANK);
    assert_eq!(next(&mut in_flight).unwrap().1, 1);
    // What may be of another stream, too, stays.
    in_flight.divide(ONE, StreamId(3));
    assert!(in_flight.withdraw(ONE).is_empty());
}

proptest! {
    /// Events of random partitions, in batches of random size, answered in random order.
    #[test]
    fn each_source_stays_in_order_and_the_cursor_passes_nothing_unanswered(
        sources in prop::collection::vec(0..6_usize, 1..200),
        max in 1..8_usize, size in 1..8_usize,
        choices in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        let mut in_flight = InFlight::new(max);
        let mut open: Vec<Vec<Lsn>> = vec![Vec::new(); 6];
        let mut unanswered = BTreeSet::new();
        for (index, source) in sources.iter().enumerate() {
            let lsn = index as Lsn + 1;
            unanswered.insert(lsn);
            open[*source].push(lsn);
            if open[*source].len() == size {
                let lsns = std::mem::take(&mut open[*source]);
                in_flight.push(batch(Partitions::one(*source), &lsns), ONE, RANK);
            }
        }
        for (source, lsns) in open.into_iter().enumerate().filter(|(_, l)| !l.is_empty()) {
            in_flight.push(batch(Partitions::one(source), &lsns), ONE, RANK);
        }

        let mut flying: Vec<Departure> = Vec::new();
        let mut last_sent = [0; 6];
        let mut choices = choices.iter().cycle();
        let mut cursor = 1;
        loop {
            while let Some(departure) = in_flight.next(true) {
                let batch = &departure.batch;
                let meets = |other: &Departure| other.batch.partitions().meets(batch.partitions());
                prop_assert!(!flying.iter().any(meets));
                let source = sources[batch.first() as usize - 1];
                for index in 0..batch.count() {
                    prop_assert!(batch.lsn(index) > last_sent[source]);
                    last_sent[source] = batch.lsn(index);
                }
                flying.push(departure);
            }
            prop_assert!(flying.len() <= max);
            prop_assert_eq!(in_flight.flying(), flying.len());
            prop_assert_eq!(in_flight.first(ONE), unanswered.first().copied());
            let now = in_flight.first(ONE).unwrap_or(sources.len() as Lsn + 1);
            prop_assert!(now >= cursor);
            cursor = now;
            if flying.is_empty() {
                break;
            }
            let answered = flying.swap_remove(choices.next().unwrap().index(flying.len()));
            let batch = &answered.batch;
            (0..batch.count()).for_each(|i| { unanswered.remove(&batch.lsn(i)); });
            in_flight.done(answered.id);
        }
        prop_assert!(unanswered.is_empty() && in_flight.is_empty());
    }
}
