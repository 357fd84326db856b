//! One segment's database: opened when it is needed, and again after an error.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tracing::warn;

use super::pieces::Pieces;
use super::remove_orphans;
use crate::database::{self, Fault};
use crate::log::quarantine;
use crate::log::storage::{FileSystem, Storage};

/// Openings that came to no end before it is taken for damaged: a crash may fall into one.
const UNFINISHED: u64 = 5;
/// How long one that is open elsewhere is waited for: who closes it may not be done yet.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
/// In its directory, unless it was written since: the file's length.
const LENGTH: &str = "length";
/// In its directory: room for the snapshot that sled writes when it opens it, where the disk is full.
const RESERVE: &str = "reserve";
/// Bytes of that: sled takes about one for two KiB.
static RESERVED: [u8; 32 << 10] = [0x5a; 32 << 10];
/// To the log, what sled cannot read is a sector that the disk cannot read.
const EIO: i32 = 5;

/// Told of each database that was closed.
static CLOSED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

/// The database of one file.
#[derive(Debug)]
pub(super) struct Database {
    only_looks: bool,
    /// Whether something was written that was not synced.
    is_dirty: AtomicBool,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    dir: PathBuf,
    at: At,
    /// Whether no length is noted in the directory.
    is_unknown: bool,
    /// Whether sled failed before something that was written was synced: then it takes nothing more.
    has_failed: bool,
}

#[derive(Debug)]
enum At {
    Closed,
    Open(Pieces),
    /// It did not open, and was set aside.
    Lost,
    /// Its file was removed. Who had it open reads on.
    Gone(Option<Pieces>),
}

/// Removes a database's directory, if it is there.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Holds the room back, if there is some. On an error there is none.
fn reserve(dir: &Path) {
    let path = dir.join(RESERVE);
    if !path.exists() && fs::write(&path, RESERVED).is_err() {
        // It would only take what is left.
        let _ = fs::remove_file(&path);
    }
}

/// A length as it is noted: itself, and its checksum.
fn note(len: u64) -> String {
    format!("{len} {:08x}\n", crc32c::crc32c(&len.to_le_bytes()))
}

fn noted(dir: &Path) -> Option<u64> {
    let text = fs::read_to_string(dir.join(LENGTH)).ok()?;
    let len = text.split(' ').next()?.parse().ok()?;
    (note(len) == text).then_some(len)
}

impl Database {
    pub(super) fn new(dir: PathBuf, only_looks: bool) -> Self {
        let state = State { dir, at: At::Closed, is_unknown: false, has_failed: false };
        Self { only_looks, is_dirty: AtomicBool::new(false), state: RwLock::new(state) }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes behind the head. Creates the database with the first write.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(|pieces| pieces.write(bytes, offset))
    }

    /// Cuts the file, behind its head.
    pub(super) fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(|pieces| pieces.truncate(len))
    }

    /// Reads behind the head; answers how many bytes.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            let state = self.state();
            let fault = match &state.at {
                At::Open(pieces) | At::Gone(Some(pieces)) => match pieces.read(buffer, offset) {
                    Ok(read) => return Ok(read),
                    Err(fault) => fault,
                },
                At::Closed if state.dir.is_dir() => {
                    drop(state);
                    self.state_mut().open(self.only_looks)?;
                    continue;
                }
                At::Closed | At::Lost | At::Gone(None) => return Ok(0),
            };
            drop(state);
            self.fail(&fault);
            return Err(match fault.is_refusal() {
                true => fault.into(),
                false => io::Error::from_raw_os_error(EIO),
            });
        }
    }

    /// Bytes of the file; 0 where all of it lies in the head.
    pub(super) fn len(&self) -> io::Result<u64> {
        loop {
            let state = self.state();
            match &state.at {
                At::Open(pieces) | At::Gone(Some(pieces)) => return Ok(pieces.end()),
                At::Lost | At::Gone(None) => return Ok(0),
                At::Closed => {
                    if !state.dir.is_dir() {
                        return Ok(0);
                    }
                    if let Some(len) = noted(&state.dir) {
                        return Ok(len);
                    }
                }
            }
            drop(state);
            self.state_mut().open(self.only_looks)?;
        }
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        if !self.is_dirty.load(Ordering::Acquire) {
            return Ok(());
        }
        let state = self.state();
        match &state.at {
            At::Open(pieces) if !state.has_failed => {
                let Err(fault) = pieces.sync() else {
                    self.is_dirty.store(false, Ordering::Release);
                    return Ok(());
                };
                drop(state);
                self.fail(&fault);
                Err(fault.into())
            }
            _ => Err(failed()),
        }
    }

    /// Leaves only the head.
    pub(super) fn clear(&self) -> io::Result<()> {
        let mut state = self.state_mut();
        if let At::Gone(_) = state.at {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.close();
        remove(&state.dir)?;
        state.at = At::Closed;
        state.has_failed = false;
        self.is_dirty.store(false, Ordering::Release);
        Ok(())
    }

    /// It gets another place.
    pub(super) fn moves(&self, to: PathBuf) -> io::Result<()> {
        let mut state = self.state_mut();
        fs::rename(&state.dir, &to)?;
        state.dir = to;
        Ok(())
    }

    /// Its directory is about to be removed.
    pub(super) fn goes(&self) {
        let mut state = self.state_mut();
        if matches!(state.at, At::Closed) && state.dir.is_dir() {
            // Who cannot read it now finds it gone.
            let _ = state.open(self.only_looks);
        }
        let pieces = match std::mem::replace(&mut state.at, At::Closed) {
            At::Open(pieces) | At::Gone(Some(pieces)) => Some(pieces),
            _ => None,
        };
        state.at = At::Gone(pieces);
    }

    fn change(&self, call: impl FnOnce(&Pieces) -> Result<(), Fault>) -> io::Result<()> {
        let state = loop {
            let state = self.state();
            match &state.at {
                _ if state.has_failed => return Err(failed()),
                At::Open(_) if state.is_unknown => break state,
                At::Open(_) | At::Closed => {}
                At::Lost => return Err(io::Error::other("its database was set aside")),
                At::Gone(_) => return Err(io::ErrorKind::NotFound.into()),
            }
            drop(state);
            let mut state = self.state_mut();
            state.open(self.only_looks)?;
            state.forget_length()?;
        };
        let At::Open(pieces) = &state.at else { return Err(io::ErrorKind::NotFound.into()) };
        self.is_dirty.store(true, Ordering::Release);
        let Err(fault) = call(pieces) else { return Ok(()) };
        drop(state);
        self.fail(&fault);
        Err(fault.into())
    }

    /// After an error sled answers nothing more: it is closed.
    fn fail(&self, fault: &Fault) {
        let mut state = self.state_mut();
        warn!(dir = %state.dir.display(), why = %fault, "sled failed");
        state.has_failed |= self.is_dirty.load(Ordering::Acquire);
        state.close();
    }
}

fn failed() -> io::Error {
    io::Error::other("sled failed since this was written to")
}

impl State {
    /// Opens it, or creates it; where it cannot be opened it is set aside.
    fn open(&mut self, only_looks: bool) -> io::Result<()> {
        if !matches!(self.at, At::Closed) {
            return Ok(());
        }
        let dir = self.dir.clone();
        let is_new = !dir.is_dir();
        let begin = Instant::now();
        let fault = loop {
            match database::open(&dir, UNFINISHED, Pieces::open) {
                Ok(pieces) => {
                    self.at = At::Open(pieces);
                    if !only_looks {
                        reserve(&dir);
                    }
                    return Ok(());
                }
                Err(fault) if fault.is_full() && fs::remove_file(dir.join(RESERVE)).is_ok() => {}
                Err(fault) if fault.is_lock() && begin.elapsed() < PATIENCE => {
                    let (closing, closed) = &CLOSED;
                    let closing = closing.lock().unwrap_or_else(PoisonError::into_inner);
                    drop(closed.wait_timeout(closing, PAUSE));
                }
                Err(fault) => break fault,
            }
        };
        if is_new {
            // Best effort: what is left of it has nothing in it.
            let _ = remove(&dir);
        }
        if is_new || fault.is_refusal() {
            return Err(fault.into());
        }
        warn!(
            dir = %dir.display(), why = %fault,
            "a segment's database does not open: what it held is lost"
        );
        if !only_looks && let Err(error) = self.set_aside(&dir) {
            warn!(dir = %dir.display(), %error, "cannot be set aside, passed over");
        }
        self.at = At::Lost;
        Ok(())
    }

    /// Renames it into the quarantine, where it is the only one.
    fn set_aside(&self, dir: &Path) -> io::Result<()> {
        let log_dir = dir.parent().unwrap_or(dir);
        let to = log_dir.join(quarantine::DIR);
        FileSystem.create_dir_all(&to)?;
        remove_orphans(&to)?;
        let to = to.join(dir.file_name().unwrap_or_default());
        fs::rename(dir, &to)?;
        warn!(to = %to.display(), "set aside");
        FileSystem.sync_dir(log_dir)
    }

    /// The length that is noted does not hold any more, also after a power cut.
    fn forget_length(&mut self) -> io::Result<()> {
        if !matches!(self.at, At::Open(_)) || self.is_unknown {
            return Ok(());
        }
        match fs::remove_file(self.dir.join(LENGTH)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => {
                other?;
                FileSystem.sync_dir(&self.dir)?;
            }
        }
        self.is_unknown = true;
        Ok(())
    }

    fn close(&mut self) {
        match std::mem::replace(&mut self.at, At::Closed) {
            At::Open(pieces) => pieces.close(),
            At::Gone(pieces) => {
                self.at = At::Gone(None);
                if let Some(pieces) = pieces {
                    pieces.close();
                }
            }
            At::Lost => self.at = At::Lost,
            At::Closed => {}
        }
        CLOSED.1.notify_all();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let is_synced = !self.is_dirty.load(Ordering::Acquire);
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let len = match &state.at {
            At::Open(pieces) if is_synced && state.is_unknown => Some(pieces.end()),
            _ => None,
        };
        state.close();
        if let Some(len) = len {
            // Without it the next one who asks for the length opens the database.
            let _ = fs::write(state.dir.join(LENGTH), note(len));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_sled_failed_is_never_called_durable() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::new(dir.path().join("db"), false);
        let fault = Fault::from(io::Error::other("the disk is gone"));
        database.write(&[7; 9000], 0).unwrap();
        database.sync().unwrap();
        database.fail(&fault);
        database.write(&[8; 9000], 9000).unwrap();
        database.fail(&fault);
        // A reader opens it again.
        let mut bytes = [0; 9000];
        assert_eq!(database.read(&mut bytes, 0).unwrap(), 9000);
        assert_eq!(bytes, [7; 9000]);
        assert!(database.sync().is_err());
        assert!(database.write(&[9], 18_000).is_err());
    }
}
