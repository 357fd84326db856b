//! The machine's file system, where segments lie in sled databases.
//!
//! The first 4 KiB of a segment, with its header, stand in a file of the segment's name, its *head*; the
//! rest are pieces in a sled database of the segment's own, `<number>.sled/`, which the head names
//! (`head.rs`). So names, renames and removals are those of the file system, as atomic as there; a segment
//! is given back by removing a directory, on a full disk too; and damage to a database costs one segment,
//! of which the heads around it still say what it held. All else in a log's directory (lock, ledger,
//! quarantine) are plain files. Segments that are plain files are read and written as such, so the engine
//! may be changed at any time.
//!
//! A database is opened by who first reads or writes behind the head, through the guard of
//! [`crate::database`], and closed with the last handle; the segment's length is noted in it then
//! (`<number>.sled/length`, removed durably before the next write), so that a log is opened without
//! opening each. Where the disk is full sled's file has the room already that it takes when it is opened, and
//! `<number>.sled/reserve` gives way to its snapshot. After an error sled answers nothing more, so it is closed
//! and opened again. One that does not open is set aside in `quarantine/`, where one is kept: the segment is as
//! one that was cut behind its head.
//!
//! A database is removed when the directory is synced in which its head was removed, or replaced: until
//! then a crash may bring that back. What a crash leaves without a head is removed by who takes the lock.

mod database;
mod head;
mod pieces;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tracing::warn;

use super::{File, FileSystem, Storage};
use crate::log::segment;
use database::Database;
use head::{HEAD, Head, database_of, directories, directory};

/// The storage. Clones share what is open.
#[derive(Debug, Clone)]
pub(crate) struct Databases {
    /// Whether new segments lie in databases; those that do are found in any case.
    creates: bool,
    /// Whether only to look: then nothing is set aside.
    only_looks: bool,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By their directories.
    open: HashMap<PathBuf, Weak<Database>>,
    /// Without a head, as soon as that is durable.
    unwanted: Vec<PathBuf>,
}

/// Whether segments of the log in `dir` lie in databases.
pub(crate) fn is_used(dir: &Path) -> bool {
    !directories(dir).is_empty()
}

/// Removes the databases in `dir` without a head there.
fn remove_orphans(dir: &Path) -> io::Result<()> {
    let found = directories(dir);
    if found.is_empty() {
        return Ok(());
    }
    let names = FileSystem.list(dir)?;
    let numbers = names.iter().filter_map(|name| database_of(&dir.join(name)));
    let wanted: HashSet<PathBuf> = numbers.map(|number| directory(dir, number)).collect();
    found.iter().filter(|found| !wanted.contains(*found)).try_for_each(|it| database::remove(it))
}

/// Whether a file of this name holds frames.
fn is_segment(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = [segment::UNFINISHED, segment::REWRITTEN];
    unfinished.contains(&&*name) || segment::parse_name(&name).is_some()
}

/// Where a file lies.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

impl Databases {
    /// For who writes the log; `creates` says whether new segments lie in databases.
    pub(crate) fn new(creates: bool) -> Self {
        Self { creates, only_looks: false, shared: Arc::default() }
    }

    /// For who only looks at the log while nobody has it open.
    pub(crate) fn to_look() -> Self {
        Self { creates: false, only_looks: true, shared: Arc::default() }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, path: &Path, head: Head, number: u64) -> Arc<dyn File> {
        let dir = directory(parent(path), number);
        let open = &mut self.shared().open;
        let database = open.get(&dir).and_then(Weak::upgrade).unwrap_or_else(|| {
            open.retain(|_, database| database.strong_count() > 0);
            let database = Arc::new(Database::new(dir.clone(), self.only_looks));
            open.insert(dir, Arc::downgrade(&database));
            database
        });
        Arc::new(Handle { head, is_dirty: AtomicBool::new(true), database })
    }

    /// The database in `dir` of who has it open.
    fn opened(&self, dir: &Path) -> Option<Arc<Database>> {
        self.shared().open.get(dir).and_then(Weak::upgrade)
    }

    /// The head of the database in `dir` is gone.
    fn lost_its_head(&self, dir: PathBuf) {
        if let Some(database) = self.opened(&dir) {
            database.goes();
        }
        self.shared().unwanted.push(dir);
    }

    /// The head at `from` goes to another directory, and its database with it; unless it is a copy of
    /// one that stays.
    fn moves(&self, number: u64, from: &Path, to: &Path) -> io::Result<()> {
        let others = FileSystem.list(parent(from))?.into_iter();
        let mut others = others.map(|name| parent(from).join(name)).filter(|other| other != from);
        let (from, to) = (directory(parent(from), number), directory(parent(to), number));
        if !from.is_dir() || others.any(|other| database_of(&other) == Some(number)) {
            return Ok(());
        }
        let Some(database) = self.opened(&from) else { return fs::rename(from, to) };
        database.moves(to.clone())?;
        let open = &mut self.shared().open;
        open.remove(&from);
        open.insert(to, Arc::downgrade(&database));
        Ok(())
    }
}

impl Storage for Databases {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        FileSystem.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        FileSystem.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        FileSystem.sync_dir(dir)?;
        let mut shared = self.shared();
        let unwanted = std::mem::take(&mut shared.unwanted);
        let (here, elsewhere) = unwanted.into_iter().partition(|path| parent(path) == dir);
        shared.unwanted = elsewhere;
        drop(shared);
        let here: Vec<PathBuf> = here;
        for database in here {
            if let Err(error) = database::remove(&database) {
                warn!(dir = %database.display(), %error, "cannot be removed before the next start");
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        if !self.creates || !is_segment(path) {
            return FileSystem.create(path);
        }
        let file = FileSystem::options().create_new(true).open(path)?;
        let number = fastrand::u64(..);
        Ok(self.handle(path, Head::begin(file, number)?, number))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        loop {
            match Head::of(FileSystem::options().open(path)?) {
                Ok((head, number)) => {
                    let handle = self.handle(path, head, number);
                    // Who removes or replaces a head looks for handles behind that. One that was too late for
                    // it would find the database gone, which looks like damage.
                    if database_of(path) == Some(number) {
                        return Ok(handle);
                    }
                }
                Err(plain) => return Ok(Arc::new(plain)),
            }
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        let lock = FileSystem.lock(path)?;
        if lock.is_some()
            && let Err(error) = remove_orphans(parent(path))
        {
            warn!(dir = %parent(path).display(), %error, "old databases cannot be removed");
        }
        Ok(lock)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let replaced = database_of(to);
        if let Some(number) = database_of(from).filter(|_| parent(from) != parent(to)) {
            self.moves(number, from, to)?;
        }
        FileSystem.rename(from, to)?;
        if let Some(number) = replaced {
            self.lost_its_head(directory(parent(to), number));
        }
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let number = database_of(path);
        FileSystem.unlink(path)?;
        if let Some(number) = number {
            self.lost_its_head(directory(parent(path), number));
        }
        Ok(())
    }

    /// A database writes nothing over.
    fn is_worth_reuse(&self, path: &Path) -> bool {
        !self.creates && database_of(path).is_none()
    }
}

/// An open segment.
#[derive(Debug)]
struct Handle {
    head: Head,
    /// Whether the head was written since it was synced.
    is_dirty: AtomicBool,
    database: Arc<Database>,
}

impl File for Handle {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let in_head = HEAD.saturating_sub(offset).min(bytes.len() as u64);
        let (head, rest) = bytes.split_at(in_head as usize);
        if !head.is_empty() {
            self.is_dirty.store(true, Ordering::Release);
            self.head.write_at(head, offset)?;
        }
        if rest.is_empty() { Ok(()) } else { self.database.write(rest, offset + in_head) }
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
        let in_head = HEAD.saturating_sub(offset).min(buffer.len() as u64);
        let (head, rest) = buffer.split_at_mut(in_head as usize);
        let read = if head.is_empty() { 0 } else { self.head.read_at(head, offset)? };
        let behind = match rest.is_empty() {
            true => 0,
            false => self.database.read(rest, offset + in_head)?,
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
            0 => self.head.len(),
            len => Ok(len),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if len > HEAD {
            return self.database.truncate(len);
        }
        self.database.clear()?;
        self.is_dirty.store(true, Ordering::Release);
        self.head.truncate(len)
    }
}

#[cfg(test)]
mod tests;
