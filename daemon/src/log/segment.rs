//! One segment file; its front ([`header`]), and the table of those that are there ([`table`]).

mod figures;
mod header;
mod table;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tidegate_event::record::{InLane, InLanes};
use tidegate_event::{Lane, Lsn};

pub(super) use figures::{Figures, Rewritten};
pub(super) use header::{
    Before, Decoded, HEADER_LEN, Header, REWRITTEN, UNFINISHED, VERSION, parse_name,
};
pub(super) use table::{Place, Table};

/// A file that is no more than this part of it longer than what it holds stays so.
const MOST_TAIL: u64 = 16;

/// One segment file. Shared by the writer, which moves `end` and `len`, and the readers.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: Header,
    pub(super) path: PathBuf,
    end: AtomicU64,
    len: AtomicU64,
    size: AtomicU64,
    tail: AtomicU64,
    lanes: Mutex<InLanes>,
}

impl Segment {
    pub(super) fn new(header: Header, path: PathBuf, end: Lsn, len: u64) -> Self {
        let lanes = match (&header.rewritten, &header.figures) {
            (Some(_), Some(figures)) => figures.lanes.clone(),
            _ => InLanes::default(),
        };
        let (end, size, len) = (AtomicU64::new(end), AtomicU64::new(len), AtomicU64::new(len));
        Self { header, path, end, len, size, tail: AtomicU64::new(0), lanes: Mutex::new(lanes) }
    }

    /// What each lane has in it.
    pub(super) fn lanes(&self) -> InLanes {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What each lane has in it, as somebody found out.
    pub(super) fn found(&self, lanes: InLanes) {
        *self.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
    }

    /// Where nobody knows what it holds: all of it is in lane 0.
    pub(super) fn all_in_lane_0(&self) -> InLanes {
        let events = u32::try_from(self.end() - self.header.first).unwrap_or(u32::MAX);
        let bytes = self.len().saturating_sub(HEADER_LEN as u64);
        let all = InLane { lane: Lane(0), events, gone: 0, bytes, newest: i64::MAX };
        std::iter::once(all).filter(|all| all.events > 0).collect()
    }

    /// What is said of it in the header of the next one.
    pub(super) fn figures(&self) -> Figures {
        let thinned = match (&self.header.rewritten, &self.header.figures) {
            (Some(_), Some(figures)) => figures.thinned.clone(),
            _ => Vec::new(),
        };
        Figures { lanes: self.lanes(), thinned }
    }

    /// An empty one.
    pub(super) fn begin(header: Header, path: PathBuf) -> Self {
        let first = header.first;
        Self::new(header, path, first, HEADER_LEN as u64)
    }

    /// The LSN behind its last durable event. What the file holds from there on was never
    /// acknowledged, and is overridden by the segment behind it.
    pub(super) fn end(&self) -> Lsn {
        self.end.load(Ordering::Acquire)
    }

    /// Its durable events: none, where the first lies behind the last.
    pub(super) fn lsns(&self) -> RangeInclusive<Lsn> {
        self.header.first..=self.end().saturating_sub(1)
    }

    /// Its durable bytes.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Bytes of its file: more than are durable where it was allocated ahead, or was used before.
    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Its file has so many bytes now.
    pub(super) fn resized(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Whether a frame of so many bytes is to lie in the next one, where segments are to have `whole` bytes.
    /// It may lie beyond that, by an eighth, rather than leave much of it empty.
    pub(super) fn is_full(&self, frame: u64, whole: u64) -> bool {
        let end = self.len() + frame;
        let may_exceed = !Self::may_keep_tail(whole, self.len()) && end <= whole + whole / 8;
        self.is_filled() && end > whole && !may_exceed
    }

    /// Whether what its file has behind its end may stay there once nothing is added to it: cutting it, and
    /// making the file longer again for its next use, costs more than it gives.
    pub(super) fn may_keep_tail(size: u64, len: u64) -> bool {
        size.saturating_sub(len) <= size / MOST_TAIL
    }

    /// What its file has behind its end stays there.
    pub(super) fn keep_tail(&self) {
        self.tail.store(self.size().saturating_sub(self.len()), Ordering::Release);
    }

    /// What it takes of `max_size`: its durable bytes, and what stays of its file behind them.
    pub(super) fn taken(&self) -> u64 {
        self.len() + self.tail.load(Ordering::Acquire)
    }

    /// Whether it holds a frame.
    pub(super) fn is_filled(&self) -> bool {
        self.len() > HEADER_LEN as u64
    }

    /// Whether it holds no event.
    pub(super) fn has_no_events(&self) -> bool {
        self.end() <= self.header.first
    }

    /// A frame of `count` events became durable. The length goes first: whoever sees the end sees the
    /// bytes.
    pub(super) fn advance(&self, count: u32, len: u64, lanes: &InLanes) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).extend(lanes);
        self.len.store(len, Ordering::Release);
        self.end.fetch_add(u64::from(count), Ordering::AcqRel);
    }

    /// Whether it can go, once nobody needs what lies before the event `before`, nor control records
    /// in segments of a sequence below `control`. Before the first event lies what somebody may need who
    /// has no event yet.
    pub(super) fn is_released(&self, before: Lsn, control: u64) -> bool {
        let empty = !self.is_filled();
        let control_only = self.has_no_events() && self.header.through() < control;
        empty || control_only || (self.end() <= before && before > 1)
    }
}
