//! What the log may take on disk: `log.max-size` is for everything that the gateway keeps, and `log.min-free`
//! stays free for others.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::log::Log;

/// Folders in folders that are looked into.
const DEEP: u32 = 8;
/// What a file's blocks are counted in.
const BLOCK: u64 = 512;
/// On a small file system no more than one part of so many stays free.
const SMALL_PART: u64 = 16;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Room {
    /// `gateway.data-dir`
    pub data_dir: PathBuf,
    /// `log.min-free`, in bytes
    pub min_free: u64,
}

impl Room {
    /// Looks how much is free, and how much other files take where that is not `known`, and tells the log.
    /// Answers what they take. Waits for the disk.
    pub(super) fn measure(&self, log: &Arc<Log>, known: Option<u64>) -> u64 {
        // The log's own files but for its segments are other files too.
        let look = || bytes_in(&self.data_dir).saturating_sub(log.on_disk());
        let others = known.unwrap_or_else(look);
        let left = (self.min_free > 0)
            .then(|| free(&self.data_dir))
            .flatten()
            .map(|(free, size)| free.saturating_sub(self.min_free.min(size / SMALL_PART)));
        log.set_room(others, left);
        others
    }
}

/// Bytes free for us, and of the whole file system.
fn free(dir: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    Some((disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize))
}

/// Bytes that the files in a folder take on disk. What goes meanwhile, or cannot be looked at, does not
/// count.
fn bytes_in(dir: &Path) -> u64 {
    fn within(dir: &Path, deep: u32) -> u64 {
        let Ok(entries) = fs::read_dir(dir) else { return 0 };
        let bytes = |entry: fs::DirEntry| match entry.metadata() {
            Ok(it) if it.is_dir() && deep > 0 => within(&entry.path(), deep - 1),
            Ok(it) => it.blocks() * BLOCK,
            Err(_) => 0,
        };
        entries.flatten().map(bytes).sum()
    }
    within(dir, DEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_take_on_disk_is_added_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/one"), vec![1; 100_000]).unwrap();
        std::fs::write(dir.path().join("two"), vec![1; 5_000]).unwrap();
        let bytes = bytes_in(dir.path());
        assert!((105_000..200_000).contains(&bytes), "{bytes}");
        assert_eq!(bytes_in(&dir.path().join("none")), 0);
    }
}
