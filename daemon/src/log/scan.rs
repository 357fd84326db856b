//! Walks the frames of one segment file, checks each, and steps over damage. Recovery and the
//! readers use the same walk.
//!
//! Damage is searched, and copied ([`Extent`]), a piece at a time, and a frame larger than
//! [`LARGEST_UNCHECKED`] is held in memory only once its checksum is known to be right: so damage never takes
//! more memory than that and two pieces, whatever the size of the segment, and whatever lengths stand in it.

mod extent;
#[cfg(any(test, fuzzing))]
pub(super) mod memory;
mod search;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use tidegate_event::Lsn;

use super::frame::{self, Parsed};
use super::segment::{self, Segment};
use super::storage::File;
pub(super) use extent::Extent;
use search::Search;

/// The least that one read asks for.
const MIN_READ: u64 = 4096;
/// A larger frame is checked before it is held: its length may be damaged.
const LARGEST_UNCHECKED: usize = 2 << 20;
const EIO: i32 = 5;
/// What searches read at once.
const WINDOW: usize = 256 << 10;

/// Frames that were read and verified.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// As long as the longest read so far: what lies behind the frames is old.
    pub(super) bytes: Vec<u8>,
    /// Where each frame begins in `bytes`.
    pub(super) spans: Vec<(usize, frame::Header)>,
}

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// At least one frame.
    Frames,
    /// The segment's end.
    End,
    /// No frame, where one should be: [`Scan::skip`] goes on.
    Damage,
}

/// What [`Scan::skip`] passed over.
#[derive(Debug)]
pub(super) struct Skipped {
    /// The bytes without a frame.
    pub(super) extent: Extent,
    /// How many a frame has that begins with them, as far as its header says so.
    pub(super) announced: Option<u64>,
    /// The LSNs that are missing.
    pub(super) lsns: Option<RangeInclusive<Lsn>>,
    /// Whether a frame follows.
    pub(super) resumed: bool,
}

/// A place in a segment file, before a frame.
#[derive(Debug)]
pub(super) struct Scan {
    file: Arc<dyn File>,
    salt: u64,
    /// Where the next frame begins.
    pub(super) offset: u64,
    /// Its first LSN.
    pub(super) lsn: Lsn,
    /// Whether frames behind the last event count: they hold control records.
    whole: bool,
}

impl Scan {
    /// Before the first frame; [`Step::End`] is behind the last event.
    pub(super) fn new(file: Arc<dyn File>, header: &segment::Header) -> Self {
        let offset = segment::HEADER_LEN as u64;
        Self { file, salt: header.salt, offset, lsn: header.first, whole: false }
    }

    /// Before the first frame; [`Step::End`] is behind the last frame.
    pub(super) fn whole(file: Arc<dyn File>, header: &segment::Header) -> Self {
        Self { whole: true, ..Self::new(file, header) }
    }

    /// Where it is in `segment`, and how far that goes.
    pub(super) fn step_in(
        &mut self,
        segment: &Segment,
        frames: &mut Frames,
        max_bytes: usize,
    ) -> io::Result<Step> {
        // The end first: the bytes up to it are there, whatever the writer does meanwhile.
        let end = segment.end();
        self.step(segment.len(), end, frames, max_bytes)
    }

    /// Reads about `max_bytes`, at least one frame, within the first `len` bytes of the file and
    /// below the LSN `end`.
    pub(super) fn step(
        &mut self,
        len: u64,
        end: Lsn,
        frames: &mut Frames,
        max_bytes: usize,
    ) -> io::Result<Step> {
        frames.spans.clear();
        let left = len.saturating_sub(self.offset);
        if self.is_behind(end) || left == 0 {
            return Ok(Step::End);
        }
        let mut want = (max_bytes as u64).max(MIN_READ).min(left) as usize;
        // After a read error: only what one frame needs, so that the frames before the bad sector
        // are not lost with it.
        let mut careful = false;
        if frames.bytes.len() > want.saturating_mul(4) {
            frames.bytes.truncate(want);
            frames.bytes.shrink_to_fit();
        }
        loop {
            if frames.bytes.len() < want {
                frames.bytes.resize(want, 0);
            }
            let read = match self.file.read_at(&mut frames.bytes[..want], self.offset) {
                Err(error) if is_unreadable(&error) && !careful => {
                    careful = true;
                    want = (frame::HEADER_LEN as u64).min(left) as usize;
                    continue;
                }
                Err(error) if is_unreadable(&error) => return Ok(Step::Damage),
                other => other?,
            };
            let short = self.take(read, end, frames);
            if !frames.spans.is_empty() {
                return Ok(Step::Frames);
            }
            match short {
                Some(need) if read == want && need as u64 <= left && need > want => {
                    let is_checked = need > LARGEST_UNCHECKED;
                    if is_checked && !self.is_frame(&mut frames.bytes, want, need)? {
                        return Ok(Step::Damage);
                    }
                    want = need;
                }
                _ => return Ok(Step::Damage),
            }
        }
    }

    /// Back to a frame that it passed, at `offset`, whose first LSN is `lsn`.
    pub(super) fn go_back(&mut self, offset: u64, lsn: Lsn) {
        (self.offset, self.lsn) = (offset, lsn);
    }

    fn is_behind(&self, end: Lsn) -> bool {
        self.lsn >= end && !self.whole
    }

    /// Takes the frames from the first `read` bytes. Answers how many bytes the next one needs, if
    /// it was cut short.
    fn take(&mut self, read: usize, end: Lsn, frames: &mut Frames) -> Option<usize> {
        let mut at = 0;
        while !self.is_behind(end) {
            match frame::parse(&frames.bytes[at..read], self.salt) {
                Parsed::Frame(header) if header.first == self.lsn && header.end() <= end => {
                    frames.spans.push((at, header));
                    at += header.frame_len();
                    self.offset += header.frame_len() as u64;
                    self.lsn = header.end();
                }
                Parsed::Frame(_) | Parsed::Bad => return None,
                Parsed::Incomplete(need) => return Some(need),
            }
        }
        None
    }

    /// Whether the log ends here: no byte of the rest, up to `len`, begins what says that it is a frame
    /// from here on. So there is what was allocated ahead, or is left of an older use of the file.
    pub(super) fn is_end(&self, len: u64) -> io::Result<bool> {
        let mut window = vec![0; WINDOW];
        let (mut offset, mut kept) = (self.offset, 0);
        loop {
            let want = len.saturating_sub(offset).min((WINDOW - kept) as u64) as usize;
            let read = self.file.read_at(&mut window[kept..kept + want], offset)?;
            let filled = kept + read;
            let is_first = offset == self.offset;
            let window = &mut window[..filled];
            if frame::is_announced(window, self.lsn) || (is_first && frame::is_broken(window)) {
                return Ok(false);
            }
            if read == 0 {
                return Ok(true);
            }
            offset += read as u64;
            // A header may lie across.
            kept = filled.min(frame::HEADER_LEN - 1);
            window.copy_within(filled - kept..filled, 0);
        }
    }

    /// Whether the frame of `len` bytes is good of which `bytes` hold the first `read`; they are written over.
    fn is_frame(&self, bytes: &mut Vec<u8>, read: usize, len: usize) -> io::Result<bool> {
        let mut check = frame::Check::begin(&bytes[..read], self.salt);
        let most = bytes.len().max(WINDOW);
        bytes.resize(most, 0);
        let mut at = read;
        while at < len {
            let piece = &mut bytes[..most.min(len - at)];
            let offset = self.offset + at as u64;
            let read = match self.file.read_at(piece, offset) {
                Err(error) if is_unreadable(&error) => self.file.read_at(piece, offset),
                other => other,
            };
            match read {
                Ok(read) if read == piece.len() => check.add(piece),
                Ok(_) => return Ok(false),
                Err(error) if is_unreadable(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
            at += piece.len();
        }
        Ok(check.is_right())
    }

    /// Goes on at the next good frame within the first `len` bytes of the file and below the LSN
    /// `end`, or at the end of both.
    pub(super) fn skip(&mut self, len: u64, end: Lsn) -> io::Result<Skipped> {
        let file = Arc::clone(&self.file);
        let len = len.min(file.len()?).saturating_sub(self.offset);
        let mut extent = Extent { file, offset: self.offset, len };
        let mut search = Search::new(&extent, self.salt, WINDOW);
        let announced = search.announced()?;
        let (lost, resumed) = match search.find(self.lsn..end)? {
            Some((at, header)) => {
                extent.len = at;
                (self.lsn..header.first, true)
            }
            None => (self.lsn..end, false),
        };
        self.offset += extent.len;
        self.lsn = lost.end;
        let lsns = (!lost.is_empty()).then(|| lost.start..=lost.end - 1);
        Ok(Skipped { extent, announced, lsns, resumed })
    }
}

/// Whether a disk could not read a sector.
fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EIO)
}
