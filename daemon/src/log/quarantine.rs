//! What the log cannot use is set aside, never deleted: `quarantine/` in the log's directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::storage::Storage;

/// Its name in the log's directory.
pub(super) const DIR: &str = "quarantine";

/// Where things are set aside. Best effort: a disk that is full must not keep the log from starting.
#[derive(Debug)]
pub(super) struct Quarantine {
    storage: Arc<dyn Storage>,
    log_dir: PathBuf,
    dir: PathBuf,
}

impl Quarantine {
    pub(super) fn new(storage: Arc<dyn Storage>, log_dir: &Path) -> Self {
        Self { storage, log_dir: log_dir.into(), dir: log_dir.join(DIR) }
    }

    /// Moves the file `name` out of the log's directory. Where that fails the file stays, and is
    /// passed over.
    pub(super) fn set_aside(&self, name: &str, why: &str) -> Option<PathBuf> {
        let path = self.log_dir.join(name);
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

    fn rename(&self, from: &Path, name: &str) -> io::Result<PathBuf> {
        self.storage.create_dir(&self.dir)?;
        let taken = self.storage.list(&self.dir)?;
        let mut to = name.to_owned();
        let mut number = 0;
        while taken.contains(&to) {
            number += 1;
            to = format!("{name}.{number}");
        }
        let to = self.dir.join(to);
        self.storage.rename(from, &to)?;
        self.storage.sync_dir(&self.dir)?;
        self.storage.sync_dir(&self.log_dir)?;
        Ok(to)
    }

    /// Keeps a copy of the damaged bytes at `offset` of a segment file. The same place is kept once:
    /// answers whether it is new.
    pub(super) fn keep(&self, segment: &Path, offset: u64, bytes: &[u8]) -> bool {
        let name = segment.file_name().unwrap_or_default().to_string_lossy();
        let path = self.dir.join(format!("{name}.at-{offset}"));
        match self.copy(&path, bytes) {
            Ok(()) => warn!(
                segment = %segment.display(), offset, bytes = bytes.len(),
                copy = %path.display(), "damaged bytes"
            ),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return false,
            Err(error) => warn!(
                segment = %segment.display(), offset, bytes = bytes.len(), %error,
                "damaged bytes, and no copy of them could be kept"
            ),
        }
        true
    }

    fn copy(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.storage.create_dir(&self.dir)?;
        let file = self.storage.create(path)?;
        file.write_at(bytes, 0)?;
        file.sync_data()?;
        self.storage.sync_dir(&self.dir)
    }
}
