//! Every frame of a segment, and what is damaged in it.

use std::io;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use tidegate_event::Lsn;
use tidegate_event::record::{self, Block};

use super::View;
use crate::log::compress::{Compression, Unpacker};
use crate::log::frame;
use crate::log::scan::{Frames, Scan, Step};
use crate::log::segment::Segment;
use crate::log::shared::Shared;

/// Bytes read at once.
const READ: usize = 1 << 20;
/// The same, where only the first frame is wanted.
const FRONT: usize = 4096;

/// One thing in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Walked {
    /// A frame that verifies.
    Frame(FrameInfo),
    /// Bytes that are no frame.
    Damage(Damage),
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameInfo {
    /// Where in the file it begins.
    pub offset: u64,
    /// Its bytes, header included.
    pub bytes: usize,
    /// How its payload is compressed.
    pub compression: Compression,
    /// The LSN of its first event; of the next one, if it holds none.
    pub first: Lsn,
    /// Its events.
    pub events: u32,
    /// Its control records.
    pub control: u32,
    /// When its first and its last block of events were received, in microseconds since 1970.
    pub received: Option<(i64, i64)>,
    /// The checksum is right, but its content makes no sense from this LSN on.
    pub malformed: Option<Lsn>,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where in the file they begin.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
    /// The events that are lost with them; none where they held control records only.
    pub lsns: Option<RangeInclusive<Lsn>>,
}

impl View {
    /// Walks the segment at `index` of [`View::segments`], checking all of it, until `visit` breaks.
    /// `NotFound` says that the daemon has released it meanwhile, or merged it into the one before.
    pub fn walk(
        &self,
        index: usize,
        visit: impl FnMut(Walked) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let segment = self.shared.table().0.get(index).cloned();
        segment.map_or(Ok(()), |segment| walk(&self.shared, &segment, READ, visit))
    }
}

/// When the first event of the segment was received, in microseconds since 1970; `None` where that
/// cannot be read.
pub(super) fn first_received(shared: &Shared, segment: &Arc<Segment>) -> io::Result<Option<i64>> {
    let mut found = None;
    walk(shared, segment, FRONT, |walked| match walked {
        Walked::Frame(FrameInfo { received: Some((first, _)), .. }) => {
            found = Some(first);
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    })?;
    Ok(found)
}

fn walk(
    shared: &Shared,
    segment: &Arc<Segment>,
    read: usize,
    mut visit: impl FnMut(Walked) -> ControlFlow<()>,
) -> io::Result<()> {
    let (found, file) = shared.open(segment)?;
    if found.header.sequence != segment.header.sequence {
        // What is left of it stands in another one.
        return Err(io::ErrorKind::NotFound.into());
    }
    // As it was rewritten, where it was.
    let segment = &found;
    let mut scan = Scan::whole(file, &segment.header);
    let mut frames = Frames::default();
    let (mut unpacker, mut inflated) = (Unpacker::default(), Vec::new());
    // As it is now, whatever is written meanwhile.
    let (end, len) = (segment.end(), segment.len());
    loop {
        let mut offset = scan.offset;
        match scan.step(len, end, &mut frames, read)? {
            Step::End => return Ok(()),
            Step::Frames => {
                for (at, header) in &frames.spans {
                    let stored = &frames.bytes[at + frame::HEADER_LEN..at + header.frame_len()];
                    let info = match header.compression() {
                        Compression::None => look(offset, header, stored),
                        compression => {
                            inflated.clear();
                            match unpacker.unpack(compression, stored, &mut inflated) {
                                Ok(()) => look(offset, header, &inflated),
                                Err(_) => malformed(offset, header),
                            }
                        }
                    };
                    if visit(Walked::Frame(info)).is_break() {
                        return Ok(());
                    }
                    offset += header.frame_len() as u64;
                }
            }
            // Released, and written over meanwhile.
            Step::Damage if shared.is_gone(segment) => return Err(io::ErrorKind::NotFound.into()),
            Step::Damage => {
                let skipped = scan.skip(len, end)?;
                // A file that ends before its last frame has no bytes there.
                let offset = skipped.extent.offset;
                let bytes = if skipped.resumed { scan.offset } else { len } - offset;
                let damage = Damage { offset, bytes, lsns: skipped.lsns };
                if visit(Walked::Damage(damage)).is_break() || !skipped.resumed {
                    return Ok(());
                }
            }
        }
    }
}

/// The checksum is right, and the payload cannot be inflated.
fn malformed(offset: u64, header: &frame::Header) -> FrameInfo {
    FrameInfo { malformed: Some(header.first), ..look(offset, header, &[]) }
}

fn look(offset: u64, header: &frame::Header, payload: &[u8]) -> FrameInfo {
    let mut info = FrameInfo {
        offset,
        bytes: header.frame_len(),
        compression: header.compression(),
        first: header.first,
        events: header.count,
        control: 0,
        received: None,
        malformed: None,
    };
    let mut next = header.first;
    for block in record::blocks(payload) {
        match block {
            Ok(Block::Control { .. }) => info.control += 1,
            Ok(Block::Events(events)) => {
                let at = events.received.unix_micros();
                info.received = Some((info.received.map_or(at, |(first, _)| first), at));
                let id = tidegate_event::EventId {
                    epoch: tidegate_event::Epoch(0),
                    lane: tidegate_event::Lane(0),
                    lsn: next,
                };
                let good = events.iter(id).take_while(Result::is_ok).count() as u64;
                next += good;
                if good < u64::from(events.count) {
                    info.malformed = Some(next);
                    return info;
                }
            }
            Err(record::Malformed) => {
                info.malformed = Some(next);
                return info;
            }
        }
    }
    if next != header.end() {
        info.malformed = Some(next.min(header.end()));
    }
    info
}
