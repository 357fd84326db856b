//! What is closed and not yet answered, in which order it goes, and where that puts the cursor.
//!
//! Batches of a stream go in the order in which they were closed, except that one whose partitions are
//! all free passes those that wait for a partition. So a source's events go in order, one batch after the
//! other, while batches of other sources are in flight beside it. Batches of a stream that ranks before
//! another's go first; they do not wait for each other's partitions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_event::Lsn;

use super::batch::Batch;
use super::partition::Partitions;

/// The number of a stream, below 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamId(pub(super) u8);

/// A set of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Streams(u64);

/// The number of a batch in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlightId(u64);

/// Which batches go before which: lower ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Rank {
    /// Of a backlog that newer events go ahead of.
    pub(super) is_historical: bool,
    /// 9, less the priority.
    pub(super) behind: u8,
}

/// A batch that may go now.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) id: FlightId,
    pub(super) batch: Arc<Batch>,
    pub(super) contact: Arc<Contact>,
    pub(super) is_historical: bool,
}

/// What of a batch the bus has, or may have in a moment. A batch in flight of which it has nothing waits for
/// its turn, and can be taken back.
#[derive(Debug, Default)]
pub(super) struct Contact {
    is_asked: AtomicBool,
    has_answered: AtomicBool,
}

impl Contact {
    /// A message of it leaves.
    pub(super) fn ask(&self) {
        self.is_asked.store(true, Ordering::Release);
    }

    /// The message failed: it is to be sent again.
    pub(super) fn failed(&self) {
        self.is_asked.store(false, Ordering::Release);
    }

    /// The bus has decided on an event.
    pub(super) fn answered(&self) {
        self.has_answered.store(true, Ordering::Release);
        self.failed();
    }

    fn is_there(&self) -> bool {
        self.is_asked.load(Ordering::Acquire) || self.has_answered.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
pub(super) struct InFlight {
    max: usize,
    /// In the order of their ranks.
    waiting: VecDeque<Waiting>,
    /// Batches of these do not leave now.
    held: Streams,
    flying: Vec<Flight>,
    flights: u64,
}

#[derive(Debug)]
struct Waiting {
    batch: Batch,
    stream: StreamId,
    rank: Rank,
}

/// What is remembered of a batch that was sent.
#[derive(Debug)]
struct Flight {
    id: FlightId,
    batch: Arc<Batch>,
    contact: Arc<Contact>,
    /// The stream that it is of, and those that it was divided into since.
    streams: Streams,
    /// These, and those whose events come after its own.
    holds_up: Streams,
    is_historical: bool,
}

/// The partitions that are taken, by stream.
struct Taken([Partitions; 64]);

impl Streams {
    fn one(stream: StreamId) -> Self {
        Self(1 << stream.0)
    }

    fn contains(self, stream: StreamId) -> bool {
        self.0 & Self::one(stream).0 != 0
    }
}

impl Taken {
    fn of(flying: &[Flight]) -> Self {
        let mut taken = Self([Partitions::default(); 64]);
        for flight in flying {
            let mut left = flight.holds_up.0;
            while left != 0 {
                taken.take(StreamId(left.trailing_zeros() as u8), flight.batch.partitions());
                left &= left - 1;
            }
        }
        taken
    }

    /// Answers whether they were free.
    fn take(&mut self, stream: StreamId, partitions: Partitions) -> bool {
        let taken = &mut self.0[usize::from(stream.0 & 63)];
        let free = !partitions.meets(*taken);
        *taken = taken.with(partitions);
        free
    }
}

impl InFlight {
    /// At most `max` batches fly at once.
    pub(super) fn new(max: usize) -> Self {
        let (waiting, held, flying) = (VecDeque::new(), Streams(0), Vec::new());
        Self { max, waiting, held, flying, flights: 0 }
    }

    /// Lets a closed batch wait for its turn.
    pub(super) fn push(&mut self, batch: Batch, stream: StreamId, rank: Rank) {
        let at = self.waiting.partition_point(|other| other.rank <= rank);
        self.waiting.insert(at, Waiting { batch, stream, rank });
    }

    /// The next batch to send, if one may go now; one of a backlog only if `history` may.
    pub(super) fn next(&mut self, history: bool) -> Option<Departure> {
        if self.flying.len() >= self.max {
            return None;
        }
        // One place stays free for the newest events, so that they go at once.
        let places = self.max.saturating_sub(1).max(1);
        let historical = self.flying.iter().filter(|flight| flight.is_historical).count();
        let history = history && historical < places;
        let mut taken = Taken::of(&self.flying);
        let index = self.waiting.iter().position(|waiting| {
            let free = taken.take(waiting.stream, waiting.batch.partitions());
            free && (history || !waiting.rank.is_historical) && !self.held.contains(waiting.stream)
        })?;
        let Waiting { batch, stream, rank } = self.waiting.remove(index)?;
        self.flights += 1;
        let id = FlightId(self.flights);
        let is_historical = rank.is_historical;
        let (batch, contact) = (Arc::new(batch), Arc::default());
        self.flying.push(Flight {
            id,
            batch: Arc::clone(&batch),
            contact: Arc::clone(&contact),
            streams: Streams::one(stream),
            holds_up: Streams::one(stream),
            is_historical,
        });
        Some(Departure { id, batch, contact, is_historical })
    }

    /// This batch is done with: delivered, or in the dead-letter queue.
    pub(super) fn done(&mut self, id: FlightId) {
        self.flying.retain(|flight| flight.id != id);
    }

    /// Keeps the batches of a stream from leaving, until [`InFlight::let_go`].
    pub(super) fn hold(&mut self, stream: StreamId) {
        self.held.0 |= Streams::one(stream).0;
    }

    /// Batches of all streams may leave.
    pub(super) fn let_go(&mut self) {
        self.held = Streams(0);
    }

    /// Whether the batch flies: it was not answered, nor taken back.
    pub(super) fn flies(&self, id: FlightId) -> bool {
        self.flying.iter().any(|flight| flight.id == id)
    }

    /// Takes back what waits of a stream, and what flies of it alone and the bus has nothing of. Answers
    /// the events.
    pub(super) fn withdraw(&mut self, stream: StreamId) -> Vec<Lsn> {
        let mut lsns: Vec<Lsn> = self.waiting_of(stream).flat_map(Batch::lsns).collect();
        self.waiting.retain(|waiting| waiting.stream != stream);
        let only = Streams::one(stream);
        self.flying.retain(|flight| {
            let stays = flight.streams != only || flight.contact.is_there();
            if !stays {
                lsns.extend(flight.batch.lsns());
            }
            stays
        });
        lsns
    }

    /// Of what flies of `stream`, some events may be of `part`, too: it holds up both.
    pub(super) fn divide(&mut self, stream: StreamId, part: StreamId) {
        for flight in self.flying.iter_mut().filter(|flight| flight.streams.contains(stream)) {
            flight.streams.0 |= Streams::one(part).0;
        }
        self.precede(stream, part);
    }

    /// What holds up `stream` holds up `next`, too.
    pub(super) fn precede(&mut self, stream: StreamId, next: StreamId) {
        for flight in self.flying.iter_mut().filter(|flight| flight.holds_up.contains(stream)) {
            flight.holds_up.0 |= Streams::one(next).0;
        }
    }

    /// All that is of `part` is of `stream` from now on, which has this rank.
    pub(super) fn unite(&mut self, part: StreamId, stream: StreamId, rank: Rank) {
        for flight in &mut self.flying {
            for set in [&mut flight.streams, &mut flight.holds_up] {
                if set.contains(part) {
                    set.0 = set.0 & !Streams::one(part).0 | Streams::one(stream).0;
                }
            }
        }
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.stream == part) {
            (waiting.stream, waiting.rank) = (stream, rank);
        }
        self.waiting.make_contiguous().sort_by_key(|waiting| waiting.rank);
    }

    /// The partitions of which a batch of the stream flies or waits.
    pub(super) fn partitions(&self, stream: StreamId) -> Partitions {
        let flying = self.flying.iter().filter(|flight| flight.holds_up.contains(stream));
        let flying = flying.map(|flight| flight.batch.partitions());
        let waiting = self.waiting_of(stream).map(Batch::partitions);
        flying.chain(waiting).fold(Partitions::default(), Partitions::with)
    }

    /// The stream's lowest LSN that is not done with; everything below it that was closed is.
    pub(super) fn first(&self, stream: StreamId) -> Option<Lsn> {
        let waiting = self.waiting_of(stream).map(Batch::first);
        self.flying_of(stream).map(Batch::first).chain(waiting).min()
    }

    /// When the stream's oldest event was received that is not done with, in microseconds since 1970.
    pub(super) fn received(&self, stream: StreamId) -> Option<i64> {
        let waiting = self.waiting_of(stream).map(Batch::received);
        self.flying_of(stream).map(Batch::received).chain(waiting).min()
    }

    fn flying_of(&self, stream: StreamId) -> impl Iterator<Item = &Batch> {
        let theirs = self.flying.iter().filter(move |flight| flight.streams.contains(stream));
        theirs.map(|flight| &*flight.batch)
    }

    fn waiting_of(&self, stream: StreamId) -> impl Iterator<Item = &Batch> {
        let theirs = self.waiting.iter().filter(move |waiting| waiting.stream == stream);
        theirs.map(|waiting| &waiting.batch)
    }

    /// Bytes of bodies held.
    pub(super) fn bytes(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(|waiting| waiting.batch.len()).sum();
        waiting + self.flying.iter().map(|flight| flight.batch.len()).sum::<usize>()
    }

    /// Batches in flight.
    pub(super) fn flying(&self) -> usize {
        self.flying.len()
    }

    /// Whether nothing flies or waits.
    pub(super) fn is_empty(&self) -> bool {
        self.flying.is_empty() && self.waiting.is_empty()
    }

    /// Whether something of a backlog waits.
    pub(super) fn has_history(&self) -> bool {
        self.waiting.back().is_some_and(|waiting| waiting.rank.is_historical)
    }
}

#[cfg(test)]
mod tests;
