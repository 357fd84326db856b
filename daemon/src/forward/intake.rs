//! Reads the log and encodes what the sink wants, a chunk at a time. Blocking: it runs beside the
//! runtime, so that a slow disk delays this sink and nothing else.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tidegate_event::cloudevents::Encoder;
use tidegate_event::record::{self, Item};
use tidegate_event::{EventRef, Filter, Lane, Lsn};
use tokio::time::Instant;

use super::batch::{Batch, Limits};
use super::opens::OpenBatches;
use super::partition::Partitioner;
use super::rules::Rules;
use crate::clock::{self, Clock};
use crate::log::{Chunk, Frame, Log, Read, ReadError, Reader, Reason};
use crate::sinks::Sink;
use crate::state::{LaneSet, Span};

/// Bytes of the log in memory.
const CHUNK: usize = 256 * 1024;

/// What all intakes of a sink have in common.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) log: Arc<Log>,
    pub(super) encoder: Arc<Encoder>,
    /// The same, for a backlog that newer events go ahead of.
    pub(super) historical: Arc<Encoder>,
    pub(super) sink: Arc<Sink>,
    pub(super) filters: Vec<Filter>,
    pub(super) rules: Rules,
    pub(super) limits: Limits,
    /// The same, for such a backlog.
    pub(super) backlog_limits: Limits,
    pub(super) max_age: Duration,
    pub(super) partitions: usize,
    /// An event that was received while the clock was not set is sent with the right time, once it is.
    pub(super) clock: Clock,
}

/// Reads one range of the log for some lanes.
#[derive(Debug)]
pub(super) struct Intake {
    source: Arc<Source>,
    reader: Reader,
    chunk: Chunk,
    /// Whether the chunk holds events that were not looked at.
    unfinished: bool,
    span: Span,
    again: Again,
    /// The next LSN to look at.
    next: Lsn,
    /// When the last event that was looked at was received, in microseconds since 1970.
    received: i64,
    partitioner: Partitioner,
    pub(super) opens: OpenBatches,
}

/// What is to be read a second time, of what was read before: batches that were given back. The rest of it
/// is on its way, or done with.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// From here
    pub(super) from: Lsn,
    /// to before this, only
    pub(super) until: Lsn,
    /// these, in order.
    pub(super) lsns: Arc<[Lsn]>,
}

/// What one call of [`Intake::fill`] brought.
#[derive(Debug)]
pub(super) struct Filled {
    /// Batches that are full.
    pub(super) closed: Vec<Batch>,
    /// Events that the sink does not want.
    pub(super) filtered: u64,
    /// What cannot be sent, one a lane and reason. It stands in the log's ledger.
    pub(super) lost: Vec<Lost>,
    /// Events that were not kept, which the ledger says already.
    pub(super) gone: u64,
    pub(super) end: End,
}

/// Events of one chunk that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) reason: Reason,
    /// `None`: nobody knows.
    lane: Option<Lane>,
    /// Their LSNs, in order.
    pub(super) runs: Vec<RangeInclusive<Lsn>>,
    /// How many, but for what is on its way already.
    pub(super) count: u64,
}

/// Why it ended.
#[derive(Debug)]
pub(super) enum End {
    /// A chunk is done, or the range; call again.
    More,
    /// There is nothing newer yet.
    Tail,
    /// The room is used up.
    Full,
    /// The log cannot be read; call again later.
    Failed(ReadError),
}

impl Source {
    /// Reads `span`.
    pub(super) fn intake(self: &Arc<Self>, span: Span, again: Again) -> Intake {
        let limits = if span.to.is_some() { self.backlog_limits } else { self.limits };
        Intake {
            source: Arc::clone(self),
            reader: self.log.reader(span.from),
            chunk: Chunk::default(),
            unfinished: false,
            span,
            again,
            next: span.from,
            received: i64::MAX,
            partitioner: Partitioner::new(self.partitions),
            opens: OpenBatches::new(limits, self.max_age, self.partitions),
        }
    }
}

impl Again {
    /// The same once more.
    pub(super) fn share(&self) -> Self {
        Self { lsns: Arc::clone(&self.lsns), ..*self }
    }
}

impl Intake {
    /// The next LSN to look at.
    pub(super) fn next(&self) -> Lsn {
        self.next
    }

    /// What it reads, from the beginning.
    pub(super) fn span(&self) -> Span {
        self.span
    }

    /// Whether the whole range was looked at.
    pub(super) fn is_finished(&self) -> bool {
        self.span.to.is_some_and(|to| self.next >= to)
    }

    /// When the last event that was looked at was received, in microseconds since 1970.
    pub(super) fn received(&self) -> i64 {
        self.received
    }

    /// From here on it reads these lanes too.
    pub(super) fn take_over(&mut self, lanes: LaneSet) {
        self.span.lanes = self.span.lanes.union(lanes);
    }

    /// What of the range, beside `given_back`, is still to be read again.
    pub(super) fn again(&self, mut given_back: Vec<Lsn>) -> Again {
        given_back.extend(self.again.lsns.iter().filter(|lsn| **lsn >= self.next));
        given_back.sort_unstable();
        Again { from: 0, until: self.again.until.max(self.next), lsns: given_back.into() }
    }

    /// Encodes up to one chunk of the log into the open batches: about `room` bytes, one event more at
    /// most, and nothing from `stop` on.
    pub(super) fn fill(&mut self, room: usize, now: Instant, stop: Lsn) -> Filled {
        let mut filled =
            Filled { closed: Vec::new(), filtered: 0, lost: Vec::new(), gone: 0, end: End::More };
        if self.is_finished() || self.next >= stop {
            return filled;
        }
        if !self.unfinished {
            match self.reader.read(&mut self.chunk, CHUNK) {
                Ok(Read::Frames) => {}
                Ok(Read::Tail) => {
                    filled.end = End::Tail;
                    return filled;
                }
                Ok(Read::Lost(range)) => {
                    let next = self.next.max(range.end().saturating_add(1));
                    // What is damaged or missing the reader has entered itself.
                    self.pass(next, Reason::Released, &mut filled);
                    self.enter(&filled);
                    return filled;
                }
                Err(error) => {
                    filled.end = End::Failed(error);
                    return filled;
                }
            }
        }
        // Out of its place, so that what it holds can be read while the rest changes.
        let chunk = std::mem::take(&mut self.chunk);
        self.encode(&chunk, room, now, stop, &mut filled);
        self.chunk = chunk;
        self.enter(&filled);
        filled
    }

    /// Encodes what is left of the chunk.
    fn encode(&mut self, chunk: &Chunk, room: usize, now: Instant, stop: Lsn, filled: &mut Filled) {
        let source = Arc::clone(&self.source);
        let wall = clock::unix_micros();
        let mut encoded = 0;
        self.unfinished = true;
        for frame in chunk.frames() {
            let end = end(&frame);
            if end <= self.next {
                continue;
            }
            if self.is_at(stop) {
                return;
            }
            self.pass(frame.first.lsn, Reason::Released, filled);
            for item in record::items(frame.payload, frame.first) {
                if self.is_at(stop) {
                    return;
                }
                let event = match item {
                    Ok(Item::Event(event)) => event,
                    Ok(Item::Gone { lane, first, count }) => {
                        self.pass_gone(lane, first.saturating_add(u64::from(count)), filled);
                        continue;
                    }
                    Err(_) => {
                        // The checksum is right, and the bytes make no sense.
                        self.pass(end, Reason::Damaged, filled);
                        break;
                    }
                };
                if event.lsn() < self.next {
                    continue;
                }
                if encoded >= room {
                    filled.end = End::Full;
                    return;
                }
                if self.wants(&event) {
                    encoded += self.take(&source, event, now, wall, filled);
                }
                self.next = event.lsn() + 1;
            }
            self.next = self.next.max(end);
        }
        self.unfinished = false;
    }

    /// Encodes the event, unless it is not for the sink. Answers how many bytes that are.
    fn take(
        &mut self,
        source: &Source,
        mut event: EventRef<'_>,
        now: Instant,
        wall: i64,
        filled: &mut Filled,
    ) -> usize {
        if !source.filters.iter().any(|filter| filter.matches(event.topic)) {
            filled.filtered += 1;
            return 0;
        }
        event.received = source.clock.corrected(event.received);
        self.received = event.received.unix_micros();
        if source.rules.is_expired(&event, wall) {
            filled.lose(Reason::Expired, Some(event.lane), event.lsn()..=event.lsn(), 1);
            return 0;
        }
        let encoder = match self.span.to {
            Some(_) => &source.historical,
            None => &source.encoder,
        };
        let partition = self.partitioner.of(encoder, &event);
        let (lsn, received) = (event.lsn(), self.received);
        let mut bytes = 0;
        self.opens.push(partition, lsn, received, now, &mut filled.closed, |body| {
            let before = body.len();
            source.sink.write_event(encoder, &event, body);
            bytes = body.len() - before;
        });
        bytes
    }

    fn is_at(&self, stop: Lsn) -> bool {
        self.next >= stop || self.is_finished()
    }

    /// Whether the event is of those to be read.
    fn wants(&self, event: &EventRef<'_>) -> bool {
        self.span.lanes.contains(event.lane) && self.is_new(event.lsn())
    }

    /// Whether it was not read before, or was given back.
    fn is_new(&self, lsn: Lsn) -> bool {
        let Again { from, until, lsns } = &self.again;
        !(*from..*until).contains(&lsn) || lsns.binary_search(&lsn).is_ok()
    }

    /// Goes on at `to`: what lies before it cannot be read.
    fn pass(&mut self, to: Lsn, reason: Reason, filled: &mut Filled) {
        let to = to.min(self.span.to.unwrap_or(Lsn::MAX));
        // Of unreadable events nobody knows the lanes: one range counts for all that are open there.
        if to > self.next && self.span.lanes.contains(Lane(0)) {
            let mut gone = self.count(self.next, to);
            for lsns in self.reader.not_gone(&(self.next..=to - 1)) {
                let lost = self.count(*lsns.start(), lsns.end() + 1);
                gone = gone.saturating_sub(lost);
                filled.lose(reason, None, lsns, lost);
            }
            filled.gone += gone;
        }
        self.next = self.next.max(to);
    }

    /// The same, for events that were not kept.
    fn pass_gone(&mut self, lane: Lane, to: Lsn, filled: &mut Filled) {
        let to = to.min(self.span.to.unwrap_or(Lsn::MAX));
        if to > self.next && self.span.lanes.contains(lane) {
            let (lsns, count) = (self.next..=to - 1, self.count(self.next, to));
            if self.reader.knows_gone(lane, &lsns) {
                filled.gone += count;
            } else {
                filled.lose(Reason::Dropped, Some(lane), lsns, count);
            }
        }
        self.next = self.next.max(to);
    }

    /// How many of these LSNs were not read before, or were given back.
    fn count(&self, from: Lsn, to: Lsn) -> u64 {
        let Again { from: begin, until, lsns } = &self.again;
        let old = (*until).min(to).saturating_sub((*begin).max(from));
        let again = lsns.partition_point(|lsn| *lsn < to) - lsns.partition_point(|lsn| *lsn < from);
        to - from - old + again as u64
    }

    fn enter(&self, filled: &Filled) {
        for lost in &filled.lost {
            self.reader.enter_runs(lost.lane, &lost.runs, lost.reason);
        }
    }
}

impl Filled {
    /// Adds a loss to that of its lane and reason. `count` events of it are not on their way.
    fn lose(&mut self, reason: Reason, lane: Option<Lane>, lsns: RangeInclusive<Lsn>, count: u64) {
        let same = |lost: &&mut Lost| (lost.reason, lost.lane) == (reason, lane);
        let Some(lost) = self.lost.iter_mut().find(same) else {
            self.lost.push(Lost { reason, lane, runs: vec![lsns], count });
            return;
        };
        lost.count += count;
        match lost.runs.last_mut() {
            Some(last) if last.end() + 1 == *lsns.start() => *last = *last.start()..=*lsns.end(),
            _ => lost.runs.push(lsns),
        }
    }
}

fn end(frame: &Frame<'_>) -> Lsn {
    frame.first.lsn.saturating_add(u64::from(frame.count))
}
