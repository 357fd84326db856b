//! The batches that still take events, one a partition, and when they leave.
//!
//! A batch leaves when it is full. When one is old enough, those beside it leave with it, merged into
//! as few batches as the limits allow: a sink with little to do sends one request in `batch.max-age`,
//! not one a partition. A batch whose partition is busy stays open whatever its age; it could not go
//! yet, and fills up meanwhile.

use std::time::Duration;

use tidegate_event::Lsn;
use tokio::time::Instant;

use super::batch::{Batch, Limits, OpenBatch, Push};
use super::partition::Partitions;

#[derive(Debug)]
pub(super) struct OpenBatches {
    limits: Limits,
    max_age: Duration,
    by_partition: Vec<Option<OpenBatch>>,
    /// Bytes of the batch that was full last: a guess at the next one's.
    usual: usize,
}

impl OpenBatches {
    pub(super) fn new(limits: Limits, max_age: Duration, partitions: usize) -> Self {
        let by_partition = std::iter::repeat_with(|| None).take(partitions).collect();
        Self { limits, max_age, by_partition, usual: 0 }
    }

    /// Adds an event that `write` writes. Batches that are full afterwards go to `closed`.
    pub(super) fn push(
        &mut self,
        partition: usize,
        lsn: Lsn,
        received: i64,
        now: Instant,
        closed: &mut Vec<Batch>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Self { limits, usual, .. } = *self;
        let slot = &mut self.by_partition[partition];
        let open = || OpenBatch::new(Partitions::one(partition), now, usual, limits);
        let push = slot.get_or_insert_with(open).push(lsn, received, limits, write);
        let again = match push {
            Push::Room => return,
            Push::Full => None,
            Push::Overflow(event) => Some(event),
        };
        if let Some(full) = slot.take() {
            self.usual = full.len();
            closed.push(full.close());
        }
        if let Some(event) = again {
            let batch = slot.insert(open());
            // The only event of its batch: it is taken, whatever its size.
            let push = batch.push(lsn, received, limits, |body| body.extend_from_slice(&event));
            if push != Push::Room
                && let Some(full) = slot.take()
            {
                closed.push(full.close());
            }
        }
    }

    /// Takes the batches that are to leave now, if their partitions are not among the `busy` ones:
    /// when one of them is old enough, or all of them if `hurry`.
    pub(super) fn due(&mut self, now: Instant, busy: Partitions, hurry: bool) -> Vec<Batch> {
        let mut closed = Vec::new();
        let max_age = self.max_age;
        let is_due = |batch: &OpenBatch| hurry || now >= batch.opened() + max_age;
        let idle = |slot: &&mut Option<OpenBatch>| {
            slot.as_ref().is_some_and(|batch| !batch.partitions().meets(busy))
        };
        if !self.by_partition.iter_mut().filter(idle).flatten().any(|batch| is_due(batch)) {
            return closed;
        }
        let mut idle: Vec<OpenBatch> =
            self.by_partition.iter_mut().filter(idle).filter_map(Option::take).collect();
        idle.sort_by_key(OpenBatch::opened);
        let mut leaving: Option<OpenBatch> = None;
        for batch in idle {
            let Some(current) = &mut leaving else {
                leaving = Some(batch);
                continue;
            };
            // Events that go one by one gain nothing by waiting for each other.
            let left = match self.limits.array {
                true => current.merge(batch, self.limits).err(),
                false => Some(batch),
            };
            match left {
                None => {}
                Some(batch) if is_due(&batch) => {
                    closed.extend(leaving.replace(batch).map(OpenBatch::close));
                }
                Some(batch) => self.put_back(batch),
            }
        }
        closed.extend(leaving.map(OpenBatch::close));
        closed
    }

    /// Takes all of them, as they are.
    pub(super) fn take(&mut self) -> Vec<Batch> {
        self.by_partition.iter_mut().filter_map(Option::take).map(OpenBatch::close).collect()
    }

    fn put_back(&mut self, batch: OpenBatch) {
        let index = batch.partitions().lowest();
        if let Some(slot) = self.by_partition.get_mut(index) {
            *slot = Some(batch);
        }
    }

    /// When [`OpenBatches::due`] will have something, if nothing else happens.
    pub(super) fn deadline(&self, busy: Partitions) -> Option<Instant> {
        let idle = self.open().filter(|batch| !batch.partitions().meets(busy));
        idle.map(|batch| batch.opened() + self.max_age).min()
    }

    /// Their lowest LSN.
    pub(super) fn first(&self) -> Option<Lsn> {
        self.open().map(OpenBatch::first).min()
    }

    /// When their oldest event was received, in microseconds since 1970.
    pub(super) fn received(&self) -> Option<i64> {
        self.open().map(OpenBatch::received).min()
    }

    /// Bytes they hold.
    pub(super) fn bytes(&self) -> usize {
        self.open().map(OpenBatch::len).sum()
    }

    fn open(&self) -> impl Iterator<Item = &OpenBatch> {
        self.by_partition.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGE: Duration = Duration::from_secs(1);

    fn opens(events: usize, bytes: usize, array: bool) -> OpenBatches {
        OpenBatches::new(Limits { events, bytes, array }, AGE, 4)
    }

    fn push(opens: &mut OpenBatches, partition: usize, lsn: Lsn, now: Instant) -> Vec<Batch> {
        let mut closed = Vec::new();
        opens.push(partition, lsn, lsn as i64, now, &mut closed, |out| {
            out.extend_from_slice(lsn.to_string().as_bytes());
        });
        closed
    }

    fn lsns(batches: &[Batch]) -> Vec<Vec<Lsn>> {
        batches.iter().map(|b| (0..b.count()).map(|i| b.lsn(i)).collect()).collect()
    }

    #[test]
    fn when_one_is_old_enough_all_leave_in_one_batch() {
        let mut opens = opens(100, 1000, true);
        let start = Instant::now();
        let later = start + AGE / 2;
        push(&mut opens, 2, 1, start);
        push(&mut opens, 0, 2, later);
        push(&mut opens, 2, 3, later);
        assert_eq!(opens.deadline(Partitions::default()), Some(start + AGE));
        assert!(opens.due(later, Partitions::default(), false).is_empty());
        let closed = opens.due(start + AGE, Partitions::default(), false);
        assert_eq!(lsns(&closed), [[1, 3, 2]]);
        assert_eq!(&closed[0].body(0..3)[..], b"[1,3,2]");
        assert_eq!(
            (opens.first(), opens.bytes(), opens.deadline(Partitions::default())),
            (None, 0, None)
        );
    }

    #[test]
    fn a_busy_partitions_batch_stays_open() {
        let mut opens = opens(100, 1000, true);
        let start = Instant::now();
        push(&mut opens, 0, 1, start);
        push(&mut opens, 1, 2, start + AGE);
        let busy = Partitions::one(0);
        assert_eq!(opens.deadline(busy), Some(start + AGE + AGE));
        assert!(opens.due(start + AGE, busy, false).is_empty());
        assert_eq!(lsns(&opens.due(start + AGE, busy, true)), [[2]]);
        assert_eq!(lsns(&opens.due(start + AGE, Partitions::default(), false)), [[1]]);
    }

    #[test]
    fn what_does_not_fit_stays_open_until_its_own_time() {
        let mut opens = opens(2, 1000, true);
        let start = Instant::now();
        for partition in 0..4 {
            push(&mut opens, partition, partition as Lsn, start + AGE / 4 * partition as u32);
        }
        let closed = opens.due(start + AGE, Partitions::default(), false);
        assert_eq!(lsns(&closed), [[0, 1]]);
        assert_eq!(lsns(&opens.due(start + AGE, Partitions::default(), true)), [[2, 3]]);
    }

    #[test]
    fn events_that_go_one_by_one_are_not_merged() {
        let mut opens = opens(100, 1000, false);
        let start = Instant::now();
        push(&mut opens, 0, 1, start);
        push(&mut opens, 1, 2, start);
        assert_eq!(lsns(&opens.due(start + AGE, Partitions::default(), false)), [[1], [2]]);
    }

    proptest! {
        #[test]
        fn every_event_leaves_once_and_each_partitions_in_order(
            events in prop::collection::vec((0..4_usize, 0..3_u32), 0..200),
            max_events in 1..20_usize, bytes in 4..60_usize, array: bool, busy in 0..4_usize,
        ) {
            let mut opens = opens(max_events, bytes, array);
            let start = Instant::now();
            let mut closed = Vec::new();
            let mut now = start;
            for (index, (partition, step)) in events.iter().enumerate() {
                now += AGE / 4 * *step;
                closed.extend(push(&mut opens, *partition, index as Lsn, now));
                closed.extend(opens.due(now, Partitions::one(busy), false));
            }
            closed.extend(opens.due(now, Partitions::default(), true));
            let mut seen = vec![false; events.len()];
            let mut last = [None; 4];
            for batch in &closed {
                prop_assert!(batch.count() <= max_events);
                prop_assert!(batch.len() <= bytes || batch.count() == 1);
                for index in 0..batch.count() {
                    let lsn = batch.lsn(index);
                    prop_assert!(!std::mem::replace(&mut seen[lsn as usize], true));
                    let partition = events[lsn as usize].0;
                    prop_assert!(batch.partitions().meets(Partitions::one(partition)));
                    prop_assert!(last[partition].replace(lsn) < Some(lsn));
                }
            }
            prop_assert!(seen.into_iter().all(|seen| seen));
        }
    }
}
