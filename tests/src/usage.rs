//! What a directory takes on disk, seen from outside as `du` sees it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(3);

/// Bytes on disk of a directory, or a file, and all below. What is not there takes none.
pub fn disk_usage(path: &Path) -> u64 {
    // It may go meanwhile.
    let Ok(data) = fs::symlink_metadata(path) else { return 0 };
    let below = match data.is_dir() {
        true => fs::read_dir(path).into_iter().flatten().flatten(),
        false => return data.blocks() * 512,
    };
    data.blocks() * 512 + below.map(|entry| disk_usage(&entry.path())).sum::<u64>()
}

/// The most that it took at a moment, and what of that was where.
#[derive(Debug, Clone, Default)]
pub struct Most {
    /// Bytes.
    pub bytes: u64,
    /// By name, of what lies in it and in its folders.
    pub parts: BTreeMap<String, u64>,
    /// How often somebody looked.
    pub looks: u64,
}

/// Looks again and again.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Most>,
}

impl Watcher {
    /// Begins.
    pub fn start(dir: PathBuf) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut most = Most::default();
            while !stopped.load(Ordering::SeqCst) {
                let parts = parts(&dir);
                let bytes = parts.values().sum();
                most.looks += 1;
                if bytes > most.bytes {
                    (most.bytes, most.parts) = (bytes, parts);
                }
                thread::park_timeout(PAUSE);
            }
            most
        });
        Self { stop, thread }
    }

    /// Ends.
    ///
    /// # Panics
    /// When its thread did.
    #[track_caller]
    pub fn stop(self) -> Most {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap_or_else(|_| panic!("who looks at the disk panicked"))
    }
}

/// `log/quarantine`, `state/db`; segments together.
fn parts(dir: &Path) -> BTreeMap<String, u64> {
    let mut parts = BTreeMap::new();
    let mut add = |name: String, bytes| *parts.entry(name).or_default() += bytes;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.path().is_dir() {
            add(name, disk_usage(&entry.path()));
            continue;
        }
        let own = fs::symlink_metadata(entry.path()).map_or(0, |data| data.blocks() * 512);
        add(name.clone(), own);
        for below in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            let of = below.file_name().to_string_lossy().into_owned();
            let bytes = disk_usage(&below.path());
            match of.rsplit_once('.') {
                Some((_, kind @ ("seg" | "spare" | "sled"))) => {
                    add(format!("{name}/*.{kind}"), bytes)
                }
                _ => add(format!("{name}/{of}"), bytes),
            }
        }
    }
    let own = fs::symlink_metadata(dir).map_or(0, |data| data.blocks() * 512);
    parts.insert(".".to_owned(), own);
    parts
}
