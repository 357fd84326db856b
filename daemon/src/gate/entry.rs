//! Which lane an event is in, and whether that lane takes it.

use tidegate_event::record::{self, Item};
use tidegate_event::{BlockBuilder, Draft, Epoch, EventId, Lane};

use super::Gate;
use crate::log::Admission;

/// Where an event goes, and whether it may.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    lane: Lane,
    admission: Admission,
}

/// What became of an admitted event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It is in the block.
    Kept,
    /// Its lane is full and drops what is new: the block has its LSN, and not the event. It is
    /// acknowledged like any other, and goes to the loss ledger.
    Dropped,
    /// Its lane is full and refuses it: it is not in the block. [`Gate::lane_room`] says when it is worth
    /// trying again; events of other lanes may enter.
    Refused(Lane),
}

impl Place {
    /// The lane.
    pub fn lane(self) -> Lane {
        self.lane
    }

    /// Whether the lane refuses it.
    pub fn refuses(self) -> bool {
        self.admission == Admission::Refuses
    }
}

impl Gate {
    /// The lane of events with this topic, and whether it takes any now.
    pub fn place(&self, topic: &str) -> Place {
        let lane = self.log.lanes().of(topic);
        Place { lane, admission: self.log.admission(lane) }
    }

    /// Puts an event that [`Gate::check`] lets in into `block`, at its place.
    pub fn put(&self, block: &mut BlockBuilder, place: Place, event: &Draft<'_>) -> Entry {
        match place.admission {
            Admission::Takes => {
                block.push_in(place.lane, event);
                Entry::Kept
            }
            Admission::Drops => {
                block.push_gone(place.lane, 1);
                Entry::Dropped
            }
            Admission::Refuses => Entry::Refused(place.lane),
        }
    }

    /// Takes the events of lanes that have no room out of `block`, which was refused, if that leaves any:
    /// these are then worth trying at once. Answers which lanes these are.
    pub fn split(&self, block: &mut BlockBuilder, origin: &str) -> Vec<Lane> {
        let full = self.log.without_room(block.lanes());
        let is_full = |lane: Lane| full.contains(&lane);
        if full.is_empty() || block.lanes().iter().all(|part| is_full(part.lane)) {
            return Vec::new();
        }
        let nowhere = EventId { epoch: Epoch(0), lane: Lane(0), lsn: 1 };
        let mut rest = BlockBuilder::new(origin, self.now());
        for item in record::items(block.finish(), nowhere).map_while(Result::ok) {
            match item {
                Item::Event(event) if is_full(event.lane) => {}
                Item::Event(event) => rest.push_in(event.lane, &event.draft()),
                Item::Gone { lane, count, .. } => rest.push_gone(lane, count),
            }
        }
        *block = rest;
        full
    }

    /// Resolves when a lane that refuses events takes some again.
    pub async fn lane_room(&self, lane: Lane) {
        self.log.lane_room(lane).await;
    }

    /// What the config calls a lane.
    pub fn lane_name(&self, lane: Lane) -> &str {
        self.log.lanes().name(lane)
    }

    /// Counts events that their lane refused, and that are not tried again here.
    pub fn count_refused(&self, lane: Lane, events: u64) {
        self.log.lanes().refused(lane, events);
    }
}
