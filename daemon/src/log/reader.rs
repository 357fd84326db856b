//! Reads durable frames in order.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_event::record::{self, Block, Item, Malformed};
use tidegate_event::{EventId, EventRef, Lane, Lsn};
use tracing::warn;

use super::compress::Payloads;
use super::frame;
use super::ledger::Reason;
use super::scan::{Frames, Scan, Step};
use super::segment::{Place, Segment};
use super::shared::Shared;

/// Reads durable frames in order. Blocking file reads, of pages that are usually cached.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    next: Lsn,
    at: Option<(Arc<Segment>, Scan)>,
}

/// What [`Reader::read`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The chunk holds at least one frame.
    Frames,
    /// There is nothing newer yet.
    Tail,
    /// These LSNs are gone (released, quarantined, or damaged since); the reader stands behind them.
    Lost(RangeInclusive<Lsn>),
}

/// Why a read failed: the file system refused. The reader stands where it stood.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot be read: {source}")]
pub struct ReadError {
    /// The segment file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl ReadError {
    pub(super) fn of(segment: &Segment) -> impl FnOnce(io::Error) -> Self {
        let path = segment.path.clone();
        move |source| Self { path, source }
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, from: Lsn) -> Self {
        let committed = shared.committed();
        let oldest = shared.table().oldest().unwrap_or(committed + 1);
        let next = if from > committed + 1 {
            warn!(
                dir = %shared.dir.display(), from, committed,
                "a cursor is ahead of the log: it reads from the oldest event on"
            );
            oldest
        } else {
            from.max(oldest)
        };
        Self { shared, next, at: None }
    }

    /// Fills `chunk` with the frames that follow, up to about `max_bytes` and at least one frame.
    /// Frames begin at a commit's first event, so the first frame after [`super::Log::reader`] may
    /// hold events below `from`: [`Frame::events`] passes over them.
    pub fn read(&mut self, chunk: &mut Chunk, max_bytes: usize) -> Result<Read, ReadError> {
        chunk.frames.spans.clear();
        loop {
            // Before anything is looked up: what is committed from here on comes next time.
            let committed = self.shared.committed();
            if self.next > committed {
                return Ok(Read::Tail);
            }
            let Some((segment, scan)) = &mut self.at else {
                match self.locate(committed)? {
                    None => continue,
                    Some(lost) => return Ok(lost),
                }
            };
            let failed = |source| ReadError { path: segment.path.clone(), source };
            let end = readable(segment, committed);
            let step = scan.step(segment.len(), end, &mut chunk.frames, max_bytes);
            match step.map_err(failed)? {
                Step::Frames => {
                    let from = self.next;
                    // Not those on the way to a place inside the segment, nor of control records only.
                    let wanted = |header: &frame::Header| header.count > 0 && header.end() > from;
                    if let Err(bad) = chunk.settle(scan, max_bytes, wanted) {
                        self.next = self.next.max(bad.end());
                        let lost = bad.first..=bad.end() - 1;
                        self.shared.lost(lost, Reason::Damaged);
                        return Ok(Read::Lost(from.max(bad.first)..=bad.end() - 1));
                    }
                    self.next = self.next.max(scan.lsn);
                    if chunk.frames.spans.is_empty() {
                        continue;
                    }
                    chunk.begin(&self.shared, from);
                    return Ok(Read::Frames);
                }
                Step::End if scan.lsn >= segment.end() => self.at = None,
                Step::End | Step::Damage => {
                    if let Some(lost) = self.skip(committed)? {
                        return Ok(Read::Lost(lost));
                    }
                }
            }
        }
    }

    /// Enters in the ledger runs of LSNs, in their order, that [`Reader::read`] answered as lost, or its
    /// caller cannot make sense of, or does not hand on: of `lane`, or of nobody knows which. Those that do
    /// not stand there are one entry. Waits for the disk.
    pub fn enter_runs(&self, lane: Option<Lane>, runs: &[RangeInclusive<Lsn>], reason: Reason) {
        let ledger = &self.shared.ledger;
        match lane {
            Some(lane) => ledger.record_runs(lane, runs, reason),
            None => ledger.record_gone(self.shared.lane, runs, reason),
        };
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The LSN that comes next.
    pub fn position(&self) -> Lsn {
        self.next
    }

    /// Opens the segment that holds `next`, where the log went up to `committed` a moment ago.
    fn locate(&mut self, committed: Lsn) -> Result<Option<Read>, ReadError> {
        let place = self.shared.table().locate(self.next);
        let segment = match place {
            Place::In(segment) => segment,
            Place::Gone(lsns) => {
                self.next = lsns.end() + 1;
                return Ok(Some(Read::Lost(lsns)));
            }
            // Released, or at the end of a log that ended too early; and nothing came behind it yet.
            Place::Ahead => {
                let lsns = self.next..=committed;
                self.next = lsns.end() + 1;
                return Ok(Some(Read::Lost(lsns)));
            }
        };
        match self.shared.open(&segment) {
            Ok((segment, file)) => {
                let scan = Scan::new(file, &segment.header);
                self.at = Some((segment, scan));
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Some(Read::Lost(self.gone(&segment))))
            }
            Err(source) => Err(ReadError { path: segment.path.clone(), source }),
        }
    }

    /// Passes over the rest of a segment whose file is not there: a loss, unless it was released.
    fn gone(&mut self, segment: &Arc<Segment>) -> RangeInclusive<Lsn> {
        let lsns = self.next..=segment.end() - 1;
        self.next = segment.end();
        if !self.shared.was_released(segment) {
            self.shared.lost(lsns.clone(), Reason::Missing);
        }
        lsns
    }

    /// Passes over damage, in what was committed a moment ago. Answers what of it was still to be read.
    fn skip(&mut self, committed: Lsn) -> Result<Option<RangeInclusive<Lsn>>, ReadError> {
        let Some((segment, scan)) = &mut self.at else { return Ok(None) };
        if self.shared.is_gone(segment) {
            // Released, and written over meanwhile; or what is left of it stands in another segment now.
            self.at = None;
            return Ok(None);
        }
        let end = readable(segment, committed);
        let skipped = scan
            .skip(segment.len(), end)
            .map_err(|source| ReadError { path: segment.path.clone(), source })?;
        self.shared.damaged(segment, &skipped);
        let from = self.next;
        self.next = self.next.max(scan.lsn);
        if !skipped.resumed {
            self.at = None;
        }
        let Some(lsns) = skipped.lsns else { return Ok(None) };
        Ok((*lsns.end() >= from).then(|| from.max(*lsns.start())..=*lsns.end()))
    }
}

/// Up to where a segment is read. A frame is in it a moment before it counts as committed, and before others
/// know what of it is gone. One that was rewritten was committed long since, also where who looks from outside
/// does not know that yet; and its frames are not those that were.
fn readable(segment: &Segment, committed: Lsn) -> Lsn {
    match segment.header.rewritten {
        Some(_) => segment.end(),
        None => segment.end().min(committed + 1),
    }
}

/// Frames in memory, in a buffer that is used again.
#[derive(Debug, Default)]
pub struct Chunk {
    pub(super) frames: Frames,
    payloads: Payloads,
    /// Which log, and the first LSN that was asked for.
    origin: Option<EventId>,
}

/// One commit's events.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The id of the first event.
    pub first: EventId,
    /// How many events; 0 only from a [`super::Restore`].
    pub count: u32,
    /// Whether one of them is to be retained.
    pub has_retained: bool,
    /// Whether there are control records, or events with a packet id.
    pub has_control: bool,
    /// Its blocks (`tidegate_event::record`).
    pub payload: &'a [u8],
    /// The reader asked for events from this LSN on.
    pub from: Lsn,
}

impl<'a> Frame<'a> {
    /// Its blocks, in order. Ends after the first one that is malformed.
    pub fn blocks(&self) -> impl Iterator<Item = Result<Block<'a>, Malformed>> + use<'a> {
        record::blocks(self.payload)
    }

    /// All that stands in it, from its first LSN on. Ends after the first item that is malformed.
    pub fn items(&self) -> impl Iterator<Item = Result<Item<'a>, Malformed>> + use<'a> {
        record::items(self.payload, self.first)
    }

    /// Its events from [`Frame::from`] on. Ends after the first one that is malformed.
    pub fn events(&self) -> impl Iterator<Item = Result<EventRef<'a>, Malformed>> + use<'a> {
        let from = self.from;
        record::events(self.payload, self.first)
            .filter(move |event| event.as_ref().map_or(true, |event| event.lsn() >= from))
    }
}

impl Chunk {
    /// Leaves of the frames that were read those that are wanted, and that are inflated in about
    /// `max_bytes`; the scan goes back to the others. An error is a first one that cannot be inflated:
    /// the scan stands behind it.
    pub(super) fn settle(
        &mut self,
        scan: &mut Scan,
        max_bytes: usize,
        wanted: impl Fn(&frame::Header) -> bool,
    ) -> Result<(), frame::Header> {
        let Some((at, last)) = self.frames.spans.last() else { return Ok(()) };
        let begin = scan.offset - (at + last.frame_len()) as u64;
        self.frames.spans.retain(|(_, header)| wanted(header));
        let (ready, malformed) = self.payloads.inflate(&self.frames, max_bytes);
        let Some((at, next)) = self.frames.spans.get(ready).copied() else { return Ok(()) };
        self.frames.spans.truncate(ready);
        let offset = begin + at as u64;
        if malformed && ready == 0 {
            scan.go_back(offset + next.frame_len() as u64, next.end());
            return Err(next);
        }
        scan.go_back(offset, next.first);
        Ok(())
    }

    /// The frames are of this log, and were asked for from this LSN on.
    pub(super) fn begin(&mut self, shared: &Shared, from: Lsn) {
        self.origin = Some(EventId { epoch: shared.epoch, lane: shared.lane, lsn: from });
    }

    /// Bytes that it takes.
    pub fn capacity(&self) -> usize {
        self.frames.bytes.capacity() + self.payloads.capacity()
    }

    /// The frames in order.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.origin.into_iter().flat_map(move |origin| {
            self.frames.spans.iter().enumerate().map(move |(index, (_, header))| Frame {
                first: EventId { lsn: header.first, ..origin },
                count: header.count,
                has_retained: header.flags & frame::HAS_RETAINED != 0,
                has_control: header.flags & frame::HAS_CONTROL != 0,
                payload: self.payloads.of(&self.frames, index),
                from: origin.lsn,
            })
        })
    }
}
