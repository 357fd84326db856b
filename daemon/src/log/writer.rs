//! The one writer of a log: takes frames from the queue, makes them durable, answers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_event::Lsn;
use tracing::{debug, info, warn};

use super::compress::{Compression, Packer};
use super::frame;
use super::queue::{Batch, Work};
use super::segment::{self, Before, Figures, Header, Segment};
use super::shared::Shared;
use super::storage::{self, File};

/// The first probe after a failure comes after this; each further one after twice the time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// No probe waits longer.
const LAST_RETRY: Duration = Duration::from_secs(10);
/// A frame that failed is tried once more, in a new segment.
const ATTEMPTS: usize = 2;
/// What a disk and its cache in memory take at once.
const PAGE: u64 = 4096;
/// What a probe writes at once.
const PROBE: [u8; 16 << 10] = [0; 16 << 10];

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

/// What a new segment begins with, behind its header.
#[derive(Debug, Clone, Copy)]
enum Content<'a> {
    Nothing,
    Frame(&'a [u8]),
    /// So many zeros, which are cut again: there is to be room.
    Zeros(usize),
}

impl Content<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Frame(frame) => frame.len(),
            Self::Zeros(count) => *count,
        }
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
        let (failed, delay) = (0, FIRST_RETRY);
        let packer = Packer::new(shared.compression);
        let mut writer = Self { shared, active, next, sequence, failed, delay, packer, lock };
        // What a crash left of an attempt.
        writer.remove_unfinished();
        if writer.active.is_none() && !writer.begin_empty(Content::Nothing) {
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
                self.begin_empty(Content::Nothing);
                self.shared.queue.rolled();
            }
            Work::Probe => {
                // Otherwise all that wait would be called, to be refused again.
                let room = self.shared.queue.bounds().max_bytes.max(self.failed);
                if self.begin_empty(Content::Zeros(room)) {
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
            let full = |active: &Active| active.segment.is_full(bytes.len() as u64, segment_size);
            let (next, count) = (self.next, batch.count);
            if self.active.as_ref().is_none_or(full) {
                let salt = fastrand::u64(..);
                frame::seal_summed(bytes, crc, next, count, flags, salt);
                if self.begin_segment(salt, Content::Frame(bytes)) {
                    self.publish(batch, bytes.len() as u64, segment::HEADER_LEN as u64);
                    self.shared.try_remove_released();
                    return true;
                }
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

    /// A new segment, with a file of `next` bytes, takes what is to come: what the file of this one has behind
    /// its end is kept, and counts as used, if that is little and leaves room for all that waits.
    fn leave(&self, full: &Active, next: u64) {
        let Shared { queue, bytes, lanes, .. } = &*self.shared;
        let (size, len, most) = (full.segment.size(), full.segment.len(), lanes.max_size());
        let fits = self.shared.on_disk() + next <= most;
        if fits && Segment::may_keep_tail(size, len) && queue.count(bytes, size - len, most) {
            full.segment.keep_tail();
        } else if full.is_roomy() {
            self.cut(full);
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

    /// Begins a new segment that holds no frame yet, and removes what was released. Answers whether it could.
    fn begin_empty(&mut self, content: Content<'_>) -> bool {
        let is_begun = self.begin_segment(fastrand::u64(..), content);
        if is_begun {
            self.shared.try_remove_released();
        }
        is_begun
    }

    /// Begins a new segment with this salt and content. Answers whether it could; otherwise the one before it
    /// may go on.
    fn begin_segment(&mut self, salt: u64, content: Content<'_>) -> bool {
        // Who opens the log looks for what is gone in the newest segment alone.
        if let Err(error) = self.shared.enter_gone() {
            let dir = self.shared.dir.display();
            warn!(%dir, %error, "no segment is begun while the loss ledger cannot be written");
            self.failed_with(&error);
            return false;
        }
        // A name is used once: a failed attempt may have left its file behind.
        self.sequence += 1;
        let header = Header {
            epoch: self.shared.epoch,
            lane: self.shared.lane,
            sequence: self.sequence,
            first: self.next,
            salt,
            before: self.before(),
            rewritten: None,
            figures: Some(self.figures()),
        };
        let path = self.shared.dir.join(header.file_name());
        match self.create(&header, &path, content) {
            Ok((file, size)) => {
                if let Some(full) = self.active.take() {
                    self.leave(&full, size);
                }
                let segment = Arc::new(Segment::begin(header, path));
                segment.resized(size);
                self.shared.bytes.fetch_add(segment.len(), Ordering::AcqRel);
                if let Content::Nothing | Content::Zeros(_) = content {
                    self.shared.wear.wrote(0, segment.len() + content.len() as u64);
                }
                self.shared.table_mut().0.push(Arc::clone(&segment));
                self.active = Some(Active { segment, file });
                true
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "a segment cannot be created");
                self.failed_with(&error);
                self.remove_unfinished();
                // If it came back after a crash it would override what the segment before it took
                // since: so that one takes no more unless it is gone for good.
                let gone = match self.shared.storage.unlink(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => self.shared.storage.sync_dir(&self.shared.dir),
                };
                if gone.is_err() {
                    self.abandon();
                }
                false
            }
        }
    }

    /// Best effort: what is left is in the way of the next attempt, which then fails.
    fn remove_unfinished(&self) {
        let _ = self.shared.storage.unlink(&self.shared.dir.join(segment::UNFINISHED));
    }

    /// What the next segment says about the newest one that held anything: also where that one is
    /// released already, so that the hole shows. Then the newest segment, which holds nothing, names it.
    fn before(&self) -> Option<Before> {
        let table = self.shared.table();
        let is_filled = |it: &&Arc<Segment>| it.is_filled();
        let newest = table.0.last()?;
        let (sequence, len) = match newest.header.before {
            Some(before) if !is_filled(&newest) => {
                (newest.header.sequence.checked_sub(u64::from(before.back))?, before.len)
            }
            _ => table.0.iter().rfind(is_filled).map(|it| (it.header.sequence, it.len()))?,
        };
        Some(Before { back: u32::try_from(self.sequence - sequence).ok()?, len })
    }

    /// What the next segment says that each lane has in the one that [`Writer::before`] names.
    fn figures(&self) -> Figures {
        let table = self.shared.table();
        let is_filled = |it: &&Arc<Segment>| it.is_filled();
        match table.0.last() {
            // It names the same one, if it names one.
            Some(newest) if !is_filled(&newest) && newest.header.before.is_some() => {
                newest.header.figures.clone().unwrap_or_default()
            }
            _ => table.0.iter().rfind(is_filled).map(|it| it.figures()).unwrap_or_default(),
        }
    }

    /// The file of a new segment, durable under its name, and how large it is.
    fn create(
        &self,
        header: &Header,
        path: &Path,
        content: Content<'_>,
    ) -> io::Result<(Arc<dyn File>, u64)> {
        // A probe is to find out whether there is room for more.
        let is_probe = matches!(content, Content::Zeros(_));
        let spare = if is_probe { None } else { self.reuse(header, content) };
        let (file, size, from) = match spare {
            Some(spare) => spare,
            None => self.create_new(header, content)?,
        };
        self.shared.storage.rename(&from, path).inspect_err(|_| {
            // What is left is in the way of the next attempt, or for nothing.
            let _ = self.shared.storage.unlink(&from);
        })?;
        self.shared.storage.sync_dir(&self.shared.dir)?;
        Ok((file, size))
    }

    /// A spare with this header and content, durable, how large it is, and the name that it has.
    fn reuse(
        &self,
        header: &Header,
        content: Content<'_>,
    ) -> Option<(Arc<dyn File>, u64, PathBuf)> {
        let spare = self.shared.spares.take()?;
        let begin = || {
            let file = self.shared.storage.open(&spare.path)?;
            let size = self.fill(&*file, header, content)?;
            Ok((file, size))
        };
        match begin() {
            Ok((file, size)) => Some((file, size, spare.path)),
            Err(error) => {
                let error: io::Error = error;
                debug!(path = %spare.path.display(), %error, "cannot be used again");
                self.shared.unlink_spare(&spare);
                None
            }
        }
    }

    /// A new file with this header and content, durable, how large it is, and the name of one that is not ready.
    fn create_new(
        &self,
        header: &Header,
        content: Content<'_>,
    ) -> io::Result<(Arc<dyn File>, u64, PathBuf)> {
        let unfinished = self.shared.dir.join(segment::UNFINISHED);
        let file = self.shared.storage.create(&unfinished)?;
        let size = self.fill(&*file, header, content)?;
        Ok((file, size, unfinished))
    }

    /// Puts header and content into a file, durably; answers how large it is. Before it has its name: after a
    /// power cut its blocks may be those of a segment of that name that never came to be, with its header, or
    /// hold none.
    fn fill(&self, file: &dyn File, header: &Header, content: Content<'_>) -> io::Result<u64> {
        const LEN: u64 = segment::HEADER_LEN as u64;
        let mut size = file.len()?;
        if !matches!(content, Content::Zeros(_)) {
            size = self.allocate(file, size);
        }
        file.write_at(&header.encode(), 0)?;
        match content {
            Content::Nothing => {}
            Content::Frame(frame) => {
                let end = LEN + frame.len() as u64;
                if end > size {
                    // The file counts nowhere yet.
                    self.shared.make_room(end);
                }
                write(file, (LEN, size), frame)?;
                size = size.max(end);
            }
            Content::Zeros(room) => {
                for at in (0..room).step_by(PROBE.len()) {
                    file.write_at(&PROBE[..PROBE.len().min(room - at)], LEN + at as u64)?;
                }
                file.sync_data()?;
                file.truncate(LEN)?;
            }
        }
        file.sync_data()?;
        Ok(size.max(LEN))
    }

    /// Makes a file of this size as long as a segment becomes, if `max_size` and the disk let us; otherwise
    /// it grows. Answers how long it is.
    fn allocate(&self, file: &dyn File, size: u64) -> u64 {
        let bounds = self.shared.queue.bounds();
        let whole = bounds.segment_size;
        if size >= whole || self.shared.on_disk() + whole > self.shared.lanes.max_size() {
            return size;
        }
        match file.allocate(whole) {
            Ok(()) => whole,
            Err(error) => {
                debug!(dir = %self.shared.dir.display(), %error, "a segment is not allocated ahead");
                // Of what did not fit a part may be there.
                file.truncate(size).map_or(whole, |()| size)
            }
        }
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
