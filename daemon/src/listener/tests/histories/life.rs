//! A disk that outlives the processes that use it.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use crate::log::Storage;
use crate::log::storage::File;
use crate::log::storage::sim::Sim;

/// The simulated disk, as one process sees it: once that has ended, it changes nothing more.
#[derive(Debug, Clone)]
pub(super) struct Life {
    sim: Sim,
    over: Arc<RwLock<bool>>,
}

impl Life {
    pub(super) fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), over: Arc::default() }
    }

    /// The process dies; with the power, if it says so.
    pub(super) fn end(&self, power: bool) {
        let mut over = self.over.write().unwrap_or_else(PoisonError::into_inner);
        *over = true;
        if power {
            self.sim.cut_power();
        } else {
            self.sim.kill();
        }
    }

    fn alive<T>(&self, act: impl FnOnce(&Sim) -> io::Result<T>) -> io::Result<T> {
        let over = self.over.read().unwrap_or_else(PoisonError::into_inner);
        if *over { Err(io::Error::other("the process has ended")) } else { act(&self.sim) }
    }
}

impl Storage for Life {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.alive(|sim| sim.create_dir(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.alive(|sim| sim.list(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.alive(|sim| sim.sync_dir(dir))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.alive(|sim| sim.create(path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.alive(|sim| sim.open(path))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        self.alive(|sim| sim.lock(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive(|sim| sim.rename(from, to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.alive(|sim| sim.unlink(path))
    }
}
