//! A disk that is looked at and not touched: what is written stays in memory, and is noted. So the
//! code that puts a log in order says what it would do, by doing it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sled::Databases;
use super::{File, FileSystem, Storage};

/// What would have been done to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A file would be new.
    Created(PathBuf),
    /// A file would go elsewhere.
    Moved {
        /// Its name now.
        from: PathBuf,
        /// Its name then.
        to: PathBuf,
    },
    /// A file would be cut.
    Cut {
        /// The file.
        path: PathBuf,
        /// Its length now,
        from: u64,
        /// and then.
        to: u64,
    },
    /// Bytes in a file would be others.
    Written {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// How many.
        bytes: usize,
    },
    /// A file would be gone.
    Removed(PathBuf),
}

/// The machine's file system as it is, with changes in memory over it. Clones share them. Files are
/// opened to read only, but where segments lie in databases; locking does nothing, and syncing has
/// nothing to do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overlay {
    databases: Option<Databases>,
    /// Where nobody reads what is written.
    unread: Option<PathBuf>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What is no longer as on disk. `None` is gone.
    files: BTreeMap<PathBuf, Option<Content>>,
    /// Directories that are only here, perhaps.
    dirs: BTreeSet<PathBuf>,
    changes: Vec<Change>,
}

/// A file that was changed.
#[derive(Debug, Clone, Default)]
struct Content {
    /// The file on disk beneath,
    under: Option<Arc<dyn File>>,
    /// of which so many bytes still show.
    shown: u64,
    len: u64,
    /// In order: the later ones cover the earlier.
    writes: Vec<(u64, Vec<u8>)>,
    /// Whether they are not kept.
    is_unread: bool,
}

impl Overlay {
    /// Over a log with segments in databases, where there are some.
    pub(crate) fn over(databases: Option<Databases>) -> Self {
        Self { databases, ..Self::default() }
    }

    /// The same, but of files that are created in `dir` only the length is kept.
    pub(crate) fn unread(self, dir: PathBuf) -> Self {
        Self { unread: Some(dir), ..self }
    }

    /// What would have been done so far, in order.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.state().changes.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, path: &Path, file: Option<Arc<dyn File>>) -> Arc<dyn File> {
        Arc::new(Opened { overlay: self.clone(), path: path.into(), file })
    }

    /// A file as it is on disk.
    fn under(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        match &self.databases {
            Some(databases) => databases.open(path),
            None => Ok(Arc::new(fs::File::open(path)?)),
        }
    }
}

impl State {
    /// The content of a file to be changed, which may be as on disk beneath.
    fn content(
        &mut self,
        path: &Path,
        under: impl FnOnce() -> io::Result<Arc<dyn File>>,
    ) -> io::Result<&mut Content> {
        if !self.files.contains_key(path) {
            let under = under()?;
            let len = under.len()?;
            let content = Content { under: Some(under), shown: len, len, ..Content::default() };
            self.files.insert(path.into(), Some(content));
        }
        self.files.get_mut(path).and_then(Option::as_mut).ok_or_else(missing)
    }

    /// One write, or one more piece of the last.
    fn note_written(&mut self, path: &Path, offset: u64, more: usize) {
        match self.changes.last_mut() {
            Some(Change::Written { path: last, offset: begin, bytes })
                if last == path && *begin + *bytes as u64 == offset =>
            {
                *bytes += more;
            }
            _ => {
                let path = path.into();
                self.changes.push(Change::Written { path, offset, bytes: more });
            }
        }
    }

    fn exists(&self, path: &Path) -> bool {
        self.files.get(path).map_or_else(|| path.exists(), Option::is_some)
    }
}

impl Content {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let wanted = self.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..wanted];
        buffer.fill(0);
        let shown = self.shown.saturating_sub(offset).min(wanted as u64) as usize;
        if let Some(under) = &self.under
            && shown > 0
        {
            under.read_at(&mut buffer[..shown], offset)?;
        }
        let end = offset + wanted as u64;
        for (at, bytes) in &self.writes {
            let (from, to) = ((*at).max(offset), (at + bytes.len() as u64).min(end));
            if from < to {
                let part = &bytes[(from - at) as usize..(to - at) as usize];
                buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
        }
        Ok(wanted)
    }

    fn truncate(&mut self, len: u64) {
        self.shown = self.shown.min(len);
        self.len = len;
        self.writes.retain_mut(|(at, bytes)| {
            bytes.truncate(len.saturating_sub(*at) as usize);
            !bytes.is_empty()
        });
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for Overlay {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if dir.exists() || !state.dirs.insert(dir.into()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = |path: &Path| path.parent() == Some(dir);
        let mut names = match FileSystem.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && state.dirs.contains(dir) => {
                Vec::new()
            }
            other => other?,
        };
        names.retain(|name| !state.files.contains_key(&dir.join(name)));
        let here = state.files.iter().filter(|(path, file)| inside(path) && file.is_some());
        let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        names.extend(here.filter_map(|(path, _)| name(path)));
        Ok(names)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        if state.exists(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let is_unread = self.unread.is_some() && path.parent() == self.unread.as_deref();
        let content = Content { is_unread, ..Content::default() };
        state.files.insert(path.into(), Some(content));
        state.changes.push(Change::Created(path.into()));
        drop(state);
        Ok(self.file(path, None))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = match self.state().files.get(path) {
            Some(Some(_)) => None,
            Some(None) => return Err(missing()),
            None => Some(self.under(path)?),
        };
        Ok(self.file(path, file))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        Ok(Some(self.file(path, None)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let content = state.content(from, || self.under(from))?.clone();
        state.files.insert(from.into(), None);
        state.files.insert(to.into(), Some(content));
        state.changes.push(Change::Moved { from: from.into(), to: to.into() });
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.exists(path) {
            return Err(missing());
        }
        state.files.insert(path.into(), None);
        state.changes.push(Change::Removed(path.into()));
        Ok(())
    }
}

/// A file that was opened.
#[derive(Debug)]
struct Opened {
    overlay: Overlay,
    path: PathBuf,
    /// On disk, if it was there unchanged: it can be read on, should it be removed meanwhile.
    file: Option<Arc<dyn File>>,
}

impl Opened {
    /// The file on disk, where it is unchanged.
    fn under(&self) -> io::Result<&Arc<dyn File>> {
        self.file.as_ref().ok_or_else(missing)
    }
}

impl File for Opened {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut present = vec![0; bytes.len()];
        let same = self.read_at(&mut present, offset)? == bytes.len() && present == bytes;
        if same {
            return Ok(());
        }
        let mut state = self.overlay.state();
        let content = state.content(&self.path, || self.under().cloned())?;
        content.len = content.len.max(offset + bytes.len() as u64);
        if !content.is_unread {
            content.writes.push((offset, bytes.to_vec()));
        }
        state.note_written(&self.path, offset, bytes.len());
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(changed) = self.overlay.state().files.get(&self.path) {
            return changed.as_ref().ok_or_else(missing)?.read_at(buffer, offset);
        }
        self.under()?.read_at(buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        if let Some(changed) = self.overlay.state().files.get(&self.path) {
            return changed.as_ref().map(|content| content.len).ok_or_else(missing);
        }
        self.under()?.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let from = self.len()?;
        if from == len {
            return Ok(());
        }
        let mut state = self.overlay.state();
        state.content(&self.path, || self.under().cloned())?.truncate(len);
        state.changes.push(Change::Cut { path: self.path.clone(), from, to: len });
        Ok(())
    }
}
