//! What a segment file is called, and what stands at its front.

use tidegate_event::{Epoch, Lane, Lsn};

use super::figures::{self, Figures, Rewritten};

/// Bytes before the first frame: two copies of the header, one a sector.
pub(in crate::log) const HEADER_LEN: usize = 2 * COPY_LEN;
/// The name of a segment file before its header is durable.
pub(in crate::log) const UNFINISHED: &str = "segment.new";
/// The name of what is to take a segment's place, until it does.
pub(in crate::log) const REWRITTEN: &str = "segment.rewritten";
/// The format that this code writes, and the newest it reads. Version 1 had no control records, and
/// no [`Before`]; version 2 no compressed frames; version 3 no lanes, and nothing that is gone; version 4
/// had each topic in full.
pub(in crate::log) const VERSION: u32 = 5;
/// The first one with [`figures`].
const WITH_FIGURES: u32 = 4;

const COPY_LEN: usize = 512;
const MAGIC: [u8; 8] = *b"tidegate";
/// Every version keeps the magic, the version behind it, and the checksum here: so an unknown
/// version is told from damage.
const CRC_AT: usize = 60;
/// Behind it.
const FIGURES_AT: usize = 64;

/// What a segment says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::log) struct Header {
    pub(in crate::log) epoch: Epoch,
    pub(in crate::log) lane: Lane,
    pub(in crate::log) sequence: u64,
    pub(in crate::log) first: Lsn,
    pub(in crate::log) salt: u64,
    /// `None` in the first one of a log, and in those of version 1.
    pub(in crate::log) before: Option<Before>,
    /// `None` in one that was not rewritten.
    pub(in crate::log) rewritten: Option<Rewritten>,
    /// Of the segment itself if it was rewritten, else of the one before it, where there is one. `None`
    /// before version 4.
    pub(in crate::log) figures: Option<Figures>,
}

/// What a segment says about the one before it, not counting those that hold nothing: where that one ended, to the
/// byte. So what an abandoned one holds behind its last durable frame is never read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::log) struct Before {
    /// How many sequences back: more than one, where one could not be created.
    pub(in crate::log) back: u32,
    /// Its durable bytes.
    pub(in crate::log) len: u64,
}

/// What the front of a segment file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::log) enum Decoded {
    Header(Header),
    /// A version that this code does not know.
    Newer(u32),
    /// Neither copy of the header verifies.
    Damaged,
}

impl Header {
    pub(in crate::log) fn encode(&self) -> [u8; HEADER_LEN] {
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

    pub(in crate::log) fn decode(front: &[u8]) -> Decoded {
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
    pub(in crate::log) fn through(&self) -> u64 {
        self.rewritten.map_or(self.sequence, |it| it.through.max(self.sequence))
    }

    /// `<first LSN, 20 digits>-<sequence, 8 hex digits>.seg`
    pub(in crate::log) fn file_name(&self) -> String {
        file_name(self.first, self.sequence)
    }
}

fn file_name(first: Lsn, sequence: u64) -> String {
    format!("{first:020}-{sequence:08x}.seg")
}

/// First LSN and sequence from a file name; `None` for a name that the log does not give.
pub(in crate::log) fn parse_name(name: &str) -> Option<(Lsn, u64)> {
    let (first, sequence) = name.strip_suffix(".seg")?.split_once('-')?;
    let parsed = (first.parse().ok()?, u64::from_str_radix(sequence, 16).ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
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
