//! The disk behind a narrow trait, so that tests run the same code on a simulated one.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use tracing::debug;

pub(super) mod overlay;
#[cfg(test)]
pub(crate) mod sim;
pub(crate) mod sled;

/// Unlinks a file, if it is there.
pub(super) fn remove(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match storage.unlink(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Puts a file with these bytes in the place of `path`: written as `unfinished`, fdatasync'd, and renamed. The
/// directory is left to be synced.
pub(super) fn write_anew(
    storage: &dyn Storage,
    unfinished: &Path,
    path: &Path,
    bytes: &[u8],
) -> io::Result<Arc<dyn File>> {
    remove(storage, unfinished)?;
    let file = storage.create(unfinished)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    storage.rename(unfinished, path)?;
    Ok(file)
}

/// Whether an error says that there is no room: on the disk, or within a quota on it.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What the log needs of a disk.
pub trait Storage: Send + Sync + std::fmt::Debug {
    /// Creates a directory, in one that exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Creates a directory and those above it, durably; fine if it exists. Each is durable before one
    /// is created in it: so of those that are found, only the last may not be.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let parent = match dir.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Ok(()),
        };
        if self.list(dir).is_err() && dir != parent {
            self.create_dir_all(parent)?;
            match self.create_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other.and_then(|()| self.sync_dir(parent)),
            }
        }
        // Where that is refused (it was made for us, in a place that we may not read) it is most
        // likely durable since long.
        if let Err(error) = self.sync_dir(parent) {
            debug!(dir = %parent.display(), %error, "cannot be synced");
        }
        Ok(())
    }
    /// The names of the regular files in a directory. Names that are not UTF-8 are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes creations, renames and unlinks in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Creates a file, which must not exist.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens a file that exists, to read and to write.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens or creates a file and locks it for as long as the answer lives; `None` when somebody
    /// else has the lock.
    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>>;
    /// Renames a file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Whether it is cheaper to write a file over than to write a new one.
    fn is_worth_reuse(&self, path: &Path) -> bool {
        let _ = path;
        true
    }
}

/// An open file. Closed when dropped.
pub trait File: Send + Sync + std::fmt::Debug {
    /// Writes all of `bytes` at `offset`. After an error any part of them may be in the file.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes content and length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Reads until `buffer` is full or the file ends; answers how many bytes.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;
    /// Whether it holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
    /// Cuts the file.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes the file this long, with zeros that take room on disk and need not be written. Not
    /// everywhere.
    fn allocate(&self, len: u64) -> io::Result<()> {
        let _ = len;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Where new segments lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// In files.
    Log,
    /// In sled databases.
    Sled,
}

impl Engine {
    /// The storage of the log in `dir`. Segments that lie there are found in any case.
    pub fn storage(self, dir: &Path) -> Arc<dyn Storage> {
        let creates = self == Self::Sled;
        match creates || sled::is_used(dir) {
            true => Arc::new(sled::Databases::new(creates)),
            false => Arc::new(FileSystem),
        }
    }
}

/// The machine's own file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSystem;

impl FileSystem {
    fn options() -> fs::OpenOptions {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).mode(0o640);
        options
    }
}

impl Storage for FileSystem {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Self::options().create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Self::options().open(path)?))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        let file = Self::options().create(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Arc::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Reads with `read`, which may stop short, until `buffer` is full or the file ends.
fn fill(
    buffer: &mut [u8],
    offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match read(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

impl File for fs::File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        fill(buffer, offset, |part, offset| FileExt::read_at(self, part, offset))
    }

    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self, rustix::fs::FallocateFlags::empty(), 0, len)?)
    }
}
