//! A simulated disk: in memory, deterministic from a seed, and as unkind as a disk may be.
//!
//! It keeps what programs see (the page cache) apart from what would survive a power cut. A power
//! cut keeps any subset of the unsynced changes: each sector of each write, each name. Where a later
//! sector of a file is there and an earlier one is not, old bytes of another file may lie between. A
//! failed fdatasync does the same to the file's changes and then calls them clean, as Linux does: they are
//! seen until the power goes, or until the kernel needs the memory.

mod disk;
mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{File, Storage};
use disk::{DIRECTORY, Disk, Rename};
use file::SimFile;

/// The disk. All clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Sim(Arc<Mutex<Disk>>);

/// What changes the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    CreateDir,
    SyncDir,
    Create,
    Rename,
    Unlink,
    Write,
    Sync,
    Truncate,
    Allocate,
}

/// Is told of each change before it happens.
pub(crate) type Watcher = Box<dyn FnMut(&Sim, Call) + Send>;

impl Sim {
    /// An empty disk.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk::new(seed))))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change is about to happen.
    fn change(&self, call: Call) -> MutexGuard<'_, Disk> {
        let mut disk = self.disk();
        if let Some(mut watcher) = disk.watcher.0.take() {
            drop(disk);
            watcher(self, call);
            disk = self.disk();
            disk.watcher.0 = Some(watcher);
        }
        disk.call = Some(call);
        disk
    }

    fn file(&self, disk: &Disk, inode: usize, lock: Option<PathBuf>) -> Arc<dyn File> {
        Arc::new(SimFile { sim: self.clone(), run: disk.run, inode, lock })
    }

    /// Calls `watcher` before each change.
    pub(crate) fn watch(&self, watcher: Watcher) {
        self.disk().watcher.0 = Some(watcher);
    }

    /// Another disk in the same state, on which chance goes another way, and nobody watches.
    pub(crate) fn fork(&self, seed: u64) -> Self {
        let mut disk = self.disk().clone();
        disk.rng.seed(seed);
        Self(Arc::new(Mutex::new(disk)))
    }

    /// The power goes and comes back.
    pub(crate) fn cut_power(&self) {
        self.kill();
        self.disk().cut_power();
    }

    /// The process dies; what it wrote stays in the page cache.
    pub(crate) fn kill(&self) {
        let mut disk = self.disk();
        disk.run += 1;
        disk.locked.clear();
        (disk.fuse, disk.failing) = (None, None);
        disk.forget();
    }

    /// The power goes within the change after `changes` more: everything fails until
    /// [`Sim::cut_power`] or [`Sim::kill`].
    pub(crate) fn fuse(&self, changes: u32) {
        self.disk().fuse = Some(changes);
    }

    /// The next `syncs` fdatasyncs fail.
    pub(crate) fn fail_syncs(&self, syncs: u32) {
        self.disk().failing_syncs = syncs;
    }

    /// The next `syncs` fsyncs of directories fail.
    pub(crate) fn fail_dir_syncs(&self, syncs: u32) {
        self.disk().failing_dir_syncs = syncs;
    }

    /// The next change of this kind fails; of a write, a part may be done.
    pub(crate) fn fail_once(&self, call: Call) {
        self.disk().failing = Some(call);
    }

    /// Whether it has not failed yet.
    pub(crate) fn is_to_fail(&self) -> bool {
        self.disk().failing.is_some()
    }

    /// The next `reads` reads fail.
    pub(crate) fn fail_reads(&self, reads: u32) {
        self.disk().failing_reads = reads;
    }

    /// The disk takes `bytes` more, then it is full.
    pub(crate) fn leave_room(&self, bytes: usize) {
        let mut disk = self.disk();
        disk.capacity = disk.used().saturating_add(bytes);
    }

    /// Bytes of the largest read and of the largest write since this was asked last.
    pub(crate) fn largest(&self) -> (usize, usize) {
        std::mem::take(&mut self.disk().largest)
    }

    /// All files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let disk = self.disk();
        let files = disk.names.iter().filter(|(_, inode)| **inode != DIRECTORY);
        files.map(|(path, _)| path.clone()).collect()
    }

    /// Bytes in the files under a directory.
    pub(crate) fn used_in(&self, dir: &Path) -> usize {
        let files = self.files().into_iter().filter(|path| path.starts_with(dir));
        files.map(|path| self.content(&path).len()).sum()
    }

    /// The content of a file.
    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        let disk = self.disk();
        disk.inode(path).map(|inode| disk.inodes[inode].cache.clone()).unwrap_or_default()
    }

    /// Replaces the content of a file, or creates it, durably.
    pub(crate) fn set_content(&self, path: &Path, content: &[u8]) {
        self.disk().set_content(path, content);
    }

    /// A file is gone, durably, and nobody was told.
    pub(crate) fn lose(&self, path: &Path) {
        self.disk().lose(path);
    }

    /// Flips a bit of a file, on disk and in the cache.
    pub(crate) fn flip(&self, path: &Path, byte: usize, bit: u8) {
        let disk = &mut *self.disk();
        let Ok(inode) = disk.inode(path) else { return };
        let inode = disk.inode_mut(inode);
        for content in [&mut inode.cache, &mut inode.disk] {
            if let Some(byte) = content.get_mut(byte) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Reads that touch these bytes of a file fail.
    pub(crate) fn make_unreadable(&self, path: &Path, bytes: std::ops::Range<u64>) {
        let disk = &mut *self.disk();
        if let Ok(inode) = disk.inode(path) {
            disk.inode_mut(inode).unreadable = Some(bytes);
        }
    }
}

impl Storage for Sim {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if self.disk().is_dir(dir).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut disk = self.change(Call::CreateDir);
        disk.burn()?;
        disk.make_name(dir, DIRECTORY)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        disk.is_dir(dir)?;
        let names =
            disk.names.range(dir.to_owned()..).take_while(|(path, _)| path.starts_with(dir));
        let files =
            names.filter(|(path, inode)| **inode != DIRECTORY && path.parent() == Some(dir));
        Ok(files.filter_map(|(path, _)| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.change(Call::SyncDir);
        disk.burn()?;
        disk.is_dir(dir)?;
        if disk.failing_dir_syncs > 0 {
            // What it was about may be durable or not, as before.
            disk.failing_dir_syncs -= 1;
            return Err(io::Error::from_raw_os_error(file::EIO));
        }
        disk.sync_dir(dir);
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.change(Call::Create);
        disk.burn()?;
        let inode = disk.inodes.len();
        disk.make_name(path, inode)?;
        disk.inodes.push(Arc::default());
        Ok(self.file(&disk, inode, None))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let disk = self.disk();
        Ok(self.file(&disk, disk.inode(path)?, None))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        let mut disk = self.disk();
        if disk.locked.iter().any(|locked| locked == path) {
            return Ok(None);
        }
        disk.locked.push(path.into());
        Ok(Some(self.file(&disk, usize::MAX, Some(path.into()))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.change(Call::Rename);
        disk.burn()?;
        let inode = disk.inode(from)?;
        disk.rename(Rename { inode, from: Some(from.into()), to: Some(to.into()) });
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.change(Call::Unlink);
        disk.burn()?;
        let inode = disk.inode(path)?;
        disk.rename(Rename { inode, from: Some(path.into()), to: None });
        disk.leave_junk(inode);
        Ok(())
    }
}
