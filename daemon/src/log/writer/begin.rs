//! Beginning a segment: its file, and what stands in front of its first frame.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::{debug, warn};

use super::super::segment::{self, Before, Figures, Header, Segment};
use super::super::shared::Shared;
use super::super::storage::File;
use super::{Active, Writer, write};

/// What a probe writes at once.
const PROBE: [u8; 16 << 10] = [0; 16 << 10];

/// What a new segment begins with, behind its header.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    Nothing,
    Frame(&'a [u8]),
    /// So many zeros, which are cut again: there is to be room.
    Zeros(usize),
}

impl Writer {
    /// Begins a new segment that holds no frame yet, if there is room for so many bytes in it, and removes what
    /// was released. Answers whether it could.
    pub(super) fn begin_empty(&mut self, room: usize) -> bool {
        let content = if room == 0 { Content::Nothing } else { Content::Zeros(room) };
        let is_begun = self.begin_segment(fastrand::u64(..), content);
        if is_begun {
            self.shared.wear.wrote(0, segment::HEADER_LEN as u64 + room as u64);
            self.shared.try_remove_released();
        }
        is_begun
    }

    /// Begins a new segment with this salt and content. Answers whether it could; otherwise the one before it
    /// may go on.
    pub(super) fn begin_segment(&mut self, salt: u64, content: Content<'_>) -> bool {
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
                self.shared.table_mut().0.push(Arc::clone(&segment));
                self.active = Some(Active { segment, file });
                self.begin_at = 0;
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
    pub(super) fn allocate(&self, file: &dyn File, size: u64) -> u64 {
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
