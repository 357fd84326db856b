//! What is closed and not yet answered, in which order it goes, and where that puts the cursor.
//!
//! Batches go in the order in which they were closed, except that one whose partitions are all free
//! passes those that wait for a partition. So a source's events go in order, one batch after the
//! other, while batches of other sources are in flight beside it.

use std::collections::VecDeque;

use tidegate_event::Lsn;

use super::batch::Batch;
use super::partition::Partitions;

#[derive(Debug)]
pub(super) struct InFlight {
    max: usize,
    waiting: VecDeque<Batch>,
    flying: Vec<Flight>,
}

/// What is remembered of a batch that was sent.
#[derive(Debug, Clone, Copy)]
struct Flight {
    partitions: Partitions,
    first: Lsn,
    received: i64,
    bytes: usize,
}

impl InFlight {
    /// At most `max` batches fly at once.
    pub(super) fn new(max: usize) -> Self {
        Self { max, waiting: VecDeque::new(), flying: Vec::new() }
    }

    /// Lets a closed batch wait for its turn.
    pub(super) fn push(&mut self, batch: Batch) {
        self.waiting.push_back(batch);
    }

    /// The next batch to send, if one may go now.
    pub(super) fn next(&mut self) -> Option<Batch> {
        if self.flying.len() >= self.max {
            return None;
        }
        let mut taken = self.flying_partitions();
        let index = self.waiting.iter().position(|batch| {
            let free = !batch.partitions().meets(taken);
            taken = taken.with(batch.partitions());
            free
        })?;
        let batch = self.waiting.remove(index)?;
        self.flying.push(Flight {
            partitions: batch.partitions(),
            first: batch.first(),
            received: batch.received(),
            bytes: batch.len(),
        });
        Some(batch)
    }

    /// The batch that had these partitions is done with: delivered, or in the dead-letter queue.
    pub(super) fn done(&mut self, partitions: Partitions) {
        self.flying.retain(|flight| flight.partitions != partitions);
    }

    /// The partitions of which a batch flies or waits.
    pub(super) fn partitions(&self) -> Partitions {
        self.waiting.iter().map(Batch::partitions).fold(self.flying_partitions(), Partitions::with)
    }

    fn flying_partitions(&self) -> Partitions {
        self.flying.iter().map(|f| f.partitions).fold(Partitions::default(), Partitions::with)
    }

    /// The lowest LSN that is not done with; everything below it that was closed is.
    pub(super) fn first(&self) -> Option<Lsn> {
        let waiting = self.waiting.iter().map(Batch::first);
        self.flying.iter().map(|flight| flight.first).chain(waiting).min()
    }

    /// When the oldest event was received that is not done with, in microseconds since 1970.
    pub(super) fn received(&self) -> Option<i64> {
        let waiting = self.waiting.iter().map(Batch::received);
        self.flying.iter().map(|flight| flight.received).chain(waiting).min()
    }

    /// Bytes of bodies held.
    pub(super) fn bytes(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(Batch::len).sum();
        waiting + self.flying.iter().map(|flight| flight.bytes).sum::<usize>()
    }

    /// Batches in flight.
    pub(super) fn flying(&self) -> usize {
        self.flying.len()
    }

    /// Whether nothing flies or waits.
    pub(super) fn is_empty(&self) -> bool {
        self.flying.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_batch_passes_those_that_wait_for_a_partition_and_not_its_own() {
        let mut in_flight = InFlight::new(3);
        let (a, b, c) = (Partitions::one(0), Partitions::one(1), Partitions::one(2));
        for (partitions, lsn) in [(a, 1), (a.with(b), 2), (b, 3), (c, 4)] {
            in_flight.push(batch(partitions, &[lsn]));
        }
        assert_eq!(in_flight.next().unwrap().first(), 1);
        assert_eq!(in_flight.next().unwrap().first(), 4, "2 and 3 wait for 1");
        assert!(in_flight.next().is_none());
        in_flight.done(a);
        assert_eq!(in_flight.first(), Some(2));
        assert_eq!(in_flight.next().unwrap().first(), 2);
        assert!(in_flight.next().is_none());
        in_flight.done(c);
        in_flight.done(a.with(b));
        assert_eq!(in_flight.next().unwrap().first(), 3);
        in_flight.done(b);
        assert!(in_flight.is_empty() && in_flight.first().is_none() && in_flight.bytes() == 0);
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
                    in_flight.push(batch(Partitions::one(*source), &lsns));
                }
            }
            for (source, lsns) in open.into_iter().enumerate().filter(|(_, l)| !l.is_empty()) {
                in_flight.push(batch(Partitions::one(source), &lsns));
            }

            let mut flying: Vec<Batch> = Vec::new();
            let mut last_sent = [0; 6];
            let mut choices = choices.iter().cycle();
            let mut cursor = 1;
            loop {
                while let Some(batch) = in_flight.next() {
                    prop_assert!(flying.iter().all(|b| !b.partitions().meets(batch.partitions())));
                    let source = sources[batch.first() as usize - 1];
                    for index in 0..batch.count() {
                        prop_assert!(batch.lsn(index) > last_sent[source]);
                        last_sent[source] = batch.lsn(index);
                    }
                    flying.push(batch);
                }
                prop_assert!(flying.len() <= max);
                prop_assert_eq!(in_flight.flying(), flying.len());
                prop_assert_eq!(in_flight.first(), unanswered.first().copied());
                let now = in_flight.first().unwrap_or(sources.len() as Lsn + 1);
                prop_assert!(now >= cursor);
                cursor = now;
                if flying.is_empty() {
                    break;
                }
                let answered = flying.swap_remove(choices.next().unwrap().index(flying.len()));
                (0..answered.count()).for_each(|i| { unanswered.remove(&answered.lsn(i)); });
                in_flight.done(answered.partitions());
            }
            prop_assert!(unanswered.is_empty() && in_flight.is_empty());
        }
    }
}
