//! Lanes: the parts of a log that have a quota, a time to live and a policy of their own, so that one
//! never crowds another out.
//!
//! All lanes share the segments, the LSNs and the fdatasync; a record says which one it is in. A lane is
//! known by its number on disk and by its name in the config; the file `lanes` in the log's directory says
//! which is which ([`names`]).
//!
//! *Quota*: a lane with a `max_size` takes up to so many bytes of records, and has them for itself: what it
//! does not use, no other lane gets. Lane 0 has what the others leave of the log's `max_size`.

mod names;
mod room;
mod rule;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tidegate_event::Lane;
use tidegate_event::record::{InLane, InLanes};

use super::ledger::Reason;

pub use rule::{DEFAULT, Downsample, Keep, LaneOptions, Rule, WhenFull};

pub(super) use names::{FILE as NAMES, Names, UNFINISHED};
pub(super) use room::NoRoom;

/// What goes into the state may take so many times its bytes there, and in its checkpoints, before anybody has
/// looked.
const STATE_COPIES: u64 = 2;

/// Whether a lane takes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It does.
    Takes,
    /// It is full, and drops new events: they are appended as gone.
    Drops,
    /// It is full, and they are refused: [`super::Log::lane_room`] says until when.
    Refuses,
}

/// What a lane holds, and what it has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneUsage {
    /// Events on disk.
    pub events: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// How many it may hold; what is left for it where it has no quota of its own.
    pub max_bytes: u64,
    /// Whether it has no room for more.
    pub is_full: bool,
    /// Events dropped for want of room, since the log was opened,
    pub dropped: u64,
    /// refused,
    pub refused: u64,
    /// expired,
    pub expired: u64,
    /// and thinned out.
    pub thinned: u64,
}

/// The lanes of a log. Lane 0 is always there, and the first.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Known>,
    /// What the config says that the log may take on disk,
    max_size: u64,
    /// what of that is other files',
    others: AtomicU64,
    /// bytes of blocks that go into the state too, since the log was opened,
    stateful: AtomicU64,
    /// and how many of them are counted in `others`; all, while nobody looks.
    counted: AtomicU64,
    /// and what the file system has room for.
    ceiling: AtomicU64,
}

#[derive(Debug)]
struct Known {
    lane: Lane,
    options: LaneOptions,
    events: AtomicU64,
    /// Durable, and on their way.
    bytes: AtomicU64,
    full: AtomicBool,
    /// Somebody waits for its oldest events to be dropped.
    wanted: AtomicBool,
    dropped: AtomicU64,
    refused: AtomicU64,
    expired: AtomicU64,
    thinned: AtomicU64,
}

impl Lanes {
    /// Lanes of these numbers, lane 0 first.
    pub(super) fn new(lanes: Vec<(Lane, LaneOptions)>, max_size: u64) -> Self {
        let known = |(lane, options)| Known {
            lane,
            options,
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            full: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            thinned: AtomicU64::new(0),
        };
        let lanes = lanes.into_iter().map(known).collect();
        let (others, ceiling) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        let (stateful, counted) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Self { lanes, max_size, others, stateful, counted, ceiling }
    }

    /// Other files have so much of the log's `max_size`, and the file system has room for so much of the log.
    pub(super) fn set_room(&self, others: u64, ceiling: u64) {
        self.others.store(others, Ordering::Release);
        self.ceiling.store(ceiling, Ordering::Release);
    }

    /// Whether the file system has less room for the log than it may take.
    pub(super) fn is_disk_short(&self) -> bool {
        self.ceiling.load(Ordering::Acquire) < self.budget()
    }

    /// A block that goes into the state too is on its way.
    pub(super) fn add_stateful(&self, bytes: u64) {
        self.stateful.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn stateful(&self) -> u64 {
        self.stateful.load(Ordering::Acquire)
    }

    /// Of what goes into the state, the first so many bytes are there, and counted among the other files.
    pub(super) fn set_counted(&self, stateful: u64) {
        self.counted.store(stateful, Ordering::Release);
    }

    /// What the other files leave, and what of them is still to be written.
    pub(super) fn budget(&self) -> u64 {
        let coming = self.stateful().saturating_sub(self.counted.load(Ordering::Acquire));
        let others = self.others.load(Ordering::Acquire);
        self.max_size.saturating_sub(others).saturating_sub(coming.saturating_mul(STATE_COPIES))
    }

    /// Bytes on disk beyond which the log takes no event.
    pub(super) fn max_size(&self) -> u64 {
        self.budget().min(self.ceiling.load(Ordering::Acquire))
    }

    /// The lane of events with this topic.
    pub fn of(&self, topic: &str) -> Lane {
        let takes = |known: &&Known| known.options.topics.iter().any(|it| it.matches(topic));
        self.lanes.iter().find(takes).map_or(Lane(0), |known| known.lane)
    }

    /// Its name; that of lane 0 for one that the config does not know any more.
    pub fn name(&self, lane: Lane) -> &str {
        &self.known(lane).options.name
    }

    /// How its events are treated; as those of lane 0, where the config does not know it any more.
    pub fn rule(&self, lane: Lane) -> &Rule {
        &self.known(lane).options.rule
    }

    /// Bytes that are for it alone; none for a lane that has what the others leave.
    pub(super) fn quota(&self, lane: Lane) -> Option<u64> {
        self.known(lane).options.max_size
    }

    /// All that the config knows, lane 0 first.
    pub fn all(&self) -> impl Iterator<Item = Lane> {
        self.lanes.iter().map(|known| known.lane)
    }

    /// Whether it takes events now. What it says may be old by a moment; so a lane is called full
    /// before it is.
    pub(super) fn admission(&self, lane: Lane) -> Admission {
        let known = self.known(lane);
        match known.options.rule.when_full {
            WhenFull::DropOldest | WhenFull::Downsample(_) => Admission::Takes,
            _ if !known.full.load(Ordering::Acquire) => Admission::Takes,
            WhenFull::DropNewest => Admission::Drops,
            WhenFull::Reject => Admission::Refuses,
        }
    }

    /// Whether one of them has no room for more.
    pub(super) fn any_is_full(&self) -> bool {
        self.lanes.iter().any(|known| known.full.load(Ordering::Acquire))
    }

    /// The lane whose rule and quota its events are under: its own, or lane 0 where the config does not know
    /// it any more.
    pub(super) fn ruled_as(&self, lane: Lane) -> Lane {
        self.known(lane).lane
    }

    fn known(&self, lane: Lane) -> &Known {
        self.lanes.iter().find(|known| known.lane == lane).unwrap_or(&self.lanes[0])
    }

    /// Events of the lane were dropped, or there are none to drop.
    pub(super) fn dropped_some(&self, lane: Lane) {
        self.known(lane).wanted.store(false, Ordering::Release);
    }

    /// These records are on their way, or found on disk.
    pub(super) fn add(&self, more: &InLanes) {
        for part in more.iter() {
            let known = self.known(part.lane);
            known.bytes.fetch_add(part.bytes, Ordering::AcqRel);
            known.events.fetch_add(u64::from(part.events), Ordering::AcqRel);
        }
    }

    /// They are no more: could not be stored, or were removed.
    pub(super) fn remove(&self, less: &InLanes) {
        for part in less.iter() {
            let known = self.known(part.lane);
            known.bytes.fetch_sub(part.bytes, Ordering::AcqRel);
            known.events.fetch_sub(u64::from(part.events), Ordering::AcqRel);
        }
    }

    /// Other records stand in the place of these. In one step: nobody is to find a lane fuller than it is, or
    /// emptier.
    pub(super) fn replace<'a>(&self, less: impl Iterator<Item = &'a InLanes>, more: &InLanes) {
        let mut changes = vec![(0u64, 0u64); self.lanes.len()];
        let mut change = |part: &InLane, is_more: bool| {
            let lane = self.ruled_as(part.lane);
            let place = self.lanes.iter().position(|known| known.lane == lane).unwrap_or_default();
            let (bytes, events) = &mut changes[place];
            let signed = |value: u64| if is_more { value } else { value.wrapping_neg() };
            *bytes = bytes.wrapping_add(signed(part.bytes));
            *events = events.wrapping_add(signed(u64::from(part.events)));
        };
        less.flat_map(InLanes::iter).for_each(|part| change(part, false));
        more.iter().for_each(|part| change(part, true));
        for (known, (bytes, events)) in self.lanes.iter().zip(changes) {
            // It wraps around.
            known.bytes.fetch_add(bytes, Ordering::AcqRel);
            known.events.fetch_add(events, Ordering::AcqRel);
        }
    }

    /// Counts events that were refused, and that nobody here tries again.
    pub fn refused(&self, lane: Lane, events: u64) {
        self.known(lane).refused.fetch_add(events, Ordering::Relaxed);
    }

    /// Counts events that are lost on purpose.
    pub(super) fn lost(&self, lane: Lane, events: u64, reason: Reason) {
        let known = self.known(lane);
        let counter = match reason {
            Reason::Dropped => &known.dropped,
            Reason::Expired => &known.expired,
            Reason::Thinned => &known.thinned,
            Reason::Damaged | Reason::Missing | Reason::Released => return,
        };
        counter.fetch_add(events, Ordering::Relaxed);
    }

    /// What a lane holds, where the whole log takes `total` bytes.
    pub(super) fn usage(&self, lane: Lane) -> LaneUsage {
        let known = self.known(lane);
        LaneUsage {
            events: known.events.load(Ordering::Acquire),
            bytes: known.bytes.load(Ordering::Acquire),
            max_bytes: self.limit(known),
            is_full: known.full.load(Ordering::Acquire),
            dropped: known.dropped.load(Ordering::Relaxed),
            refused: known.refused.load(Ordering::Relaxed),
            expired: known.expired.load(Ordering::Relaxed),
            thinned: known.thinned.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests;
