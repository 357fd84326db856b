//! Where the trees lie: in sled, or in memory where sled is not to be had. Every call into sled goes
//! through [`Sled::call`], which turns its panics into errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{Change, StateError};
use crate::database::{Fault, catch};

/// The key of a tree's version. User keys begin with [`USER`], so that it stands apart and still is
/// part of the same batch.
const VERSION: &[u8] = &[0];
const USER: u8 = 1;
/// Batches after which sled is flushed. Until then it keeps about 1.3 KB of each that it does not
/// need any more.
const FLUSH_AFTER: u32 = 64;
/// Where nobody called [`Store::tidy`] in time, a batch waits for the flush itself.
const FLUSH_AT_ONCE: u32 = 1024;
/// Entries of one batch while a tree is filled anew.
const FILL: usize = 256;

/// The trees by name.
#[derive(Debug, Clone)]
pub(super) enum Store {
    Sled(Arc<Sled>),
    Memory(Arc<Mutex<BTreeMap<String, Table>>>),
}

/// One tree.
#[derive(Debug, Clone)]
pub(super) enum Table {
    Sled(Arc<Sled>, sled::Tree),
    Memory(Arc<Mutex<Entries>>),
}

/// A tree in memory.
#[derive(Debug, Default)]
pub(super) struct Entries {
    version: Option<u64>,
    by_key: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An open database, and what went wrong with it first.
#[derive(Debug)]
pub(super) struct Sled {
    db: sled::Db,
    dir: PathBuf,
    failed: OnceLock<String>,
    /// Batches since the last flush.
    unflushed: AtomicU32,
}

impl Store {
    pub(super) fn in_memory() -> Self {
        Self::Memory(Arc::default())
    }

    pub(super) fn names(&self) -> Result<Vec<String>, StateError> {
        match self {
            Self::Sled(sled) => sled.call(|db| {
                let default = sled::Db::open_tree(db, "__sled__default")?.name();
                let names = db.tree_names().into_iter().filter(|name| *name != default);
                Ok(names.filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect())
            }),
            Self::Memory(tables) => Ok(lock(tables).keys().cloned().collect()),
        }
    }

    /// The tree `name`, created if missing.
    pub(super) fn table(&self, name: &str) -> Result<Table, StateError> {
        match self {
            Self::Sled(sled) => Ok(Table::Sled(sled.clone(), sled.call(|db| db.open_tree(name))?)),
            Self::Memory(tables) => {
                let new = || Table::Memory(Arc::default());
                Ok(lock(tables).entry(name.to_owned()).or_insert_with(new).clone())
            }
        }
    }

    /// Whether [`Store::tidy`] has something to do.
    pub(super) fn is_untidy(&self) -> bool {
        match self {
            Self::Sled(sled) => sled.unflushed.load(Ordering::Relaxed) >= FLUSH_AFTER,
            Self::Memory(_) => false,
        }
    }

    /// Keeps sled's memory small; to be called now and then. Waits for the disk.
    pub(super) fn tidy(&self) -> Result<(), StateError> {
        match self {
            Self::Sled(sled) => sled.flush_after(FLUSH_AFTER),
            Self::Memory(_) => Ok(()),
        }
    }

    /// What went wrong first, if something did: from then on every call answers with it.
    pub(super) fn failure(&self) -> Option<&str> {
        match self {
            Self::Sled(sled) => sled.failed.get().map(String::as_str),
            Self::Memory(_) => None,
        }
    }
}

impl Table {
    /// The version written last; `None` for a tree that never had one.
    pub(super) fn version(&self) -> Result<Option<u64>, StateError> {
        match self {
            Self::Sled(sled, tree) => sled.call(|_| {
                let bytes = tree.get(VERSION)?;
                Ok(bytes
                    .and_then(|bytes| Some(u64::from_le_bytes(bytes.as_ref().try_into().ok()?))))
            }),
            Self::Memory(entries) => Ok(lock(entries).version),
        }
    }

    /// Hands every entry to `each`, in the order of the keys.
    pub(super) fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<(), StateError> {
        match self {
            Self::Sled(sled, tree) => sled.call(|_| {
                for entry in tree.range([USER]..) {
                    let (key, value) = entry?;
                    each(&key[1..], &value);
                }
                Ok(())
            }),
            Self::Memory(entries) => {
                lock(entries).by_key.iter().for_each(|(key, value)| each(key, value));
                Ok(())
            }
        }
    }

    /// Makes the changes and sets the version, in one atomic step.
    pub(super) fn apply(&self, changes: Vec<Change>, version: u64) -> Result<(), StateError> {
        match self {
            Self::Sled(sled, tree) => {
                let mut batch = sled::Batch::default();
                for (key, value) in changes {
                    match value {
                        Some(value) => batch.insert(user_key(&key), value),
                        None => batch.remove(user_key(&key)),
                    }
                }
                batch.insert(VERSION, &version.to_le_bytes());
                sled.apply(tree, batch)
            }
            Self::Memory(entries) => {
                let mut entries = lock(entries);
                for (key, value) in changes {
                    match value {
                        Some(value) => entries.by_key.insert(key, value),
                        None => entries.by_key.remove(&key),
                    };
                }
                entries.version = Some(version);
                Ok(())
            }
        }
    }

    /// Begins to fill the tree anew. Until [`Filling::finish`] it counts as one without a version, so
    /// that a crash in between leaves nothing that could pass for complete.
    pub(super) fn refill(&self) -> Result<Filling, StateError> {
        match self {
            Self::Sled(sled, tree) => sled.call(|_| {
                tree.remove(VERSION)?;
                tree.clear()
            })?,
            Self::Memory(entries) => *lock(entries) = Entries::default(),
        }
        Ok(Filling { table: self.clone(), changes: Vec::new() })
    }
}

/// A tree on its way to a new content.
pub(super) struct Filling {
    table: Table,
    changes: Vec<Change>,
}

impl Filling {
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StateError> {
        self.changes.push((key, Some(value)));
        if self.changes.len() < FILL {
            return Ok(());
        }
        let changes = std::mem::take(&mut self.changes);
        match &self.table {
            Table::Sled(sled, tree) => {
                let mut batch = sled::Batch::default();
                for (key, value) in &changes {
                    batch.insert(user_key(key), value.as_deref().unwrap_or_default());
                }
                sled.apply(tree, batch)
            }
            Table::Memory(entries) => {
                let entries = &mut lock(entries).by_key;
                entries.extend(changes.into_iter().map(|(k, v)| (k, v.unwrap_or_default())));
                Ok(())
            }
        }
    }

    pub(super) fn finish(self, version: u64) -> Result<(), StateError> {
        self.table.apply(self.changes, version)
    }
}

impl Sled {
    /// Opens or creates the database in `dir` and reads every entry once: what can be read now will
    /// not surprise anybody later.
    pub(super) fn open(dir: &Path) -> Result<Arc<Self>, Fault> {
        let open = || {
            let db = sled::Config::new()
                .path(dir)
                // Its bound is approximate; below 1 MiB it evicts what it is about to use.
                .cache_capacity(2 * 1024 * 1024)
                .mode(sled::Mode::LowSpace)
                // A batch reaches the page cache without it; this thread also collects garbage, and
                // it issues an fsync each time, whether anything changed or not.
                .flush_every_ms(Some(2000))
                .open()?;
            for name in db.tree_names() {
                for entry in &db.open_tree(name)? {
                    entry?;
                }
            }
            Ok(db)
        };
        let db = catch(open)?;
        Ok(Arc::new(Self {
            db,
            dir: dir.to_owned(),
            failed: OnceLock::new(),
            unflushed: AtomicU32::new(0),
        }))
    }

    fn apply(&self, tree: &sled::Tree, batch: sled::Batch) -> Result<(), StateError> {
        self.call(|_| tree.apply_batch(batch))?;
        self.unflushed.fetch_add(1, Ordering::Relaxed);
        self.flush_after(FLUSH_AT_ONCE)
    }

    fn flush_after(&self, batches: u32) -> Result<(), StateError> {
        if self.unflushed.load(Ordering::Relaxed) < batches {
            return Ok(());
        }
        self.unflushed.store(0, Ordering::Relaxed);
        self.call(|db| db.flush().map(drop))
    }

    /// Calls into sled. After the first error or panic it is not called again: what it would answer
    /// could be anything.
    fn call<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, StateError> {
        let failed =
            |why: &String| StateError::Database { dir: self.dir.clone(), why: why.clone() };
        if let Some(why) = self.failed.get() {
            return Err(failed(why));
        }
        catch(|| call(&self.db))
            .map_err(|fault| failed(self.failed.get_or_init(|| fault.to_string())))
    }
}

fn user_key(key: &[u8]) -> Vec<u8> {
    [&[USER], key].concat()
}

/// A panic elsewhere while the lock was held leaves whole entries only.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
