//! The real file system, whose writes can be made to fail or to wait.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use crate::log::storage::File;
use crate::log::{FileSystem, Storage};

#[derive(Debug, Default)]
pub(super) struct FailingDisk(Arc<Faults>);

#[derive(Debug, Default)]
struct Faults {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    fails: bool,
    held: bool,
}

#[derive(Debug)]
struct FailingFile {
    file: Arc<dyn File>,
    faults: Arc<Faults>,
}

impl Faults {
    /// Waits while the disk is held; then says whether it fails.
    fn check(&self) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        let state = self.released.wait_while(state, |state| state.held).unwrap();
        if state.fails { Err(io::Error::other("the disk fails")) } else { Ok(()) }
    }
}

impl FailingDisk {
    /// From now on writes fail, or no longer.
    pub(super) fn fail(&self, fails: bool) {
        self.0.state.lock().unwrap().fails = fails;
    }

    /// From now on writes wait, or no longer.
    pub(super) fn hold(&self, held: bool) {
        self.0.state.lock().unwrap().held = held;
        self.0.released.notify_all();
    }

    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(FailingFile { file, faults: self.0.clone() })
    }
}

impl Storage for FailingDisk {
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
        self.0.check()?;
        FileSystem.create(path).map(|file| self.wrap(file))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        FileSystem.open(path).map(|file| self.wrap(file))
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        FileSystem.lock(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        FileSystem.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        FileSystem.unlink(path)
    }
}

impl File for FailingFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.faults.check()?;
        self.file.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.faults.check()?;
        self.file.sync_data()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
}
