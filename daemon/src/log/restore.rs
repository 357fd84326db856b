//! Reads every frame to the physical end: those too that hold control records only, which lie
//! behind the last event and move no LSN.

use std::collections::VecDeque;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use tidegate_event::Lsn;

use super::frame;
use super::ledger::Reason;
use super::reader::{Chunk, Read, ReadError};
use super::scan::{Scan, Step};
use super::segment::Segment;
use super::shared::Shared;

/// Reads every frame from an LSN on, up to where the log ended when this was made: for who rebuilds
/// from control records what they said. Blocking file reads.
#[derive(Debug)]
pub struct Restore {
    shared: Arc<Shared>,
    segments: VecDeque<Part>,
    from: Lsn,
    /// The next LSN.
    next: Lsn,
    /// Behind the last one.
    end: Lsn,
    at: Option<(Part, Scan)>,
}

/// A segment, as it was when the reader was made.
#[derive(Debug)]
struct Part {
    segment: Arc<Segment>,
    end: Lsn,
    len: u64,
}

impl Restore {
    pub(super) fn new(shared: Arc<Shared>, from: Lsn) -> Self {
        let table = shared.table();
        // What lies before one is covered.
        let parts = table.0[table.behind_holes()..].iter().map(|segment| {
            // The end first: the bytes up to it are there, whatever the writer does meanwhile.
            let end = segment.end();
            Part { segment: Arc::clone(segment), end, len: segment.len() }
        });
        // One that ends at `from` may hold control records behind its last event.
        let segments: VecDeque<_> = parts.filter(|part| part.end >= from).collect();
        drop(table);
        let oldest = segments.front().map_or(from, |part| part.segment.header.first);
        let end = shared.committed() + 1;
        Self { segments, from, next: from.max(oldest), end, at: None, shared }
    }

    /// Fills `chunk` with the frames that follow, up to about `max_bytes` and at least one frame. The
    /// first one may hold events below the LSN that was asked for ([`super::Frame::events`] passes over
    /// them), and its control records may be older than that. [`Read::Tail`] is the end.
    pub fn read(&mut self, chunk: &mut Chunk, max_bytes: usize) -> Result<Read, ReadError> {
        chunk.frames.spans.clear();
        loop {
            let Some((part, scan)) = &mut self.at else {
                match self.begin()? {
                    Begun::Segment => continue,
                    Begun::Lost(lsns) => return Ok(Read::Lost(lsns)),
                    Begun::End => return Ok(Read::Tail),
                }
            };
            let step = scan
                .step(part.len, part.end, &mut chunk.frames, max_bytes)
                .map_err(ReadError::of(&part.segment))?;
            let (from, next) = (self.from, self.next);
            match step {
                Step::Frames => {
                    let wanted = |header: &frame::Header| {
                        header.end() > from || (header.count == 0 && header.first == from)
                    };
                    if let Err(bad) = chunk.settle(scan, max_bytes, wanted) {
                        self.next = next.max(bad.end());
                        let lost = bad.first..=bad.end().saturating_sub(1);
                        if lost.is_empty() {
                            self.shared.control_lost(&part.segment, scan.offset);
                            continue;
                        }
                        self.shared.lost(lost.clone(), Reason::Damaged);
                        return Ok(Read::Lost(lost));
                    }
                    self.next = next.max(scan.lsn);
                    if chunk.frames.spans.is_empty() {
                        continue;
                    }
                    chunk.begin(&self.shared, from);
                    return Ok(Read::Frames);
                }
                Step::End if scan.lsn >= part.end => self.at = None,
                Step::End | Step::Damage => {
                    if let Some(lost) = self.skip()? {
                        return Ok(Read::Lost(lost));
                    }
                }
            }
        }
    }

    /// Opens the next segment.
    fn begin(&mut self) -> Result<Begun, ReadError> {
        let Some(part) = self.segments.pop_front() else {
            let gone = self.next..self.end;
            self.next = self.next.max(self.end);
            return Ok(if gone.is_empty() {
                Begun::End
            } else {
                Begun::Lost(gone.start..=gone.end - 1)
            });
        };
        let segment = &part.segment;
        let first = segment.header.first;
        if first > self.next {
            let gone = self.next..=first - 1;
            self.next = first;
            self.segments.push_front(part);
            return Ok(Begun::Lost(gone));
        }
        match self.shared.storage.open(&segment.path) {
            Ok(file) => {
                let scan = Scan::whole(file, &segment.header);
                self.at = Some((part, scan));
                Ok(Begun::Segment)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(self.gone(&part).map_or(Begun::Segment, Begun::Lost))
            }
            Err(source) => {
                let error = ReadError::of(segment)(source);
                self.segments.push_front(part);
                Err(error)
            }
        }
    }

    /// Passes over the rest of a segment whose file is not there. Answers what of it was still to be
    /// read: a loss, unless it was released.
    fn gone(&mut self, part: &Part) -> Option<RangeInclusive<Lsn>> {
        let lost = self.next..part.end;
        self.next = self.next.max(part.end);
        if lost.is_empty() {
            return None;
        }
        let lost = lost.start..=lost.end - 1;
        if !self.shared.was_released(&part.segment) {
            self.shared.lost(lost.clone(), Reason::Missing);
        }
        Some(lost)
    }

    /// Passes over damage. Answers what of it was still to be read.
    fn skip(&mut self) -> Result<Option<RangeInclusive<Lsn>>, ReadError> {
        if let Some((part, _)) = self.at.take_if(|(part, _)| self.shared.is_gone(&part.segment)) {
            // Released, and written over meanwhile.
            return Ok(self.gone(&part));
        }
        let Some((part, scan)) = &mut self.at else { return Ok(None) };
        let skipped = scan.skip(part.len, part.end).map_err(ReadError::of(&part.segment))?;
        self.shared.damaged(&part.segment, &skipped);
        let from = self.next;
        self.next = from.max(scan.lsn);
        if !skipped.resumed {
            self.at = None;
        }
        let Some(lsns) = skipped.lsns else { return Ok(None) };
        Ok((*lsns.end() >= from).then(|| from.max(*lsns.start())..=*lsns.end()))
    }
}

/// What beginning the next segment came to.
enum Begun {
    /// It is open; or there is nothing in it to read.
    Segment,
    /// These LSNs are gone.
    Lost(RangeInclusive<Lsn>),
    /// There is none.
    End,
}
