//! What a sink has not got, as streams: how they divide when it falls behind, and become one again.
//!
//! See the module's head for the rules.

use std::sync::Arc;
use std::time::Duration;

use tidegate_event::Lsn;
use tokio::time::Instant;

use super::batch::Batch;
use super::behind::Behind;
use super::inflight::{InFlight, StreamId};
use super::intake::{Again, End, Filled, Intake, Source};
use super::stream::Stream;
use crate::state::{MAX_SPANS, Span};

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

    /// Drops streams that are over, divides those that are behind, unites those that are not. Answers
    /// whether one was divided.
    pub(super) fn arrange(
        &mut self,
        in_flight: &mut InFlight,
        behind: &Behind,
        is_held_back: bool,
        committed: Lsn,
        now: Instant,
    ) -> bool {
        self.list.retain(|stream| stream.to.is_none() || !stream.is_over(in_flight));
        let mut divided = false;
        in_flight.let_go();
        // While the bus takes nothing, nothing is gained; and more comes until it does.
        if !is_held_back {
            let late: Vec<StreamId> = self
                .list
                .iter()
                .filter(|stream| stream.to.is_none() && behind.is_late(stream.cursor))
                .map(|stream| stream.id)
                .collect();
            for id in late {
                divided |= self.divide(id, in_flight, committed, now).is_some();
            }
        }
        self.unite(in_flight, behind);
        divided
    }

    /// Divides a stream that is behind: by time where the newest events go first, and by priority.
    fn divide(
        &mut self,
        id: StreamId,
        in_flight: &mut InFlight,
        committed: Lsn,
        now: Instant,
    ) -> Option<()> {
        let at = self.list.iter().position(|stream| stream.id == id)?;
        let all = self.list[at].lanes;
        let mut classes = self.source.rules.classes(all);
        // The last one keeps the number, and so what flies.
        let last = classes.pop()?;
        let more = classes.len() + usize::from(self.live_first);
        if more == 0 || self.list.len() + more > MAX_SPANS {
            return None;
        }
        let Some(mut intake) = self.list[at].intake.take() else {
            // A read is under way. What is cut does not leave in the order of before, meanwhile.
            in_flight.hold(id);
            return None;
        };
        // What waits is read again, each event by the stream that it is of now. What the bus may have stays.
        let mut back = in_flight.withdraw(id);
        back.extend(intake.opens.take().iter().flat_map(Batch::lsns));
        let again = intake.again(back);
        let from = again.lsns.first().map_or(intake.next(), |first| intake.next().min(*first));
        let live = again.until.max(committed + 1);
        let to = self.live_first.then_some(live);

        let mut rest = self.list.remove(at);
        let cursor = rest.cursor;
        let intake = self.source.intake(Span { from, to, lanes: last }, again.share());
        (rest.lanes, rest.to, rest.tail, rest.keeps_up) = (last, to, None, false);
        rest.priority = self.source.rules.priority(last);
        rest.intake = Some(Box::new(intake));
        self.list.push(rest);
        for lanes in classes {
            let part = self.open(Span { from, to, lanes }, again.share(), now);
            in_flight.divide(id, part);
            // What flies is not done with, and it may be read before the cursors move.
            if let Some(part) = self.get_mut(part) {
                part.cursor = cursor;
            }
        }
        if self.live_first {
            // What flies is not historical: the newest events of its sources come after it.
            let live = Span { from: live, to: None, lanes: all };
            let live = self.open(live, Again::default(), now);
            in_flight.precede(id, live);
        }
        self.sort();
        Some(())
    }

    /// Those that go on with the log.
    fn live(&self) -> impl Iterator<Item = &Stream> {
        self.list.iter().filter(|stream| stream.to.is_none())
    }

    /// Where streams meet that are to become one: the next LSN of the one that is furthest. Only while
    /// all of them can get there.
    fn meeting(&self) -> Option<Lsn> {
        let is_ready = |stream: &Stream| stream.keeps_up && stream.intake.is_some();
        if self.live().count() < 2 || !self.live().all(is_ready) {
            return None;
        }
        self.live().filter_map(Stream::next).max()
    }

    /// Makes one stream of those that go on with the log, once all stand at the same place.
    fn unite(&mut self, in_flight: &mut InFlight, behind: &Behind) -> Option<()> {
        let place = self.meeting()?;
        let is_there =
            |stream: &Stream| stream.next() == Some(place) && !behind.is_late(stream.cursor);
        if !self.live().all(is_there) {
            return None;
        }
        let (live, mut others): (Vec<Stream>, Vec<Stream>) =
            std::mem::take(&mut self.list).into_iter().partition(|stream| stream.to.is_none());
        let mut live = live.into_iter();
        let mut one = live.next()?;
        for part in live {
            one.lanes = one.lanes.union(part.lanes);
            one.priority = self.source.rules.priority(one.lanes);
            one.cursor = one.cursor.min(part.cursor);
            in_flight.unite(part.id, one.id, one.rank());
            for batch in part.intake.into_iter().flat_map(|mut intake| intake.opens.take()) {
                in_flight.push(batch, one.id, one.rank());
            }
        }
        if let Some(intake) = &mut one.intake {
            intake.take_over(one.lanes);
        }
        one.tail = None;
        others.push(one);
        self.list = others;
        self.sort();
        Some(())
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
