//! Why the log takes no events, for whoever asks how it stands.

use tidegate_event::Lane;
use tidegate_event::record::{InLane, InLanes};

use super::lane::NoRoom;
use super::queue::Refusal;
use super::shared::Shared;
use super::{Admission, Log};

/// Why events are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusing {
    /// `max_size` is used up.
    Full,
    /// The disk is full, but for what stays free for others, though `max_size` is not used up.
    DiskFull,
    /// The disk takes no writes for another reason.
    DiskFails,
}

impl Shared {
    /// Whether lane 0 refuses events because the file system has no room, though `max_size` is not used up.
    pub(super) fn is_short_for_all(&self) -> bool {
        self.lanes.is_disk_short() && self.lanes.admission(Lane(0)) == Admission::Refuses
    }
}

impl Log {
    /// Why events are refused now, if they are. A full log refuses from the first event on that did not
    /// fit, until there is room for it.
    pub fn refusing(&self) -> Option<Refusing> {
        let disk_full = self.is_disk_full();
        let refusal = self.shared.queue.refusal(self.shared.bytes(), &self.shared.lanes);
        // Most are refused before they are appended.
        if refusal.is_none() && self.shared.is_short_for_all() {
            return Some(Refusing::DiskFull);
        }
        match refusal? {
            Refusal::Full if self.shared.lanes.is_disk_short() => Some(Refusing::DiskFull),
            Refusal::Full => Some(Refusing::Full),
            Refusal::Unavailable if disk_full => Some(Refusing::DiskFull),
            Refusal::Unavailable => Some(Refusing::DiskFails),
            // Until the commit that is under way is done, or the oldest events of a lane are dropped.
            Refusal::Busy | Refusal::Pressed => None,
        }
    }

    /// Of the lanes of a block that was refused, those that are the reason: they have no room for their
    /// part of it, whatever becomes of the others.
    pub fn without_room(&self, parts: &InLanes) -> Vec<Lane> {
        let total = self.shared.queue.total(self.shared.bytes());
        let is_refused = |part: &&InLane| {
            let alone: InLanes = std::iter::once(**part).collect();
            self.shared.lanes.fits(&alone, total + part.bytes) == Err(NoRoom::Refused)
        };
        parts.iter().filter(is_refused).map(|part| part.lane).collect()
    }
}
