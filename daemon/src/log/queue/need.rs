//! What blocks need, and what there is.

use std::time::Duration;

use tidegate_event::Lane;
use tidegate_event::record::{InLane, InLanes};

use crate::log::frame;

/// What blocks need.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Need {
    pub(super) bytes: u64,
    /// In each lane; nothing where they are control blocks.
    pub(super) lanes: InLanes,
}

impl Need {
    /// A block of so many bytes, which takes this in each lane.
    pub(in super::super) fn events(block: usize, lanes: &InLanes) -> Self {
        Self { bytes: (frame::HEADER_LEN + block) as u64, lanes: lanes.clone() }
    }

    /// A block of so many bytes in lane 0.
    pub(in super::super) fn in_lane_0(block: u64) -> Self {
        let all = InLane { lane: Lane(0), events: 1, gone: 0, bytes: block, newest: i64::MIN };
        Self::events(block as usize, &std::iter::once(all).collect())
    }

    /// Control blocks of this many bytes.
    pub(in super::super) fn control(blocks: usize) -> Self {
        Self::events(blocks, &InLanes::default())
    }

    /// Whether it brings events; otherwise it may take a segment more than others.
    fn has_events(&self) -> bool {
        self.lanes.iter().any(|part| part.events > 0)
    }
}

/// The bounds, in bytes.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Bounds {
    pub(in super::super) max_size: u64,
    pub(in super::super) segment_size: u64,
    pub(in super::super) max_bytes: usize,
    pub(in super::super) max_delay: Duration,
}

impl Bounds {
    /// Bytes on disk beyond which blocks are refused. Control records have a segment more, so that
    /// a log full of events keeps no handshake waiting; so have events that are gone.
    pub(super) fn limit(&self, need: &Need, max_size: u64) -> u64 {
        if need.has_events() { max_size } else { max_size + self.segment_size }
    }
}
