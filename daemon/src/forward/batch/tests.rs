use proptest::prelude::*;

use super::*;

fn limits(events: usize, bytes: usize, array: bool) -> Limits {
    Limits { events, bytes, array }
}

/// Fills batches with events of these sizes; event number n is n repeated.
fn fill(sizes: &[usize], limits: Limits) -> Vec<Batch> {
    let open = || OpenBatch::new(Partitions::one(0), Instant::now(), 0, limits);
    let mut closed = Vec::new();
    let mut batch = open();
    for (index, size) in sizes.iter().enumerate() {
        let lsn = index as Lsn + 1;
        let mut event = index.to_string().repeat(*size).into_bytes();
        loop {
            let bytes = event.clone();
            match batch.push(lsn, -(index as i64), limits, |out| out.extend_from_slice(&bytes)) {
                Push::Room => break,
                Push::Full => {
                    closed.push(std::mem::replace(&mut batch, open()).close());
                    break;
                }
                Push::Overflow(back) => {
                    assert_eq!(back, event);
                    event = back;
                    closed.push(std::mem::replace(&mut batch, open()).close());
                }
            }
        }
    }
    if !batch.entries.is_empty() {
        closed.push(batch.close());
    }
    closed
}

#[test]
fn a_batch_is_an_array_of_its_events() {
    let batch = &fill(&[1, 2, 3], limits(10, 100, true))[0];
    assert_eq!(&batch.body(0..3)[..], b"[0,11,222]");
    assert_eq!(&batch.body(0..2)[..], b"[0,11]");
    assert_eq!(&batch.body(1..3)[..], b"[11,222]");
    assert_eq!(&batch.event(1)[..], b"11");
    assert_eq!((batch.first(), batch.lsn(2), batch.count(), batch.received()), (1, 3, 3, -2));
}

#[test]
fn events_that_go_one_by_one_lie_side_by_side() {
    let batch = &fill(&[1, 2, 3], limits(10, 100, false))[0];
    assert_eq!(batch.len(), 6);
    assert_eq!(&batch.body(1..2)[..], b"11");
    assert_eq!(&batch.event(2)[..], b"222");
}

#[test]
fn an_event_larger_than_the_limit_goes_alone() {
    let batches = fill(&[1, 50, 1], limits(10, 20, true));
    let counts: Vec<_> = batches.iter().map(Batch::count).collect();
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!(batches[1].len(), 52);
}

#[test]
fn batches_of_several_partitions_merge_up_to_the_limits() {
    let make = |partition: usize, lsn, event: &'static [u8], limits| {
        let mut batch = OpenBatch::new(Partitions::one(partition), Instant::now(), 0, limits);
        batch.push(lsn, lsn as i64, limits, |out| out.extend_from_slice(event));
        batch
    };
    for (array, expected) in [(true, &b"[aa,bb]"[..]), (false, &b"aabb"[..])] {
        let limits = limits(2, 7, array);
        let mut batch = make(0, 5, b"aa", limits);
        batch.merge(make(3, 4, b"bb", limits), limits).unwrap();
        let third = batch.merge(make(1, 6, b"c", limits), limits).unwrap_err();
        assert_eq!(third.partitions(), Partitions::one(1));
        let batch = batch.close();
        assert_eq!(&batch.body[..], expected);
        assert_eq!(&batch.event(1)[..], b"bb");
        assert_eq!((batch.first(), batch.lsn(0), batch.received()), (4, 5, 4));
        assert_eq!(batch.partitions(), Partitions::one(0).with(Partitions::one(3)));
    }
    let tight = limits(9, 6, true);
    let mut batch = make(0, 1, b"aa", tight);
    assert!(batch.merge(make(1, 2, b"bb", tight), tight).is_err(), "7 bytes are more than 6");
}

proptest! {
    #[test]
    fn every_event_is_in_one_batch_in_order_and_no_batch_is_too_large(
        sizes in prop::collection::vec(1..40_usize, 0..200),
        events in 1..20_usize, bytes in 1..200_usize, array: bool,
    ) {
        let limits = limits(events, bytes, array);
        let batches = fill(&sizes, limits);
        let mut next = 1;
        for batch in &batches {
            prop_assert!(batch.count() >= 1 && batch.count() <= events);
            prop_assert!(batch.len() <= bytes || batch.count() == 1);
            for index in 0..batch.count() {
                prop_assert_eq!(batch.lsn(index), next);
                let number = (next - 1) as usize;
                let expected = number.to_string().repeat(sizes[number]);
                prop_assert_eq!(&batch.event(index)[..], expected.as_bytes());
                next += 1;
            }
        }
        prop_assert_eq!(next, sizes.len() as Lsn + 1);
        // No batch is closed before it must be.
        for (batch, after) in batches.iter().zip(batches.iter().skip(1)) {
            let with_next = batch.len() + after.event(0).len() + usize::from(array);
            prop_assert!(batch.count() == events || with_next > bytes || batch.len() >= bytes);
        }
    }
}
