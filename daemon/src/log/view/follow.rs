//! What is written to a log after it was looked at.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_event::Lsn;
use tidegate_event::record::InLanes;

use super::View;
use crate::log::scan::{Frames, Scan, Step};
use crate::log::segment::{self, Before, Decoded, Header, Segment};
use crate::log::shared::Shared;
use crate::log::storage::File;

/// Bytes read at once.
const READ: usize = 256 << 10;

/// The end of the newest segment.
#[derive(Debug)]
pub(super) struct Tail {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    scan: Scan,
    frames: Frames,
}

impl View {
    /// Takes in what was written since, or a part of it: readers see it then. Answers whether there was
    /// anything; then there may be more.
    pub fn follow(&mut self) -> io::Result<bool> {
        let before = self.shared.committed();
        loop {
            if self.tail.is_none() {
                self.tail = Tail::of_newest(&self.shared)?;
            }
            if let Some(tail) = &mut self.tail
                && tail.take(&self.shared, None)?
            {
                break;
            }
            let newest = self.shared.table().0.last().map(|segment| segment.header.through());
            let Some(next) = next_segment(&self.shared, newest)? else { break };
            // What it says of the one before it was written after that one's last frame.
            if let Some(mut tail) = self.tail.take() {
                tail.take(&self.shared, Some(&next.header))?;
            }
            if take_merged(&self.shared, &next.header)? {
                continue;
            }
            self.shared.bytes.fetch_add(next.len(), Ordering::AcqRel);
            self.shared.table_mut().0.push(Arc::new(next));
        }
        Ok(self.shared.committed() > before)
    }
}

impl Tail {
    fn of_newest(shared: &Shared) -> io::Result<Option<Self>> {
        let Some(segment) = shared.table().0.last().cloned() else { return Ok(None) };
        let file = match shared.storage.open(&segment.path) {
            // Released before it was followed: what it took since is gone with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut scan = Scan::whole(Arc::clone(&file), &segment.header);
        (scan.offset, scan.lsn) = (segment.len(), segment.end());
        Ok(Some(Self { segment, file, scan, frames: Frames::default() }))
    }

    /// Takes in the frames that are there; answers whether there are any. With the header of the segment
    /// right behind it, all up to its end: then what cannot be read is left to the readers, as damage.
    fn take(&mut self, shared: &Shared, following: Option<&Header>) -> io::Result<bool> {
        let before = following.and_then(|next| next.before).filter(|before| {
            let sequence = self.segment.header.sequence + u64::from(before.back);
            following.is_some_and(|next| next.sequence == sequence)
        });
        let len = match before {
            Some(Before { len, .. }) => len,
            None => self.file.len()?,
        };
        let end = following.map_or(Lsn::MAX, |next| next.first);
        let mut any = false;
        while self.scan.step(len, end, &mut self.frames, READ)? == Step::Frames {
            let events = self.scan.lsn - self.segment.end();
            self.advance(shared, events, self.scan.offset);
            any = true;
        }
        if before.is_some() && self.segment.end() < end {
            self.advance(shared, end - self.segment.end(), len.max(self.segment.len()));
            any = true;
        }
        Ok(any)
    }

    fn advance(&self, shared: &Shared, events: u64, len: u64) {
        shared.bytes.fetch_add(len - self.segment.len(), Ordering::AcqRel);
        let mut left = events;
        loop {
            let part = u32::try_from(left).unwrap_or(u32::MAX);
            self.segment.advance(part, len, &InLanes::default());
            left -= u64::from(part);
            if left == 0 {
                break;
            }
        }
        let committed = self.segment.end() - 1;
        if committed > shared.committed() {
            shared.committed.store(committed, Ordering::Release);
        }
    }
}

/// Where events between the newest segment and `next` are not there any more, they may stand in one that was
/// rewritten: in the newest itself, whose end was not seen, or in one before it, or with segments that were
/// merged with it. Then that takes the place of all it stands for. Answers whether there was any.
fn take_merged(shared: &Shared, next: &Header) -> io::Result<bool> {
    let Some(newest) = shared.table().0.last().cloned() else { return Ok(false) };
    if newest.end() >= next.first || newest.header.through() >= next.sequence {
        return Ok(false);
    }
    let merged = match shared.open(&newest) {
        Ok((merged, _)) if merged.end() > newest.end() => merged,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => return Ok(false),
    };
    let mut table = shared.table_mut();
    let sequences = merged.header.sequence..=merged.header.through();
    let is_part = |segment: &&Arc<Segment>| sequences.contains(&segment.header.sequence);
    let run: Vec<_> = table.0.iter().filter(is_part).cloned().collect();
    let before: u64 = run.iter().map(|segment| segment.taken()).sum();
    shared.bytes.fetch_add(merged.len().wrapping_sub(before), Ordering::AcqRel);
    shared.committed.fetch_max(merged.end() - 1, Ordering::AcqRel);
    table.replace(&run, merged);
    Ok(true)
}

/// The oldest segment behind the one of sequence `newest`, if its header is there already.
fn next_segment(shared: &Shared, newest: Option<u64>) -> io::Result<Option<Segment>> {
    let mut names: Vec<(u64, String)> = shared
        .storage
        .list(&shared.dir)?
        .into_iter()
        .filter_map(|name| Some((segment::parse_name(&name)?.1, name)))
        .filter(|(sequence, _)| newest.is_none_or(|newest| *sequence > newest))
        .collect();
    names.sort();
    for (_, name) in names {
        let path = shared.dir.join(name);
        let mut front = [0; segment::HEADER_LEN];
        let read = shared.storage.open(&path).and_then(|file| file.read_at(&mut front, 0));
        match read {
            Ok(_) => {}
            // Could not be created after all, or was released already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        if let Decoded::Header(header) = Header::decode(&front)
            && (header.epoch, header.lane) == (shared.epoch, shared.lane)
        {
            return Ok(Some(Segment::begin(header, path)));
        }
    }
    Ok(None)
}
