//! Opens sled whatever state its files are in.
//!
//! sled 0.34 panics on most damaged files, and after a full disk it does not open until its
//! unfinished snapshot is removed. So: leftover `snap.*.generating` are removed; where opening still
//! fails, `snap.*` go too (sled rebuilds them from its log); where that fails, the whole directory is
//! set aside as `quarantine-<unix time>` and a new one is created. One quarantine is kept, for the
//! curious. A damaged length could also make sled ask for more memory than there is, which no guard
//! in this process survives, or wait for ever: a marker file lies in the directory while it is being
//! opened, and one that is found there from last time means quarantine at once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{error, warn};

use super::StateError;
use super::store::{Sled, Store};

/// How long sled may take to open. It reads some megabytes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lies in the database's directory while it is opened.
const MARKER: &str = "opening";
/// How the name of a directory begins that was set aside.
const QUARANTINE: &str = "quarantine-";
/// sled's own words for a database that another process has open.
const LOCKED: &str = "could not acquire lock";

/// How the store came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It was there, or is the first one.
    Fine,
    /// A new one in the place of one that could not be opened.
    New,
    /// In memory: the disk takes no new one either.
    Memory,
}

/// Opens `dir/db`.
pub(super) fn open(dir: &Path) -> Result<(Store, Found), StateError> {
    let db = dir.join("db");
    let marker = db.join(MARKER);
    if marker.exists() {
        warn!(dir = %db.display(), "the state database was not opened to the end last time");
    } else {
        match attempt(&db) {
            Ok(sled) => return Ok((Store::Sled(sled), Found::Fine)),
            Err(why) if why.contains(LOCKED) => {
                return Err(StateError::InUse { dir: db });
            }
            Err(why) => warn!(dir = %db.display(), why, "the state database does not open"),
        }
        if remove_snapshots(&db, "") > 0 {
            match attempt(&db) {
                Ok(sled) => return Ok((Store::Sled(sled), Found::Fine)),
                Err(why) => {
                    warn!(dir = %db.display(), why, "nor does it without its snapshots");
                }
            }
        }
    }
    set_aside(dir, &db);
    for last in [false, true] {
        match attempt(&db) {
            Ok(sled) => return Ok((Store::Sled(sled), Found::New)),
            Err(why) if last => {
                error!(dir = %db.display(), why, "the state stays in memory until the next start");
            }
            Err(_) => {
                // The disk may be full, and what was set aside has copies elsewhere.
                remove_quarantines(dir, None);
                let _ = std::fs::remove_dir_all(&db);
            }
        }
    }
    Ok((Store::in_memory(), Found::Memory))
}

/// One attempt, on a thread of its own so that it can be given up.
fn attempt(db: &Path) -> Result<Arc<Sled>, String> {
    std::fs::create_dir_all(db).map_err(|error| error.to_string())?;
    remove_snapshots(db, ".generating");
    let marker = db.join(MARKER);
    std::fs::write(&marker, []).map_err(|error| error.to_string())?;
    let (sender, receiver) = mpsc::channel();
    let path = db.to_owned();
    std::thread::Builder::new()
        .name("state-open".to_owned())
        // Nobody listens any more after the patience is over.
        .spawn(move || drop(sender.send(Sled::open(&path))))
        .map_err(|error| error.to_string())?;
    let outcome = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        Err(format!("it did not answer within {} seconds", PATIENCE.as_secs()))
    });
    // Gone with the directory where that was set aside.
    let _ = std::fs::remove_file(&marker);
    outcome
}

/// Removes `snap.*` whose names end in `ending`; answers how many.
fn remove_snapshots(db: &Path, ending: &str) -> usize {
    let remove = |path: &PathBuf| std::fs::remove_file(path).is_ok();
    entries(db, "snap.").into_iter().filter(|path| ends_with(path, ending)).filter(remove).count()
}

/// Renames the database's directory, or removes it where that fails.
fn set_aside(dir: &Path, db: &Path) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let free = (seconds..).map(|n| dir.join(format!("{QUARANTINE}{n}"))).find(|p| !p.exists());
    let Some(to) = free else { return };
    remove_quarantines(dir, Some(&to));
    let outcome = std::fs::rename(db, &to).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => std::fs::remove_dir_all(db),
    });
    match outcome {
        Ok(()) => warn!(to = %to.display(), "the state database was set aside"),
        Err(why) => error!(dir = %db.display(), %why, "the state database cannot be set aside"),
    }
}

fn remove_quarantines(dir: &Path, keep: Option<&Path>) {
    for path in entries(dir, QUARANTINE) {
        if Some(path.as_path()) != keep {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// What lies in `dir` with a name that begins with `prefix`.
fn entries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    entries.flatten().map(|entry| entry.path()).filter(named).collect()
}

fn ends_with(path: &Path, ending: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ending))
}
