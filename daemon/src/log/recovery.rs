//! What opening a log does with what it finds on disk.

mod found;

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_event::record::{self, InLanes};
use tidegate_event::{Epoch, EventId, Lane, Lsn};
use tracing::{debug, info, warn};

use super::beginning::{self, Identity, Said, Useless};
use super::compress::Payloads;
use super::gone::Gone;
use super::ledger::{Ledger, Loss, Reason};
use super::quarantine::Quarantine;
use super::scan::{Frames, Scan, Step};
use super::segment::{self, Header, Segment, Table};
use super::spare::Spare;
use super::storage::{File, Storage};
use super::writer::Active;
pub(super) use found::Listed;
use found::{Found, epoch};

/// Bytes that a scan reads at once.
const SCAN_READ: usize = 1 << 20;
/// No event takes fewer bytes: its head, and the length of its payload.
const LEAST_EVENT: u64 = 2;

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
    /// What of the newest segment is gone, where the ledger cannot be written.
    pub(super) gone: Gone,
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
    pub(super) fn recover(
        &self,
        Listed { mut found, spares, foreign }: Listed,
        known: Option<EventId>,
    ) -> Result<Recovered, OpenError> {
        let mut report = Recovery::default();
        for name in foreign {
            report.set_aside.extend(self.quarantine.set_aside(&name, "not a file of the log"));
        }
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
            gone: Gone::default(),
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
        } else if following
            .is_none_or(|next| next.header.is_none() || next.sequence != file.sequence + 1)
        {
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
        if following.is_some() {
            segment.keep_tail();
        }
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
                        let lsns = frame.first..=frame.end() - 1;
                        recovered.gone.note_unknown(&parts, &lsns, self.ledger);
                        lanes.extend(&parts);
                    });
                    // If the disk does not take it, the writer sees to that.
                    let _ = recovered.gone.enter(self.ledger);
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
                        let left = skipped.extent.len;
                        scanned.torn = skipped.announced.unwrap_or(left).min(left);
                        return Ok(scanned);
                    }
                    let new = self.quarantine.keep(&file.path, &skipped.extent);
                    match skipped.lsns {
                        Some(lsns) => self.lost(lsns, Reason::Damaged, recovered),
                        None => recovered.report.control_lost += u64::from(new),
                    }
                }
            }
        }
    }

    /// Gives back what an older segment's file has behind its end, if that is much: cut before, and not
    /// durably.
    fn cut(&self, file: &Found, scanned: &mut Scanned) {
        if Segment::may_keep_tail(file.len, scanned.len) {
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
