//! Where the log begins: the file `beginning`.
//!
//! Segments that are released or dropped go from the front of the log, and nothing there says that they did. So
//! this file says which LSN is the first that is to be there: an oldest segment that begins behind it is not the
//! oldest that was kept, and what is between is lost.
//!
//! Two copies of this, one in each of the file's two sectors of 512 bytes; either will do:
//!
//! ```text
//! magic "tg-begin" | format version u32 (1) | number of the log u32 (0) | epoch u64 | LSN u64
//! | CRC-32C u32 of the 32 bytes before | zeros
//! ```
//!
//! Magic, version and checksum keep their places in every later version.
//!
//! *Order*: it is durable before the first segment of a release goes, so it may be ahead of a segment that a
//! crash left, and is never behind one that is gone. Both copies are written over in place, with one write and
//! one fdatasync, so that a full disk takes them; where that fails, they are written anew as `beginning.new`,
//! which is renamed. While neither works nothing goes. Where the disk is too full for either, the file is
//! removed, durably, and where there was none, there is none: until it can be written a gap at the front is
//! taken for released.
//!
//! *Opening* enters the gap in the ledger, and then says where the oldest segment that is there begins; also
//! where that is further back: segments that a crash left, or that somebody copied back, are of the log again.
//! Should they vanish, they stand in the ledger, though sinks may have had their events. A file that is not
//! there, makes no sense, or is another log's or a newer version's says nothing: the log begins with its
//! oldest segment. The file is set aside, and written anew.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_event::{Epoch, Lane, Lsn};
use tracing::warn;

use super::segment::Segment;
use super::shared::Shared;
use super::storage::{self, Storage, is_full};

/// The file.
pub(super) const FILE: &str = "beginning";
/// While it is written anew.
pub(super) const UNFINISHED: &str = "beginning.new";

const MAGIC: [u8; 8] = *b"tg-begin";
const VERSION: u32 = 1;
const COPY_LEN: usize = 512;
const LEN: usize = 2 * COPY_LEN;
const CRC_AT: usize = 32;

/// Which log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) epoch: Epoch,
    pub(super) lane: Lane,
}

/// What is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// No file, durably, or one that says nothing.
    Nothing,
    /// The log begins here.
    At {
        lsn: Lsn,
        /// Whether both copies say so, durably.
        is_sound: bool,
    },
    /// Nobody knows what.
    Anything,
}

/// Why what is on disk says nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Useless {
    Damaged,
    Foreign,
    Newer(u32),
    NoFile,
    Unreadable(String),
}

impl fmt::Display for Useless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => write!(f, "it is damaged")?,
            Self::Foreign => write!(f, "it is of another log, or of this one before all was lost")?,
            Self::Newer(version) => write!(f, "a newer version of tidegate wrote it ({version})")?,
            Self::NoFile => write!(f, "it is a directory")?,
            Self::Unreadable(error) => write!(f, "{error}")?,
        }
        write!(f, "; where the log begins is taken as it is")
    }
}

/// The file of one log.
#[derive(Debug)]
pub(super) struct Beginning {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    log: Identity,
    said: Mutex<Said>,
}

impl Beginning {
    /// Of the log in `dir`, whose file was read.
    pub(super) fn new(storage: Arc<dyn Storage>, dir: &Path, log: Identity, said: Said) -> Self {
        Self { storage, dir: dir.into(), log, said: Mutex::new(said) }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the log begins, if that is known.
    pub(super) fn lsn(&self) -> Option<Lsn> {
        match *self.lock() {
            Said::At { lsn, .. } => Some(lsn),
            Said::Nothing | Said::Anything => None,
        }
    }

    /// What was read may not be what is on disk.
    fn doubt(&self) {
        *self.lock() = Said::Anything;
    }

    /// Says, durably, that the log begins at `lsn`; or nothing, durably, where the disk has no room for that.
    pub(super) fn set(&self, lsn: Lsn) -> io::Result<()> {
        let mut said = self.lock();
        let now = Said::At { lsn, is_sound: true };
        if *said == now {
            return Ok(());
        }
        let before = std::mem::replace(&mut *said, Said::Anything);
        let bytes = encode(self.log, lsn);
        if matches!(before, Said::At { is_sound: true, .. }) && self.write_over(&bytes).is_ok() {
            *said = now;
            return Ok(());
        }
        let done = match self.write_new(&bytes) {
            Ok(()) => self.storage.sync_dir(&self.dir).map(|()| now),
            // What there was before still is.
            Err(error) if before == Said::Nothing => Ok(self.says_nothing(&error)),
            Err(error) if is_full(&error) => self.forget().map(|()| self.says_nothing(&error)),
            Err(error) => Err(error),
        };
        done.map(|done| *said = done)
    }

    fn says_nothing(&self, error: &io::Error) -> Said {
        let path = self.dir.join(FILE);
        warn!(path = %path.display(), %error, "where the log begins cannot be noted, and is not");
        Said::Nothing
    }

    fn write_over(&self, bytes: &[u8]) -> io::Result<()> {
        let file = self.storage.open(&self.dir.join(FILE))?;
        file.write_at(bytes, 0)?;
        file.sync_data()
    }

    fn write_new(&self, bytes: &[u8]) -> io::Result<()> {
        let (unfinished, path) = (self.dir.join(UNFINISHED), self.dir.join(FILE));
        storage::write_anew(&*self.storage, &unfinished, &path, bytes).map(drop)
    }

    fn forget(&self) -> io::Result<()> {
        storage::remove(&*self.storage, &self.dir.join(UNFINISHED))?;
        storage::remove(&*self.storage, &self.dir.join(FILE))?;
        self.storage.sync_dir(&self.dir)
    }
}

impl Shared {
    /// The oldest segments are about to go, as far as `goes` says: says before, durably, that the log begins
    /// behind them.
    pub(super) fn begins_behind(&self, goes: impl Fn(&Segment) -> bool) -> io::Result<()> {
        let is_told = self.ledger.catch_up().is_ok();
        let Some((end, next)) = self.table().behind(goes) else { return Ok(()) };
        // What is missing between stands in the ledger; if that is not on disk, it is to be found again.
        self.beginning.set(if is_told { next } else { end })
    }

    /// Says where the log begins, now that what is missing before stands in the ledger. Best effort: if
    /// not, opening finds that again.
    pub(super) fn begins_as_found(&self) {
        // The name of what was read may be in memory only.
        if self.storage.sync_dir(&self.dir).is_err() {
            self.beginning.doubt();
        }
        let oldest = self.table().0.first().map(|segment| segment.header.first);
        if let Some(lsn) = oldest
            && let Err(error) = self.ledger.catch_up().and_then(|()| self.beginning.set(lsn))
        {
            warn!(dir = %self.dir.display(), %error, "where the log begins cannot be noted");
        }
    }
}

/// Reads where the log in `dir` begins.
pub(super) fn read(storage: &Arc<dyn Storage>, dir: &Path, log: Identity) -> Result<Said, Useless> {
    let read = || {
        let file = storage.open(&dir.join(FILE))?;
        let mut bytes = [0; LEN];
        // As two: one that the disk cannot read leaves the other.
        let (first, second) = bytes.split_at_mut(COPY_LEN);
        let one = file.read_at(first, 0).or_else(|_| file.read_at(first, 0));
        let other = file.read_at(second, COPY_LEN as u64);
        let other = other.or_else(|_| file.read_at(second, COPY_LEN as u64));
        if other.is_err() {
            one?;
        }
        Ok(bytes)
    };
    let bytes: [u8; LEN] = match read() {
        Ok(bytes) => bytes,
        Err(error) => match io::Error::kind(&error) {
            io::ErrorKind::NotFound => return Ok(Said::Nothing),
            io::ErrorKind::IsADirectory => return Err(Useless::NoFile),
            _ => return Err(Useless::Unreadable(error.to_string())),
        },
    };
    let (one, other) = bytes.split_at(COPY_LEN);
    match (decode(one, log), decode(other, log)) {
        // A crash came while they were written: nothing had gone yet that only one of them says is gone.
        (Ok(one), Ok(other)) => Ok(Said::At { lsn: one.max(other), is_sound: one == other }),
        (Ok(lsn), Err(_)) | (Err(_), Ok(lsn)) => Ok(Said::At { lsn, is_sound: false }),
        (Err(Useless::Damaged), Err(why)) | (Err(why), Err(_)) => Err(why),
    }
}

fn encode(log: Identity, lsn: Lsn) -> [u8; LEN] {
    let mut copy = [0; COPY_LEN];
    copy[0..8].copy_from_slice(&MAGIC);
    copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
    copy[12..16].copy_from_slice(&u32::from(log.lane.0).to_le_bytes());
    copy[16..24].copy_from_slice(&log.epoch.0.to_le_bytes());
    copy[24..32].copy_from_slice(&lsn.to_le_bytes());
    let crc = crc32c::crc32c(&copy[..CRC_AT]);
    copy[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    let mut both = [0; LEN];
    both[..COPY_LEN].copy_from_slice(&copy);
    both[COPY_LEN..].copy_from_slice(&copy);
    both
}

fn decode(copy: &[u8], log: Identity) -> Result<Lsn, Useless> {
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| copy[at + index]));
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if !copy.starts_with(&MAGIC) || crc32c::crc32c(&copy[..CRC_AT]) != u32_at(CRC_AT) {
        return Err(Useless::Damaged);
    }
    match u32_at(8) {
        VERSION => {}
        version if version > VERSION => return Err(Useless::Newer(version)),
        _ => return Err(Useless::Damaged),
    }
    let is_of_it = (u64_at(16), u32_at(12)) == (log.epoch.0, u32::from(log.lane.0));
    if is_of_it { Ok(u64_at(24)) } else { Err(Useless::Foreign) }
}
