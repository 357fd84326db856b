//! The loss ledger: what was acknowledged and will never be read.
//!
//! A file of entries of 48 bytes, each with its own checksum, appended and fdatasync'd one by one:
//!
//! ```text
//! magic "TGL1" | lane u8 | reason u8 | 2 zero bytes | first u64 | last u64 | count u64
//! | time i64, microseconds since 1970 | 4 zero bytes | CRC-32C u32 of the 44 bytes before
//! ```
//!
//! Its file is allocated ahead by a page, so that a full disk takes the next entries; behind the last entry are
//! zeros then.
//!
//! A loss that the ledger covers already is not entered twice, so whoever meets the damage may report
//! it. What was found when it was opened is written once more, where it lies, before it counts as durable.
//!
//! *Bound*: where one entry more would take the file beyond `max_ledger`, the older half of the entries
//! is merged into a quarter of what the bound allows: no LSN leaves the ledger, and no count, but the
//! ranges become coarser. The file is then written anew, as `ledger.new`, and renamed.
//!
//! *Damage*: an entry that does not verify is passed over and counted, unless it is the last, and a power cut
//! kept one side of the border of two sectors in it; the others stand, wherever they begin. A copy of the file goes to `quarantine/`, and the next entry writes it anew.

mod loss;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_event::{Lane, Lsn};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::storage::{self, File, Storage};
use loss::{ENTRY_LEN, MAGIC};
pub use loss::{Loss, Reason};

/// Its name while it is written anew.
pub(super) const UNFINISHED: &str = "ledger.new";
/// A file of more bytes is no ledger: the bound's bound.
const LARGEST: u64 = 16 << 20;
/// So much is allocated ahead.
const AHEAD: u64 = 4096;
/// What a disk writes at once, or not at all.
const SECTOR: usize = 512;
/// A smaller bound counts as this one.
const LEAST_ENTRIES: usize = 8;

/// The ledger of one log.
#[derive(Debug)]
pub struct Ledger {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    max_entries: usize,
    state: Mutex<State>,
    /// How often something was entered since it was opened.
    entered: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    entries: Vec<Loss>,
    /// So many of them are on disk; the others follow when the disk takes them.
    saved: usize,
    /// Where the next one goes.
    offset: u64,
    /// Bytes of the file.
    size: u64,
    /// The file is to be written anew: entries were merged, or are damaged.
    anew: bool,
    damaged: u64,
    file: Option<Arc<dyn File>>,
}

/// How much the ledger holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Entries.
    pub entries: u64,
    /// The events in them, at most.
    pub events: u64,
    /// Entries on disk that could not be read when the log was opened.
    pub damaged: u64,
}

impl Ledger {
    /// Reads the ledger at `path`; the file is created with the first entry. It takes `max_bytes` on
    /// disk, and twice that while it is written anew. `damaged` is handed the content of a file with
    /// damage in it.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        path: PathBuf,
        max_bytes: u64,
        damaged: impl FnOnce(&[u8]),
    ) -> io::Result<Self> {
        let bytes = match storage.open(&path) {
            Ok(file) => read(&*file).or_else(|_| read(&*file))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (entries, bad) = decode(&bytes);
        if bad > 0 {
            warn!(path = %path.display(), damaged = bad, "entries of the loss ledger are damaged");
            damaged(&bytes);
        }
        let max_entries = (max_bytes.min(LARGEST) as usize / ENTRY_LEN).max(LEAST_ENTRIES);
        let behind = bytes.get(entries.len() * ENTRY_LEN..);
        let anew = bad > 0 || behind.is_none_or(|rest| !is_zero(rest));
        // What a crash of the process left may be in memory only, and the kernel call it clean: it is
        // written again, where it lies, before anything counts as saved.
        let size = bytes.len() as u64;
        let state = State { entries, saved: 0, offset: 0, size, anew, damaged: bad, file: None };
        let (state, entered) = (Mutex::new(state), watch::Sender::default());
        Ok(Self { storage, path, max_entries, state, entered })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a loss, durably, unless an entry covers it. When the disk does not take it, the entry
    /// stays in memory and goes to disk with the next one; whoever opens the log again meets the
    /// same damage again. Answers whether all entries are on disk.
    pub fn record(&self, loss: Loss) -> bool {
        let mut state = self.lock();
        self.enter(&mut state, loss)
    }

    /// The same, of those of the `runs` of LSNs, in their order, that no entry covers: as one entry,
    /// from the first to the last of them.
    pub(super) fn record_runs(
        &self,
        lane: Lane,
        runs: &[RangeInclusive<Lsn>],
        reason: Reason,
    ) -> bool {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return true };
        let mut state = self.lock();
        let near: Vec<&Loss> = state
            .entries
            .iter()
            .filter(|entry| entry.lsns.end() >= first.start() && entry.lsns.start() <= last.end())
            .collect();
        let mut new: Option<Loss> = None;
        for run in runs {
            let loss = Loss::now(lane, run.clone(), reason);
            if near.iter().any(|entry| entry.covers(&loss)) {
                continue;
            }
            match &mut new {
                Some(new) => new.merge(&loss),
                None => new = Some(loss),
            }
        }
        match new {
            Some(new) => self.enter(&mut state, new),
            None => self.is_saved(&mut state),
        }
    }

    /// The same, of runs of which nobody knows the lanes, as they are not there any more: but for what stands
    /// in the ledger already, whatever the lane.
    pub(super) fn record_gone(
        &self,
        lane: Lane,
        runs: &[RangeInclusive<Lsn>],
        reason: Reason,
    ) -> bool {
        let left = {
            let state = self.lock();
            let left = |run| loss::unaccounted(state.entries.iter(), run);
            runs.iter().flat_map(left).collect::<Vec<_>>()
        };
        self.record_runs(lane, &left, reason)
    }

    fn enter(&self, state: &mut State, loss: Loss) -> bool {
        if !state.entries.iter().any(|entry| entry.covers(&loss)) {
            warn!(
                lane = loss.lane.0, first = loss.lsns.start(), last = loss.lsns.end(),
                reason = ?loss.reason, "events are lost"
            );
            state.entries.push(loss);
            self.bound(state);
            self.entered.send_modify(|count| *count += 1);
        }
        self.is_saved(state)
    }

    /// Whether all entries are on disk, now at the latest.
    fn is_saved(&self, state: &mut State) -> bool {
        match self.save(state) {
            Ok(()) => true,
            Err(error) => {
                warn!(path = %self.path.display(), %error, "the loss ledger cannot be written");
                false
            }
        }
    }

    /// Writes what the disk has not taken yet, if there is any.
    pub(super) fn catch_up(&self) -> io::Result<()> {
        self.save(&mut self.lock())
    }

    /// Whether it says of these LSNs what the disk has not taken yet.
    pub(super) fn owes(&self, lsns: RangeInclusive<Lsn>) -> bool {
        let state = self.lock();
        let saved = if state.anew { 0 } else { state.saved };
        let mut owed = state.entries[saved..].iter();
        owed.any(|loss| loss.lsns.start() <= lsns.end() && loss.lsns.end() >= lsns.start())
    }

    /// Merges the older half of the entries where there are too many.
    fn bound(&self, state: &mut State) {
        if state.entries.len() <= self.max_entries {
            return;
        }
        let newer = state.entries.split_off(state.entries.len() / 2);
        let mut entries = loss::merge(std::mem::take(&mut state.entries), self.max_entries / 4);
        entries.extend(newer);
        info!(
            path = %self.path.display(), entries = entries.len(),
            "the loss ledger is full: older entries are merged"
        );
        state.entries = entries;
        state.anew = true;
    }

    fn save(&self, state: &mut State) -> io::Result<()> {
        if !state.anew && state.saved == state.entries.len() {
            return Ok(());
        }
        if state.anew {
            let (file, len) = self.write_anew(&state.entries)?;
            (state.file, state.offset, state.size) = (Some(file), len, len);
            state.anew = false;
        } else {
            let bytes = encode(&state.entries[state.saved..]);
            let file = self.file(state)?;
            file.write_at(&bytes, state.offset)?;
            file.sync_data()?;
            self.sync_dir()?;
            state.offset += bytes.len() as u64;
            state.size = state.size.max(state.offset);
        }
        state.saved = state.entries.len();
        self.allocate(state);
        Ok(())
    }

    /// Has room for the next entries allocated, if the disk has any. Best effort.
    pub(super) fn hold_room(&self) {
        let state = &mut *self.lock();
        if self.file(state).is_ok() {
            self.allocate(state);
        }
    }

    fn allocate(&self, state: &mut State) {
        let most = (self.max_entries * ENTRY_LEN) as u64;
        let size = (state.offset + AHEAD).min(most);
        let is_short = state.size < (state.offset + AHEAD / 2).min(most);
        if let Some(file) = state.file.as_ref().filter(|_| is_short) {
            match file.allocate(size) {
                Ok(()) => state.size = size,
                Err(error) => debug!(path = %self.path.display(), %error, "is not allocated ahead"),
            }
        }
    }

    fn file(&self, state: &mut State) -> io::Result<Arc<dyn File>> {
        if let Some(file) = &state.file {
            return Ok(Arc::clone(file));
        }
        let file = self.storage.open(&self.path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => self.storage.create(&self.path),
            _ => Err(error),
        })?;
        state.file = Some(Arc::clone(&file));
        Ok(file)
    }

    fn write_anew(&self, entries: &[Loss]) -> io::Result<(Arc<dyn File>, u64)> {
        let unfinished = self.path.with_file_name(UNFINISHED);
        let bytes = encode(entries);
        let file = storage::write_anew(&*self.storage, &unfinished, &self.path, &bytes)?;
        self.sync_dir()?;
        Ok((file, bytes.len() as u64))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |dir: &Path| self.storage.sync_dir(dir))
    }

    /// All entries: first those that were merged, in the order of their LSNs, then the others as they
    /// were noticed.
    pub fn entries(&self) -> Vec<Loss> {
        self.lock().entries.clone()
    }

    /// Whether entries say that these events of a lane were dropped, thinned out or have expired.
    pub(super) fn knows_gone(&self, lane: Lane, lsns: &RangeInclusive<Lsn>) -> bool {
        let state = self.lock();
        let on_purpose = |loss: &&Loss| loss.lane == lane && loss.reason.is_purpose();
        let mut next = *lsns.start();
        loop {
            let goes_on = |loss: &&Loss| loss.lsns.contains(&next);
            let Some(loss) = state.entries.iter().rev().filter(on_purpose).find(goes_on) else {
                return next > *lsns.end();
            };
            next = loss.lsns.end().saturating_add(1);
            if next > *lsns.end() {
                return true;
            }
        }
    }

    /// What of these LSNs entries do not say that it was dropped, thinned out or has expired, in whatever lane.
    pub(super) fn not_gone(&self, lsns: &RangeInclusive<Lsn>) -> Vec<RangeInclusive<Lsn>> {
        let state = self.lock();
        loss::unaccounted(state.entries.iter().filter(|loss| loss.reason.is_purpose()), lsns)
    }

    /// Whether one entry says of these LSNs that events of the lane among them were dropped.
    pub(super) fn knows_dropped(&self, lane: Lane, lsns: &RangeInclusive<Lsn>) -> bool {
        let says = |loss: &Loss| {
            (loss.lane, loss.reason) == (lane, Reason::Dropped)
                && loss.lsns.start() <= lsns.start()
                && loss.lsns.end() >= lsns.end()
        };
        self.lock().entries.iter().any(says)
    }

    /// Changes whenever something is entered.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.entered.subscribe()
    }

    /// How much it holds.
    pub fn losses(&self) -> Losses {
        let state = self.lock();
        Losses {
            entries: state.entries.len() as u64,
            events: state.entries.iter().map(|loss| loss.count).fold(0, u64::saturating_add),
            damaged: state.damaged,
        }
    }
}

fn read(file: &dyn File) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    if len > 2 * LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large for a loss ledger"));
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn encode(entries: &[Loss]) -> Vec<u8> {
    entries.iter().flat_map(Loss::encode).collect()
}

/// The entries that verify, and how many places do not. A torn end is none, nor what was allocated ahead.
fn decode(bytes: &[u8]) -> (Vec<Loss>, u64) {
    let (mut entries, mut damaged, mut at) = (Vec::new(), 0, 0);
    while let Some((entry, rest)) = bytes[at..].split_first_chunk::<ENTRY_LEN>() {
        if let Some(loss) = Loss::decode(entry) {
            entries.push(loss);
            at += ENTRY_LEN;
            continue;
        }
        if is_zero(rest) && is_torn(entry, at) {
            break;
        }
        damaged += 1;
        let rest = &bytes[at + 1..];
        let next = rest.windows(MAGIC.len()).position(|window| window == MAGIC);
        let Some(next) = next else { break };
        at += 1 + next;
    }
    (entries, damaged)
}

/// Whatever the file holds, its entries are read, and read again once they are written; and one that is
/// written behind is found.
#[cfg(any(test, fuzzing))]
pub(super) fn check_any(bytes: &[u8]) {
    let (entries, _) = decode(bytes);
    assert!(entries.len() * ENTRY_LEN <= bytes.len());
    let again = encode(&entries);
    assert_eq!(decode(&again), (entries, 0));
    let more = Loss::now(Lane(1), 5..=9, Reason::Dropped);
    let (entries, _) = decode(&[bytes, &more.encode()].concat());
    assert!(entries.contains(&more), "not found behind {} bytes", bytes.len());
}

/// Whether of an entry at `at` only that part was written that lies in one sector; or none.
fn is_torn(entry: &[u8], at: usize) -> bool {
    let (one, other) = entry.split_at((SECTOR - at % SECTOR).min(entry.len()));
    is_zero(one) || is_zero(other) && !other.is_empty()
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
