//! A simulated disk: in memory, deterministic from a seed, and as unkind as a disk may be.
//!
//! It keeps what programs see (the page cache) apart from what would survive a power cut. A power
//! cut keeps any subset of the unsynced changes: each sector of each write, each name. A failed
//! fdatasync does the same to the file's changes and then calls them clean, as Linux does.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{File, Storage};

const SECTOR: usize = 512;
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// The disk. All clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Sim(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    /// Counts crashes: files that were opened before the last one answer no more.
    run: u64,
    inodes: Vec<Inode>,
    /// The names that programs see.
    names: BTreeMap<PathBuf, usize>,
    /// The names that survive a power cut.
    durable: BTreeMap<PathBuf, usize>,
    unsynced: Vec<Rename>,
    locked: Vec<PathBuf>,
    capacity: usize,
    failing_syncs: u32,
    /// Changes until the power goes.
    fuse: Option<u32>,
}

#[derive(Debug, Default)]
struct Inode {
    cache: Vec<u8>,
    disk: Vec<u8>,
    unsynced: Vec<Change>,
    unreadable: Option<std::ops::Range<u64>>,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

/// A change of names: a creation has no `from`, an unlink no `to`.
#[derive(Debug, Clone)]
struct Rename {
    inode: usize,
    from: Option<PathBuf>,
    to: Option<PathBuf>,
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
    fn settle(&mut self, rng: &mut fastrand::Rng, probability: f64) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Truncate(len) if rng.f64() < probability => self.disk.truncate(len),
                Change::Truncate(_) => {}
                Change::Write(offset, bytes) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let sector_end = (offset + at) / SECTOR * SECTOR + SECTOR;
                        let end = bytes.len().min(sector_end - offset);
                        if rng.f64() < probability {
                            put(&mut self.disk, offset + at, &bytes[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    /// A change is about to happen.
    fn change(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(power_is_off()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn rename(&mut self, rename: Rename) {
        rename.apply(&mut self.names);
        self.unsynced.push(rename);
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> usize {
        self.names.values().map(|inode| self.inodes[*inode].cache.len()).sum()
    }
}

impl Sim {
    /// An empty disk.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: fastrand::Rng::with_seed(seed),
            run: 0,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            unsynced: Vec::new(),
            locked: Vec::new(),
            capacity: usize::MAX,
            failing_syncs: 0,
            fuse: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, state: &State, inode: usize, lock: Option<PathBuf>) -> Arc<dyn File> {
        Arc::new(SimFile { sim: self.clone(), run: state.run, inode, lock })
    }

    /// The power goes and comes back.
    pub(crate) fn cut_power(&self) {
        self.kill();
        let state = &mut *self.state();
        for rename in std::mem::take(&mut state.unsynced) {
            if state.rng.bool() {
                rename.apply(&mut state.durable);
            }
        }
        state.names = state.durable.clone();
        let probability = *[0.0, 0.5, 0.9, 1.0].get(state.rng.usize(..4)).unwrap_or(&0.0);
        for inode in &mut state.inodes {
            inode.settle(&mut state.rng, probability);
            inode.cache = inode.disk.clone();
        }
    }

    /// The process dies; what it wrote stays in the page cache.
    pub(crate) fn kill(&self) {
        let mut state = self.state();
        state.run += 1;
        state.locked.clear();
        state.fuse = None;
    }

    /// The power goes within the change after `changes` more: everything fails until
    /// [`Sim::cut_power`] or [`Sim::kill`].
    pub(crate) fn fuse(&self, changes: u32) {
        self.state().fuse = Some(changes);
    }

    /// The next `syncs` fdatasyncs fail.
    pub(crate) fn fail_syncs(&self, syncs: u32) {
        self.state().failing_syncs = syncs;
    }

    /// The disk takes `bytes` more, then it is full.
    pub(crate) fn leave_room(&self, bytes: usize) {
        let mut state = self.state();
        state.capacity = state.used().saturating_add(bytes);
    }

    /// The content of a file.
    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.inode(path).map(|inode| state.inodes[inode].cache.clone()).unwrap_or_default()
    }

    /// Replaces the content of a file, or creates it, durably.
    pub(crate) fn set_content(&self, path: &Path, content: &[u8]) {
        let state = &mut *self.state();
        let inode = state.names.get(path).copied().unwrap_or_else(|| {
            state.inodes.push(Inode::default());
            state.inodes.len() - 1
        });
        state.names.insert(path.into(), inode);
        state.durable.insert(path.into(), inode);
        state.inodes[inode] =
            Inode { cache: content.into(), disk: content.into(), ..Inode::default() };
    }

    /// Flips a bit of a file, on disk and in the cache.
    pub(crate) fn flip(&self, path: &Path, byte: usize, bit: u8) {
        let state = &mut *self.state();
        let Some(inode) = state.names.get(path) else { return };
        let inode = &mut state.inodes[*inode];
        for content in [&mut inode.cache, &mut inode.disk] {
            if let Some(byte) = content.get_mut(byte) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Reads that touch these bytes of a file fail.
    pub(crate) fn make_unreadable(&self, path: &Path, bytes: std::ops::Range<u64>) {
        let state = &mut *self.state();
        if let Some(inode) = state.names.get(path) {
            state.inodes[*inode].unreadable = Some(bytes);
        }
    }
}

impl Storage for Sim {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let names = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.change()?;
        let (synced, unsynced) = state.unsynced.drain(..).partition(|rename| rename.is_in(dir));
        state.unsynced = unsynced;
        let synced: Vec<Rename> = synced;
        synced.iter().for_each(|rename| rename.apply(&mut state.durable));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.change()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.rename(Rename { inode, from: None, to: Some(path.into()) });
        Ok(self.file(&state, inode, None))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let state = self.state();
        Ok(self.file(&state, state.inode(path)?, None))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        let mut state = self.state();
        if state.locked.iter().any(|locked| locked == path) {
            return Ok(None);
        }
        state.locked.push(path.into());
        Ok(Some(self.file(&state, usize::MAX, Some(path.into()))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let inode = state.inode(from)?;
        state.rename(Rename { inode, from: Some(from.into()), to: Some(to.into()) });
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let inode = state.inode(path)?;
        state.rename(Rename { inode, from: Some(path.into()), to: None });
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    sim: Sim,
    run: u64,
    inode: usize,
    lock: Option<PathBuf>,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.sim.state();
        if state.run == self.run { Ok(state) } else { Err(power_is_off()) }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.sim.state();
        if let Some(lock) = &self.lock
            && state.run == self.run
        {
            state.locked.retain(|locked| locked != lock);
        }
    }
}

impl File for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let state = &mut *self.state()?;
        let dark = state.change();
        let free = state.capacity.saturating_sub(state.used());
        let (inode, offset) = (&mut state.inodes[self.inode], offset as usize);
        let growth = (offset + bytes.len()).saturating_sub(inode.cache.len());
        // The part that still fits, or that was written when the power went, is in the file.
        let mut written = bytes.len() - growth.saturating_sub(free).min(bytes.len());
        if dark.is_err() {
            written = state.rng.usize(..=written);
        }
        if written > 0 {
            put(&mut inode.cache, offset, &bytes[..written]);
            inode.unsynced.push(Change::Write(offset, bytes[..written].to_vec()));
        }
        dark?;
        if written == bytes.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(ENOSPC)) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.state()?;
        state.change()?;
        let inode = &mut state.inodes[self.inode];
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            inode.settle(&mut state.rng, 0.5);
            return Err(io::Error::from_raw_os_error(EIO));
        }
        inode.settle(&mut state.rng, 2.0);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.state()?;
        let inode = &state.inodes[self.inode];
        let end = offset + buffer.len() as u64;
        if inode.unreadable.as_ref().is_some_and(|bad| offset < bad.end && end > bad.start) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let rest = inode.cache.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.inodes[self.inode].cache.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let state = &mut *self.state()?;
        state.change()?;
        let inode = &mut state.inodes[self.inode];
        inode.cache.truncate(len as usize);
        inode.unsynced.push(Change::Truncate(len as usize));
        Ok(())
    }
}
