//! What a log holds, and what it has lost.

use std::sync::atomic::Ordering;

use tidegate_event::{Lane, Lsn};
use tokio::sync::watch;

use super::shared::Shared;
use super::{Log, Loss, Losses, WhenFull, Written};

/// What a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes taken on disk beside these, and free for events: allocated ahead for the newest segment, and
    /// files to be written over.
    pub spare: u64,
    /// The oldest LSN that can still be read; `last + 1` when there is none.
    pub first: Lsn,
    /// The newest durable LSN; 0 when there never was one.
    pub last: Lsn,
    /// Segment files.
    pub segments: usize,
}

impl Log {
    /// Bytes on disk that [`Log::release`] would free at once, or as soon as the writer has begun a
    /// new segment because appenders lack room.
    /// `mark` and `next` are those of [`Log::release_control`].
    pub fn releasable(&self, before: Lsn, mark: u64, next: Lsn) -> u64 {
        let mark = self.shared.table().covered(mark, next);
        self.shared.releasable(before, mark)
    }

    /// The first LSN of the newest segments that take up no more than `bytes`, and no more than a quarter
    /// of any quota whose lane refuses or drops new events when it is full; the next LSN where the newest
    /// alone is larger.
    pub fn newest_within(&self, bytes: u64) -> Lsn {
        let lanes = self.lanes();
        let quarter = |lane| match lanes.rule(lane).when_full {
            WhenFull::Reject | WhenFull::DropNewest => Some((lane, lanes.quota(lane)? / 4)),
            _ => None,
        };
        let mut quarters: Vec<(Lane, u64)> = lanes.all().filter_map(quarter).collect();
        let table = self.shared.table();
        let mut room = bytes;
        let mut oldest = self.shared.committed() + 1;
        for segment in table.0.iter().rev() {
            let Some(left) = room.checked_sub(segment.taken()) else { break };
            let parts = segment.lanes();
            for (lane, left) in &mut quarters {
                let Some(less) = left.checked_sub(parts.get(*lane).map_or(0, |part| part.bytes))
                else {
                    return oldest;
                };
                *left = less;
            }
            (room, oldest) = (left, segment.header.first);
        }
        oldest
    }

    /// What it holds now.
    pub fn usage(&self) -> Usage {
        of(&self.shared)
    }

    /// Whether events are refused because the disk is full, but for what stays free for others, though `max_size`
    /// is not used up.
    pub fn is_disk_full(&self) -> bool {
        let Shared { lanes, queue, disk_full, .. } = &*self.shared;
        disk_full.load(Ordering::Acquire)
            || (lanes.is_disk_short() && queue.is_wanted())
            || self.shared.is_short_for_all()
    }

    /// Damaged places that cost control records and no event, met since the log was opened.
    pub fn control_lost(&self) -> u64 {
        self.shared.control_lost.load(Ordering::Relaxed)
    }

    /// What it has written since it was opened.
    pub fn written(&self) -> Written {
        self.shared.wear.written()
    }

    /// The loss ledger's entries, oldest first.
    pub fn losses(&self) -> Vec<Loss> {
        self.shared.ledger.entries()
    }

    /// Changes whenever something is entered in the loss ledger.
    pub fn watch_losses(&self) -> watch::Receiver<u64> {
        self.shared.ledger.watch()
    }

    /// How much the loss ledger holds.
    pub fn loss_count(&self) -> Losses {
        self.shared.ledger.losses()
    }

    /// What was set aside: bytes on disk, and files that made room for others since the log was opened.
    pub fn quarantine(&self) -> (u64, u64) {
        (self.shared.quarantine.bytes(), self.shared.quarantine.dropped())
    }
}

/// What it holds now.
pub(super) fn of(shared: &Shared) -> Usage {
    let table = shared.table();
    let last = shared.committed();
    Usage {
        bytes: shared.bytes(),
        spare: (table.size() + shared.spares.bytes()).saturating_sub(table.bytes()),
        first: table.oldest().unwrap_or(last + 1),
        last,
        segments: table.0.len(),
    }
}
