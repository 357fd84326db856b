//! One stream: a range of the log that is read in order, for some lanes, and what of it is not done with.

use tidegate_event::Lsn;
use tokio::time::Instant;

use super::inflight::{InFlight, Rank, StreamId};
use super::intake::Intake;
use super::partition::Partitions;
use super::status::{Standing, StreamName};
use crate::state::{LaneSet, Span};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) lanes: LaneSet,
    /// Where it ends; `None` for one that goes on with the log.
    pub(super) to: Option<Lsn>,
    /// The highest of its lanes.
    pub(super) priority: u8,
    /// Away while a read is under way.
    pub(super) intake: Option<Box<Intake>>,
    /// The lowest LSN that is not done with.
    pub(super) cursor: Lsn,
    /// When its oldest event that is not done with was received, in microseconds since 1970.
    pub(super) oldest: Option<i64>,
    /// Everything up to here was committed when there was nothing more to read.
    pub(super) tail: Option<Lsn>,
    /// The last read that ended found nothing more, or had room for what it found.
    pub(super) keeps_up: bool,
    /// No read of what is new before this: at the end of the log it is read in pieces worth it.
    pub(super) at: Instant,
    /// No read at all before this: the last one failed.
    pub(super) not_before: Instant,
    /// When it was read last, counted in reads.
    pub(super) turn: u64,
}

impl Stream {
    pub(super) fn new(id: StreamId, priority: u8, intake: Intake, now: Instant) -> Self {
        let Span { from, to, lanes } = intake.span();
        Self {
            id,
            lanes,
            to,
            priority,
            intake: Some(Box::new(intake)),
            cursor: from,
            oldest: None,
            tail: None,
            keeps_up: false,
            at: now,
            not_before: now,
            turn: 0,
        }
    }

    pub(super) fn rank(&self) -> Rank {
        Rank { is_historical: self.to.is_some(), behind: 9_u8.saturating_sub(self.priority) }
    }

    /// What of the log is open in it.
    pub(super) fn span(&self) -> Span {
        Span { from: self.cursor, to: self.to, lanes: self.lanes }
    }

    /// The next LSN that it reads, unless it is read.
    pub(super) fn next(&self) -> Option<Lsn> {
        self.intake.as_ref().map(|intake| intake.next())
    }

    /// Whether there is nothing to read, now that everything up to `committed` is on disk.
    pub(super) fn is_read(&self, committed: Lsn) -> bool {
        self.intake.as_ref().is_some_and(|intake| intake.is_finished())
            || self.tail.is_some_and(|tail| committed <= tail)
    }

    /// Whether everything of it is read and done with, and nothing will come.
    pub(super) fn is_over(&self, in_flight: &InFlight) -> bool {
        let is_empty = |intake: &Intake| intake.is_finished() && intake.opens.first().is_none();
        self.intake.as_deref().is_some_and(is_empty) && in_flight.first(self.id).is_none()
    }

    /// Moves the cursor. While a read is under way nobody knows what it leaves open.
    pub(super) fn note(&mut self, in_flight: &InFlight, committed: Lsn) {
        let Some(intake) = &self.intake else { return };
        let first = [in_flight.first(self.id), intake.opens.first()];
        // What was given back is to be read again, and may lie below what flies.
        self.cursor = first.into_iter().flatten().fold(intake.next(), Lsn::min);
        let oldest = [in_flight.received(self.id), intake.opens.received()];
        let unread =
            (!intake.is_finished() && intake.next() <= committed).then(|| intake.received());
        self.oldest = oldest.into_iter().flatten().chain(unread).min();
    }

    /// LSNs that it has not passed.
    pub(super) fn open(&self, committed: Lsn) -> std::ops::Range<Lsn> {
        let end = self.to.unwrap_or(Lsn::MAX).min(committed.saturating_add(1));
        self.cursor..end.max(self.cursor)
    }

    /// How it stands, to be shown.
    pub(super) fn standing(&self, committed: Lsn) -> Standing {
        Standing {
            name: StreamName { is_backlog: self.to.is_some(), priority: self.priority },
            open: self.open(committed),
            goes_on: self.to.is_none(),
            oldest: self.oldest,
        }
    }

    /// Bytes of the batches that still take events.
    pub(super) fn bytes(&self) -> usize {
        self.intake.as_ref().map_or(0, |intake| intake.opens.bytes())
    }

    /// When one of these batches is to leave, if nothing else happens.
    pub(super) fn deadline(&self, busy: Partitions) -> Option<Instant> {
        self.intake.as_ref()?.opens.deadline(busy)
    }
}
