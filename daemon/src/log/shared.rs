//! What appenders, readers and the writer share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::{io, path::PathBuf};

use tidegate_event::{Epoch, Lane, Lsn};
use tokio::sync::{Notify, watch};
use tracing::warn;

use super::beginning::{Beginning, Identity};
use super::gone::Gone;
use super::lane::{Admission, Lanes};
use super::ledger::{Ledger, Loss, Reason};
use super::quarantine::Quarantine;
use super::queue::{Bounds, Queue};
use super::recovery::Recovered;
use super::scan::Skipped;
use super::segment::{self, Decoded, Header, Rewritten, Segment, Table};
use super::spare::Spares;
use super::storage::{File, Storage};
use super::wear::Wear;
use super::{Compression, Options};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) epoch: Epoch,
    pub(super) lane: Lane,
    pub(super) lanes: Lanes,
    pub(super) queue: Queue,
    /// Of new frames.
    pub(super) compression: Compression,
    pub(super) wear: Wear,
    pub(super) table: RwLock<Table>,
    /// In segment files: up to the end of each, and what is kept behind it.
    pub(super) bytes: AtomicU64,
    pub(super) spares: Spares,
    /// The newest durable LSN.
    pub(super) committed: AtomicU64,
    pub(super) watch: watch::Sender<Lsn>,
    /// Nobody needs events below it,
    pub(super) released: AtomicU64,
    /// nor control records in segments of a sequence below this one.
    pub(super) released_control: AtomicU64,
    /// Damaged places without events: control records are lost there.
    pub(super) control_lost: AtomicU64,
    /// Whether the disk takes no writes because it is full.
    pub(super) disk_full: AtomicBool,
    housekeeping: Mutex<()>,
    /// Somebody could not remove what is released, because another one was at it.
    missed: AtomicBool,
    pub(super) gone: Gone,
    /// The oldest events of a lane are to make room.
    pub(super) trim: Notify,
    pub(super) ledger: Ledger,
    pub(super) quarantine: Quarantine,
    pub(super) beginning: Beginning,
    /// Whether the writer has ended.
    pub(super) stopped: watch::Sender<bool>,
}

impl Shared {
    /// The log as it was found; its table goes over.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        options: Options,
        lanes: Lanes,
        bounds: Bounds,
        recovered: &mut Recovered,
        ledger: Ledger,
        quarantine: Quarantine,
    ) -> Self {
        let table = std::mem::take(&mut recovered.table);
        let committed = recovered.next - 1;
        for segment in &table.0 {
            lanes.add(&segment.lanes());
        }
        lanes.note(table.bytes());
        let log = Identity { epoch: recovered.epoch, lane: options.lane };
        let said = recovered.beginning;
        Self {
            beginning: Beginning::new(Arc::clone(&storage), &options.dir, log, said),
            storage,
            epoch: recovered.epoch,
            lane: options.lane,
            lanes,
            spares: Spares::new(&bounds),
            queue: Queue::new(bounds),
            compression: options.compression,
            wear: Wear::new(options.daily_write_budget, options.max_stretch),
            dir: options.dir,
            bytes: AtomicU64::new(table.bytes()),
            table: RwLock::new(table),
            committed: AtomicU64::new(committed),
            watch: watch::Sender::new(committed),
            released: AtomicU64::new(0),
            released_control: AtomicU64::new(0),
            control_lost: AtomicU64::new(recovered.report.control_lost),
            disk_full: AtomicBool::new(false),
            housekeeping: Mutex::new(()),
            missed: AtomicBool::new(false),
            gone: std::mem::take(&mut recovered.gone),
            trim: Notify::new(),
            ledger,
            quarantine,
            stopped: watch::Sender::new(false),
        }
    }

    pub(super) fn committed(&self) -> Lsn {
        self.committed.load(Ordering::Acquire)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the segment, or the one that has taken its place since it was looked up.
    pub(super) fn open(&self, segment: &Arc<Segment>) -> io::Result<(Arc<Segment>, Arc<dyn File>)> {
        let stands_for = |(it, _): &(Arc<Segment>, _)| {
            (it.header.sequence..=it.header.through()).contains(&segment.header.sequence)
        };
        match self.open_as_it_is(segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let table = self.table();
                let is_older = |it: &&Arc<Segment>| it.header.sequence < segment.header.sequence;
                let older: Vec<_> = table.0.iter().rev().filter(is_older).cloned().collect();
                drop(table);
                for it in older {
                    let is_meant = segment.header.sequence <= it.header.through();
                    match self.open_as_it_is(&it) {
                        Ok(opened) if stands_for(&opened) => return Ok(opened),
                        // Not to be taken for one that is not there.
                        Err(refused) if is_meant && refused.kind() != io::ErrorKind::NotFound => {
                            return Err(refused);
                        }
                        _ => {}
                    }
                }
                Err(error)
            }
            other => other,
        }
    }

    fn open_as_it_is(&self, segment: &Arc<Segment>) -> io::Result<(Arc<Segment>, Arc<dyn File>)> {
        let file = self.storage.open(&segment.path)?;
        let mut front = [0; segment::HEADER_LEN];
        // If it cannot be read, whoever reads on will meet that.
        let read = file.read_at(&mut front, 0).unwrap_or(0);
        if let Decoded::Header(header) = Header::decode(&front[..read])
            && header.salt != segment.header.salt
            && (header.epoch, header.sequence) == (self.epoch, segment.header.sequence)
            && let Some(Rewritten { end, len, .. }) = header.rewritten
        {
            let path = segment.path.clone();
            return Ok((Arc::new(Segment::new(header, path, end, len)), file));
        }
        Ok((Arc::clone(segment), file))
    }

    /// Whether a segment whose file is not there was released: then it is no loss.
    pub(super) fn was_released(&self, segment: &Arc<Segment>) -> bool {
        let (before, control) = self.released();
        segment.is_released(before, control) || !self.table().contains(segment)
    }

    /// Whether the file of a segment is not there any more. Who has it open may see another one's bytes.
    pub(super) fn is_gone(&self, segment: &Segment) -> bool {
        let opened = self.storage.open(&segment.path);
        opened.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Enters a loss in the ledger.
    pub(super) fn lost(&self, lsns: std::ops::RangeInclusive<Lsn>, reason: Reason) {
        self.ledger.record(Loss::now(self.lane, lsns, reason));
    }

    /// Enters that so many events of a lane are dropped, the first and the last of which are these.
    /// Answers whether that is durable.
    pub(super) fn dropped(
        &self,
        lane: Lane,
        lsns: std::ops::RangeInclusive<Lsn>,
        count: u64,
        reason: Reason,
    ) -> bool {
        self.lanes.lost(lane, count, reason);
        self.ledger.record(Loss { count, ..Loss::now(lane, lsns, reason) })
    }

    /// A reader passed over damage: keeps a copy of it, and enters what is lost.
    pub(super) fn damaged(&self, segment: &Segment, skipped: &Skipped) {
        // Of a file that was cut short there are no bytes to keep.
        let damaged = &skipped.extent;
        let new = damaged.len == 0 || self.quarantine.keep(&segment.path, damaged);
        match &skipped.lsns {
            Some(lsns) => self.lost(lsns.clone(), Reason::Damaged),
            None if new => self.control_lost(segment, damaged.offset),
            None => {}
        }
    }

    /// Control records are lost at `offset` of a segment.
    pub(super) fn control_lost(&self, segment: &Segment, offset: u64) {
        warn!(
            path = %segment.path.display(), offset,
            "control records are lost: what they said of a session is not known any more"
        );
        self.control_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Up to where everything is released: an LSN, and a sequence.
    pub(super) fn released(&self) -> (Lsn, u64) {
        (self.released.load(Ordering::Acquire), self.released_control.load(Ordering::Acquire))
    }

    /// Notes which lanes are full, now that less is on disk.
    pub(super) fn note_lanes(&self) {
        self.queue.note(|| self.bytes(), &self.lanes, || ());
    }

    /// Whether a lane takes events. One that seems full is looked at again: nobody else may do so for
    /// long.
    pub(super) fn admission(&self, lane: Lane) -> Admission {
        match self.lanes.admission(lane) {
            Admission::Takes => Admission::Takes,
            _ => self.queue.note(|| self.bytes(), &self.lanes, || self.lanes.admission(lane)),
        }
    }

    /// Removes the segments that nobody needs, the oldest first. The directory is synced behind each:
    /// otherwise a crash could bring back an older one without a newer one, and recovery would take
    /// the hole for a loss.
    pub(super) fn remove_released(&self) {
        let _alone = self.housekeeping();
        self.remove_all();
    }

    /// The same, but for when somebody is at it, or rewrites segments: nobody is to wait for that, and who
    /// is at it does it then.
    pub(super) fn try_remove_released(&self) {
        self.missed.store(true, Ordering::SeqCst);
        self.remove_missed();
    }

    fn remove_missed(&self) {
        loop {
            // Either this sees what somebody else has missed, or he sees that nobody is at it any more.
            fence(Ordering::SeqCst);
            if !self.missed.load(Ordering::SeqCst) {
                return;
            }
            let Ok(_alone) = self.housekeeping.try_lock() else { return };
            self.missed.store(false, Ordering::SeqCst);
            self.remove_all();
        }
    }

    fn remove_all(&self) {
        while !self.is_closed() && self.remove_one() {}
        self.note_lanes();
    }

    /// Whether the writer has ended: then the files are another one's.
    pub(super) fn is_closed(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Only one removes or rewrites segments at a time, and nobody once the log is closed.
    pub(super) fn housekeeping(&self) -> Housekeeping<'_> {
        let alone = self.housekeeping.lock().unwrap_or_else(PoisonError::into_inner);
        Housekeeping { shared: self, alone: Some(alone) }
    }

    /// Enters in the ledger what was appended as gone; fails where that is not on disk. Waits for the disk.
    pub(super) fn enter_gone(&self) -> io::Result<()> {
        let (gone, entered) = self.gone.enter(&self.ledger);
        for (lane, count) in gone {
            self.lanes.lost(lane, count, Reason::Dropped);
        }
        entered
    }

    /// Whether appenders lack room: in the log, or in a lane.
    fn is_wanted(&self) -> bool {
        self.queue.is_wanted() || self.lanes.any_is_full()
    }

    /// Bytes of the segments that hold nothing from `before` on; of the newest one only while
    /// appenders lack room.
    pub(super) fn releasable(&self, before: Lsn, control: u64) -> u64 {
        let wanted = self.is_wanted();
        let table = self.table();
        let newest = table.0.last().map(|segment| segment.header.sequence);
        let goes = |segment: &&Arc<Segment>| {
            let older = Some(segment.header.sequence) != newest;
            let empty = !segment.is_filled();
            segment.is_released(before, control) && (older || (wanted && !empty))
        };
        table.0.iter().filter(goes).map(|segment| segment.taken()).sum()
    }

    /// Appenders lack room while nobody needs what the newest segment holds: it goes too, as soon as
    /// the writer has begun another.
    pub(super) fn roll_if_drained(&self) {
        let drained = self.released.load(Ordering::Acquire) > self.committed();
        let filled = self.table().0.last().is_some_and(|newest| newest.is_filled());
        if drained && filled && self.is_wanted() {
            self.queue.roll();
        }
    }
}

/// Held by the one who removes or rewrites segments.
#[derive(Debug)]
pub(super) struct Housekeeping<'a> {
    shared: &'a Shared,
    alone: Option<MutexGuard<'a, ()>>,
}

impl Drop for Housekeeping<'_> {
    /// What was released meanwhile, and could not be removed, goes now.
    fn drop(&mut self) {
        self.alone = None;
        self.shared.remove_missed();
    }
}
