//! Reads the log and encodes what the sink wants, a chunk at a time. Blocking: it runs beside the
//! runtime, so that a slow disk delays this sink and nothing else.

use std::ops::RangeInclusive;
use std::sync::Arc;

use tidegate_event::cloudevents::Encoder;
use tidegate_event::{Filter, Lsn};
use tokio::time::Instant;

use super::batch::Batch;
use super::opens::OpenBatches;
use super::partition::Partitioner;
use crate::clock::Clock;
use crate::log::{Chunk, Read, ReadError, Reader, Reason};
use crate::sinks::Sink;

/// Bytes of the log in memory.
const CHUNK: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Intake {
    reader: Reader,
    chunk: Chunk,
    /// Whether the chunk holds events that were not looked at.
    unfinished: bool,
    /// The next LSN to look at.
    next: Lsn,
    /// When the last event that was looked at was received, in microseconds since 1970.
    received: i64,
    /// An event that was received while the clock was not set is sent with the right time, once it is.
    clock: Clock,
    encoder: Arc<Encoder>,
    sink: Arc<Sink>,
    filters: Vec<Filter>,
    partitioner: Partitioner,
    pub(super) opens: OpenBatches,
}

/// What one call of [`Intake::fill`] brought.
#[derive(Debug)]
pub(super) struct Filled {
    /// Batches that are full.
    pub(super) closed: Vec<Batch>,
    /// Events that the sink does not want.
    pub(super) filtered: u64,
    /// LSNs that cannot be read. They stand in the log's ledger.
    pub(super) lost: Vec<RangeInclusive<Lsn>>,
    pub(super) end: End,
}

/// Why it ended.
#[derive(Debug)]
pub(super) enum End {
    /// A chunk is done; call again.
    More,
    /// There is nothing newer yet.
    Tail,
    /// The room is used up.
    Full,
    /// The log cannot be read; call again later.
    Failed(ReadError),
}

impl Intake {
    pub(super) fn new(
        reader: Reader,
        next: Lsn,
        encoder: Arc<Encoder>,
        sink: Arc<Sink>,
        config: &tidegate_config::Sink,
        opens: OpenBatches,
    ) -> Self {
        Self {
            reader,
            chunk: Chunk::default(),
            unfinished: false,
            next,
            received: i64::MAX,
            clock: Clock::new(),
            encoder,
            sink,
            filters: config.topics.iter().map(|topic| topic.0.clone()).collect(),
            partitioner: Partitioner::new(config.max_in_flight),
            opens,
        }
    }

    /// The next LSN to look at.
    pub(super) fn next(&self) -> Lsn {
        self.next
    }

    /// When the last event that was looked at was received, in microseconds since 1970.
    pub(super) fn received(&self) -> i64 {
        self.received
    }

    /// Encodes up to one chunk of the log into the open batches: about `room` bytes, one event more at
    /// most.
    pub(super) fn fill(&mut self, room: usize, now: Instant) -> Filled {
        let mut filled =
            Filled { closed: Vec::new(), filtered: 0, lost: Vec::new(), end: End::More };
        if !self.unfinished {
            match self.reader.read(&mut self.chunk, CHUNK) {
                Ok(Read::Frames) => {}
                Ok(Read::Tail) => {
                    filled.end = End::Tail;
                    return filled;
                }
                Ok(Read::Lost(range)) => {
                    let next = self.next.max(range.end().saturating_add(1));
                    if next > self.next {
                        // What is damaged or missing the reader has entered itself.
                        self.reader.enter_loss(self.next..=next - 1, Reason::Released);
                        filled.lost.push(self.next..=next - 1);
                    }
                    self.next = next;
                    return filled;
                }
                Err(error) => {
                    filled.end = End::Failed(error);
                    return filled;
                }
            }
        }
        self.unfinished = !self.encode(room, now, &mut filled);
        if self.unfinished {
            filled.end = End::Full;
        }
        filled
    }

    /// Answers whether the whole chunk is done.
    fn encode(&mut self, room: usize, now: Instant, filled: &mut Filled) -> bool {
        let Self {
            reader,
            chunk,
            next,
            clock,
            encoder,
            sink,
            filters,
            partitioner,
            opens,
            received,
            ..
        } = self;
        let mut lose = |lsns: RangeInclusive<Lsn>, reason| {
            reader.enter_loss(lsns.clone(), reason);
            filled.lost.push(lsns);
        };
        let mut encoded = 0;
        for frame in chunk.frames() {
            let end = frame.first.lsn.saturating_add(u64::from(frame.count));
            if end <= *next {
                continue;
            }
            if frame.first.lsn > *next {
                lose(*next..=frame.first.lsn - 1, Reason::Released);
                *next = frame.first.lsn;
            }
            for event in frame.events() {
                let Ok(mut event) = event else {
                    // The checksum is right, and the bytes make no sense.
                    lose(*next..=end - 1, Reason::Damaged);
                    break;
                };
                if event.lsn() < *next {
                    continue;
                }
                if encoded >= room {
                    return false;
                }
                event.received = clock.corrected(event.received);
                *received = event.received.unix_micros();
                if filters.iter().any(|filter| filter.matches(event.topic)) {
                    let partition = partitioner.of(encoder, &event);
                    opens.push(
                        partition,
                        event.lsn(),
                        *received,
                        now,
                        &mut filled.closed,
                        |body| {
                            let before = body.len();
                            sink.write_event(encoder, &event, body);
                            encoded += body.len() - before;
                        },
                    );
                } else {
                    filled.filtered += 1;
                }
                *next = event.lsn() + 1;
            }
            *next = end;
        }
        true
    }
}
