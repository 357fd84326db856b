//! What a header says beyond the first 64 bytes: of a segment that was rewritten, what it stands for; and
//! what each lane has in a segment.
//!
//! ```text
//! sequence of the last segment that it stands for u64, 0 where it was not rewritten | LSN behind its
//! last u64 | its bytes u64 | entries u8 | 7 zero bytes | entries, 16 at most | zeros
//! | CRC-32C u32 of the 444 bytes before
//! entry: lane u8 | flags u8 | 2 zero bytes | events u32 | bytes of records u64 | newest event's time i64
//! ```
//!
//! Flag: bit 0, the lane's events are thinned out. The entries are those of the segment itself where it was
//! rewritten, else of the segment before it.

use tidegate_event::record::{InLane, InLanes};
use tidegate_event::{Lane, Lsn};

/// Bytes of all this.
pub(super) const LEN: usize = 448;
const CRC_AT: usize = LEN - 4;
const ENTRIES_AT: usize = 32;
const ENTRY: usize = 24;
const MOST: usize = 16;
const THINNED: u8 = 1;

/// What each lane has in a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in super::super) struct Figures {
    pub(in super::super) lanes: InLanes,
    /// Whose events are thinned out.
    pub(in super::super) thinned: Vec<Lane>,
}

/// What a segment that was rewritten stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Rewritten {
    /// The sequence of the last segment whose place it takes; its own sequence is the first.
    pub(in super::super) through: u64,
    /// The LSN behind its last.
    pub(in super::super) end: Lsn,
    /// Its bytes.
    pub(in super::super) len: u64,
}

impl Figures {
    /// More lanes than there is room for count as lane 0.
    fn entries(&self) -> InLanes {
        let own = if self.lanes.iter().count() <= MOST { MOST } else { MOST - 1 };
        let fold = |(index, part): (usize, &InLane)| match index < own {
            true => *part,
            false => InLane { lane: Lane(0), ..*part },
        };
        self.lanes.iter().enumerate().map(fold).collect()
    }
}

pub(super) fn encode(rewritten: Option<Rewritten>, figures: &Figures) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    if let Some(Rewritten { through, end, len }) = rewritten {
        bytes[0..8].copy_from_slice(&through.to_le_bytes());
        bytes[8..16].copy_from_slice(&end.to_le_bytes());
        bytes[16..24].copy_from_slice(&len.to_le_bytes());
    }
    let entries = figures.entries();
    for (index, part) in entries.iter().take(MOST).enumerate() {
        let entry = &mut bytes[ENTRIES_AT + index * ENTRY..][..ENTRY];
        entry[0] = part.lane.0;
        entry[1] = if figures.thinned.contains(&part.lane) { THINNED } else { 0 };
        entry[4..8].copy_from_slice(&part.events.to_le_bytes());
        entry[8..16].copy_from_slice(&part.bytes.to_le_bytes());
        entry[16..24].copy_from_slice(&part.newest.to_le_bytes());
    }
    bytes[24] = entries.iter().take(MOST).count() as u8;
    let crc = crc32c::crc32c(&bytes[..CRC_AT]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn decode(bytes: &[u8; LEN]) -> Option<(Option<Rewritten>, Figures)> {
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if crc32c::crc32c(&bytes[..CRC_AT]).to_le_bytes() != bytes[CRC_AT..] {
        return None;
    }
    let (through, end, len) = (u64_at(0), u64_at(8), u64_at(16));
    let rewritten = (through > 0).then_some(Rewritten { through, end, len });
    let mut figures = Figures::default();
    for index in 0..usize::from(bytes[24]).min(MOST) {
        let at = ENTRIES_AT + index * ENTRY;
        let lane = Lane(bytes[at]);
        if bytes[at + 1] & THINNED != 0 {
            figures.thinned.push(lane);
        }
        figures.lanes.add(InLane {
            lane,
            events: u32_at(at + 4),
            gone: 0,
            bytes: u64_at(at + 8),
            newest: u64_at(at + 16) as i64,
        });
    }
    Some((rewritten, figures))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(lane: u8) -> InLane {
        InLane { lane: Lane(lane), events: 7, gone: 0, bytes: 1 << 33, newest: -5 }
    }

    #[test]
    fn figures_read_back_as_they_were_written() {
        let lanes = (0..16).map(part).collect();
        let figures = Figures { lanes, thinned: vec![Lane(3), Lane(15)] };
        let rewritten = Some(Rewritten { through: 9, end: 77, len: 4096 });
        assert_eq!(decode(&encode(rewritten, &figures)), Some((rewritten, figures)));
        let none = Figures::default();
        assert_eq!(decode(&encode(None, &none)), Some((None, none)));
    }

    #[test]
    fn lanes_that_do_not_fit_count_as_lane_0() {
        let lanes: InLanes = (0..40).map(part).collect();
        let figures = Figures { lanes, thinned: Vec::new() };
        let (_, read) = decode(&encode(None, &figures)).unwrap();
        assert_eq!(read.lanes.iter().map(|part| part.events).sum::<u32>(), 40 * 7);
        assert_eq!(read.lanes.get(Lane(0)).unwrap().events, 26 * 7);
    }

    #[test]
    fn no_flipped_bit_passes() {
        let whole =
            encode(None, &Figures { lanes: [part(1)].into_iter().collect(), thinned: vec![] });
        for bit in 0..LEN * 8 {
            let mut bytes = whole;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None, "bit {bit}");
        }
    }
}
