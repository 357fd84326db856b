//! What the log cannot use is set aside: `quarantine/` in the log's directory.
//!
//! Each file there has a number in front of its name, which counts up, and takes no more bytes than
//! `max_quarantine` together with the others, each counted in blocks of 4 KiB: beyond that the oldest
//! are removed, and counted. What is larger than that alone is not moved, but passed over where it
//! lies; of damaged bytes no copy is made then.

#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::scan::Extent;
use super::storage::{File, Storage};

/// Its name in the log's directory.
pub(super) const DIR: &str = "quarantine";
/// What a file of that name is called until it lies there.
const NO_DIR: &str = "quarantine.file";
/// The least that a file takes.
const BLOCK: u64 = 4096;
/// Damaged places that are remembered, so that each is reported once.
const REMEMBERED: usize = 4096;

/// Where things are set aside. Best effort: a disk that is full must not keep the log from starting.
#[derive(Debug)]
pub(super) struct Quarantine {
    storage: Arc<dyn Storage>,
    log_dir: PathBuf,
    dir: PathBuf,
    max_bytes: u64,
    kept: Mutex<Kept>,
    /// In its files.
    bytes: AtomicU64,
    /// Files that made room for others.
    dropped: AtomicU64,
}

/// What lies there.
#[derive(Debug, Default)]
struct Kept {
    is_listed: bool,
    files: VecDeque<Entry>,
    /// Names without their numbers, also of those that are not there any more.
    names: HashSet<String>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    number: u64,
    name: String,
    /// Whole blocks.
    bytes: u64,
}

/// The number in front of a file's name, and the rest. Without one it is older than all others.
fn parse(name: &str) -> (u64, &str) {
    let numbered = name.split_once('-').filter(|(number, _)| number.len() == 8);
    numbered.and_then(|(number, rest)| Some((number.parse().ok()?, rest))).unwrap_or((0, name))
}

fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).max(1).saturating_mul(BLOCK)
}

impl Quarantine {
    pub(super) fn new(storage: Arc<dyn Storage>, log_dir: &Path, max_bytes: u64) -> Self {
        Self {
            storage,
            log_dir: log_dir.into(),
            dir: log_dir.join(DIR),
            max_bytes,
            kept: Mutex::default(),
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Files that made room for others, since the log was opened.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Counts what is there, and keeps to the bound.
    pub(super) fn look(&self) {
        let mut kept = self.lock();
        if let Err(error) = self.list(&mut kept).and_then(|()| self.make_room(&mut kept, 0)) {
            warn!(dir = %self.dir.display(), %error, "the quarantine cannot be kept in bounds");
        }
    }

    /// Moves the file `name` out of the log's directory. Where that fails the file stays, and is
    /// passed over.
    pub(super) fn set_aside(&self, name: &str, why: &str) -> Option<PathBuf> {
        let path = self.log_dir.join(name);
        if name == DIR {
            // A file of that name lies there already, or will.
            self.look();
            return None;
        }
        match self.rename(&path, name) {
            Ok(to) => {
                warn!(path = %path.display(), to = %to.display(), "set aside: {why}");
                Some(to)
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot be set aside, passed over: {why}");
                None
            }
        }
    }

    /// Keeps a copy of damaged bytes of a segment file. The same place is kept once: answers whether it is
    /// new.
    pub(super) fn keep(&self, segment: &Path, damaged: &Extent) -> bool {
        let name = segment.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{name}.at-{}", damaged.offset);
        self.keep_as(&name, segment, damaged.len, |copy| {
            damaged.pieces(|piece, at| copy.write_at(piece, at))
        })
    }

    /// Keeps a copy of a file that is damaged in places, and goes on being used.
    pub(super) fn keep_copy(&self, file: &Path, bytes: &[u8]) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{name}.{:08x}", crc32c::crc32c(bytes));
        self.keep_as(&name, file, bytes.len() as u64, |copy| copy.write_at(bytes, 0));
    }

    /// A copy of so many bytes of a file, which `write` puts in its own.
    fn keep_as(
        &self,
        name: &str,
        of: &Path,
        bytes: u64,
        write: impl FnOnce(&dyn File) -> io::Result<()>,
    ) -> bool {
        let mut kept = self.lock();
        // What cannot be listed is known by what was kept since the start.
        let listed = self.list(&mut kept);
        if kept.names.contains(name) {
            return false;
        }
        if kept.names.len() >= REMEMBERED {
            kept.names = kept.files.iter().map(|entry| parse(&entry.name).1.to_owned()).collect();
        }
        kept.names.insert(name.to_owned());
        match listed.and_then(|()| self.copy(&mut kept, name, bytes, write)) {
            Ok(copy) => {
                warn!(path = %of.display(), bytes, copy = %copy.display(), "damaged bytes");
            }
            Err(error) => warn!(
                path = %of.display(), bytes, %error,
                "damaged bytes, and no copy of them could be kept"
            ),
        }
        true
    }

    fn rename(&self, from: &Path, name: &str) -> io::Result<PathBuf> {
        let mut kept = self.lock();
        self.list(&mut kept)?;
        let bytes = match self.storage.open(from).and_then(|file| file.len()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            // A directory, or what we may not open, takes a block, as it does when it is listed.
            bytes => blocks(bytes.unwrap_or_default()),
        };
        self.storage.create_dir_all(&self.dir)?;
        self.make_room(&mut kept, bytes)?;
        let entry = kept.next(name, bytes);
        let to = self.dir.join(&entry.name);
        self.storage.rename(from, &to)?;
        self.add(&mut kept, entry);
        self.storage.sync_dir(&self.dir)?;
        self.storage.sync_dir(&self.log_dir)?;
        Ok(to)
    }

    fn copy(
        &self,
        kept: &mut Kept,
        name: &str,
        bytes: u64,
        write: impl FnOnce(&dyn File) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let room = blocks(bytes);
        self.storage.create_dir_all(&self.dir)?;
        self.make_room(kept, room)?;
        let entry = kept.next(name, room);
        let path = self.dir.join(&entry.name);
        let file = self.storage.create(&path)?;
        self.add(kept, entry);
        write(&*file)?;
        file.sync_data()?;
        self.storage.sync_dir(&self.dir)?;
        Ok(path)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks what is there, once.
    fn list(&self, kept: &mut Kept) -> io::Result<()> {
        if kept.is_listed {
            return Ok(());
        }
        let names = match self.storage.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                self.take_the_name()?;
                self.storage.list(&self.dir)?
            }
            other => other?,
        };
        let mut files = Vec::new();
        for name in names {
            // One that cannot be looked at still takes a block.
            let file = self.storage.open(&self.dir.join(&name));
            let bytes = blocks(file.and_then(|file| file.len()).unwrap_or_default());
            kept.names.insert(parse(&name).1.to_owned());
            files.push(Entry { number: parse(&name).0, name, bytes });
        }
        files.sort();
        self.bytes.store(files.iter().map(|entry| entry.bytes).sum(), Ordering::Relaxed);
        (kept.files, kept.is_listed) = (files.into(), true);
        Ok(())
    }

    /// A file has the name of the directory: it is the first that lies there.
    fn take_the_name(&self) -> io::Result<()> {
        let aside = self.log_dir.join(NO_DIR);
        self.storage.rename(&self.dir, &aside)?;
        self.storage.create_dir_all(&self.dir)?;
        let to = self.dir.join(DIR);
        self.storage.rename(&aside, &to)?;
        warn!(path = %self.dir.display(), to = %to.display(), "set aside: it is no directory");
        Ok(())
    }

    /// Removes the oldest files until there is room for one of so many bytes.
    fn make_room(&self, kept: &mut Kept, bytes: u64) -> io::Result<()> {
        if bytes > self.max_bytes {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("it takes {bytes} bytes, log.max-quarantine is {}", self.max_bytes),
            ));
        }
        while self.bytes() + bytes > self.max_bytes {
            let Some(oldest) = kept.files.front() else { return Ok(()) };
            let path = self.dir.join(&oldest.name);
            match self.storage.unlink(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            warn!(path = %path.display(), "the quarantine is full: removed");
            self.bytes.fetch_sub(oldest.bytes, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            kept.files.pop_front();
        }
        Ok(())
    }

    fn add(&self, kept: &mut Kept, entry: Entry) {
        self.bytes.fetch_add(entry.bytes, Ordering::Relaxed);
        kept.files.push_back(entry);
    }
}

impl Kept {
    fn next(&self, name: &str, bytes: u64) -> Entry {
        let number = self.files.back().map_or(1, |newest| newest.number + 1);
        Entry { number, name: format!("{number:08}-{name}"), bytes }
    }
}
