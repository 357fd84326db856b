//! What waits, and what is to be done next.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Batch, Bounds, Need, Refusal, Work};
use crate::log::lane::{Lanes, NoRoom};
use crate::log::segment;

/// Blocks that wait may take this many times `max_bytes` before appenders are refused.
const WAITING: usize = 4;

#[derive(Debug)]
pub(super) struct State {
    pub(super) frames: VecDeque<Batch>,
    pub(super) spare: Vec<Batch>,
    /// In `frames`, and in the one that is being written.
    pub(super) bytes: usize,
    /// What the appender needed that was refused last for want of room on disk; 0 once as much was
    /// taken, or room was made.
    pub(super) wanted: u64,
    /// How long frames wait at least, for the flash's sake.
    pub(super) stretch: Duration,
    /// When to probe; `None` while the disk takes writes.
    pub(super) retry: Option<Instant>,
    pub(super) roll: bool,
    pub(super) closing: bool,
    /// How often the writer has asked for work,
    pub(super) steps: u64,
    /// and whether it is doing what it was given.
    pub(super) working: bool,
}

impl State {
    /// What is to be done at `now`, or until when there is nothing.
    pub(super) fn work(&mut self, now: Instant, bounds: &Bounds) -> Result<Work, Option<Instant>> {
        if let Some(retry) = self.retry.filter(|_| !self.closing) {
            return if now >= retry { Ok(Work::Probe) } else { Err(Some(retry)) };
        }
        if std::mem::take(&mut self.roll) {
            return Ok(Work::Roll);
        }
        let Some(front) = self.frames.front() else {
            return if self.closing { Ok(Work::Stop) } else { Err(None) };
        };
        let due = front.since + self.delay(bounds);
        let full = self.frames.len() > 1 || front.bytes.len() >= bounds.max_bytes;
        if now < due && !full && !self.closing {
            return Err(Some(due));
        }
        self.frames.pop_front().map(Work::Commit).ok_or(None)
    }

    /// How long a frame waits for more.
    pub(super) fn delay(&self, bounds: &Bounds) -> Duration {
        bounds.max_delay.max(self.stretch)
    }

    /// Whether a block fits, beside `on_disk`.
    pub(super) fn fits(
        &self,
        need: &Need,
        on_disk: u64,
        bounds: &Bounds,
        lanes: &Lanes,
    ) -> Result<(), Refusal> {
        let total = self.total(on_disk, bounds) + need.bytes;
        if self.closing || self.retry.is_some() {
            return Err(Refusal::Unavailable);
        }
        match lanes.fits(&need.lanes, total) {
            Err(NoRoom::Refused) => Err(Refusal::Full),
            Err(NoRoom::Pressed) => Err(Refusal::Pressed),
            Ok(()) if total > bounds.limit(need, lanes.max_size()) => Err(Refusal::Full),
            Ok(()) if self.bytes >= WAITING * bounds.max_bytes => Err(Refusal::Busy),
            Ok(()) => Ok(()),
        }
    }

    /// Bytes that are used up once all that waits is on disk.
    pub(super) fn total(&self, on_disk: u64, bounds: &Bounds) -> u64 {
        let waiting = self.bytes as u64;
        on_disk + waiting + segment::HEADER_LEN as u64 * (2 + waiting / bounds.segment_size)
    }
}
