//! The simulated disk's state, and what a power cut makes of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::EIO;
use super::{Call, Watcher};

const SECTOR: usize = 512;
/// The inode of all directories.
pub(super) const DIRECTORY: usize = usize::MAX;

#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) rng: fastrand::Rng,
    /// Counts crashes: files that were opened before the last one answer no more.
    pub(super) run: u64,
    pub(super) inodes: Vec<Arc<Inode>>,
    /// The names that programs see.
    pub(super) names: BTreeMap<PathBuf, usize>,
    /// The names that survive a power cut.
    durable: BTreeMap<PathBuf, usize>,
    unsynced: Vec<Rename>,
    pub(super) locked: Vec<PathBuf>,
    pub(super) capacity: usize,
    pub(super) failing_syncs: u32,
    pub(super) failing_dir_syncs: u32,
    pub(super) failing_reads: u32,
    /// The change that is being made,
    pub(super) call: Option<Call>,
    /// and the next one that fails.
    pub(super) failing: Option<Call>,
    /// Changes until the power goes.
    pub(super) fuse: Option<u32>,
    /// Bytes of the largest read, and of the largest write.
    pub(super) largest: (usize, usize),
    /// What a removed file left on the disk.
    junk: Arc<Vec<u8>>,
    pub(super) watcher: Watch,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) cache: Vec<u8>,
    pub(super) disk: Vec<u8>,
    pub(super) unsynced: Vec<Change>,
    /// After a failed fdatasync: what counts as clean is not all on the disk.
    pub(super) lost: bool,
    pub(super) unreadable: Option<Range<u64>>,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
    /// Zeros up to this length.
    Allocate(usize),
}

/// A change of names: a creation has no `from`, an unlink no `to`.
#[derive(Debug, Clone)]
pub(super) struct Rename {
    pub(super) inode: usize,
    pub(super) from: Option<PathBuf>,
    pub(super) to: Option<PathBuf>,
}

/// Who is told of changes; a copy of the disk has nobody.
#[derive(Default)]
pub(super) struct Watch(pub(super) Option<Watcher>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.0.is_some()).finish()
    }
}

impl Clone for Watch {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl Rename {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        if let Some(from) = &self.from {
            names.remove(from);
        }
        if let Some(to) = &self.to {
            names.insert(to.clone(), self.inode);
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        [&self.from, &self.to].into_iter().flatten().any(|path| path.parent() == Some(dir))
    }
}

impl Inode {
    /// Each sector of each unsynced change reaches the disk with this probability.
    pub(super) fn settle(&mut self, rng: &mut fastrand::Rng, probability: f64, junk: &[u8]) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Truncate(len) if rng.f64() < probability => self.disk.truncate(len),
                Change::Allocate(len) if rng.f64() < probability => {
                    self.disk.resize(self.disk.len().max(len), 0);
                }
                Change::Truncate(_) | Change::Allocate(_) => {}
                Change::Write(offset, bytes) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let sector_end = (offset + at) / SECTOR * SECTOR + SECTOR;
                        let end = bytes.len().min(sector_end - offset);
                        if rng.f64() < probability {
                            put(&mut self.disk, offset + at, &bytes[at..end], junk);
                        }
                        at = end;
                    }
                }
            }
        }
    }

    /// The fdatasync failed: some of it reached the disk, and all of it counts as clean from now on.
    pub(super) fn fail(&mut self, rng: &mut fastrand::Rng) {
        self.settle(rng, 0.5, &[]);
        self.lost = self.cache != self.disk;
    }

    /// The power went: what is on the disk is all there is.
    fn restart(&mut self, rng: &mut fastrand::Rng, probability: f64, junk: &[u8]) {
        self.settle(rng, probability, junk);
        self.cache.clone_from(&self.disk);
        self.lost = false;
    }

    /// The kernel needs the memory of what counts as clean.
    fn forget(&mut self) {
        let len = self.cache.len();
        self.cache.clone_from(&self.disk);
        for change in &self.unsynced {
            match change {
                Change::Truncate(len) => self.cache.truncate(*len),
                Change::Write(offset, bytes) => put(&mut self.cache, *offset, bytes, &[]),
                // Its length is set below.
                Change::Allocate(_) => {}
            }
        }
        self.cache.resize(len, 0);
        self.lost = false;
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.cache, offset, bytes, &[]);
        self.unsynced.push(Change::Write(offset, bytes.to_vec()));
    }
}

/// Writes into a file; a hole that this leaves is filled with what there is of `junk` for it, then zeros.
fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8], junk: &[u8]) {
    if file.len() < offset {
        let old = junk.get(file.len()..offset.min(junk.len())).unwrap_or_default();
        file.extend_from_slice(old);
        file.resize(offset, 0);
    }
    let overlap = bytes.len().min(file.len() - offset);
    file[offset..offset + overlap].copy_from_slice(&bytes[..overlap]);
    file.extend_from_slice(&bytes[overlap..]);
}

pub(super) fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl Disk {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            run: 0,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            unsynced: Vec::new(),
            locked: Vec::new(),
            capacity: usize::MAX,
            failing_syncs: 0,
            failing_dir_syncs: 0,
            failing_reads: 0,
            call: None,
            failing: None,
            fuse: None,
            largest: (0, 0),
            junk: Arc::default(),
            watcher: Watch::default(),
        }
    }

    /// A change happens, while there is power.
    pub(super) fn burn(&mut self) -> io::Result<()> {
        if self.failing.is_some() && self.failing == self.call {
            self.failing = None;
            return Err(io::Error::from_raw_os_error(EIO));
        }
        match &mut self.fuse {
            Some(0) => Err(power_is_off()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn cut_power(&mut self) {
        for rename in std::mem::take(&mut self.unsynced) {
            if self.rng.bool() {
                rename.apply(&mut self.durable);
            }
        }
        let mut names = self.durable.clone();
        // What lies in a directory that is not there is not there.
        names.retain(|path, _| {
            let above = path.ancestors().skip(1).filter(|dir| dir.parent().is_some());
            above.into_iter().all(|dir| self.durable.get(dir) == Some(&DIRECTORY))
        });
        self.durable.clone_from(&names);
        self.names = names;
        let probability = *[0.0, 0.5, 0.9, 1.0].get(self.rng.usize(..4)).unwrap_or(&0.0);
        let junk = if self.rng.bool() { Arc::clone(&self.junk) } else { Arc::default() };
        for inode in &mut self.inodes {
            if !inode.unsynced.is_empty() || inode.lost {
                Arc::make_mut(inode).restart(&mut self.rng, probability, &junk);
            }
        }
    }

    /// Perhaps the kernel needs memory, while nobody has the files open.
    pub(super) fn forget(&mut self) {
        for inode in self.inodes.iter_mut().filter(|inode| inode.lost) {
            if self.rng.bool() {
                Arc::make_mut(inode).forget();
            }
        }
    }

    pub(super) fn is_dir(&self, dir: &Path) -> io::Result<()> {
        match self.names.get(dir) {
            Some(&DIRECTORY) => Ok(()),
            _ if dir.parent().is_none() => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Creates a name, which must not exist, in a directory that does.
    pub(super) fn make_name(&mut self, path: &Path, inode: usize) -> io::Result<()> {
        self.is_dir(path.parent().unwrap_or(path))?;
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(Rename { inode, from: None, to: Some(path.into()) });
        Ok(())
    }

    pub(super) fn rename(&mut self, rename: Rename) {
        rename.apply(&mut self.names);
        self.unsynced.push(rename);
    }

    /// The name is gone, and does not come back.
    pub(super) fn lose(&mut self, path: &Path) {
        self.names.remove(path);
        self.durable.remove(path);
        for rename in self.unsynced.iter_mut().filter(|it| it.to.as_deref() == Some(path)) {
            rename.to = None;
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let (synced, unsynced) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|rename| rename.is_in(dir));
        self.unsynced = unsynced;
        let synced: Vec<Rename> = synced;
        synced.iter().for_each(|rename| rename.apply(&mut self.durable));
    }

    /// A removed file's content may show up in another one.
    pub(super) fn leave_junk(&mut self, inode: usize) {
        if let Some(inode) = self.inodes.get(inode) {
            self.junk = Arc::new(inode.disk.clone());
        }
    }

    pub(super) fn inode(&self, path: &Path) -> io::Result<usize> {
        let inode = self.names.get(path).copied().filter(|inode| *inode != DIRECTORY);
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn inode_mut(&mut self, inode: usize) -> &mut Inode {
        Arc::make_mut(&mut self.inodes[inode])
    }

    pub(super) fn used(&self) -> usize {
        let files = self.names.values().filter(|inode| **inode != DIRECTORY);
        files.map(|inode| self.inodes[*inode].cache.len()).sum()
    }

    pub(super) fn set_content(&mut self, path: &Path, content: &[u8]) {
        for dir in path.ancestors().skip(1).filter(|dir| dir.parent().is_some()) {
            self.names.insert(dir.into(), DIRECTORY);
            self.durable.insert(dir.into(), DIRECTORY);
        }
        let inode = self.inode(path).unwrap_or_else(|_| {
            self.inodes.push(Arc::default());
            self.inodes.len() - 1
        });
        self.names.insert(path.into(), inode);
        self.durable.insert(path.into(), inode);
        let content = Inode { cache: content.into(), disk: content.into(), ..Inode::default() };
        self.inodes[inode] = Arc::new(content);
    }
}
