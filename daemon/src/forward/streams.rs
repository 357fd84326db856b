//! What a sink has not got, as streams, and which of them is read next. How they divide when it falls behind, and
//! become one again, is in [`divide`].
//!
//! See the module's head for the rules.

mod divide;

use std::sync::Arc;
use std::time::Duration;

use tidegate_event::Lsn;
use tokio::time::Instant;

use super::inflight::{InFlight, StreamId};
use super::intake::{Again, End, Filled, Intake, Source};
use super::stream::Stream;
use crate::state::Span;

/// After a failed read.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// How far, in LSNs, reading may be ahead of the cursor: what a crash repeats at most.
const MAX_AHEAD: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Streams {
    source: Arc<Source>,
    list: Vec<Stream>,
    live_first: bool,
    /// At the log's end it is read this often, at most.
    read_every: Duration,
    /// Bytes of batches in memory beyond which the last stream is not read on.
    budget: usize,
    /// What the others may have beside that, so that the last one does not keep them out.
    reserve: usize,
    turns: u64,
}

/// A read to be begun.
#[derive(Debug)]
pub(super) struct Turn {
    id: StreamId,
    intake: Box<Intake>,
    /// About so many bytes,
    room: usize,
    /// and nothing from here on.
    stop: Lsn,
    /// What is on disk now.
    committed: Lsn,
}

/// A read that has ended.
#[derive(Debug)]
pub(super) struct Back {
    id: StreamId,
    intake: Box<Intake>,
    committed: Lsn,
}

impl Turn {
    /// Reads. Waits for the disk.
    pub(super) fn read(self, now: Instant) -> (Back, Filled) {
        let Self { id, mut intake, room, stop, committed } = self;
        let filled = intake.fill(room, now, stop);
        (Back { id, intake, committed }, filled)
    }
}

impl Streams {
    /// Reads `spans`. Batches may take `budget` bytes of memory; one more stream of higher rank may
    /// take `reserve` beside it.
    pub(super) fn new(
        source: Arc<Source>,
        spans: Vec<Span>,
        live_first: bool,
        read_every: Duration,
        (budget, reserve): (usize, usize),
    ) -> Self {
        let list = Vec::new();
        let mut streams = Self { source, list, live_first, read_every, budget, reserve, turns: 0 };
        let now = Instant::now();
        for span in spans {
            streams.open(span, Again::default(), now);
        }
        streams
    }

    /// What is open, to be saved.
    pub(super) fn spans(&self) -> Vec<Span> {
        self.list.iter().map(Stream::span).collect()
    }

    /// The streams, those of a higher rank first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.list.iter()
    }

    fn open(&mut self, span: Span, again: Again, now: Instant) -> StreamId {
        let taken = |id: &u8| self.list.iter().any(|stream| stream.id.0 == *id);
        // There are 64 numbers, and 16 streams.
        let id = StreamId((0..64).find(|id| !taken(id)).unwrap_or_default());
        let priority = self.source.rules.priority(span.lanes);
        let intake = self.source.intake(span, again);
        self.list.push(Stream::new(id, priority, intake, now));
        self.sort();
        id
    }

    fn sort(&mut self) {
        self.list.sort_by_key(|stream| (stream.rank(), stream.cursor));
    }

    /// Moves the cursors.
    pub(super) fn note(&mut self, in_flight: &InFlight, committed: Lsn) {
        self.list.iter_mut().for_each(|stream| stream.note(in_flight, committed));
    }

    /// Bytes that batches of the stream may still take.
    fn room(&self, stream: &Stream, held: usize) -> usize {
        let is_last = self.list.last().is_none_or(|last| last.rank() == stream.rank());
        let most = self.budget + if is_last { 0 } else { self.reserve };
        let is_ahead = stream.next().is_none_or(|next| next - stream.cursor.min(next) >= MAX_AHEAD);
        if is_ahead { 0 } else { most.saturating_sub(held) }
    }

    fn held(&self, in_flight: &InFlight) -> usize {
        in_flight.bytes() + self.bytes()
    }

    /// Bytes of the batches that still take events.
    pub(super) fn bytes(&self) -> usize {
        self.list.iter().map(Stream::bytes).sum()
    }

    /// Closes the batches that are to leave; when `hurry`, all of what is read.
    pub(super) fn close(
        &mut self,
        in_flight: &mut InFlight,
        committed: Lsn,
        now: Instant,
        hurry: bool,
    ) {
        for index in 0..self.list.len() {
            let held = self.held(in_flight);
            let stream = &self.list[index];
            let is_read = stream.is_read(committed);
            // Where nothing more is read, waiting fills no batch.
            let stuck = !is_read && self.room(stream, held) == 0;
            let is_finished = stream.intake.as_ref().is_some_and(|intake| intake.is_finished());
            let hurry = stuck || is_finished || (hurry && is_read);
            let (id, rank) = (stream.id, stream.rank());
            let busy = in_flight.partitions(id);
            let Some(intake) = &mut self.list[index].intake else { continue };
            for batch in intake.opens.due(now, busy, hurry) {
                in_flight.push(batch, id, rank);
            }
        }
    }

    /// What is to be read now: of the streams with room, the one that was not read for longest. Of a
    /// backlog, the first range alone.
    pub(super) fn turn(
        &mut self,
        in_flight: &InFlight,
        committed: Lsn,
        now: Instant,
    ) -> Option<Turn> {
        let held = self.held(in_flight);
        let can_read = |stream: &Stream| !stream.is_read(committed) && self.room(stream, held) > 0;
        let meeting = self.meeting().filter(|place| {
            let is_late = |stream: &Stream| stream.next() < Some(*place);
            self.live().any(is_late) && self.live().filter(|it| is_late(it)).all(can_read)
        });
        // The next range begins when the one before it is over: what is historical goes in order, too.
        let history = self.list.iter().find(|stream| stream.to.is_some()).map(|stream| stream.id);
        let is_due = |stream: &&Stream| match (stream.to, meeting) {
            (Some(_), _) => history == Some(stream.id),
            (None, Some(place)) => stream.next() < Some(place),
            (None, None) => now >= stream.at,
        };
        let due = self.list.iter().filter(|stream| can_read(stream) && now >= stream.not_before);
        let id = due.filter(is_due).min_by_key(|stream| stream.turn)?.id;
        let room = self.get(id).map(|stream| self.room(stream, held))?;
        self.turns += 1;
        let turns = self.turns;
        let stream = self.get_mut(id)?;
        stream.turn = turns;
        let stop = meeting.filter(|_| stream.to.is_none()).unwrap_or(Lsn::MAX);
        Some(Turn { id, intake: stream.intake.take()?, room, stop, committed })
    }

    fn get(&self, id: StreamId) -> Option<&Stream> {
        self.list.iter().find(|stream| stream.id == id)
    }

    fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.list.iter_mut().find(|stream| stream.id == id)
    }

    /// Takes over what a read brought.
    pub(super) fn back(&mut self, back: Back, filled: &mut Filled, in_flight: &mut InFlight) {
        let read_every = self.read_every;
        let Some(stream) = self.get_mut(back.id) else { return };
        stream.intake = Some(back.intake);
        let now = Instant::now();
        match filled.end {
            End::More => {}
            End::Full => stream.keeps_up = false,
            End::Tail => {
                stream.keeps_up = true;
                stream.tail = Some(back.committed);
                stream.at = now + read_every;
            }
            End::Failed(_) => stream.not_before = now + READ_AGAIN,
        }
        for batch in filled.closed.drain(..) {
            in_flight.push(batch, stream.id, stream.rank());
        }
    }

    /// When there is something to do, if nothing else happens.
    pub(super) fn wake(
        &self,
        in_flight: &InFlight,
        committed: Lsn,
        now: Instant,
    ) -> Option<Instant> {
        let deadlines =
            self.list.iter().filter_map(|stream| stream.deadline(in_flight.partitions(stream.id)));
        // A read that is due and not begun has no room; an answer makes some.
        let reads = self.list.iter().filter(|stream| !stream.is_read(committed));
        let reads = reads.map(|stream| stream.at.max(stream.not_before)).filter(|at| *at > now);
        deadlines.chain(reads).min()
    }

    /// Whether a stream waits for what is committed next.
    pub(super) fn is_at_tail(&self, committed: Lsn) -> bool {
        self.live().any(|stream| stream.is_read(committed))
    }

    /// The lowest LSN that is not done with.
    pub(super) fn cursor(&self) -> Lsn {
        self.list.iter().map(|stream| stream.cursor).min().unwrap_or_default()
    }

    /// What goes first, for the operator.
    pub(super) fn order(&self) -> &'static str {
        match self.live_first {
            true => "the newest events go first, the backlog follows",
            false => "lanes of a higher priority go first",
        }
    }

    /// Whether they are what was saved.
    pub(super) fn are_at(&self, saved: &[Span]) -> bool {
        self.list.iter().map(Stream::span).eq(saved.iter().copied())
    }

    /// Whether everything that is committed is read and done with; of a backlog only if it is `whole`.
    pub(super) fn are_done(&self, committed: Lsn, whole: bool) -> bool {
        let mut counted = self.list.iter().filter(|stream| whole || stream.to.is_none());
        counted.all(|stream| stream.is_read(committed) && stream.open(committed).is_empty())
    }
}
