//! The one writer of a log: takes frames from the queue, makes them durable, answers.

mod begin;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_event::Lsn;
use tracing::{debug, info, warn};

use super::compress::{Compression, Packer};
use super::frame;
use super::queue::{Batch, Work};
use super::segment::{self, Segment};
use super::shared::Shared;
use super::storage::{self, File};
use begin::Content;

/// The first probe after a failure comes after this; each further one after twice the time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// No probe waits longer.
const LAST_RETRY: Duration = Duration::from_secs(10);
/// Where no segment can be begun, it is tried again after this part of one.
const BEGIN_PART: u64 = 16;
/// A frame that failed is tried once more, in a new segment.
const ATTEMPTS: usize = 2;
/// What a disk and its cache in memory take at once.
const PAGE: u64 = 4096;

#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// `None` after a failure, until a segment can be created again.
    active: Option<Active>,
    /// The LSN of the next event.
    next: Lsn,
    /// The sequence of the newest segment, or of the newest attempt at one.
    sequence: u64,
    /// Bytes of the last frame that could not be written.
    failed: usize,
    /// No other segment could be begun: it is tried again when the active one has so many bytes.
    begin_at: u64,
    delay: Duration,
    packer: Packer,
    /// Kept as long as anything is written.
    lock: Option<Arc<dyn File>>,
}

#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn File>,
}

impl Active {
    /// Whether its file goes on behind its end.
    fn is_roomy(&self) -> bool {
        self.segment.size() > self.segment.len()
    }
}

impl Writer {
    /// A writer that goes on in `active`, or in a new segment. If that cannot be created, the log
    /// opens all the same, and takes events when the disk does.
    pub(super) fn new(
        shared: Arc<Shared>,
        active: Option<Active>,
        next: Lsn,
        sequence: u64,
        lock: Arc<dyn File>,
    ) -> Self {
        let lock = Some(lock);
        let (failed, begin_at, delay) = (0, 0, FIRST_RETRY);
        let packer = Packer::new(shared.compression);
        let mut writer =
            Self { shared, active, next, sequence, failed, begin_at, delay, packer, lock };
        if writer.active.is_none() && !writer.begin_empty(0) {
            writer.give_up();
        }
        if let Some(Active { segment, file }) = &writer.active {
            segment.resized(writer.allocate(&**file, segment.size()));
        }
        writer.shared.remove_released();
        writer
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        while self.perform(self.shared.queue.next()) {}
    }

    /// Does one piece of work at `now`, if there is any. Answers whether there was.
    #[cfg(test)]
    pub(super) fn step(&mut self, now: std::time::Instant) -> bool {
        match self.shared.queue.try_next(now) {
            Some(work) => self.perform(work),
            None => false,
        }
    }

    fn perform(&mut self, work: Work) -> bool {
        match work {
            Work::Commit(mut batch) => {
                if !self.commit(&mut batch) {
                    self.shared.lanes.remove(&batch.lanes);
                    self.failed = batch.bytes.len();
                    self.give_up();
                }
                self.shared.queue.done(batch);
            }
            Work::Roll => {
                self.begin_empty(0);
                self.shared.queue.rolled();
            }
            Work::Probe => {
                // Otherwise all that wait would be called, to be refused again.
                let room = self.shared.queue.bounds().max_bytes.max(self.failed);
                if self.begin_empty(room) {
                    info!(dir = %self.shared.dir.display(), "the disk takes writes again");
                    self.shared.disk_full.store(false, Ordering::Release);
                    self.shared.queue.available();
                } else {
                    self.give_up();
                }
            }
            Work::Stop => {
                // What is allocated ahead need not be searched when the log is opened again.
                if let Some(active) = self.active.take().filter(Active::is_roomy) {
                    self.cut(&active);
                }
                return false;
            }
        }
        true
    }

    fn commit(&mut self, batch: &mut Batch) -> bool {
        let mut packer = std::mem::replace(&mut self.packer, Packer::new(Compression::None));
        let packed = packer.pack(&batch.bytes);
        // Its buffer goes back to the batch, which may be used again.
        let mut plain = std::mem::take(&mut batch.bytes);
        let (bytes, crc, flags) = match packed {
            Some((bytes, flags)) => {
                let crc = crc32c::crc32c(&bytes[frame::HEADER_LEN..]);
                (bytes, crc, flags | batch.flags)
            }
            None => (&mut plain, batch.crc, batch.flags),
        };
        let is_stored = self.store(bytes, crc, flags, batch);
        batch.bytes = plain;
        self.packer = packer;
        is_stored
    }

    /// Makes a frame whose payload has this checksum durable, with these flags, and answers those who wait
    /// for it.
    fn store(&mut self, bytes: &mut [u8], crc: u32, flags: u32, batch: &mut Batch) -> bool {
        for _ in 0..ATTEMPTS {
            let segment_size = self.shared.queue.bounds().segment_size;
            let ends = |active: &Active| {
                let is_due = active.segment.len() >= self.begin_at;
                is_due && active.segment.is_full(bytes.len() as u64, segment_size)
            };
            let (next, count) = (self.next, batch.count);
            if self.active.as_ref().is_none_or(ends) {
                let salt = fastrand::u64(..);
                frame::seal_summed(bytes, crc, next, count, flags, salt);
                if self.begin_segment(salt, Content::Frame(bytes)) {
                    self.publish(batch, bytes.len() as u64, segment::HEADER_LEN as u64);
                    self.shared.try_remove_released();
                    return true;
                }
                let len = self.active.as_ref().map_or(0, |active| active.segment.len());
                self.begin_at = len + segment_size / BEGIN_PART;
            }
            // A full segment takes more where there can be no new one (no file handles left, say).
            let Some(active) = &self.active else { continue };
            frame::seal_summed(bytes, crc, next, count, flags, active.segment.header.salt);
            let (offset, size) = (active.segment.len(), active.segment.size());
            let end = offset + bytes.len() as u64;
            self.shared.make_room(end.saturating_sub(size));
            let written = write(&*active.file, (offset, size), bytes);
            match written.and_then(|()| active.file.sync_data()) {
                Ok(()) => {
                    self.publish(batch, bytes.len() as u64, 0);
                    return true;
                }
                Err(error) => {
                    let path = active.segment.path.display();
                    warn!(%path, %error, "a commit failed, the segment is abandoned");
                    self.failed_with(&error);
                    self.abandon();
                }
            }
        }
        false
    }

    /// The frame of so many bytes is durable: readers see it, then its appenders are answered.
    /// So many bytes of the segment before it were synced with it.
    fn publish(&mut self, batch: &mut Batch, bytes: u64, with: u64) {
        let Some(active) = &self.active else { return };
        let shared = &self.shared;
        self.next += u64::from(batch.count);
        let offset = active.segment.len();
        active.segment.advance(batch.count, offset + bytes, &batch.lanes);
        active.segment.resized(active.segment.size().max(offset + bytes));
        if let Some(pace) = shared.wear.wrote(offset - with, with + bytes) {
            shared.queue.stretch(pace.stretch);
            if let Some(budget) = pace.exceeds {
                warn!(
                    dir = %shared.dir.display(), budget,
                    "log.daily-write-budget is exceeded: more was written in 24 hours"
                );
            }
        }
        shared.bytes.fetch_add(bytes, Ordering::AcqRel);
        // Control records alone are no news to those who wait for events.
        if batch.count > 0 {
            // Before anybody can read it.
            shared.gone.note(&batch.lanes, &(self.next - u64::from(batch.count)..=self.next - 1));
            shared.committed.store(self.next - 1, Ordering::Release);
            shared.watch.send_replace(self.next - 1);
        }
        shared.disk_full.store(false, Ordering::Release);
        shared.queue.on_disk(batch);
        batch.stored(self.next - u64::from(batch.count));
        self.delay = FIRST_RETRY;
    }

    /// Nothing more goes into the active segment: the state of its tail is unknown. What the failed
    /// write left there is cut if the disk lets us; if not, the next segment overrides it.
    fn abandon(&mut self) {
        if let Some(active) = self.active.take() {
            // Best effort, for the reason above.
            self.cut(&active);
        }
    }

    /// Gives back what a segment's file has behind its end. Best effort: it may take room until the log
    /// is opened again.
    fn cut(&self, active: &Active) {
        let len = active.segment.len();
        match active.file.truncate(len) {
            Ok(()) => active.segment.resized(len),
            Err(error) => debug!(path = %active.segment.path.display(), %error, "cannot be cut"),
        }
    }

    fn failed_with(&self, error: &io::Error) {
        let full = storage::is_full(error);
        self.shared.disk_full.store(full, Ordering::Release);
        if full {
            self.shared.drop_spares();
        }
    }

    fn give_up(&mut self) {
        warn!(
            dir = %self.shared.dir.display(), retry = ?self.delay,
            "the disk takes no writes: events are refused"
        );
        self.shared.queue.unavailable(self.delay, &self.shared.lanes);
        self.delay = (self.delay * 2).min(LAST_RETRY);
    }
}

/// Writes a frame at `offset` of a file of this size. Where that has room, the last page is written whole:
/// half of one that is not in memory would have to be read first. It is written alone, so that the kernel
/// does not keep it together with those before: some file systems write all of that again with the next
/// frame.
fn write(file: &dyn File, (offset, size): (u64, u64), frame: &[u8]) -> io::Result<()> {
    let end = offset + frame.len() as u64;
    let page = end / PAGE * PAGE;
    if page >= offset && page < end && page + PAGE <= size {
        file.write_at(&[0; PAGE as usize], page)?;
    }
    file.write_at(frame, offset)
}

impl Drop for Writer {
    /// Also when the thread panics: then what waits is not stored, and the log refuses.
    fn drop(&mut self) {
        self.shared.queue.abandon();
        // Who removes or rewrites segments is done before others may open the log, or finds it closed.
        let _alone = self.shared.housekeeping();
        self.lock = None;
        self.shared.stopped.send_replace(true);
    }
}
