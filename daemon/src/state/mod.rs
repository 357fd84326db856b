//! What can be rebuilt from the log: read models in sled, behind a guard, and their checkpoint.
//!
//! A **tree** is one read model. Its changes and the LSN up to which the log was applied to it are
//! written in one atomic step; at start its owner loads it and applies the log from there on.
//! **Cursors** say what each sink has. Both are written through to sled, which never counts as
//! durable: it issues no fsync with a write, and after a power cut a tree may stand some seconds
//! back, with an `applied` to match. The **checkpoint** is durable: it is written before segments of
//! the log that it covers are removed, so checkpoint and log together always rebuild everything.
//!
//! On disk, under the state's directory: `db/` (sled), `checkpoint-<number>` (the last two),
//! `quarantine-<unix time>/` (a database that did not open; the last one).
//!
//! When sled fails while it is open, every call answers [`StateError::Database`] from then on. The
//! owners of the trees go on from memory and persist nothing; the next start rebuilds. Only when the
//! log must be freed and no checkpoint can be written, the daemon stops in order, to be started again
//! ([`retention`]). Where the disk takes no database at all, the trees lie in memory from the start
//! ([`Opened::InMemory`]).
//!
//! All calls block for as long as the file system does: microseconds from the page cache; an `apply`
//! also waits while a checkpoint reads its tree.

pub mod ballast;
mod checkpoint;
mod cursors;
mod guard;
mod notes;
mod restore;
pub mod retention;
pub mod room;
#[cfg(test)]
pub(crate) mod simulated;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tidegate_event::{Epoch, EventId, Lane, Lsn};
use tokio::sync::watch;
use tracing::{error, info, warn};

pub use cursors::{Cursors, LaneSet, MAX_SPANS, Span};
pub use notes::Notes;

use crate::log::{FileSystem, Storage, is_full};
use checkpoint::{Bytes, Item};
use cursors::CURSORS;
use restore::restore;
use store::{Store, Table, lock};

/// Read models stand under this prefix among the trees on disk.
const MODEL: &str = "model/";
const NOTES: &str = "notes/";
/// No read model, as the cursors' tree: its version counts its changes.
const LOG: &str = "log";
/// In the tree [`LOG`]: the epoch, u64 little-endian.
const EPOCH: &[u8] = b"epoch";

/// The state database. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct State {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    store: Store,
    models: Mutex<BTreeMap<String, Tree>>,
    cursors: Cursors,
    /// What the newest checkpoint covers, if it was written since the start. Held while one is written.
    newest: Mutex<Option<Covered>>,
    requests: watch::Sender<u64>,
}

/// One read model: keys and values, and the LSN up to which the log was applied to it.
#[derive(Debug, Clone)]
pub struct Tree {
    model: Arc<Model>,
}

#[derive(Debug)]
struct Model {
    table: Table,
    applied: AtomicU64,
    /// Below this mark it needs no control records; all of them, if it knows none.
    control: AtomicU64,
    /// Held while the tree is changed, or copied into a checkpoint.
    changing: Mutex<()>,
}

/// How much of the log is not needed to rebuild something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// Events up to and including this one.
    pub lsn: Lsn,
    /// Control records below this [`crate::log::Log::control_mark`].
    pub control: u64,
}

impl Covered {
    const ALL: Self = Self { lsn: Lsn::MAX, control: u64::MAX };
    const NOTHING: Self = Self { lsn: 0, control: 0 };

    fn and(self, other: Self) -> Self {
        Self { lsn: self.lsn.min(other.lsn), control: self.control.min(other.control) }
    }
}

/// What opening the state found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It was there, or created.
    Fine,
    /// sled's directory could not be opened: it was set aside, and the state restored from the last
    /// checkpoint; the log must be applied from [`Tree::applied`] on.
    Rebuilt,
    /// As [`Opened::Rebuilt`], but the disk takes no new database: until the next start the state is
    /// in memory and in the checkpoint only.
    InMemory,
}

/// Why the state is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made or read.
    #[error("cannot use the state directory {}: {error}", dir.display())]
    Directory {
        /// Which one.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another process has the database open.
    #[error("the state database {} is in use by another process; is the daemon already running?", dir.display())]
    InUse {
        /// Which one.
        dir: PathBuf,
    },
    /// sled failed; it is not used again before the next start.
    #[error(
        "the state database {} failed: {why}; state is not saved any more, the next start rebuilds it",
        dir.display()
    )]
    Database {
        /// Which one.
        dir: PathBuf,
        /// The first failure.
        why: String,
    },
    /// The checkpoint cannot be written.
    #[error("cannot write a checkpoint of the state: {0}")]
    Checkpoint(#[from] io::Error),
    /// No room can be made in a lane of the log.
    #[error("cannot rewrite the log's oldest segments: {0}")]
    Log(io::Error),
}

impl StateError {
    /// Whether room on the disk would help.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Checkpoint(error) | Self::Log(error) if is_full(error))
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A change of one key: a value, or its removal.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

impl State {
    /// Opens or creates the state under `dir`.
    pub fn open(dir: &Path) -> Result<(Self, Opened), StateError> {
        let directory = |error| StateError::Directory { dir: dir.to_owned(), error };
        FileSystem.create_dir_all(dir).map_err(directory)?;
        let (store, found) = guard::open(dir)?;
        let opened = match found {
            guard::Found::Fine => Opened::Fine,
            guard::Found::New => Opened::Rebuilt,
            guard::Found::Memory => Opened::InMemory,
        };
        Self::prepare(Arc::new(FileSystem), dir, store, opened)
    }

    /// Brings the database up to the checkpoint, if it stands behind.
    fn prepare(
        storage: Arc<dyn Storage>,
        dir: &Path,
        mut store: Store,
        mut opened: Opened,
    ) -> Result<(Self, Opened), StateError> {
        let prepared = restore(&*storage, dir, &store).and_then(|()| Cursors::open(&store));
        let cursors = match prepared {
            Ok(cursors) => cursors,
            Err(why) => {
                error!(%why, "the state stays in memory until the next start");
                store = Store::in_memory();
                opened = Opened::InMemory;
                restore(&*storage, dir, &store)?;
                Cursors::open(&store)?
            }
        };
        let inner = Inner {
            storage,
            dir: dir.to_owned(),
            store,
            models: Mutex::default(),
            cursors,
            newest: Mutex::default(),
            requests: watch::Sender::default(),
        };
        Ok((Self { inner: Arc::new(inner) }, opened))
    }

    /// The newest event of which something here tells: what a cursor has passed, what a read model
    /// has seen. The log that it is built from has or had it.
    pub fn known(&self) -> Result<Option<EventId>, StateError> {
        let Some(epoch) = self.epoch()? else { return Ok(None) };
        let mut lsn = self.inner.cursors.highest().saturating_sub(1);
        for table in self.models()? {
            lsn = lsn.max(table.version()?.unwrap_or_default());
        }
        Ok(Some(EventId { epoch, lane: Lane(0), lsn }))
    }

    /// Ties the state to the log that it is built from: with another epoch than last time all LSNs in
    /// it are void (applied 0, no cursors). To be called once, before the trees are used.
    pub fn bind(&self, epoch: Epoch) -> Result<(), StateError> {
        let known = self.epoch()?;
        if known == Some(epoch) {
            return Ok(());
        }
        if known.is_some() {
            warn!(%epoch, "the state is of another log");
        }
        // They would bring the old LSNs back at the next start.
        checkpoint::remove_all(&*self.inner.storage, &self.inner.dir)?;
        for table in self.models()? {
            table.apply(vec![], 0)?;
        }
        self.inner.cursors.retain(|_| false)?;
        let log = self.inner.store.table(LOG)?;
        let change = (EPOCH.to_vec(), Some(epoch.0.to_le_bytes().to_vec()));
        log.apply(vec![change], log.version()?.unwrap_or_default() + 1)
    }

    /// The epoch of the log that it was tied to last.
    fn epoch(&self) -> Result<Option<Epoch>, StateError> {
        let mut known = None;
        self.inner.store.table(LOG)?.scan(|key, value| {
            if key == EPOCH {
                known = value.try_into().ok().map(u64::from_le_bytes);
            }
        })?;
        Ok(known.map(Epoch))
    }

    fn models(&self) -> Result<Vec<Table>, StateError> {
        let store = &self.inner.store;
        let names = store.names()?.into_iter().filter(|name| name.starts_with(MODEL));
        names.map(|name| store.table(&name)).collect()
    }

    /// The read model `name`, created if missing.
    pub fn tree(&self, name: &str) -> Result<Tree, StateError> {
        let mut models = lock(&self.inner.models);
        let name = format!("{MODEL}{name}");
        if let Some(tree) = models.get(&name) {
            return Ok(tree.clone());
        }
        let table = self.inner.store.table(&name)?;
        let applied = AtomicU64::new(table.version()?.unwrap_or_default());
        let control = AtomicU64::new(u64::MAX);
        let model = Model { table, applied, control, changing: Mutex::default() };
        let tree = Tree { model: Arc::new(model) };
        models.insert(name, tree.clone());
        Ok(tree)
    }

    /// Whether there is a read model `name` with something in it. Does not open it: an open one counts
    /// in [`State::checkpoint`]'s answer.
    pub fn has_entries(&self, name: &str) -> Result<bool, StateError> {
        let name = format!("{MODEL}{name}");
        if !self.inner.store.names()?.contains(&name) {
            return Ok(false);
        }
        let mut any = false;
        self.inner.store.table(&name)?.scan(|_, _| any = true)?;
        Ok(any)
    }

    /// What somebody notes down for itself under `name`, and would not lose with a power cut for the
    /// worst: it counts in no [`State::checkpoint`]'s answer.
    pub fn notes(&self, name: &str) -> Result<Notes, StateError> {
        Notes::open(&self.inner.store, &format!("{NOTES}{name}"))
    }

    /// The sinks' cursors.
    pub fn cursors(&self) -> Cursors {
        self.inner.cursors.clone()
    }

    /// Writes every tree to the checkpoint file, durably. Afterwards the log below the answer is not
    /// needed to rebuild the state, from either of the two checkpoints that are kept: so the first one
    /// since the start frees nothing.
    pub fn checkpoint(&self) -> Result<Covered, StateError> {
        let mut newest = lock(&self.inner.newest);
        let models = lock(&self.inner.models).clone();
        let names = self.inner.store.names()?;
        let mut covered = Covered::ALL;
        let (path, bytes) = checkpoint::write(&*self.inner.storage, &self.inner.dir, |writer| {
            covered = Covered::ALL;
            for name in &names {
                let table = self.inner.store.table(name)?;
                // The tree must not change between its version and its last entry.
                let _unchanged = match models.get(name) {
                    Some(tree) => Some(lock(&tree.model.changing)),
                    None => None,
                };
                let _unmoved = (name == CURSORS).then(|| self.inner.cursors.hold());
                let version = table.version()?.unwrap_or_default();
                if let Some(tree) = models.get(name) {
                    covered = covered.and(tree.covered());
                }
                writer.item(&Item::Tree(name.clone(), version))?;
                let mut written = Ok(());
                table.scan(|key, value| {
                    if written.is_ok() {
                        written = writer.item(&Item::Entry(Bytes(key.into()), Bytes(value.into())));
                    }
                })?;
                written?;
            }
            Ok(())
        })?;
        info!(file = %path.display(), bytes, applied = covered.lsn, "checkpoint written");
        let older = newest.replace(covered).unwrap_or(Covered::NOTHING);
        Ok(older.and(covered))
    }

    /// What all read models that are open have: what a checkpoint would cover.
    pub fn applied(&self) -> Covered {
        lock(&self.inner.models).values().map(Tree::covered).fold(Covered::ALL, Covered::and)
    }

    /// Changes whenever the log waits for the read models to be saved: who saves its tree rarely,
    /// because nothing in it changes, does so then.
    pub fn save_requests(&self) -> watch::Receiver<u64> {
        self.inner.requests.subscribe()
    }

    /// Asks the owners of the read models to save them.
    pub fn request_save(&self) {
        self.inner.requests.send_modify(|number| *number += 1);
    }

    /// Whether [`State::tidy`] has something to do.
    pub fn is_untidy(&self) -> bool {
        self.inner.store.is_untidy()
    }

    /// Keeps the database's memory small; [`retention`] calls it now and then. Waits for the disk.
    pub fn tidy(&self) -> Result<(), StateError> {
        self.inner.store.tidy()
    }

    /// What went wrong first with the database, if something did: nothing is saved since.
    pub fn failure(&self) -> Option<&str> {
        self.inner.store.failure()
    }
}

impl Tree {
    /// The log up to and including this LSN is in the tree; 0 for a new one.
    pub fn applied(&self) -> Lsn {
        self.model.applied.load(Ordering::Acquire)
    }

    /// All keys and values, in the order of the keys.
    pub fn load(&self) -> Result<Vec<Entry>, StateError> {
        let mut entries = Vec::new();
        self.model.table.scan(|key, value| entries.push((key.to_vec(), value.to_vec())))?;
        Ok(entries)
    }

    /// Makes the changes and moves `applied`, in one atomic step.
    pub fn apply(&self, changes: Vec<Change>, applied: Lsn) -> Result<(), StateError> {
        let _alone = lock(&self.model.changing);
        self.model.table.apply(changes, applied)?;
        self.model.applied.store(applied, Ordering::Release);
        Ok(())
    }

    /// From now on the log keeps control records for this read model: those behind the newest event that
    /// it has, and where there are no events, all but those below `mark`, a
    /// [`crate::log::Log::control_mark`] from before the tree was last saved; 0 for none.
    pub fn needs_control(&self, mark: u64) {
        self.model.control.store(mark, Ordering::Release);
    }

    fn covered(&self) -> Covered {
        let control = self.model.control.load(Ordering::Acquire);
        // Behind the newest event that it has may lie control records that it has not.
        let behind = u64::from(control != u64::MAX);
        Covered { lsn: self.applied().saturating_sub(behind), control }
    }
}
