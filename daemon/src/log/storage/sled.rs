//! The machine's file system, where segments lie in sled databases.
//!
//! The first 4 KiB of a segment, with its header, are a file of the segment's name, its *head*; the rest
//! are pieces in a sled database of the segment's own beside it, `<name>.sled/`. So names, renames and
//! removals are those of the file system; a segment is given back by removing a directory, on a full disk
//! too; and damage to a database costs one segment, of which the heads around it still say what it held.
//! Everything else that lies in a log's directory (lock, ledger, quarantine) are plain files.
//!
//! A database is opened by who first reads or writes behind the head, through the guard of
//! [`crate::database`], and closed with the last handle; a segment's length is noted in it then
//! (`<name>.sled/length`, removed durably before the next write), so that a log is opened without
//! opening each. After an error sled answers nothing more, so then it is closed and opened again. One
//! that does not open is set aside in `quarantine/`, where one is kept: the segment is as one that was
//! cut behind its head.
//!
//! Segments that are plain files are read and written as such, so the engine may be changed at any time.

mod database;
mod pieces;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tracing::warn;

use super::{File, FileSystem, Storage, fill};
use crate::log::segment;
use database::Database;

/// How the name of a database ends.
const SUFFIX: &str = ".sled";
/// Bytes of the head.
const HEAD: u64 = 4096;

/// The storage. Clones share what is open.
#[derive(Debug, Clone)]
pub(crate) struct Databases {
    /// Whether new segments lie in databases; those that do are found in any case.
    creates: bool,
    /// Whether only to look: then nothing is set aside.
    only_looks: bool,
    open: Arc<Mutex<HashMap<PathBuf, Weak<Database>>>>,
}

/// The directory of a file's database.
fn beside(head: &Path) -> PathBuf {
    let mut name = OsString::from(head);
    name.push(SUFFIX);
    name.into()
}

/// The databases in `dir`.
pub(crate) fn databases(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|it| it == "sled") && path.is_dir()).collect()
}

impl Databases {
    /// For who writes the log; `creates` says whether new segments lie in databases.
    pub(crate) fn new(creates: bool) -> Self {
        Self { creates, only_looks: false, open: Arc::default() }
    }

    /// For who only looks at the log while nobody has it open.
    pub(crate) fn to_look() -> Self {
        Self { creates: false, only_looks: true, open: Arc::default() }
    }

    /// The handle of a file whose head was opened.
    fn handle(&self, path: &Path, head: fs::File) -> Arc<dyn File> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let database = open.get(path).and_then(Weak::upgrade).unwrap_or_else(|| {
            open.retain(|_, database| database.strong_count() > 0);
            let database = Arc::new(Database::new(path, self.only_looks));
            open.insert(path.into(), Arc::downgrade(&database));
            database
        });
        Arc::new(Handle { head, is_dirty: AtomicBool::new(false), database })
    }

    /// The database of a file that somebody has open.
    fn of(&self, path: &Path) -> Option<Arc<Database>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(path).and_then(Weak::upgrade)
    }
}

/// Whether a file of this name holds frames.
fn is_segment(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == segment::UNFINISHED || segment::parse_name(&name).is_some()
}

impl Storage for Databases {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        FileSystem.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        FileSystem.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        FileSystem.sync_dir(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        if !self.creates || !is_segment(path) {
            return FileSystem.create(path);
        }
        let head = FileSystem::options().create_new(true).open(path)?;
        // What an earlier file of this name left.
        if let Some(database) = self.of(path) {
            database.goes();
        }
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        database::remove(&beside(path))?;
        Ok(self.handle(path, head))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let head = FileSystem::options().open(path)?;
        // One that is plain goes on as such; but for one that fits into a head, which is both.
        let may_grow =
            || self.creates && is_segment(path) && File::len(&head).is_ok_and(|it| it <= HEAD);
        if beside(path).is_dir() || may_grow() {
            Ok(self.handle(path, head))
        } else {
            Ok(Arc::new(head))
        }
    }

    /// Who has the lock removes what a crash left of databases whose heads are gone.
    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        let lock = FileSystem.lock(path)?;
        let dir = path.parent().unwrap_or(path);
        if lock.is_some() && !self.only_looks {
            for database in databases(dir) {
                if !database.with_extension("").exists()
                    && let Err(error) = database::remove(&database)
                {
                    warn!(dir = %database.display(), %error, "cannot be removed");
                }
            }
        }
        Ok(lock)
    }

    /// The database goes first: without its head it is nobody's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = || {
            if beside(from).is_dir() {
                database::remove(&beside(to))?;
                fs::rename(beside(from), beside(to))?;
            }
            FileSystem.rename(from, to)
        };
        let Some(database) = self.of(from) else { return rename() };
        database.moves(to, rename)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(from);
        open.insert(to.into(), Arc::downgrade(&database));
        Ok(())
    }

    /// The head goes first, durably: with it alone left the log would miss the rest.
    fn unlink(&self, path: &Path) -> io::Result<()> {
        let directory = beside(path);
        if !directory.is_dir() {
            return FileSystem.unlink(path);
        }
        if let Some(database) = self.of(path) {
            database.goes();
        }
        FileSystem.unlink(path)?;
        FileSystem.sync_dir(path.parent().unwrap_or(path))?;
        database::remove(&directory)
    }

    /// A database writes nothing over.
    fn is_worth_reuse(&self, path: &Path) -> bool {
        !self.creates && !beside(path).is_dir()
    }
}

/// An open file.
#[derive(Debug)]
struct Handle {
    head: fs::File,
    /// Whether the head was written since it was synced.
    is_dirty: AtomicBool,
    database: Arc<Database>,
}

impl File for Handle {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (head, rest) =
            bytes.split_at(HEAD.saturating_sub(offset).min(bytes.len() as u64) as usize);
        if !head.is_empty() {
            self.is_dirty.store(true, Ordering::Release);
            self.head.write_all_at(head, offset)?;
        }
        if rest.is_empty() { Ok(()) } else { self.database.write(rest, offset + head.len() as u64) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.database.sync()?;
        if self.is_dirty.load(Ordering::Acquire) {
            self.head.sync_data()?;
            self.is_dirty.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = buffer.len() as u64;
        let (head, rest) = buffer.split_at_mut(HEAD.saturating_sub(offset).min(len) as usize);
        let read = fill(head, offset, |part, offset| FileExt::read_at(&self.head, part, offset))?;
        let behind = match rest.is_empty() {
            true => 0,
            false => self.database.read(rest, offset + head.len() as u64)?,
        };
        if behind == 0 && (read == head.len() || self.database.len()? == 0) {
            return Ok(read);
        }
        // A head that is shorter than that has a hole behind it.
        head[read..].fill(0);
        Ok(head.len() + behind)
    }

    fn len(&self) -> io::Result<u64> {
        match self.database.len()? {
            0 => File::len(&self.head),
            len => Ok(len),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if len > HEAD {
            return self.database.truncate(len);
        }
        self.database.clear()?;
        self.is_dirty.store(true, Ordering::Release);
        self.head.set_len(len)
    }
}

#[cfg(test)]
mod tests;
