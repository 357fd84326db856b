//! The segment file: its name and header, and the table of the segments that are there.

mod figures;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_event::record::{InLane, InLanes};
use tidegate_event::{Epoch, Lane, Lsn};

pub(super) use figures::{Figures, Rewritten};

/// Bytes before the first frame: two copies of the header, one a sector.
pub(super) const HEADER_LEN: usize = 2 * COPY_LEN;
/// The name of a segment file before its header is durable.
pub(super) const UNFINISHED: &str = "segment.new";
/// The name of what is to take a segment's place, until it does.
pub(super) const REWRITTEN: &str = "segment.rewritten";
/// The format that this code writes, and the newest it reads. Version 1 had no control records, and
/// no [`Before`]; version 2 no compressed frames; version 3 no lanes, and nothing that is gone; version 4
/// had each topic in full.
pub(super) const VERSION: u32 = 5;
/// The first one with [`figures`].
const WITH_FIGURES: u32 = 4;

/// A file that is no more than this part of it longer than what it holds stays so.
const MOST_TAIL: u64 = 16;
const COPY_LEN: usize = 512;
const MAGIC: [u8; 8] = *b"tidegate";
/// Every version keeps the magic, the version behind it, and the checksum here: so an unknown
/// version is told from damage.
const CRC_AT: usize = 60;
/// Behind it.
const FIGURES_AT: usize = 64;

/// What a segment says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) epoch: Epoch,
    pub(super) lane: Lane,
    pub(super) sequence: u64,
    pub(super) first: Lsn,
    pub(super) salt: u64,
    /// `None` in the first one of a log, and in those of version 1.
    pub(super) before: Option<Before>,
    /// `None` in one that was not rewritten.
    pub(super) rewritten: Option<Rewritten>,
    /// Of the segment itself if it was rewritten, else of the one before it, where there is one. `None`
    /// before version 4.
    pub(super) figures: Option<Figures>,
}

/// What a segment says about the one before it, not counting those that hold nothing: where that one ended, to the
/// byte. So what an abandoned one holds behind its last durable frame is never read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    /// How many sequences back: more than one, where one could not be created.
    pub(super) back: u32,
    /// Its durable bytes.
    pub(super) len: u64,
}

/// What the front of a segment file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decoded {
    Header(Header),
    /// A version that this code does not know.
    Newer(u32),
    /// Neither copy of the header verifies.
    Damaged,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut copy = [0; COPY_LEN];
        copy[0..8].copy_from_slice(&MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        copy[12..16].copy_from_slice(&u32::from(self.lane.0).to_le_bytes());
        copy[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        copy[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        copy[32..40].copy_from_slice(&self.first.to_le_bytes());
        copy[40..48].copy_from_slice(&self.salt.to_le_bytes());
        if let Some(Before { back, len }) = self.before {
            copy[48..56].copy_from_slice(&len.to_le_bytes());
            copy[56..60].copy_from_slice(&back.to_le_bytes());
        }
        let crc = crc32c::crc32c(&copy[..CRC_AT]);
        copy[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        let none = Figures::default();
        let figures = figures::encode(self.rewritten, self.figures.as_ref().unwrap_or(&none));
        copy[FIGURES_AT..].copy_from_slice(&figures);
        let mut both = [0; HEADER_LEN];
        both[..COPY_LEN].copy_from_slice(&copy);
        both[COPY_LEN..].copy_from_slice(&copy);
        both
    }

    pub(super) fn decode(front: &[u8]) -> Decoded {
        front
            .chunks_exact(COPY_LEN)
            .take(2)
            .map(Self::decode_copy)
            .find(|copy| *copy != Decoded::Damaged)
            .unwrap_or(Decoded::Damaged)
    }

    fn decode_copy(copy: &[u8]) -> Decoded {
        let u32_at =
            |at: usize| u32::from_le_bytes([copy[at], copy[at + 1], copy[at + 2], copy[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if !copy.starts_with(&MAGIC) || crc32c::crc32c(&copy[..CRC_AT]) != u32_at(CRC_AT) {
            return Decoded::Damaged;
        }
        let version = u32_at(8);
        let more = match version {
            WITH_FIGURES..=VERSION => {
                let Some(read) = copy[FIGURES_AT..].first_chunk().and_then(figures::decode) else {
                    return Decoded::Damaged;
                };
                Some(read)
            }
            _ => None,
        };
        let (rewritten, figures) = more.map_or((None, None), |(it, figures)| (it, Some(figures)));
        match (version, u8::try_from(u32_at(12))) {
            (1..=VERSION, Ok(lane)) => Decoded::Header(Self {
                rewritten,
                figures,
                lane: Lane(lane),
                epoch: Epoch(u64_at(16)),
                sequence: u64_at(24),
                first: u64_at(32),
                salt: u64_at(40),
                before: (u32_at(56) > 0).then(|| Before { back: u32_at(56), len: u64_at(48) }),
            }),
            (version, _) if version > VERSION => Decoded::Newer(version),
            _ => Decoded::Damaged,
        }
    }

    /// The sequence of the last segment whose place it takes: its own, where it was not rewritten.
    pub(super) fn through(&self) -> u64 {
        self.rewritten.map_or(self.sequence, |it| it.through.max(self.sequence))
    }

    /// `<first LSN, 20 digits>-<sequence, 8 hex digits>.seg`
    pub(super) fn file_name(&self) -> String {
        file_name(self.first, self.sequence)
    }
}

fn file_name(first: Lsn, sequence: u64) -> String {
    format!("{first:020}-{sequence:08x}.seg")
}

/// First LSN and sequence from a file name; `None` for a name that the log does not give.
pub(super) fn parse_name(name: &str) -> Option<(Lsn, u64)> {
    let (first, sequence) = name.strip_suffix(".seg")?.split_once('-')?;
    let parsed = (first.parse().ok()?, u64::from_str_radix(sequence, 16).ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// One segment file. Shared by the writer, which moves `end` and `len`, and the readers.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: Header,
    pub(super) path: PathBuf,
    end: AtomicU64,
    len: AtomicU64,
    size: AtomicU64,
    tail: AtomicU64,
    lanes: Mutex<InLanes>,
}

impl Segment {
    pub(super) fn new(header: Header, path: PathBuf, end: Lsn, len: u64) -> Self {
        let lanes = match (&header.rewritten, &header.figures) {
            (Some(_), Some(figures)) => figures.lanes.clone(),
            _ => InLanes::default(),
        };
        let (end, size, len) = (AtomicU64::new(end), AtomicU64::new(len), AtomicU64::new(len));
        Self { header, path, end, len, size, tail: AtomicU64::new(0), lanes: Mutex::new(lanes) }
    }

    /// What each lane has in it.
    pub(super) fn lanes(&self) -> InLanes {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What each lane has in it, as somebody found out.
    pub(super) fn found(&self, lanes: InLanes) {
        *self.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
    }

    /// Where nobody knows what it holds: all of it is in lane 0.
    pub(super) fn all_in_lane_0(&self) -> InLanes {
        let events = u32::try_from(self.end() - self.header.first).unwrap_or(u32::MAX);
        let bytes = self.len().saturating_sub(HEADER_LEN as u64);
        let all = InLane { lane: Lane(0), events, gone: 0, bytes, newest: i64::MAX };
        std::iter::once(all).filter(|all| all.events > 0).collect()
    }

    /// What is said of it in the header of the next one.
    pub(super) fn figures(&self) -> Figures {
        let thinned = match (&self.header.rewritten, &self.header.figures) {
            (Some(_), Some(figures)) => figures.thinned.clone(),
            _ => Vec::new(),
        };
        Figures { lanes: self.lanes(), thinned }
    }

    /// An empty one.
    pub(super) fn begin(header: Header, path: PathBuf) -> Self {
        let first = header.first;
        Self::new(header, path, first, HEADER_LEN as u64)
    }

    /// The LSN behind its last durable event. What the file holds from there on was never
    /// acknowledged, and is overridden by the segment behind it.
    pub(super) fn end(&self) -> Lsn {
        self.end.load(Ordering::Acquire)
    }

    /// Its durable events: none, where the first lies behind the last.
    pub(super) fn lsns(&self) -> RangeInclusive<Lsn> {
        self.header.first..=self.end().saturating_sub(1)
    }

    /// Its durable bytes.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Bytes of its file: more than are durable where it was allocated ahead, or was used before.
    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Its file has so many bytes now.
    pub(super) fn resized(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Whether a frame of so many bytes is to lie in the next one, where segments are to have `whole` bytes.
    /// It may lie beyond that, by an eighth, rather than leave much of it empty.
    pub(super) fn is_full(&self, frame: u64, whole: u64) -> bool {
        let end = self.len() + frame;
        let may_exceed = !Self::may_keep_tail(whole, self.len()) && end <= whole + whole / 8;
        self.is_filled() && end > whole && !may_exceed
    }

    /// Whether what its file has behind its end may stay there once nothing is added to it: cutting it, and
    /// making the file longer again for its next use, costs more than it gives.
    pub(super) fn may_keep_tail(size: u64, len: u64) -> bool {
        size.saturating_sub(len) <= size / MOST_TAIL
    }

    /// What its file has behind its end stays there.
    pub(super) fn keep_tail(&self) {
        self.tail.store(self.size().saturating_sub(self.len()), Ordering::Release);
    }

    /// What it takes of `max_size`: its durable bytes, and what stays of its file behind them.
    pub(super) fn taken(&self) -> u64 {
        self.len() + self.tail.load(Ordering::Acquire)
    }

    /// Whether it holds a frame.
    pub(super) fn is_filled(&self) -> bool {
        self.len() > HEADER_LEN as u64
    }

    /// Whether it holds no event.
    pub(super) fn has_no_events(&self) -> bool {
        self.end() <= self.header.first
    }

    /// A frame of `count` events became durable. The length goes first: whoever sees the end sees the
    /// bytes.
    pub(super) fn advance(&self, count: u32, len: u64, lanes: &InLanes) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).extend(lanes);
        self.len.store(len, Ordering::Release);
        self.end.fetch_add(u64::from(count), Ordering::AcqRel);
    }

    /// Whether it can go, once nobody needs what lies before the event `before`, nor control records
    /// in segments of a sequence below `control`. Before the first event lies what somebody may need who
    /// has no event yet.
    pub(super) fn is_released(&self, before: Lsn, control: u64) -> bool {
        let empty = !self.is_filled();
        let control_only = self.has_no_events() && self.header.through() < control;
        empty || control_only || (self.end() <= before && before > 1)
    }
}

/// The segments in the order of their sequence, and so of their LSNs.
#[derive(Debug, Default)]
pub(super) struct Table(pub(super) Vec<Arc<Segment>>);

/// Where an LSN is.
#[derive(Debug)]
pub(super) enum Place {
    In(Arc<Segment>),
    /// In no segment: released, or lost.
    Gone(RangeInclusive<Lsn>),
    /// Not yet written.
    Ahead,
}

impl Table {
    pub(super) fn locate(&self, lsn: Lsn) -> Place {
        let index = self.0.partition_point(|segment| segment.end() <= lsn);
        match self.0[index..].iter().find(|segment| !segment.has_no_events()) {
            Some(segment) if segment.header.first > lsn => {
                Place::Gone(lsn..=segment.header.first - 1)
            }
            Some(segment) => Place::In(Arc::clone(segment)),
            None => Place::Ahead,
        }
    }

    /// The oldest LSN in it.
    pub(super) fn oldest(&self) -> Option<Lsn> {
        let filled = self.0.iter().find(|segment| !segment.has_no_events());
        filled.map(|segment| segment.header.first)
    }

    /// The oldest segment that can go ([`Segment::is_released`]). Never the newest one: LSNs and
    /// epoch go on from it.
    pub(super) fn released(&self, before: Lsn, control: u64) -> Option<Arc<Segment>> {
        let (_, older) = self.0.split_last()?;
        older.iter().find(|segment| segment.is_released(before, control)).cloned()
    }

    /// Where the oldest segments end of which `goes` says so, and where those begin that stay: never none.
    pub(super) fn behind(&self, goes: impl Fn(&Segment) -> bool) -> Option<(Lsn, Lsn)> {
        let (newest, older) = self.0.split_last()?;
        let count = older.iter().take_while(|segment| goes(segment)).count();
        let end = older[..count].iter().map(|segment| segment.end()).max()?;
        Some((end, older.get(count).unwrap_or(newest).header.first))
    }

    /// `mark`, or the oldest segment with an event from `next` on, if that is older.
    pub(super) fn covered(&self, mark: u64, next: Lsn) -> u64 {
        let needed = self.0.iter().find(|segment| segment.end() > next);
        needed.map_or(mark, |segment| mark.min(segment.header.sequence))
    }

    /// Where the last hole ends that the release of control records has left: the index of a segment
    /// before which one is not there, and no event is missing.
    pub(super) fn behind_holes(&self) -> usize {
        let is_hole = |index: &usize| {
            let (segment, before) = (&self.0[*index], &self.0[*index - 1]);
            let named = segment.header.before.filter(|it| it.len > HEADER_LEN as u64);
            let named = named.map(|it| segment.header.sequence - u64::from(it.back));
            let holds = |it: &Arc<Segment>, sequence| {
                (it.header.sequence..=it.header.through()).contains(&sequence)
            };
            let is_gone = |sequence| self.0.iter().all(|it| !holds(it, sequence));
            named.is_some_and(is_gone) && before.end() >= segment.header.first
        };
        let hole = (1..self.0.len()).rev().find(is_hole).unwrap_or(0);
        // One that was rewritten has no control records any more: it is a hole itself.
        let rewritten = self.0.iter().rposition(|segment| segment.header.rewritten.is_some());
        hole.max(rewritten.map_or(0, |index| index + 1))
    }

    /// What they take of `max_size`.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|segment| segment.taken()).sum()
    }

    /// Bytes of the files.
    pub(super) fn size(&self) -> u64 {
        self.0.iter().map(|segment| segment.size()).sum()
    }

    pub(super) fn contains(&self, segment: &Arc<Segment>) -> bool {
        self.0.iter().any(|other| Arc::ptr_eq(other, segment))
    }

    /// Puts one in the place of some that follow each other.
    pub(super) fn replace(&mut self, run: &[Arc<Segment>], by: Arc<Segment>) {
        let Some(first) = run.first() else { return };
        let place = self.0.iter().position(|segment| Arc::ptr_eq(segment, first));
        self.0.retain(|segment| run.iter().all(|gone| !Arc::ptr_eq(gone, segment)));
        self.0.insert(place.unwrap_or_default().min(self.0.len()), by);
    }

    /// Back to its place.
    pub(super) fn put_back(&mut self, segment: Arc<Segment>) {
        let sequence = segment.header.sequence;
        let index = self.0.partition_point(|other| other.header.sequence < sequence);
        self.0.insert(index, segment);
    }

    /// Answers whether it was there.
    pub(super) fn remove(&mut self, sequence: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|segment| segment.header.sequence != sequence);
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        epoch: Epoch(0xe),
        lane: Lane(3),
        sequence: 0x1f,
        first: 77,
        salt: 0x5a17,
        before: Some(Before { back: 2, len: 1 << 40 }),
        rewritten: None,
        figures: None,
    };

    #[test]
    fn a_header_survives_the_loss_of_either_copy() {
        let header = Header { figures: Some(Figures::default()), ..HEADER };
        let whole = header.encode();
        assert_eq!(Header::decode(&whole), Decoded::Header(header.clone()));
        for lost in [0..512, 512..1024] {
            let mut bytes = whole;
            bytes[lost].fill(0xff);
            assert_eq!(Header::decode(&bytes), Decoded::Header(header.clone()));
        }
        assert_eq!(Header::decode(&[0; HEADER_LEN]), Decoded::Damaged);
        assert_eq!(Header::decode(&whole[..511]), Decoded::Damaged);
    }

    #[test]
    fn only_the_names_that_the_log_gives_are_its_own() {
        assert_eq!(HEADER.file_name(), "00000000000000000077-0000001f.seg");
        assert_eq!(parse_name(&HEADER.file_name()), Some((77, 0x1f)));
        for foreign in ["", "77-1f.seg", "00000000000000000077-0000001F.seg", "x.seg", "ledger"] {
            assert_eq!(parse_name(foreign), None, "{foreign}");
        }
    }
}
