//! Whether there is room in a lane, and in the log for it.

use std::sync::atomic::Ordering;

use tidegate_event::Lane;
use tidegate_event::record::{InLane, InLanes};

use super::{Known, Lanes, WhenFull};

/// A lane is full where less than this part of its quota is left,
const RESERVE_PART: u64 = 16;
/// or less than this, in bytes: what clients had begun to hand over when it became full still fits.
const MAX_RESERVE: u64 = 1 << 20;

/// Why a lane does not take what it is to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::log) enum NoRoom {
    /// Until sinks have taken some.
    Refused,
    /// Until its oldest events are dropped, which has to be done now.
    Pressed,
}

impl Lanes {
    /// Whether these records fit, where the whole log takes `total` bytes with them.
    pub(in crate::log) fn fits(&self, more: &InLanes, total: u64) -> Result<(), NoRoom> {
        let of = |known: &Known| more.get(known.lane).map_or(0, |part| part.bytes);
        let unused = |known: &Known| known.unused().saturating_sub(of(known));
        let reserved: u64 = self.lanes.iter().map(unused).sum();
        for part in more.iter().filter(|part| part.events > 0) {
            let known = self.known(part.lane);
            let drops_new = known.options.rule.when_full == WhenFull::DropNewest;
            let within_own = drops_new || known.takes(part.bytes);
            let within_all = total + reserved - unused(known) <= self.max_size();
            if !within_own || !within_all {
                if !known.options.rule.when_full.drops_oldest() {
                    return Err(NoRoom::Refused);
                }
                known.wanted.store(true, Ordering::Release);
                return Err(NoRoom::Pressed);
            }
        }
        Ok(())
    }

    /// The same, with no more in any lane than a quarter of what it may hold where other files take nothing: what
    /// they leave for now may be less than a block, and who waits for less than he needs is refused again at once.
    pub(in crate::log) fn capped(&self, parts: &InLanes) -> InLanes {
        let cap = |part: &InLane| {
            let most = self.limit_of(self.known(part.lane), self.max_size) / 4;
            InLane { bytes: part.bytes.min(most), ..*part }
        };
        parts.iter().map(cap).collect()
    }

    /// Notes which lanes are full, where the whole log takes `total` bytes.
    pub(in crate::log) fn note(&self, total: u64) {
        for known in &self.lanes {
            let reserve = match known.options.rule.when_full {
                WhenFull::Reject => MAX_RESERVE / RESERVE_PART,
                _ => MAX_RESERVE,
            };
            let reserve = reserve.min(self.limit(known) / RESERVE_PART);
            let is_full = self.room(known, total, self.max_size()) < reserve.max(1);
            known.full.store(is_full, Ordering::Release);
        }
    }

    /// How many bytes a lane may take.
    pub(super) fn limit(&self, known: &Known) -> u64 {
        self.limit_of(known, self.budget())
    }

    /// The same, where all of them may take so many.
    fn limit_of(&self, known: &Known, all: u64) -> u64 {
        let others = self.lanes.iter().filter(|other| other.lane != known.lane);
        let reserved: u64 = others.filter_map(|other| other.options.max_size).sum();
        known.options.max_size.unwrap_or_else(|| all.saturating_sub(reserved))
    }

    /// How many more, where the whole log takes `total` of `max_size`.
    fn room(&self, known: &Known, total: u64, max_size: u64) -> u64 {
        let others = self.lanes.iter().filter(|other| other.lane != known.lane);
        let reserved: u64 = others.map(Known::unused).sum();
        let left = max_size.saturating_sub(reserved).saturating_sub(total);
        match known.options.max_size {
            Some(_) => left.min(known.unused()),
            None => left,
        }
    }

    /// A lane that drops its oldest events and is nearly full, where the whole log takes `total` bytes; or
    /// for whose room somebody waits: a file system that others fill takes no more of the old events than
    /// there are new ones. None of those in `but`, in which no room can be made now.
    pub(in crate::log) fn pressed(&self, total: u64, but: &[Lane]) -> Option<Lane> {
        let is_pressed = |known: &&Known| {
            let drops = known.options.rule.when_full.drops_oldest();
            let least = self.limit(known) / RESERVE_PART;
            let is_wanted = known.wanted.load(Ordering::Acquire);
            let is_open = drops && !but.contains(&known.lane);
            // Its quota is its own: while other files grow, it gives up no more than is wanted either.
            let room = match known.options.max_size {
                Some(_) => known.unused(),
                None => self.room(known, total, self.budget()),
            };
            is_open && (is_wanted || room < least)
        };
        self.lanes.iter().find(is_pressed).map(|known| known.lane)
    }
}

impl Known {
    /// What of its quota nobody else may use.
    fn unused(&self) -> u64 {
        let bytes = self.bytes.load(Ordering::Acquire);
        self.options.max_size.map_or(0, |max_size| max_size.saturating_sub(bytes))
    }

    /// Whether so many bytes more fit into its quota, if it has one.
    fn takes(&self, bytes: u64) -> bool {
        let taken = self.bytes.load(Ordering::Acquire);
        self.options.max_size.is_none_or(|max_size| taken + bytes <= max_size)
    }
}
