//! A disk that can be told to hang, or to fail.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use crate::log::storage::File;
use crate::log::{FileSystem, Storage};

/// The machine's file system, with an fdatasync that does as it is told.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<(Mutex<Sync>, Condvar)>);

/// What an fdatasync does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sync {
    #[default]
    Works,
    Hangs,
    Fails,
}

/// A disk that hangs no longer than the test, even if that fails.
pub(super) struct Hung(pub(super) Disk);

impl std::ops::Deref for Hung {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.0
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.0.set(Sync::Works);
    }
}

impl Disk {
    /// From now on, and for those that hang.
    pub(super) fn set(&self, sync: Sync) {
        *self.0.0.lock().unwrap() = sync;
        self.0.1.notify_all();
    }

    fn sync(&self) -> io::Result<()> {
        let held = self.0.0.lock().unwrap();
        let state = self.0.1.wait_while(held, |state| *state == Sync::Hangs).unwrap();
        if *state == Sync::Fails { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
    }

    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(Watched { file, disk: self.clone() })
    }
}

impl Storage for Disk {
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
        FileSystem.create(path).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        FileSystem.open(path).map(|file| self.file(file))
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

#[derive(Debug)]
struct Watched {
    file: Arc<dyn File>,
    disk: Disk,
}

impl File for Watched {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync()?;
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
