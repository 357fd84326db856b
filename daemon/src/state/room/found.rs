//! What the gateway has in the data directory, and how much it takes on disk. Files of others beside it are not
//! the gateway's: `log.max-size` does not bound them, `log.min-free` sees them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Places;

/// Folders in folders that are looked into.
const DEEP: u32 = 8;
/// What a file's blocks are counted in.
const BLOCK: u64 = 512;

/// Bytes on disk of what is not the log's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// Of each sink of the config what its dead letters take, or may take, if that is more.
    pub(super) dead_letters: u64,
    pub(super) quarantine: u64,
    pub(super) ledger: u64,
    pub(super) ballast: u64,
    /// sled's.
    pub(super) database: u64,
    /// All checkpoints, but for one that is being written,
    pub(super) checkpoints: u64,
    /// and the largest.
    pub(super) checkpoint: u64,
    /// What else lies in the log, the state and the dead letters: those of sinks that the config does not know, a
    /// database that was set aside, what segments take beyond their length, and a segment that the log does not
    /// know.
    pub(super) unknown: u64,
}

impl Found {
    /// Looks. `log` says how much the log's segments are known to take. What goes meanwhile, or cannot be
    /// looked at, does not count.
    pub(super) fn look(places: &Places, log: impl Fn() -> u64) -> Self {
        let mut found = Self::default();
        let dir = &places.data_dir;
        for (name, bytes) in sizes(dir) {
            match name.as_str() {
                "log" => found.look_at_log(&dir.join(name), &log),
                "state" => found.look_at_state(&dir.join(name)),
                "dlq" => {}
                "ballast" => found.ballast = bytes,
                // Of others.
                _ => {}
            }
        }
        let queues = sizes(&dir.join("dlq"));
        let of = |sink: &str| queues.iter().find(|(name, _)| name == sink).map_or(0, |it| it.1);
        found.dead_letters = places.sinks.iter().map(|(sink, most)| of(sink).max(*most)).sum();
        let is_known = |name: &str| places.sinks.iter().any(|(sink, _)| sink == name);
        let unknown = queues.iter().filter(|(name, _)| !is_known(name));
        found.unknown += unknown.map(|(_, bytes)| bytes).sum::<u64>();
        found
    }

    fn look_at_log(&mut self, dir: &Path, log: impl Fn() -> u64) {
        let (mut segments, before) = (0, log());
        for (name, bytes) in sizes(dir) {
            match name.as_str() {
                "quarantine" => self.quarantine = bytes,
                "ledger" | "ledger.new" => self.ledger += bytes,
                // Room for them is set aside.
                "segment.new" | "segment.rewritten" => {}
                _ if [".seg", ".spare", ".sled"].iter().any(|end| name.ends_with(end)) => {
                    segments += bytes;
                }
                _ => self.unknown += bytes,
            }
        }
        // Those that came or went meanwhile are no strangers.
        self.unknown += segments.saturating_sub(before.max(log()));
    }

    fn look_at_state(&mut self, dir: &Path) {
        for (name, bytes) in sizes(dir) {
            match name.as_str() {
                "db" => self.database = bytes,
                // Room for it is set aside.
                "checkpoint.tmp" => {}
                _ if name.starts_with("checkpoint-") => {
                    self.checkpoints += bytes;
                    self.checkpoint = self.checkpoint.max(bytes);
                }
                _ => self.unknown += bytes,
            }
        }
    }
}

/// Bytes free for us, and of the whole file system.
pub(super) fn free(dir: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    Some((disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize))
}

/// The names in a folder, each with the bytes that it and all within it take on disk.
fn sizes(dir: &Path) -> Vec<(String, u64)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let size = |entry: fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), bytes_of(&entry, DEEP))
    };
    entries.flatten().map(size).collect()
}

fn bytes_of(entry: &fs::DirEntry, deep: u32) -> u64 {
    let Ok(it) = entry.metadata() else { return 0 };
    let own = it.blocks() * BLOCK;
    if !it.is_dir() || deep == 0 {
        return own;
    }
    let Ok(entries) = fs::read_dir(entry.path()) else { return own };
    own + entries.flatten().map(|entry| bytes_of(&entry, deep - 1)).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, bytes: usize) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![1; bytes]).unwrap();
    }

    #[test]
    fn each_file_is_what_its_place_says() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kib) in [
            ("ballast", 8),
            ("log/00000000000000000001-00000001.seg", 64),
            ("log/00000002.spare", 32),
            ("log/segment.rewritten", 64),
            ("log/ledger", 4),
            ("log/ledger.new", 4),
            ("log/quarantine/00000001-a", 16),
            ("log/lanes", 4),
            ("state/db/db", 128),
            ("state/db/blobs/1", 32),
            ("state/checkpoint-0000000001", 8),
            ("state/checkpoint-0000000002", 12),
            ("state/checkpoint.tmp", 12),
            ("state/quarantine-1/db", 48),
            ("dlq/cloud/a.seg", 24),
            ("dlq/gone/a.seg", 40),
            ("lost+found/file", 512),
            ("somebody's", 512),
        ] {
            write(dir.path(), name, kib << 10);
        }
        let sinks = vec![("cloud".to_owned(), 16 << 10), ("other".to_owned(), 100 << 10)];
        let places = Places { data_dir: dir.path().into(), sinks };
        let found = Found::look(&places, || 90 << 10);
        // A folder takes a block or none.
        let is_about = |bytes: u64, kib: u64| (kib << 10..(kib + 16) << 10).contains(&bytes);
        assert!(is_about(found.dead_letters, 124), "{found:?}");
        assert!(is_about(found.quarantine, 16), "{found:?}");
        assert!(is_about(found.database, 160), "{found:?}");
        assert_eq!((found.ballast, found.ledger), (8 << 10, 8 << 10));
        assert_eq!((found.checkpoints, found.checkpoint), (20 << 10, 12 << 10));
        // What the log does not know of its segments, its lanes, what was set aside, and a sink that is gone;
        // nothing of others.
        assert!(is_about(found.unknown, 6 + 4 + 48 + 40), "{found:?}");
        let none = Places { data_dir: dir.path().join("none"), sinks: Vec::new() };
        assert_eq!(Found::look(&none, || 0), Found::default());
    }
}
