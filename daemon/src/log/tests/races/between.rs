//! The machine's file system, where somebody goes on while another one is about to use a file.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::super::super::storage::File;
use super::super::*;

/// What is about to be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Create,
    Open,
    Other,
}

type Then = Box<dyn FnMut(Call, &Path) -> io::Result<()> + Send>;

/// The storage. All clones are one.
#[derive(Clone, Default)]
pub(super) struct Between(Arc<Mutex<Option<Then>>>);

impl fmt::Debug for Between {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Between")
    }
}

impl Between {
    /// Calls this before each call, but not for what it does itself. An error is that of the call.
    pub(super) fn each(&self, then: impl FnMut(Call, &Path) -> io::Result<()> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(then));
    }

    fn before(&self, call: Call, path: &Path) -> io::Result<()> {
        let then = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut then) = then else { return Ok(()) };
        let outcome = then(call, path);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(then);
        outcome
    }
}

impl Storage for Between {
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
        self.before(Call::Create, path)?;
        FileSystem.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.before(Call::Open, path)?;
        FileSystem.open(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        FileSystem.lock(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before(Call::Other, to)?;
        FileSystem.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.before(Call::Other, path)?;
        FileSystem.unlink(path)
    }
}
