//! What some events take in each lane.

use super::read::{Block, Item, blocks};
use crate::id::{Epoch, EventId, Lane};
use crate::time::Received;

/// What the events of one lane take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InLane {
    /// The lane.
    pub lane: Lane,
    /// Events that are there.
    pub events: u32,
    /// Events that are gone.
    pub gone: u32,
    /// Bytes of their records, and of those that say that events are gone. The head of a block counts
    /// with its first record.
    pub bytes: u64,
    /// When the newest was received, in microseconds since 1970-01-01T00:00:00Z; `i64::MAX` where the
    /// clock was not set.
    pub newest: i64,
}

/// One entry for each lane that has records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InLanes(Vec<InLane>);

impl InLane {
    pub(super) fn of(
        lane: Lane,
        (events, gone): (u32, u32),
        bytes: usize,
        received: Received,
    ) -> Self {
        let newest = match received {
            Received::Synced { unix_micros } => unix_micros,
            Received::SinceBoot { .. } => i64::MAX,
        };
        Self { lane, events, gone, bytes: bytes as u64, newest }
    }
}

impl InLanes {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds what more events take.
    pub fn add(&mut self, more: InLane) {
        match self.0.iter_mut().find(|known| known.lane == more.lane) {
            Some(known) => {
                known.events = known.events.saturating_add(more.events);
                known.gone = known.gone.saturating_add(more.gone);
                known.bytes = known.bytes.saturating_add(more.bytes);
                known.newest = known.newest.max(more.newest);
            }
            None => self.0.push(more),
        }
    }

    /// Adds what `others` take.
    pub fn extend(&mut self, others: &Self) {
        for other in &others.0 {
            self.add(*other);
        }
    }

    /// What is in `lane`, if anything is.
    pub fn get(&self, lane: Lane) -> Option<&InLane> {
        self.0.iter().find(|known| known.lane == lane)
    }

    /// In the order in which they were met.
    pub fn iter(&self) -> impl Iterator<Item = &InLane> {
        self.0.iter()
    }
}

impl FromIterator<InLane> for InLanes {
    fn from_iter<I: IntoIterator<Item = InLane>>(lanes: I) -> Self {
        let mut all = Self::default();
        lanes.into_iter().for_each(|lane| all.add(lane));
        all
    }
}

/// What a frame's payload takes in each lane, up to the first malformed place.
pub fn lanes(payload: &[u8]) -> InLanes {
    let nowhere = EventId { epoch: Epoch(0), lane: Lane(0), lsn: 1 };
    let mut lanes = InLanes::default();
    for block in blocks(payload).map_while(Result::ok) {
        let Block::Events(events) = block else { continue };
        let mut items = events.items(nowhere);
        let mut head = events.head_len();
        loop {
            let before = items.rest();
            let (lane, count) = match items.next() {
                Some(Ok(Item::Event(event))) => (event.lane, (1, 0)),
                Some(Ok(Item::Gone { lane, count, .. })) => (lane, (0, count)),
                Some(Err(_)) | None => break,
            };
            let bytes = head + before - items.rest();
            lanes.add(InLane::of(lane, count, bytes, events.received));
            head = 0;
        }
    }
    lanes
}
