//! The loss ledger: what was acknowledged and will never be read.
//!
//! A file of entries of 48 bytes, each with its own checksum, appended and fdatasync'd one by one:
//!
//! ```text
//! magic "TGL1" | lane u8 | reason u8 | 2 zero bytes | first u64 | last u64 | count u64
//! | time i64, microseconds since 1970 | 4 zero bytes | CRC-32C u32 of the 44 bytes before
//! ```
//!
//! An entry that does not verify is passed over and counted; the others stand. A loss that the ledger
//! covers already is not entered twice, so whoever meets the damage may report it.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_event::{Lane, Lsn};
use tracing::warn;

use super::storage::{File, Storage};

const ENTRY_LEN: usize = 48;
const MAGIC: [u8; 4] = *b"TGL1";
const CRC_AT: usize = 44;

/// Why events are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The bytes on disk are not what was written; what is left of them is in `quarantine/`.
    Damaged = 1,
    /// They are not there: a segment file, or the end of the log.
    Missing = 2,
    /// Removed while a sink had not got them: its cursor was lost, or stood further than it does.
    Released = 3,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// In which lane.
    pub lane: Lane,
    /// Which LSNs.
    pub lsns: RangeInclusive<Lsn>,
    /// How many events at most.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// When it was noticed, in microseconds since 1970-01-01T00:00:00Z.
    pub unix_micros: i64,
}

impl Loss {
    /// A loss that is noticed now.
    pub fn now(lane: Lane, lsns: RangeInclusive<Lsn>, reason: Reason) -> Self {
        let count = lsns.end().saturating_sub(*lsns.start()).saturating_add(1);
        Self { lane, lsns, count, reason, unix_micros: crate::clock::unix_micros() }
    }

    fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut entry = [0; ENTRY_LEN];
        entry[0..4].copy_from_slice(&MAGIC);
        entry[4] = self.lane.0;
        entry[5] = self.reason as u8;
        entry[8..16].copy_from_slice(&self.lsns.start().to_le_bytes());
        entry[16..24].copy_from_slice(&self.lsns.end().to_le_bytes());
        entry[24..32].copy_from_slice(&self.count.to_le_bytes());
        entry[32..40].copy_from_slice(&self.unix_micros.to_le_bytes());
        let crc = crc32c::crc32c(&entry[..CRC_AT]);
        entry[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        entry
    }

    fn decode(entry: &[u8; ENTRY_LEN]) -> Option<Self> {
        let u64_at = |at: usize| {
            entry[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        let crc = crc32c::crc32c(&entry[..CRC_AT]).to_le_bytes();
        let reason = match entry[5] {
            1 => Reason::Damaged,
            2 => Reason::Missing,
            3 => Reason::Released,
            _ => return None,
        };
        (entry.starts_with(&MAGIC) && entry[CRC_AT..] == crc).then(|| Self {
            lane: Lane(entry[4]),
            lsns: u64_at(8)..=u64_at(16),
            count: u64_at(24),
            reason,
            unix_micros: u64_at(32) as i64,
        })
    }

    fn covers(&self, other: &Self) -> bool {
        self.lane == other.lane
            && self.lsns.start() <= other.lsns.start()
            && self.lsns.end() >= other.lsns.end()
    }
}

/// The ledger of one log.
#[derive(Debug)]
pub struct Ledger {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    entries: Vec<Loss>,
    /// So many of them are on disk; the others follow when the disk takes them.
    saved: usize,
    /// Where the next one goes.
    offset: u64,
    damaged: usize,
    file: Option<Arc<dyn File>>,
}

impl Ledger {
    /// Reads the ledger at `path`; the file is created with the first entry.
    pub fn open(storage: Arc<dyn Storage>, path: PathBuf) -> io::Result<Self> {
        let file = match storage.open(&path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        if let Some(file) = &file {
            bytes.resize(file.len()? as usize, 0);
            let read = file.read_at(&mut bytes, 0)?;
            bytes.truncate(read);
        }
        let (whole, _torn) = bytes.as_chunks::<ENTRY_LEN>();
        let entries: Vec<_> = whole.iter().filter_map(Loss::decode).collect();
        let damaged = whole.len() - entries.len();
        if damaged > 0 {
            warn!(path = %path.display(), damaged, "entries of the loss ledger are damaged");
        }
        let offset = (whole.len() * ENTRY_LEN) as u64;
        let state = State { saved: entries.len(), entries, offset, damaged, file };
        Ok(Self { storage, path, state: Mutex::new(state) })
    }

    /// Enters a loss, durably, unless an entry covers it. When the disk does not take it, the entry
    /// stays in memory and goes to disk with the next one; whoever opens the log again meets the
    /// same damage again.
    pub fn record(&self, loss: Loss) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.entries.iter().any(|entry| entry.covers(&loss)) {
            warn!(
                lane = loss.lane.0, first = loss.lsns.start(), last = loss.lsns.end(),
                reason = ?loss.reason, "events are lost"
            );
            state.entries.push(loss);
        }
        if let Err(error) = self.save(&mut state) {
            warn!(path = %self.path.display(), %error, "the loss ledger cannot be written");
        }
    }

    fn save(&self, state: &mut State) -> io::Result<()> {
        if state.saved == state.entries.len() {
            return Ok(());
        }
        let file = match &state.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = self.storage.create(&self.path)?;
                state.file = Some(Arc::clone(&file));
                file
            }
        };
        let bytes: Vec<u8> = state.entries[state.saved..].iter().flat_map(Loss::encode).collect();
        file.write_at(&bytes, state.offset)?;
        file.sync_data()?;
        if let Some(dir) = self.path.parent() {
            self.storage.sync_dir(dir)?;
        }
        state.saved = state.entries.len();
        state.offset += bytes.len() as u64;
        Ok(())
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> Vec<Loss> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).entries.clone()
    }

    /// How many entries were on disk and could not be read.
    pub fn damaged(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::storage::FileSystem;

    fn loss(lsns: RangeInclusive<Lsn>) -> Loss {
        let count = lsns.end() - lsns.start() + 1;
        Loss { lane: Lane(1), lsns, count, reason: Reason::Damaged, unix_micros: -7 }
    }

    #[test]
    fn entries_survive_a_reopening_and_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let open = || Ledger::open(Arc::new(FileSystem), path.clone()).unwrap();
        let ledger = open();
        let losses = [loss(5..=9), loss(20..=20), loss(30..=41)];
        losses.iter().for_each(|loss| ledger.record(loss.clone()));
        ledger.record(loss(6..=7));
        assert_eq!(open().entries(), losses);

        let mut bytes = std::fs::read(&path).unwrap();
        bytes[ENTRY_LEN + 9] ^= 1;
        bytes.extend_from_slice(b"torn");
        std::fs::write(&path, bytes).unwrap();
        let ledger = open();
        assert_eq!(ledger.entries(), [losses[0].clone(), losses[2].clone()]);
        assert_eq!(ledger.damaged(), 1);
        ledger.record(loss(50..=50));
        assert_eq!(open().entries(), [losses[0].clone(), losses[2].clone(), loss(50..=50)]);
    }
}
