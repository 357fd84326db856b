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

mod checkpoint;
mod guard;
pub mod retention;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tidegate_event::{Epoch, Lsn};
use tokio::sync::watch;
use tracing::{error, info, warn};

use checkpoint::{Bytes, Item};
use store::{Filling, Store, Table, lock};

/// Read models stand under this prefix among the trees on disk.
const MODEL: &str = "model/";
/// The trees that are no read models: their version counts their changes.
const CURSORS: &str = "cursors";
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
    dir: PathBuf,
    store: Store,
    models: Mutex<BTreeMap<String, Tree>>,
    cursors: Cursors,
    /// Held while a checkpoint is written.
    writing: Mutex<()>,
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
    /// Held while the tree is changed, or copied into a checkpoint.
    changing: Mutex<()>,
}

/// Where each sink stands: by name, the next LSN it wants. Kept in memory and written through.
#[derive(Debug, Clone)]
pub struct Cursors {
    table: Table,
    positions: Arc<Mutex<Positions>>,
}

#[derive(Debug)]
struct Positions {
    by_name: BTreeMap<String, Lsn>,
    changes: u64,
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
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A change of one key: a value, or its removal.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

impl State {
    /// Opens or creates the state under `dir`.
    pub fn open(dir: &Path) -> Result<(Self, Opened), StateError> {
        let directory = |error| StateError::Directory { dir: dir.to_owned(), error };
        std::fs::create_dir_all(dir).map_err(directory)?;
        let (mut store, found) = guard::open(dir)?;
        let mut opened = match found {
            guard::Found::Fine => Opened::Fine,
            guard::Found::New => Opened::Rebuilt,
            guard::Found::Memory => Opened::InMemory,
        };
        let prepared = restore(dir, &store).and_then(|()| Cursors::open(&store));
        let cursors = match prepared {
            Ok(cursors) => cursors,
            Err(why) => {
                error!(%why, "the state stays in memory until the next start");
                store = Store::in_memory();
                opened = Opened::InMemory;
                restore(dir, &store)?;
                Cursors::open(&store)?
            }
        };
        let inner = Inner {
            dir: dir.to_owned(),
            store,
            models: Mutex::default(),
            cursors,
            writing: Mutex::default(),
            requests: watch::Sender::default(),
        };
        Ok((Self { inner: Arc::new(inner) }, opened))
    }

    /// Ties the state to the log that it is built from: with another epoch than last time all LSNs in
    /// it are void (applied 0, no cursors), and none may lie beyond `last`, the log's newest. To be
    /// called once, before anything else.
    pub fn bind(&self, epoch: Epoch, last: Lsn) -> Result<(), StateError> {
        let store = &self.inner.store;
        let log = store.table(LOG)?;
        let mut known = None;
        log.scan(|key, value| {
            if key == EPOCH {
                known = value.try_into().ok().map(u64::from_le_bytes);
            }
        })?;
        let same = known == Some(epoch.0);
        let limit = if same { last } else { 0 };
        let mut behind = Vec::new();
        for name in store.names()?.into_iter().filter(|name| name.starts_with(MODEL)) {
            let table = store.table(&name)?;
            if table.version()?.is_some_and(|applied| applied > limit) {
                behind.push(table);
            }
        }
        if same && behind.is_empty() {
            return Ok(());
        }
        if known.is_some() {
            warn!(%epoch, last, "the state is of another log, or of more of it than is left");
        }
        // They would bring the old LSNs back at the next start.
        checkpoint::remove_all(&self.inner.dir)?;
        for table in behind {
            table.apply(vec![], limit)?;
        }
        if !same {
            self.inner.cursors.clear()?;
        }
        let change = (EPOCH.to_vec(), Some(epoch.0.to_le_bytes().to_vec()));
        log.apply(vec![change], log.version()?.unwrap_or_default() + 1)
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
        let tree = Tree { model: Arc::new(Model { table, applied, changing: Mutex::default() }) };
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

    /// The sinks' cursors.
    pub fn cursors(&self) -> Cursors {
        self.inner.cursors.clone()
    }

    /// Writes every tree to the checkpoint file, durably. Afterwards the log below the answer (the
    /// lowest `applied` of all read models that are open) is not needed to rebuild the state.
    pub fn checkpoint(&self) -> Result<Lsn, StateError> {
        let _one_at_a_time = lock(&self.inner.writing);
        let models = lock(&self.inner.models).clone();
        let names = self.inner.store.names()?;
        let mut lowest = Lsn::MAX;
        let (path, bytes) = checkpoint::write(&self.inner.dir, |writer| {
            lowest = Lsn::MAX;
            for name in &names {
                let table = self.inner.store.table(name)?;
                // The tree must not change between its version and its last entry.
                let _unchanged = match models.get(name) {
                    Some(tree) => Some(lock(&tree.model.changing)),
                    None => None,
                };
                let _unmoved = (name == CURSORS).then(|| lock(&self.inner.cursors.positions));
                let version = table.version()?.unwrap_or_default();
                if models.contains_key(name) {
                    lowest = lowest.min(version);
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
        info!(file = %path.display(), bytes, applied = lowest, "checkpoint written");
        Ok(lowest)
    }

    /// The lowest `applied` of all read models that are open: what [`State::checkpoint`] would answer.
    pub fn applied(&self) -> Lsn {
        lock(&self.inner.models).values().map(Tree::applied).min().unwrap_or(Lsn::MAX)
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

/// Takes over every tree of the checkpoint that is ahead of the store's.
fn restore(dir: &Path, store: &Store) -> Result<(), StateError> {
    let directory = |error| StateError::Directory { dir: dir.to_owned(), error };
    let Some(items) = checkpoint::newest(dir).map_err(directory)? else { return Ok(()) };
    let mut current: Option<(Filling, u64)> = None;
    for item in items {
        match item {
            Ok(Item::Tree(name, version)) => {
                if let Some((filling, version)) = current.take() {
                    filling.finish(version)?;
                }
                let table = store.table(&name)?;
                if table.version()?.is_none_or(|mine| mine < version) {
                    info!(tree = name, version, "restored from the checkpoint");
                    current = Some((table.refill()?, version));
                }
            }
            Ok(Item::Entry(key, value)) => {
                if let Some((filling, _)) = &mut current {
                    filling.put(key.0.into_owned(), value.0.into_owned())?;
                }
            }
            Err(why) => {
                // Only a checkpoint that was written so; the trees so far are right, and this one
                // counts as new.
                error!(%why, "the checkpoint cannot be read to its end");
                return Ok(());
            }
        }
    }
    if let Some((filling, version)) = current {
        filling.finish(version)?;
    }
    Ok(())
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
}

impl Cursors {
    fn open(store: &Store) -> Result<Self, StateError> {
        let table = store.table(CURSORS)?;
        let mut positions =
            Positions { by_name: BTreeMap::new(), changes: table.version()?.unwrap_or_default() };
        table.scan(|name, next| {
            if let (Ok(name), Ok(next)) = (std::str::from_utf8(name), next.try_into()) {
                positions.by_name.insert(name.to_owned(), Lsn::from_le_bytes(next));
            }
        })?;
        Ok(Self { table, positions: Arc::new(Mutex::new(positions)) })
    }

    /// The next LSN that `name` wants; `None` for one that never had a cursor.
    pub fn get(&self, name: &str) -> Option<Lsn> {
        lock(&self.positions).by_name.get(name).copied()
    }

    /// Moves the cursor; backwards too. On an error it moves in memory only: after a restart the sink
    /// gets again, under the same ids, what it already has.
    pub fn set(&self, name: &str, next: Lsn) -> Result<(), StateError> {
        let mut positions = lock(&self.positions);
        if positions.by_name.insert(name.to_owned(), next) == Some(next) {
            return Ok(());
        }
        positions.changes += 1;
        let change = (name.as_bytes().to_vec(), Some(next.to_le_bytes().to_vec()));
        self.table.apply(vec![change], positions.changes)
    }

    /// Forgets `name`, a sink that is no more.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let mut positions = lock(&self.positions);
        if positions.by_name.remove(name).is_none() {
            return Ok(());
        }
        positions.changes += 1;
        self.table.apply(vec![(name.as_bytes().to_vec(), None)], positions.changes)
    }

    /// The names that have a cursor.
    pub fn names(&self) -> Vec<String> {
        lock(&self.positions).by_name.keys().cloned().collect()
    }

    fn clear(&self) -> Result<(), StateError> {
        self.names().iter().try_for_each(|name| self.remove(name))
    }
}
