//! Opens sled whatever state its files are in, and turns its panics into errors.
//!
//! sled 0.34 panics on most damaged files, and after a full disk it does not open until its
//! unfinished snapshot is removed. So: leftover `snap.*.generating` are removed; where opening still
//! fails, `snap.*` go too (sled rebuilds them from its log). A damaged length could also make sled ask
//! for more memory than there is, which no guard in this process survives, or wait for ever: a marker
//! file lies in the directory while it is being opened, and one that is found there from last time counts
//! as an attempt that failed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Once, mpsc};
use std::time::Duration;

use tracing::warn;

/// How long sled may take to open. It reads some megabytes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lies in the database's directory while it is opened; a byte for each attempt.
const MARKER: &str = "opening";
/// sled's own words for a database that somebody else has open.
const LOCKED: &str = "could not acquire lock";

/// What is tried.
pub(crate) type Open<T> = fn(&Path) -> Result<T, Fault>;

/// Why a call into sled failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Fault {
    why: String,
    kind: io::ErrorKind,
}

impl Fault {
    /// It is open already, here or in another process.
    pub(crate) fn is_lock(&self) -> bool {
        self.why.contains(LOCKED)
    }

    /// There is no room.
    pub(crate) fn is_full(&self) -> bool {
        is_full(self.kind)
    }

    /// The system refused, whatever the files hold: there is no room, or no right.
    pub(crate) fn is_refusal(&self) -> bool {
        use io::ErrorKind as Kind;
        let refused =
            [Kind::PermissionDenied, Kind::ReadOnlyFilesystem, Kind::OutOfMemory, Kind::TimedOut];
        const TOO_MANY_FILES: &str = "(os error 24)";
        self.is_full()
            || refused.contains(&self.kind)
            || self.why.contains(TOO_MANY_FILES)
            || self.is_lock()
    }
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self { why: error.to_string(), kind: error.kind() }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::new(fault.kind, fault.why)
    }
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        let why = error.to_string();
        match error {
            sled::Error::Io(error) => Self { why, kind: error.kind() },
            _ => Self { why, kind: io::ErrorKind::InvalidData },
        }
    }
}

/// Opens the database in `dir`, which is created if it is missing; without its snapshots where it does
/// not open otherwise. With `unfinished` attempts behind it that came to no end it is not tried again.
pub(crate) fn open<T: Send + 'static>(
    dir: &Path,
    unfinished: u64,
    open: Open<T>,
) -> Result<T, Fault> {
    if fs::metadata(dir.join(MARKER)).is_ok_and(|marker| marker.len().max(1) >= unfinished) {
        let why = "it was not opened to the end last time".to_owned();
        return Err(Fault { why, kind: io::ErrorKind::InvalidData });
    }
    let first = match attempt(dir, open) {
        Err(fault) if !fault.is_lock() => fault,
        other => return other,
    };
    if remove_snapshots(dir, "") == 0 {
        return Err(first);
    }
    warn!(dir = %dir.display(), why = %first, "the database does not open; again without its snapshots");
    attempt(dir, open)
}

/// One attempt, on a thread of its own so that it can be given up.
pub(crate) fn attempt<T: Send + 'static>(dir: &Path, open: Open<T>) -> Result<T, Fault> {
    fs::create_dir_all(dir)?;
    remove_snapshots(dir, ".generating");
    let marker = dir.join(MARKER);
    // On a full disk it goes without: a crash is then not counted.
    match OpenOptions::new()
        .append(true)
        .create(true)
        .open(&marker)
        .and_then(|mut marker| marker.write_all(b"."))
    {
        Err(error) if !is_full(error.kind()) => return Err(error.into()),
        _ => {}
    }
    let (sender, receiver) = mpsc::channel();
    let path = dir.to_owned();
    std::thread::Builder::new()
        .name("sled-open".to_owned())
        // Nobody listens any more after the patience is over.
        .spawn(move || drop(sender.send(open(&path))))?;
    let outcome = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let why = format!("it did not answer within {} seconds", PATIENCE.as_secs());
        Err(Fault { why, kind: io::ErrorKind::TimedOut })
    });
    // Gone with the directory where that was set aside.
    let _ = fs::remove_file(&marker);
    outcome
}

/// Removes `snap.*` whose names end in `ending`; answers how many.
fn remove_snapshots(dir: &Path, ending: &str) -> usize {
    let remove = |path: &PathBuf| fs::remove_file(path).is_ok();
    entries(dir, "snap.").into_iter().filter(|path| ends_with(path, ending)).filter(remove).count()
}

/// What lies in `dir` with a name that begins with `prefix`.
pub(crate) fn entries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    entries.flatten().map(|entry| entry.path()).filter(named).collect()
}

fn ends_with(path: &Path, ending: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ending))
}

/// Runs `call`; an error or a panic becomes a fault.
pub(crate) fn catch<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Fault> {
    hush_panics();
    let before = HUSHED.replace(true);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(call));
    HUSHED.set(before);
    match outcome {
        Ok(outcome) => outcome.map_err(Fault::from),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let why = text.unwrap_or("internal error").lines().next().unwrap_or_default();
            // It unwraps what the system answers, too.
            let full = ["StorageFull", "(os error 28)"].iter().any(|sign| why.contains(sign));
            let kind = if full { io::ErrorKind::StorageFull } else { io::ErrorKind::InvalidData };
            Err(Fault { why: why.to_owned(), kind })
        }
    }
}

thread_local! {
    static HUSHED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A panic that [`catch`] turns into an error is reported as that error; the message that a panic
/// prints on standard error would only frighten.
fn hush_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !HUSHED.get() {
                hook(info);
            }
        }));
    });
}
