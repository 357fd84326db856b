//! The loss ledger: what was acknowledged and will never be read.
//!
//! A file of entries, appended and fdatasync'd (`ledger/file.rs`).
//!
//! A loss that the ledger covers already is not entered twice, so whoever meets the damage may report
//! it. An entry for a range that is lost in part covers no others there: only what ends with the same event, as
//! it is what is left of it, and what further sinks pass over of what one has entered. What was found when it was opened is written once more, where it lies, before it counts as durable.
//!
//! *Bound*: where one entry more would take the file beyond `max_ledger`, the older half of the entries
//! is merged into a quarter of what the bound allows: no LSN leaves the ledger, and no count, but the
//! ranges become coarser. The file is then written anew, as `ledger.new`, and renamed.
//!
//! *Damage*: an entry that does not verify, or that the disk cannot read, is passed over and counted; the others
//! stand. A copy of the file goes to `quarantine/`, and the next entry writes it anew. Where nothing can be read the
//! file itself goes there.

mod file;
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
#[cfg(any(test, fuzzing))]
pub(super) use file::check_any;
use file::{LARGEST, decode, encode, is_zero};
use loss::ENTRY_LEN;
pub use loss::{Loss, Reason};

/// Its name while it is written anew.
pub(super) const UNFINISHED: &str = "ledger.new";
/// So much is allocated ahead.
const AHEAD: u64 = 4096;
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
    /// So many of them are on disk, as they are or as they were before they were merged; the others follow when
    /// the disk takes them.
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
        let (bytes, is_read) = match storage.open(&path) {
            Ok(file) => file::read(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), true),
            Err(error) => return Err(error),
        };
        let (entries, bad) = decode(&bytes);
        // At the end, what cannot be read looks like what was allocated ahead.
        let bad = bad.max(u64::from(!is_read));
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
        self.record_all([loss]).is_ok()
    }

    /// The same, of several with one write; and what kept the disk from taking them, or what was entered before.
    pub(super) fn record_all(&self, losses: impl IntoIterator<Item = Loss>) -> io::Result<()> {
        let mut state = self.lock();
        losses.into_iter().for_each(|loss| self.enter(&mut state, loss));
        self.save_or_say(&mut state)
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
        let all = *first.start()..=*last.end();
        let near: Vec<&Loss> = state.entries.iter().filter(|entry| entry.concerns(&all)).collect();
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
        if let Some(new) = new {
            self.enter(&mut state, new);
        }
        self.save_or_say(&mut state).is_ok()
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

    /// Enters it in memory, unless an entry says it.
    fn enter(&self, state: &mut State, loss: Loss) {
        if !state.entries.iter().any(|entry| entry.says(&loss)) {
            warn!(
                lane = loss.lane.0, first = loss.lsns.start(), last = loss.lsns.end(),
                reason = ?loss.reason, "events are lost"
            );
            state.entries.push(loss);
            self.bound(state);
            self.entered.send_modify(|count| *count += 1);
        }
    }

    /// Writes what the disk has not taken yet, and logs why where it cannot be.
    fn save_or_say(&self, state: &mut State) -> io::Result<()> {
        let say = |error: &io::Error| {
            warn!(path = %self.path.display(), %error, "the loss ledger cannot be written");
        };
        self.save(state).inspect_err(say)
    }

    /// Writes what the disk has not taken yet, if there is any.
    pub(super) fn catch_up(&self) -> io::Result<()> {
        self.save(&mut self.lock())
    }

    /// Whether it says of these LSNs what the disk has not taken yet.
    pub(super) fn owes(&self, lsns: &RangeInclusive<Lsn>) -> bool {
        let state = self.lock();
        state.entries[state.saved..].iter().any(|loss| loss.concerns(lsns))
    }

    /// Merges the older half of the entries where there are too many.
    fn bound(&self, state: &mut State) {
        if state.entries.len() <= self.max_entries {
            return;
        }
        let older = state.entries.len() / 2;
        let newer = state.entries.split_off(older);
        let mut entries = loss::merge(std::mem::take(&mut state.entries), self.max_entries / 4);
        state.saved = state.saved.checked_sub(older).map_or(0, |newer| entries.len() + newer);
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
