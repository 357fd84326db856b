//! Segment files that nobody needs any more, kept to be written over.
//!
//! An fdatasync behind bytes that a file had before writes those bytes; behind bytes that are new to the
//! file it writes the file system's journal too, because the file has grown. On ext4 that takes twice the
//! time, and a third more of the flash. So a released segment becomes `<sequence, 8 hex digits>.spare`, and
//! the next segment begins in its place: header and first frame are written over the old ones and made durable
//! under the spare's name, then the file gets its own. What is left of the older use behind the last frame has another
//! salt, and lower LSNs, and is never taken for a frame.
//!
//! Where there is no spare, a new file is allocated ahead (fallocate): it has its length from the start, and
//! the journal has less to say. The zeros are not written.
//!
//! Spares are taken on disk, inside `max_size`, and free for events: they go where there is no room for them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{debug, warn};

use super::queue::Bounds;
use super::segment::Segment;
use super::shared::Shared;
use super::storage::is_full;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) size: u64,
}

/// Those that there are.
#[derive(Debug)]
pub(super) struct Spares {
    files: Mutex<Vec<Spare>>,
    /// Bytes of segments that are on their way to become spares, or nothing.
    leaving: AtomicU64,
    /// Bytes of all of them, at most; one is kept in any case.
    most: u64,
    /// What a segment has.
    segment: u64,
}

impl Spares {
    /// None, of segments with these bounds. An eighth of the log may be spare: so much is released at once,
    /// and then written again.
    pub(super) fn new(bounds: &Bounds) -> Self {
        let leaving = AtomicU64::new(0);
        Self {
            files: Mutex::default(),
            leaving,
            most: bounds.max_size / 8,
            segment: bounds.segment_size,
        }
    }

    fn files(&self) -> MutexGuard<'_, Vec<Spare>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a file of this size is worth keeping.
    pub(super) fn wants(&self, size: u64) -> bool {
        let is_like_a_segment = (self.segment / 2..=self.segment * 2).contains(&size);
        let bytes = self.bytes();
        is_like_a_segment && (bytes == 0 || bytes + size <= self.most)
    }

    /// One more, whose name is durable.
    pub(super) fn add(&self, spare: Spare) {
        self.files().push(spare);
    }

    /// The one that was added last: what it holds may still be in memory, and need not be read.
    pub(super) fn take(&self) -> Option<Spare> {
        self.files().pop()
    }

    /// Bytes of a file that is no segment any more, and no spare yet; as long as the answer lives.
    fn leave(&self, size: u64) -> Leaving<'_> {
        self.leaving.fetch_add(size, Ordering::AcqRel);
        Leaving(self, size)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files().iter().map(|spare| spare.size).sum()
    }
}

#[derive(Debug)]
struct Leaving<'a>(&'a Spares, u64);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leaving.fetch_sub(self.1, Ordering::AcqRel);
    }
}

/// What the file of the segment with this sequence is called as a spare.
pub(super) fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(name(sequence))
}

fn name(sequence: u64) -> String {
    format!("{sequence:08x}.spare")
}

/// Whether a file is called like a spare.
pub(super) fn is_name(name_: &str) -> bool {
    let sequence = name_.strip_suffix(".spare").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    sequence.is_some_and(|sequence| name(sequence) == name_)
}

impl Shared {
    /// Removes a segment that nobody needs; answers whether it could.
    pub(super) fn remove_one(&self) -> bool {
        // What is damaged in a segment, or gone, is known from the ledger alone once that is gone.
        let told = match self.ledger.catch_up() {
            Err(error) if is_full(&error) && self.spares.bytes() > 0 => {
                self.drop_spares();
                self.ledger.catch_up()
            }
            told => told,
        };
        let (before, control) = self.released();
        let Some(segment) = self.table().released(before, control) else { return false };
        // A full disk may have room for the ledger only then.
        if let Err(error) = told
            && (!is_full(&error) || self.ledger.owes(&segment.lsns()))
        {
            warn!(dir = %self.dir.display(), %error, "nothing is removed while the loss ledger cannot be written");
            return false;
        }
        if let Err(error) = self.begins_behind(|segment| segment.is_released(before, control)) {
            warn!(dir = %self.dir.display(), %error, "nothing is removed while it cannot be noted where the log begins");
            return false;
        }
        let _leaving = self.spares.leave(segment.size());
        if !self.table_mut().remove(segment.header.sequence) {
            return true;
        }
        // Nobody finds it any more. Who reads it can read on, unless it is written over.
        let is_read = Arc::strong_count(&segment) > 1;
        let spare = match self.put_away(&segment, is_read) {
            Ok(spare) => spare,
            Err(error) => {
                warn!(path = %segment.path.display(), %error, "released, but cannot be removed");
                self.table_mut().put_back(segment);
                return false;
            }
        };
        self.bytes.fetch_sub(segment.taken(), Ordering::AcqRel);
        self.lanes.remove(&segment.lanes());
        if let Err(error) = self.storage.sync_dir(&self.dir) {
            warn!(dir = %self.dir.display(), %error, "a removal may not be durable");
            // A spare that is written over must not come back as a segment.
            if let Some(spare) = spare {
                self.unlink_spare(&spare);
            }
            return false;
        }
        if let Some(spare) = spare {
            self.spares.add(spare);
        }
        true
    }

    /// Makes a spare of a segment's file, or removes it.
    fn put_away(&self, segment: &Segment, is_read: bool) -> io::Result<Option<Spare>> {
        let size = segment.size();
        let is_wanted = self.spares.wants(size) && self.storage.is_worth_reuse(&segment.path);
        if is_wanted && !is_read && !self.disk_full.load(Ordering::Acquire) {
            let path = path(&self.dir, segment.header.sequence);
            if self.storage.rename(&segment.path, &path).is_ok() {
                return Ok(Some(Spare { path, size }));
            }
        }
        match self.storage.unlink(&segment.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        }
    }

    /// Best effort: what cannot be removed is found when the log is opened again.
    pub(super) fn unlink_spare(&self, spare: &Spare) {
        if let Err(error) = self.storage.unlink(&spare.path) {
            debug!(path = %spare.path.display(), %error, "cannot be removed");
        }
    }

    /// Takes the spares that were found when the log was opened, or removes them.
    pub(super) fn take_spares(&self, found: Vec<Spare>) {
        // The name of one may not be durable yet, and its file come back as a segment.
        let is_durable = found.is_empty() || self.storage.sync_dir(&self.dir).is_ok();
        for spare in found {
            if is_durable
                && self.spares.wants(spare.size)
                && self.storage.is_worth_reuse(&spare.path)
            {
                self.spares.add(spare);
            } else {
                self.unlink_spare(&spare);
            }
        }
        self.make_room(0);
    }

    /// Bytes on disk: of segments and spares. One that becomes the other may count twice, never not at all.
    pub(super) fn on_disk(&self) -> u64 {
        let segments = self.table().size();
        segments + self.spares.leaving.load(Ordering::Acquire) + self.spares.bytes()
    }

    /// Removes spares until there is room for so many bytes more.
    pub(super) fn make_room(&self, bytes: u64) {
        while self.spares.bytes() > 0 && self.on_disk() + bytes > self.lanes.max_size() {
            self.drop_spare();
        }
    }

    /// The disk is full: spares make room.
    pub(super) fn drop_spares(&self) {
        while self.drop_spare() {}
    }

    fn drop_spare(&self) -> bool {
        let spare = self.spares.take();
        spare.is_some_and(|spare| {
            self.unlink_spare(&spare);
            true
        })
    }
}
