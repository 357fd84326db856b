//! A log looked at from outside: its directory is neither locked nor changed, so the daemon may have it
//! open. What opening would put in order is put in order in memory.

mod follow;
mod walk;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_event::{Epoch, Lsn};

use super::claim::open_ledger;
use super::lane::{Lanes, Names};
use super::quarantine::{self, Quarantine};
use super::recovery::{Listed, Place, Recovered};
use super::segment::Segment;
use super::shared::Shared;
use super::storage::overlay::{Change, Overlay};
use super::storage::sled::{Databases, is_used};
use super::storage::{File, FileSystem};
use super::{LEDGER, LOCK, usage};
use super::{Ledger, Loss, OpenError, Options, Reader, Recovery, Storage, Usage};

pub use walk::{Damage, FrameInfo, Walked};
pub use watch::Watch;

/// The daemon releases segments while they are looked for: then the look is taken again, so often.
const LOOKS: usize = 16;

/// A log as it stood when it was looked at; [`View::follow`] brings it up to date. What is read may be
/// one commit ahead of the daemon's fdatasync.
#[derive(Debug)]
pub struct View {
    shared: Arc<Shared>,
    report: Recovery,
    changes: Vec<Change>,
    tail: Option<follow::Tail>,
    /// Held where segments lie in databases, which only one may have open.
    lock: Option<Arc<dyn File>>,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its file.
    pub path: PathBuf,
    /// Attempts to create a segment, up to this one.
    pub sequence: u64,
    /// Bytes up to the end of its last frame.
    pub bytes: u64,
    /// What its file keeps behind that, once it is full; it counts as used.
    pub unused: u64,
    /// Its LSNs; empty where it holds control records at most.
    pub lsns: std::ops::Range<Lsn>,
}

impl View {
    /// Looks at the log that is kept like this.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let lock = lock(options)?;
        let mut looks = 1;
        loop {
            match Self::look(options.clone(), lock.clone()) {
                Err(OpenError::Io { source, path, .. })
                    if source.kind() == io::ErrorKind::NotFound
                        && path != options.dir
                        && looks < LOOKS =>
                {
                    looks += 1;
                }
                other => return other,
            }
        }
    }

    fn look(options: Options, lock: Option<Arc<dyn File>>) -> Result<Self, OpenError> {
        let databases = lock.is_some().then(Databases::to_look);
        let aside = options.dir.join(quarantine::DIR);
        let overlay = Overlay::over(databases.clone()).unread(aside);
        let storage: Arc<dyn Storage> = Arc::new(overlay.clone());
        let quarantine =
            Quarantine::new(Arc::clone(&storage), &options.dir, options.max_quarantine);
        let listed = Listed::read(&*storage, &options.dir)?;
        quarantine.look();
        let ledger = open_ledger(&storage, &options, &quarantine)?;
        let place = Place {
            storage: &storage,
            dir: &options.dir,
            lane: options.lane,
            ledger: &ledger,
            quarantine: &quarantine,
        };
        let mut recovered = place.recover(listed, None)?;
        // Not through what was put in order: the end of the newest segment moves on.
        let disk: Arc<dyn Storage> = Arc::new(Overlay::over(databases));
        let bounds = options.bounds();
        let names = Names::read(&storage, &options.dir).unwrap_or_else(|_| Names::new());
        let lanes = names.number(&storage, &options.dir, options.lanes.clone());
        let lanes = Lanes::new(lanes, bounds.max_size);
        let shared = Shared::new(disk, options, lanes, bounds, &mut recovered, ledger, quarantine);
        let Recovered { report, .. } = recovered;
        let shared = Arc::new(shared);
        Ok(Self { shared, report, changes: overlay.changes(), tail: None, lock })
    }

    /// Whether it keeps the daemon from starting for as long as it lives.
    pub fn is_exclusive(&self) -> bool {
        self.lock.is_some()
    }

    /// What opening the log would find and do.
    pub fn recovery(&self) -> &Recovery {
        &self.report
    }

    /// What opening the log would do to the disk. The tail of a log in use seems torn while a commit is
    /// under way.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The log's epoch: drawn when it was created.
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// What it holds.
    pub fn usage(&self) -> Usage {
        usage::of(&self.shared)
    }

    /// Where it is to begin, if its file `beginning` says so: before that, all was released, was dropped, or
    /// stands in the loss ledger.
    pub fn begins(&self) -> Option<Lsn> {
        self.shared.beginning.lsn()
    }

    /// The loss ledger as it is on disk, oldest entry first; and how many entries cannot be read.
    pub fn ledger(&self) -> io::Result<(Vec<Loss>, u64)> {
        let path = self.shared.dir.join(LEDGER);
        let ledger = Ledger::open(Arc::clone(&self.shared.storage), path, u64::MAX, |_| {})?;
        Ok((ledger.entries(), ledger.losses().damaged))
    }

    /// Its lanes, by their numbers on disk.
    pub fn lanes(&self) -> &Lanes {
        &self.shared.lanes
    }

    /// What it has set aside: names and bytes.
    pub fn set_aside(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let dir = self.shared.dir.join(quarantine::DIR);
        let names = match self.shared.storage.list(&dir) {
            // A file of that name goes there when the log is opened.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Vec::new());
            }
            other => other?,
        };
        let size = |name: String| {
            let path = dir.join(name);
            let len = self.shared.storage.open(&path).and_then(|file| file.len());
            len.map(|len| (path, len))
        };
        let mut files = names.into_iter().map(size).collect::<io::Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    }

    /// A reader, as [`super::Log::reader`].
    pub fn reader(&self, from: Lsn) -> Reader {
        Reader::new(Arc::clone(&self.shared), from)
    }

    /// Its segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.table().0.iter().map(|segment| info(segment)).collect()
    }

    /// The first LSN of the newest segment that begins with an event received at or before
    /// `unix_micros`; the oldest one where none does. So no event received since then is missed, as long
    /// as nobody set the clock back. Reads the front of a few segments.
    pub fn since(&self, unix_micros: i64) -> io::Result<Lsn> {
        let segments = self.filled();
        let after = self.first_after(&segments, unix_micros)?;
        let first = |segment: &Arc<Segment>| segment.header.first;
        Ok(segments.get(after.saturating_sub(1)).map_or(1, first))
    }

    /// The first LSN of the oldest segment that begins with an event received after `unix_micros`; the
    /// next LSN where none does.
    pub fn until(&self, unix_micros: i64) -> io::Result<Lsn> {
        let segments = self.filled();
        let after = self.first_after(&segments, unix_micros)?;
        let next = self.shared.committed() + 1;
        Ok(segments.get(after).map_or(next, |segment| segment.header.first))
    }

    fn filled(&self) -> Vec<Arc<Segment>> {
        let table = self.shared.table();
        table.0.iter().filter(|segment| !segment.has_no_events()).cloned().collect()
    }

    /// Which of the segments is the first to begin after `unix_micros`.
    fn first_after(&self, segments: &[Arc<Segment>], unix_micros: i64) -> io::Result<usize> {
        let (mut low, mut high) = (0, segments.len());
        while low < high {
            let middle = low + (high - low) / 2;
            // One whose front cannot be read is passed over as a later one: more is read then.
            let begins = walk::first_received(&self.shared, &segments[middle])?;
            if begins.is_some_and(|received| received <= unix_micros) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// Takes the log where segments lie in databases: sled lets only one process open them, and writes to
/// them when it opens them.
fn lock(options: &Options) -> Result<Option<Arc<dyn File>>, OpenError> {
    if !is_used(&options.dir) {
        return Ok(None);
    }
    let path = options.dir.join(LOCK);
    match FileSystem.lock(&path).map_err(OpenError::io("lock", &path))? {
        Some(lock) => Ok(Some(lock)),
        None => Err(OpenError::Held { dir: options.dir.clone() }),
    }
}

fn info(segment: &Segment) -> SegmentInfo {
    SegmentInfo {
        path: segment.path.clone(),
        sequence: segment.header.sequence,
        bytes: segment.len(),
        unused: segment.taken() - segment.len(),
        lsns: segment.header.first..segment.end(),
    }
}

#[cfg(test)]
mod tests;
