//! A frame on its way to the disk, and who waits for it.

use std::ops::RangeInclusive;
use std::time::Instant;

use tidegate_event::Lsn;
use tidegate_event::record::InLanes;
use tokio::sync::oneshot;

use crate::log::{NotStored, frame};

/// What becomes of a block.
pub(in super::super) type Answer = Result<RangeInclusive<Lsn>, NotStored>;

/// A frame that fills. The front of `bytes` is left free for its header.
#[derive(Debug)]
pub(in super::super) struct Batch {
    pub(in super::super) bytes: Vec<u8>,
    /// CRC-32C of what lies behind that.
    pub(in super::super) crc: u32,
    pub(in super::super) count: u32,
    pub(in super::super) flags: u32,
    /// What its events take in each lane.
    pub(in super::super) lanes: InLanes,
    pub(super) waiting: Vec<(u32, oneshot::Sender<Answer>)>,
    /// So many bytes of it count as waiting.
    pub(super) counted: usize,
    pub(super) since: Instant,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; frame::HEADER_LEN],
            crc: 0,
            count: 0,
            flags: 0,
            lanes: InLanes::default(),
            waiting: Vec::new(),
            counted: 0,
            since: Instant::now(),
        }
    }

    /// Copies a block in.
    pub(super) fn push(&mut self, block: &[u8]) {
        self.bytes.extend_from_slice(block);
        self.crc = crc32c::crc32c_append(self.crc, block);
        self.counted += block.len();
    }

    /// Answers everybody who waits: the events begin at `first`. Control records get an empty range.
    pub(in super::super) fn stored(&mut self, mut first: Lsn) {
        for (count, answer) in self.waiting.drain(..) {
            let end = first + u64::from(count);
            // Nobody waits any more: a connection that was closed meanwhile.
            let _ = answer.send(Ok(first..=end.saturating_sub(1)));
            first = end;
        }
    }

    pub(super) fn recycle(&mut self, max_bytes: usize) {
        self.waiting.clear();
        self.bytes.truncate(frame::HEADER_LEN);
        if self.bytes.capacity() > 2 * max_bytes {
            self.bytes.shrink_to(max_bytes);
        }
        (self.crc, self.count, self.flags) = (0, 0, 0);
        self.lanes.clear();
    }
}
