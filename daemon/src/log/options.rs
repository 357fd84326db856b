//! How a log is kept.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_event::Lane;

use super::queue::Bounds;
use super::{Compression, LaneOptions};

/// A smaller `max_size` counts as this one.
const LEAST_SIZE: u64 = 256 << 10;
/// A larger `segment_size` counts as this one.
const LARGEST_SEGMENT: u64 = 64 << 20;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory, created if missing; nothing else lives there.
    pub dir: PathBuf,
    /// Its number, which is part of the ids of its events.
    pub lane: Lane,
    /// Its parts; lane 0 is there also where this does not name it.
    pub lanes: Vec<LaneOptions>,
    /// Bytes on disk beyond which [`super::Log::append`] answers [`super::Append::Full`]; at least 256 KiB.
    pub max_size: u64,
    /// Bytes of a segment file, but for an eighth that a large frame may add: at most 64 MiB, and at most a
    /// quarter of `max_size` and of that of each lane, so that space comes back while the log is in use; at least
    /// 64 KiB.
    pub segment_size: u64,
    /// How the payload of frames is compressed. Frames are read whatever this says.
    pub compression: Compression,
    /// How long a commit waits for more events.
    pub max_delay: Duration,
    /// Bytes that may be written to flash in a day, in whole pages, before commits wait for more events,
    pub daily_write_budget: Option<u64>,
    /// and how long they wait at most.
    pub max_stretch: Duration,
    /// Bytes of `quarantine/` beyond which the oldest files there are removed.
    pub max_quarantine: u64,
    /// Bytes of the loss ledger beyond which its older entries are merged; at most 16 MiB.
    pub max_ledger: u64,
    /// Bytes of blocks that end that wait, and that one frame holds at most: at most a quarter of a
    /// segment. A larger block has a frame of its own.
    pub max_bytes: usize,
}

impl Default for Options {
    /// What `tidegate.toml` says by default, in the directory `log` of the working directory.
    fn default() -> Self {
        Self {
            dir: PathBuf::from("log"),
            lane: Lane(0),
            lanes: Vec::new(),
            max_size: 1 << 30,
            segment_size: 16 << 20,
            compression: Compression::None,
            max_delay: Duration::ZERO,
            daily_write_budget: None,
            max_stretch: Duration::from_secs(1),
            max_quarantine: 64 << 20,
            max_ledger: 256 << 10,
            max_bytes: 1 << 20,
        }
    }
}

impl Options {
    pub(super) fn bounds(&self) -> Bounds {
        let max_size = self.max_size.max(LEAST_SIZE);
        let least = LEAST_SIZE / 4;
        let lanes = self.lanes.iter().filter_map(|lane| lane.max_size);
        let smallest = lanes.min().unwrap_or(max_size).min(max_size);
        let segment_size = self.segment_size.min(LARGEST_SEGMENT).min(smallest / 4).max(least);
        let max_bytes = self.max_bytes.clamp(1, (segment_size / 4) as usize);
        Bounds { max_size, segment_size, max_bytes, max_delay: self.max_delay }
    }
}
