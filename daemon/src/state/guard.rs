//! Opens the state's database, or a new one in its place.
//!
//! One that cannot be opened ([`crate::database`]) is set aside as `quarantine-<unix time>`, and a new
//! one is created: it is rebuilt from the log. One quarantine is kept, for the curious. One that was not
//! opened to the end last time is set aside at once.

use std::io;
use std::path::Path;
use std::thread::park_timeout;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{error, warn};

use super::StateError;
use super::store::{Sled, Store};
use crate::database::{self, Fault, attempt, entries};

/// How the name of a directory begins that was set aside.
const QUARANTINE: &str = "quarantine-";
/// A database that this process gave up a moment ago, or could not open, is let go of by sled's own
/// threads, within this time.
const LET_GO: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
    let begin = Instant::now();
    let mut opened = database::open(&db, 1, Sled::open);
    while opened.as_ref().is_err_and(Fault::is_lock) && begin.elapsed() < LET_GO {
        park_timeout(LOOK_AGAIN);
        opened = database::open(&db, 1, Sled::open);
    }
    match opened {
        Ok(sled) => return Ok((Store::Sled(sled), Found::Fine)),
        Err(fault) if fault.is_lock() => return Err(StateError::InUse { dir: db }),
        Err(why) => warn!(dir = %db.display(), %why, "the state database does not open"),
    }
    set_aside(dir, &db);
    for last in [false, true] {
        match attempt(&db, Sled::open) {
            Ok(sled) => return Ok((Store::Sled(sled), Found::New)),
            Err(why) if last => {
                error!(dir = %db.display(), %why, "the state stays in memory until the next start");
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
