//! Room held back on the disk: a file of `log.ballast` bytes, given up when the disk is full, so that a
//! checkpoint can be written and the log be freed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::warn;

use crate::log::{FileSystem, Storage};

const NAME: &str = "ballast";
const CHUNK: usize = 64 << 10;

/// The file. All clones are one.
#[derive(Debug, Clone)]
pub struct Ballast {
    dir: PathBuf,
    size: u64,
    held: Gauge,
}

impl Ballast {
    /// In `dir`, of `size` bytes; 0 for none. It may be there from last time.
    pub fn new(dir: &Path, size: u64) -> Self {
        let this = Self { dir: dir.to_owned(), size, held: Gauge::default() };
        if let Ok(file) = fs::metadata(this.path()) {
            if file.len() == size {
                this.held.set(size as i64);
            } else if let Err(error) = fs::remove_file(this.path()) {
                warn!(file = %this.path().display(), %error, "cannot be removed");
            }
        }
        this
    }

    /// Shows how much is held.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "tidegate_log_ballast_bytes",
            "Bytes held back so that a full disk can be freed; log.ballast",
            self.held.clone(),
        );
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// Whether there is nothing to write.
    pub(super) fn is_held(&self) -> bool {
        self.held.get() == self.size as i64
    }

    /// Writes the file. On an error there is none.
    pub(super) fn hold(&self) -> io::Result<()> {
        let written = self.write();
        match &written {
            Ok(()) => drop(self.held.set(self.size as i64)),
            // There is no room, and it would only take what is left.
            Err(_) => drop(fs::remove_file(self.path())),
        }
        written
    }

    fn write(&self) -> io::Result<()> {
        let mut file = File::create(self.path())?;
        let mut left = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mut chunk = [0; CHUNK];
        while left > 0 {
            // A file system that compresses must not save anything.
            fastrand::fill(&mut chunk);
            let part = left.min(CHUNK);
            file.write_all(&chunk[..part])?;
            left -= part;
        }
        file.sync_all()?;
        FileSystem.sync_dir(&self.dir)
    }

    /// Removes the file. Answers whether there was one, and so whether there is room now.
    pub(super) fn give_up(&self) -> bool {
        if self.held.get() == 0 || fs::remove_file(self.path()).is_err() {
            return false;
        }
        self.held.set(0);
        warn!(bytes = self.size, "the disk is full: the ballast is given up");
        // Without it the room may come back only later.
        let _ = FileSystem.sync_dir(&self.dir);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_its_room_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let len = || fs::metadata(dir.path().join(NAME)).map_or(0, |file| file.len());
        let ballast = Ballast::new(dir.path(), 100_000);
        assert!(!ballast.is_held() && !ballast.give_up());
        ballast.hold().unwrap();
        assert!(ballast.is_held());
        assert_eq!(len(), 100_000);
        assert!(Ballast::new(dir.path(), 100_000).is_held(), "it is there after a restart");
        assert!(ballast.give_up() && !ballast.is_held());
        assert_eq!(len(), 0);
        ballast.hold().unwrap();
        assert!(!Ballast::new(dir.path(), 50_000).is_held(), "the config says another size");
        assert!(Ballast::new(dir.path(), 0).is_held());
        assert_eq!(len(), 0);
    }
}
