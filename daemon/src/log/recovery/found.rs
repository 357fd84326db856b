//! Which segments there are, by their names and headers; and which of them are of this log.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use tidegate_event::record::InLanes;
use tidegate_event::{Epoch, Lsn};
use tracing::warn;

use super::super::beginning;
use super::super::lane;
use super::super::ledger;
use super::super::segment::{self, Before, Decoded, Header};
use super::super::spare::{self, Spare};
use super::super::storage::Storage;
use super::super::{LEDGER, LOCK};
use super::{OpenError, Place, Recovery};

/// Files that are no segments.
const OURS: [&str; 9] = [
    LOCK,
    LEDGER,
    ledger::UNFINISHED,
    lane::NAMES,
    lane::UNFINISHED,
    segment::UNFINISHED,
    segment::REWRITTEN,
    beginning::FILE,
    beginning::UNFINISHED,
];

/// A segment file, by its name and its header.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) first: Lsn,
    pub(super) sequence: u64,
    pub(super) len: u64,
    /// `None` if it is damaged.
    pub(super) header: Option<Header>,
    /// The LSN behind what it may hold: the segments behind it override the rest.
    pub(super) end: Lsn,
}

impl Found {
    /// The sequence of the last segment whose place it takes.
    pub(super) fn through(&self) -> u64 {
        self.header.as_ref().map_or(self.sequence, Header::through)
    }

    /// What each lane has in the segment before this one, where its header says so.
    pub(super) fn says_of_the_one_before(&self) -> Option<InLanes> {
        let header = self.header.as_ref().filter(|header| header.rewritten.is_none())?;
        header.figures.as_ref().map(|figures| figures.lanes.clone())
    }

    /// What its header says of the segment `sequence`, if that was the one before it; or if that lies
    /// between the two, and so held nothing.
    pub(super) fn before(&self, sequence: u64) -> Option<Before> {
        let before = self.header.as_ref()?.before?;
        match self.sequence.checked_sub(u64::from(before.back))? {
            named if named == sequence => Some(before),
            named if named < sequence => Some(Before { len: segment::HEADER_LEN as u64, ..before }),
            _ => None,
        }
    }
}

/// What lies in a log's directory, but for files that are neither segments nor spares.
#[derive(Debug, Default)]
pub(in super::super) struct Listed {
    pub(super) found: Vec<Found>,
    pub(super) spares: Vec<Spare>,
    /// Names that the log does not give.
    pub(super) foreign: Vec<String>,
}

impl Listed {
    /// Lists the segment files in `dir` and reads their headers. Fails if one of them is of a newer version.
    pub(in super::super) fn read(storage: &dyn Storage, dir: &Path) -> Result<Self, OpenError> {
        let mut listed = Self::default();
        for name in storage.list(dir).map_err(OpenError::io("list", dir))? {
            if OURS.contains(&name.as_str()) {
                continue;
            }
            if spare::is_name(&name) {
                listed.spares.extend(spare_at(storage, dir.join(name)));
                continue;
            }
            let Some((first, sequence)) = segment::parse_name(&name) else {
                listed.foreign.push(name);
                continue;
            };
            let path = dir.join(&name);
            let (front, len) = front(storage, &path).map_err(OpenError::io("read", &path))?;
            let header = match Header::decode(&front) {
                Decoded::Header(header) => Some(header),
                Decoded::Damaged => None,
                Decoded::Newer(version) => return Err(OpenError::Newer { path, version }),
            };
            listed.found.push(Found { name, path, first, sequence, len, header, end: 0 });
        }
        Ok(listed)
    }
}

/// One that cannot be opened is passed over.
fn spare_at(storage: &dyn Storage, path: PathBuf) -> Option<Spare> {
    let size = storage.open(&path).and_then(|file| file.len());
    size.ok().map(|size| Spare { path, size })
}

fn front(storage: &dyn Storage, path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let file = storage.open(path)?;
    let mut front = vec![0; segment::HEADER_LEN];
    // A header that the disk cannot read, also not the second time, is a damaged one.
    let read = file.read_at(&mut front, 0).or_else(|_| file.read_at(&mut front, 0));
    let read = read.unwrap_or(0);
    front.truncate(read);
    Ok((front, file.len()?))
}

impl Place<'_> {
    /// Leaves in `found` what belongs to this log.
    pub(super) fn set_foreign_aside(
        &self,
        found: &mut Vec<Found>,
        epoch: Option<Epoch>,
        report: &mut Recovery,
    ) {
        found.retain(|file| {
            let why = match &file.header {
                Some(header) if header.lane != self.lane => "a segment of another lane",
                Some(header) if Some(header.epoch) != epoch => "a segment of another log",
                Some(header) if (header.first, header.sequence) != (file.first, file.sequence) => {
                    "a segment under another one's name"
                }
                Some(_) => return true,
                // No frame has room in it.
                None if file.len <= segment::HEADER_LEN as u64 => "an empty segment",
                None => return true,
            };
            report.set_aside.extend(self.quarantine.set_aside(&file.name, why));
            false
        });
    }

    /// Passes over the segments whose place another one has taken, and removes them: a crash came before
    /// they could go. The one that stands for them may have its name in memory only; so that is made durable
    /// first.
    pub(super) fn remove_replaced(&self, found: &mut Vec<Found>) {
        let taken: Vec<_> = found.iter().map(|file| file.sequence + 1..=file.through()).collect();
        let is_replaced = |file: &Found| taken.iter().any(|range| range.contains(&file.sequence));
        if !found.iter().any(is_replaced) {
            return;
        }
        let synced = self.storage.sync_dir(self.dir);
        if let Err(error) = &synced {
            warn!(dir = %self.dir.display(), %error, "replaced segments stay until the next start");
        }
        found.retain(|file| {
            let is_replaced = is_replaced(file);
            if is_replaced
                && synced.is_ok()
                && let Err(error) = self.storage.unlink(&file.path)
            {
                warn!(path = %file.path.display(), %error, "replaced, but cannot be removed");
            }
            !is_replaced
        });
    }
}

/// The log's epoch: the one that most segments say, the newest of them where there are as many.
pub(super) fn epoch(found: &[Found]) -> Option<Epoch> {
    let mut count: HashMap<Epoch, (usize, u64)> = HashMap::new();
    for header in found.iter().filter_map(|file| file.header.as_ref()) {
        let (same, newest) = count.entry(header.epoch).or_default();
        (*same, *newest) = (*same + 1, header.sequence.max(*newest));
    }
    count.into_iter().max_by_key(|(_, weight)| *weight).map(|(epoch, _)| epoch)
}
