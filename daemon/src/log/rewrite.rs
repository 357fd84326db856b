//! Puts one segment in the place of some: what of their events is kept. The LSNs of the others are gone.
//!
//! The new file is written under another name, fdatasync'd, renamed over the first of the segments whose
//! place it takes, and the directory is synced; then the others are removed. Its header says up to which
//! segment it stands for, so that after a crash in between recovery removes what is left of them. Control
//! records do not go over: they are to be covered before.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_event::record::{self, InLanes, Item};
use tidegate_event::{BlockBuilder, Draft, EventId, EventRef, Lane, Lsn, Received};

use super::compress::{Packer, Payloads};
use super::frame;
use super::ledger::Reason;
use super::scan::{Frames, Scan, Step};
use super::segment::{self, Figures, Header, Rewritten, Segment};
use super::shared::Shared;
use super::storage::{File, remove};

/// Bytes read at once.
const READ: usize = 256 << 10;

/// What becomes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    /// Kept, with another payload.
    Changed(Vec<u8>),
    /// It is gone, from this lane.
    Gone(Lane),
}

/// Hands over what stands in a segment, its LSNs without gaps. What cannot be read is entered in the
/// ledger and handed over as gone.
pub(super) fn read(
    shared: &Shared,
    segment: &Arc<Segment>,
    mut take: impl FnMut(Item<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut next = segment.header.first;
    let end = segment.end();
    let mut pass = |item: Item<'_>| {
        let (from, behind) = match &item {
            Item::Event(event) => (event.lsn(), event.lsn() + 1),
            Item::Gone { first, count, .. } => (*first, first + u64::from(*count)),
        };
        if from > next {
            gone(next..from, &mut take)?;
        }
        if from >= next {
            take(item)?;
        } else if behind > next {
            gone(next..behind, &mut take)?;
        }
        next = next.max(behind);
        Ok::<_, io::Error>(())
    };
    let file = match shared.storage.open(&segment.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if end > segment.header.first {
                shared.lost(segment.header.first..=end - 1, Reason::Missing);
            }
            return gone(segment.header.first..end, &mut take);
        }
        other => other?,
    };
    let mut scan = Scan::new(file, &segment.header);
    let (mut frames, mut payloads) = (Frames::default(), Payloads::default());
    loop {
        match scan.step_in(segment, &mut frames, READ)? {
            Step::Frames => {
                let mut outcome = Ok(());
                payloads.each(&frames, |header, payload| {
                    let first =
                        EventId { epoch: shared.epoch, lane: shared.lane, lsn: header.first };
                    let mut behind = header.first;
                    for item in record::items(payload, first).map_while(Result::ok) {
                        if outcome.is_err() {
                            return;
                        }
                        behind = match &item {
                            Item::Event(event) => event.lsn() + 1,
                            Item::Gone { first, count, .. } => first + u64::from(*count),
                        };
                        outcome = pass(item);
                    }
                    if behind < header.end() {
                        shared.lost(behind..=header.end() - 1, Reason::Damaged);
                    }
                });
                outcome?;
            }
            Step::End if scan.lsn >= end => break,
            Step::End | Step::Damage => {
                let skipped = scan.skip(segment.len(), end)?;
                shared.damaged(segment, &skipped);
                if !skipped.resumed {
                    break;
                }
            }
        }
    }
    gone(next..end, &mut take)
}

/// LSNs that nothing is known of.
fn gone(
    lsns: std::ops::Range<Lsn>,
    take: &mut impl FnMut(Item<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut first = lsns.start;
    while first < lsns.end {
        let count = u32::try_from(lsns.end - first).unwrap_or(u32::MAX);
        take(Item::Gone { lane: Lane(0), first, count })?;
        first += u64::from(count);
    }
    Ok(())
}

/// Puts a segment with what `fate` keeps in the place of `run`: segments that follow each other, none of
/// which is the newest. `thinned` are the lanes whose events were thinned out. To be called by one at a
/// time, while nobody removes segments.
pub(super) fn rewrite(
    shared: &Shared,
    run: &[Arc<Segment>],
    thinned: Vec<Lane>,
    mut fate: impl FnMut(&EventRef<'_>) -> Fate,
) -> io::Result<()> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
    shared.make_room(run.iter().map(|segment| segment.len()).sum());
    let unfinished = shared.dir.join(segment::REWRITTEN);
    remove(&*shared.storage, &unfinished)?;
    let file = shared.storage.create(&unfinished)?;
    let attempt = || -> io::Result<Arc<Segment>> {
        let mut out = Out::new(shared, Arc::clone(&file), first.header.first);
        let mut next = first.header.first;
        for segment in run {
            // What lies between two of them stands in the ledger since long.
            gone(next..segment.header.first, &mut |item| out.take(item, &mut fate))?;
            read(shared, segment, |item| out.take(item, &mut fate))?;
            next = segment.end();
        }
        let header = out.finish(&first.header, last, thinned)?;
        file.write_at(&header.encode(), 0)?;
        file.sync_data()?;
        let rewritten = header.rewritten.map_or((0, 0), |it| (it.end, it.len));
        let path = first.path.clone();
        Ok(Arc::new(Segment::new(header, path, rewritten.0, rewritten.1)))
    };
    let segment = attempt().inspect_err(|_| drop(remove(&*shared.storage, &unfinished)))?;
    shared.wear.wrote(0, segment.len());
    {
        // Who looks a segment up finds the one that lies there.
        let mut table = shared.table_mut();
        shared.storage.rename(&unfinished, &segment.path)?;
        table.replace(run, Arc::clone(&segment));
    }
    let before: u64 = run.iter().map(|segment| segment.taken()).sum();
    // It wraps around where there are fewer now.
    shared.bytes.fetch_add(segment.len().wrapping_sub(before), Ordering::AcqRel);
    let replaced: Vec<InLanes> = run.iter().map(|segment| segment.lanes()).collect();
    shared.lanes.replace(replaced.iter(), &segment.lanes());
    // Before the others go: otherwise a crash could leave the first one as it was, without them.
    shared.storage.sync_dir(&shared.dir)?;
    for replaced in &run[1..] {
        remove(&*shared.storage, &replaced.path)?;
    }
    shared.storage.sync_dir(&shared.dir)
}

/// Writes frames.
struct Out<'a> {
    shared: &'a Shared,
    file: Arc<dyn File>,
    salt: u64,
    offset: u64,
    /// The frame that fills; its front is left free for the header.
    frame: Vec<u8>,
    first: Lsn,
    count: u32,
    flags: u32,
    block: BlockBuilder,
    /// What the events of the block have in common; `None` while it holds no event.
    common: Option<(String, Received)>,
    /// What is gone before the block's first event.
    gone: Vec<(Lane, u32)>,
    packer: Packer,
    lanes: InLanes,
}

impl<'a> Out<'a> {
    fn new(shared: &'a Shared, file: Arc<dyn File>, first: Lsn) -> Self {
        Self {
            shared,
            file,
            salt: fastrand::u64(..),
            offset: segment::HEADER_LEN as u64,
            frame: vec![0; frame::HEADER_LEN],
            first,
            count: 0,
            flags: 0,
            block: BlockBuilder::new("", NEVER),
            common: None,
            gone: Vec::new(),
            packer: Packer::new(shared.compression),
            lanes: InLanes::default(),
        }
    }

    fn take(
        &mut self,
        item: Item<'_>,
        fate: &mut impl FnMut(&EventRef<'_>) -> Fate,
    ) -> io::Result<()> {
        match item {
            Item::Gone { lane, count, .. } => self.gone(lane, count),
            Item::Event(event) => match fate(&event) {
                Fate::Kept => self.event(&event, event.payload),
                Fate::Changed(payload) => self.event(&event, &payload),
                Fate::Gone(lane) => self.gone(lane, 1),
            },
        }
    }

    fn event(&mut self, event: &EventRef<'_>, payload: &[u8]) -> io::Result<()> {
        let same = |(origin, received): &(String, Received)| {
            origin == event.origin && *received == event.received
        };
        if !self.common.as_ref().is_some_and(same) {
            self.end_block()?;
            self.block.restart(event.origin, event.received);
            for (lane, count) in self.gone.drain(..) {
                self.block.push_gone(lane, count);
            }
            self.common = Some((event.origin.to_owned(), event.received));
        }
        let EventRef { topic, qos, retain, properties, .. } = *event;
        self.block.push_in(event.lane, &Draft { topic, qos, retain, properties, payload });
        Ok(())
    }

    fn gone(&mut self, lane: Lane, count: u32) -> io::Result<()> {
        if self.lsns().checked_add(count).is_none() {
            self.end_frame()?;
        }
        if self.common.is_some() {
            self.block.push_gone(lane, count);
            return Ok(());
        }
        match self.gone.last_mut() {
            Some((last, so_far)) if *last == lane => *so_far += count,
            _ => self.gone.push((lane, count)),
        }
        Ok(())
    }

    /// In the frame, and on their way into it.
    fn lsns(&self) -> u32 {
        let block = if self.common.is_some() { self.block.count() } else { 0 };
        self.count + block + self.gone.iter().map(|(_, count)| count).sum::<u32>()
    }

    /// Puts the block into the frame; what is gone before the next one waits for that.
    fn end_block(&mut self) -> io::Result<()> {
        if self.common.take().is_none() {
            return Ok(());
        }
        if self.block.has_retained() {
            self.flags |= frame::HAS_RETAINED;
        }
        if self.block.has_packet_id() {
            self.flags |= frame::HAS_CONTROL;
        }
        self.put_block();
        if self.frame.len() >= self.shared.queue.bounds().max_bytes {
            self.end_frame()?;
        }
        Ok(())
    }

    fn put_block(&mut self) {
        self.count += self.block.count();
        self.lanes.extend(self.block.lanes());
        self.frame.extend_from_slice(self.block.finish());
    }

    fn end_frame(&mut self) -> io::Result<()> {
        if self.common.is_some() {
            return self.end_block().and_then(|()| self.end_frame());
        }
        if !self.gone.is_empty() {
            self.block.restart("", NEVER);
            for (lane, count) in self.gone.drain(..) {
                self.block.push_gone(lane, count);
            }
            self.put_block();
        }
        if self.count == 0 {
            return Ok(());
        }
        let (bytes, flags) = match self.packer.pack(&self.frame) {
            Some((bytes, flags)) => (bytes, flags | self.flags),
            None => (&mut self.frame, self.flags),
        };
        frame::seal(bytes, self.first, self.count, flags, self.salt);
        self.file.write_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        self.first += u64::from(self.count);
        (self.count, self.flags) = (0, 0);
        self.frame.truncate(frame::HEADER_LEN);
        Ok(())
    }

    /// The header of the segment that takes the place of those from the one with header `first` to `last`.
    fn finish(mut self, first: &Header, last: &Segment, thinned: Vec<Lane>) -> io::Result<Header> {
        self.end_frame()?;
        Ok(Header {
            salt: self.salt,
            rewritten: Some(Rewritten {
                through: last.header.through(),
                end: self.first,
                len: self.offset,
            }),
            figures: Some(Figures { lanes: self.lanes, thinned }),
            ..first.clone()
        })
    }
}

/// The time of a block without events.
const NEVER: Received = Received::Synced { unix_micros: 0 };
