//! What opening a log does with what it finds on disk.

use std::collections::HashMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_event::record::{self, InLanes};
use tidegate_event::{Epoch, EventId, Lane, Lsn};
use tracing::{debug, info, warn};

use super::beginning::{self, Identity, Said, Useless};
use super::compress::Payloads;
use super::frame;
use super::gone::Gone;
use super::lane;
use super::ledger::{self, Ledger, Loss, Reason};
use super::quarantine::Quarantine;
use super::scan::{Frames, Scan, Step};
use super::segment::{self, Before, Decoded, Header, Segment, Table};
use super::spare::{self, Spare};
use super::storage::{File, Storage};
use super::writer::Active;
use super::{LEDGER, LOCK};

/// Bytes that a scan reads at once.
const SCAN_READ: usize = 1 << 20;
/// No event takes fewer bytes: its head, and the length of its payload.
const LEAST_EVENT: u64 = 2;

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

/// What opening a log found and did.
#[derive(Debug, Default)]
pub struct Recovery {
    /// LSNs that cannot be read: damaged and set aside, or missing; entered in the ledger.
    pub quarantined: Vec<RangeInclusive<Lsn>>,
    /// Damaged places without events: control records are lost there.
    pub control_lost: u64,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Files that were moved to `quarantine/`.
    pub set_aside: Vec<PathBuf>,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the log open.
    #[error("{path}: in use by another process, which has to stop first")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Somebody wants to look at a log with segments in sled databases while another process has it open.
    #[error(
        "{dir}: in use, and with engine = \"sled\" nobody else can read it meanwhile: stop the gateway \
         first (systemctl stop tidegate), or ask it with `tidegate status`"
    )]
    Held {
        /// The log's directory.
        dir: PathBuf,
    },
    /// A segment is of a format that this version does not know. Nothing was changed.
    #[error(
        "{path}: written by a newer version of tidegate (log format {version}, this one reads up to \
         {}); install that version again",
        segment::VERSION
    )]
    Newer {
        /// The segment file.
        path: PathBuf,
        /// Its format version.
        version: u32,
    },
}

impl OpenError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }
}

/// The log as it was found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) epoch: Epoch,
    pub(super) table: Table,
    /// The LSN of the next event.
    pub(super) next: Lsn,
    /// The highest sequence in use.
    pub(super) sequence: u64,
    /// The newest segment, if it can take more.
    pub(super) active: Option<Active>,
    pub(super) spares: Vec<Spare>,
    /// What the file says of where it begins.
    pub(super) beginning: Said,
    pub(super) report: Recovery,
}

/// Where a log is, and what helps to put it in order.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) storage: &'a Arc<dyn Storage>,
    pub(super) dir: &'a Path,
    pub(super) lane: Lane,
    pub(super) ledger: &'a Ledger,
    pub(super) quarantine: &'a Quarantine,
}

/// A segment file, by its name and its header.
#[derive(Debug)]
struct Found {
    name: String,
    path: PathBuf,
    first: Lsn,
    sequence: u64,
    len: u64,
    /// `None` if it is damaged.
    header: Option<Header>,
    /// The LSN behind what it may hold: the segments behind it override the rest.
    end: Lsn,
}

impl Found {
    /// The sequence of the last segment whose place it takes.
    fn through(&self) -> u64 {
        self.header.as_ref().map_or(self.sequence, Header::through)
    }

    /// What each lane has in the segment before this one, where its header says so.
    fn says_of_the_one_before(&self) -> Option<InLanes> {
        let header = self.header.as_ref().filter(|header| header.rewritten.is_none())?;
        header.figures.as_ref().map(|figures| figures.lanes.clone())
    }

    /// What its header says of the segment `sequence`, if that was the one before it; or if that lies
    /// between the two, and so held nothing.
    fn before(&self, sequence: u64) -> Option<Before> {
        let before = self.header.as_ref()?.before?;
        match self.sequence.checked_sub(u64::from(before.back))? {
            named if named == sequence => Some(before),
            named if named < sequence => Some(Before { len: segment::HEADER_LEN as u64, ..before }),
            _ => None,
        }
    }
}

/// What a segment holds.
#[derive(Debug)]
struct Scanned {
    /// The LSN behind its last good frame.
    end: Lsn,
    /// Where that ends.
    len: u64,
    /// Where it begins.
    last: u64,
    /// Bytes behind it that a crash left of a frame,
    torn: u64,
    /// and bytes that its file is to have.
    size: u64,
    /// What each lane has in it, as far as that is known.
    lanes: Option<InLanes>,
}

impl Scanned {
    /// One that ends there, where its last frame is not known, nor what lies behind it.
    fn new(end: Lsn, len: u64) -> Self {
        Self { end, len, last: len, torn: 0, size: len, lanes: None }
    }
}

impl Place<'_> {
    /// Puts the log in order. LSNs go on behind `known`, if that is of this log.
    pub(super) fn recover(&self, known: Option<EventId>) -> Result<Recovered, OpenError> {
        let mut report = Recovery::default();
        let (mut found, spares) = self.look(&mut report)?;
        let epoch = epoch(&found);
        self.set_foreign_aside(&mut found, epoch, &mut report);
        self.remove_replaced(&mut found);
        found.sort_by_key(|file| file.sequence);
        let mut end = Lsn::MAX;
        for file in found.iter_mut().rev() {
            file.end = end;
            end = end.min(file.first);
        }
        let mut recovered = Recovered {
            epoch: epoch.unwrap_or_else(|| Epoch(fastrand::u64(..))),
            table: Table::default(),
            next: 1,
            sequence: found.iter().map(Found::through).max().unwrap_or_default(),
            active: None,
            spares,
            beginning: Said::Nothing,
            report,
        };
        self.look_before(&found, &mut recovered);
        for (index, file) in found.iter().enumerate() {
            let following = found.get(index + 1);
            match &file.header {
                Some(header) => self.admit(file, header, following, &mut recovered)?,
                None => self.give_up(file, &mut recovered),
            }
        }
        let known = known.filter(|id| (id.epoch, id.lane) == (recovered.epoch, self.lane));
        if let Some(id) = known.filter(|id| id.lsn >= recovered.next && id.lsn < Lsn::MAX) {
            warn!(last = recovered.next - 1, known = id.lsn, "the end of the log is missing");
            self.lost(recovered.next..=id.lsn, Reason::Missing, &mut recovered);
            recovered.next = id.lsn + 1;
            recovered.active = None;
        }
        Ok(recovered)
    }

    /// Lists the segment files and reads their headers. Changes nothing if one of them is of a newer
    /// version; otherwise sets aside what is not named like a segment.
    fn look(&self, report: &mut Recovery) -> Result<(Vec<Found>, Vec<Spare>), OpenError> {
        let names = self.storage.list(self.dir).map_err(OpenError::io("list", self.dir))?;
        let (mut found, mut spares, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            if OURS.contains(&name.as_str()) {
                continue;
            }
            if spare::is_name(&name) {
                spares.extend(self.spare(self.dir.join(name)));
                continue;
            }
            let Some((first, sequence)) = segment::parse_name(&name) else {
                foreign.push(name);
                continue;
            };
            let path = self.dir.join(&name);
            let (front, len) = self.front(&path).map_err(OpenError::io("read", &path))?;
            let header = match Header::decode(&front) {
                Decoded::Header(header) => Some(header),
                Decoded::Damaged => None,
                Decoded::Newer(version) => return Err(OpenError::Newer { path, version }),
            };
            found.push(Found { name, path, first, sequence, len, header, end: 0 });
        }
        for name in foreign {
            report.set_aside.extend(self.quarantine.set_aside(&name, "not a file of the log"));
        }
        Ok((found, spares))
    }

    /// One that cannot be opened is passed over.
    fn spare(&self, path: PathBuf) -> Option<Spare> {
        let size = self.storage.open(&path).and_then(|file| file.len());
        size.ok().map(|size| Spare { path, size })
    }

    fn front(&self, path: &Path) -> io::Result<(Vec<u8>, u64)> {
        let file = self.storage.open(path)?;
        let mut front = vec![0; segment::HEADER_LEN];
        // A header that the disk cannot read, also not the second time, is a damaged one.
        let read = file.read_at(&mut front, 0).or_else(|_| file.read_at(&mut front, 0));
        let read = read.unwrap_or(0);
        front.truncate(read);
        Ok((front, file.len()?))
    }

    /// Reads where the log is to begin: what is missing from there to the oldest segment is lost. Who only
    /// looks while another process removes segments reads this after he has listed them.
    fn look_before(&self, found: &[Found], recovered: &mut Recovered) {
        let log = Identity { epoch: recovered.epoch, lane: self.lane };
        match beginning::read(self.storage, self.dir, log) {
            Ok(said) => recovered.beginning = said,
            Err(why) => {
                let aside = self.quarantine.set_aside(beginning::FILE, &why.to_string());
                if aside.is_none() && matches!(why, Useless::Unreadable(_)) {
                    recovered.beginning = Said::Anything;
                }
                recovered.report.set_aside.extend(aside);
                return;
            }
        }
        let Some(oldest) = found.iter().map(|file| file.first).min() else { return };
        match recovered.beginning {
            Said::At { lsn, .. } if lsn < oldest => {
                self.lost(lsn..=oldest - 1, Reason::Missing, recovered);
            }
            Said::Nothing => info!(
                dir = %self.dir.display(), oldest,
                "where the log begins was not noted: it is taken as it is"
            ),
            Said::At { .. } | Said::Anything => {}
        }
    }

    /// Leaves in `found` what belongs to this log.
    fn set_foreign_aside(
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
                // Crashed before its first frame: the header is durable before a frame is written.
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
    fn remove_replaced(&self, found: &mut Vec<Found>) {
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

    /// Takes a segment into the table. Its content is read only if it is the newest one, or if one
    /// is missing behind it: otherwise the next one's header says what it holds.
    fn admit(
        &self,
        file: &Found,
        header: &Header,
        following: Option<&Found>,
        recovered: &mut Recovered,
    ) -> Result<(), OpenError> {
        if file.first > recovered.next && !recovered.table.0.is_empty() {
            self.lost(recovered.next..=file.first - 1, Reason::Missing, recovered);
        }
        recovered.next = recovered.next.max(file.first);
        let (end, len) = (file.end, file.len);
        let mut scanned = Scanned::new(end, len);
        scanned.size = file.len;
        let mut resume = None;
        if let Some(rewritten) = header.rewritten {
            (scanned.end, scanned.len) = (rewritten.end.min(end), rewritten.len);
        } else if let Some(before) = following.and_then(|next| next.before(file.sequence)) {
            scanned.len = before.len;
            self.cut(file, &mut scanned);
            scanned.lanes = following.and_then(|next| next.says_of_the_one_before());
        } else if following.is_none_or(|next| next.sequence != file.sequence + 1) {
            let opened =
                self.storage.open(&file.path).map_err(OpenError::io("open", &file.path))?;
            scanned = self
                .scan(file, header, &opened, recovered)
                .map_err(OpenError::io("read", &file.path))?;
            let size = std::mem::replace(&mut scanned.size, file.len);
            if following.is_none() {
                recovered.report.torn_bytes = scanned.torn;
                match self.settle(file, header, &opened, (&scanned, size)) {
                    Ok(()) => (scanned.size, resume) = (size, Some(opened)),
                    Err(error) => {
                        warn!(path = %file.path.display(), %error, "cannot be written any more");
                    }
                }
            }
        }
        recovered.next = recovered.next.max(scanned.end);
        let end = scanned.end.max(file.first);
        let segment = Segment::new(header.clone(), file.path.clone(), end, scanned.len);
        segment.resized(scanned.size.max(scanned.len));
        if header.rewritten.is_none() {
            let lanes = scanned.lanes.filter(|lanes| lanes.iter().next().is_some());
            segment.found(lanes.unwrap_or_else(|| segment.all_in_lane_0()));
        }
        let segment = Arc::new(segment);
        let resume = resume.filter(|_| recovered.next == end);
        recovered.active = resume.map(|file| Active { segment: Arc::clone(&segment), file });
        recovered.table.0.push(segment);
        Ok(())
    }

    /// Reads a segment to its end.
    fn scan(
        &self,
        file: &Found,
        header: &Header,
        opened: &Arc<dyn File>,
        recovered: &mut Recovered,
    ) -> io::Result<Scanned> {
        let mut scan = Scan::whole(Arc::clone(opened), header);
        let (mut frames, mut payloads) = (Frames::default(), Payloads::default());
        let (end, len, mut lanes) = (scan.lsn, scan.offset, InLanes::default());
        let gone = Gone::default();
        let mut scanned = Scanned::new(end, len);
        loop {
            match scan.step(file.len, file.end, &mut frames, SCAN_READ)? {
                Step::Frames => {
                    let last = frames.spans.last().map_or(0, |(_, last)| last.frame_len());
                    scanned.last = scan.offset - last as u64;
                    (scanned.end, scanned.len) = (scan.lsn, scan.offset);
                    scanned.size = scan.offset;
                    payloads.each(&frames, |frame, payload| {
                        let parts = record::lanes(payload);
                        gone.note_unknown(&parts, &(frame.first..=frame.end() - 1), self.ledger);
                        lanes.extend(&parts);
                    });
                    gone.enter(self.ledger);
                    scanned.lanes = Some(lanes.clone());
                }
                Step::End => return Ok(scanned),
                Step::Damage if scan.is_end(file.len).unwrap_or(false) => {
                    scanned.size = file.len;
                    return Ok(scanned);
                }
                Step::Damage => {
                    let skipped = scan.skip(file.len, file.end)?;
                    if !skipped.resumed {
                        // A torn tail; or, if segments follow, one with a gap behind it.
                        let left = skipped.bytes.len();
                        let torn = frame::announced_len(&skipped.bytes).unwrap_or(left);
                        scanned.torn = torn.min(left) as u64;
                        return Ok(scanned);
                    }
                    let new = self.quarantine.keep(&file.path, skipped.offset, &skipped.bytes);
                    match skipped.lsns {
                        Some(lsns) => self.lost(lsns, Reason::Damaged, recovered),
                        None => recovered.report.control_lost += u64::from(new),
                    }
                }
            }
        }
    }

    /// Gives back what an older segment's file has behind its end: cut before, and not durably.
    fn cut(&self, file: &Found, scanned: &mut Scanned) {
        if file.len <= scanned.len {
            return;
        }
        match self.storage.open(&file.path).and_then(|opened| opened.truncate(scanned.len)) {
            Ok(()) => scanned.size = scanned.len,
            Err(error) => debug!(path = %file.path.display(), %error, "cannot be cut"),
        }
    }

    /// Makes durable what is about to be served and continued. What a crash of the process alone left
    /// in the page cache may not be on disk, and after a failed fdatasync the kernel calls it clean all
    /// the same: so header and last frame are written again. The header then says the version of what is
    /// added to it, and both its copies are sound.
    fn settle(
        &self,
        file: &Found,
        header: &Header,
        opened: &Arc<dyn File>,
        (scanned, size): (&Scanned, u64),
    ) -> io::Result<()> {
        if size < file.len {
            opened.truncate(size)?;
        }
        opened.write_at(&header.encode(), 0)?;
        let mut last = vec![0; (scanned.len - scanned.last) as usize];
        let read = opened.read_at(&mut last, scanned.last)?;
        opened.write_at(&last[..read], scanned.last)?;
        opened.sync_data()?;
        // Nor may a segment come back that would override this one.
        self.storage.sync_dir(self.dir)
    }

    /// Both copies of the header are damaged: without it no frame can be told from old bytes.
    fn give_up(&self, file: &Found, recovered: &mut Recovered) {
        let most = (file.len - segment::HEADER_LEN as u64) / LEAST_EVENT;
        let end = if file.end == Lsn::MAX { file.first.saturating_add(most) } else { file.end };
        let first =
            if recovered.table.0.is_empty() { file.first } else { recovered.next.min(file.first) };
        if end > first {
            self.lost(first..=end - 1, Reason::Damaged, recovered);
        }
        recovered.next = recovered.next.max(end);
        recovered.active = None;
        let aside = self.quarantine.set_aside(&file.name, "its header is damaged");
        recovered.report.set_aside.extend(aside);
    }

    fn lost(&self, lsns: RangeInclusive<Lsn>, reason: Reason, recovered: &mut Recovered) {
        self.ledger.record(Loss::now(self.lane, lsns.clone(), reason));
        recovered.report.quarantined.push(lsns);
    }
}

/// The log's epoch: the one that most segments say, the newest of them where there are as many.
fn epoch(found: &[Found]) -> Option<Epoch> {
    let mut count: HashMap<Epoch, (usize, u64)> = HashMap::new();
    for header in found.iter().filter_map(|file| file.header.as_ref()) {
        let (same, newest) = count.entry(header.epoch).or_default();
        (*same, *newest) = (*same + 1, header.sequence.max(*newest));
    }
    count.into_iter().max_by_key(|(_, weight)| *weight).map(|(epoch, _)| epoch)
}
