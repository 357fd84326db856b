//! The frame: one group commit on disk. Pure: bytes in, bytes out.
//!
//! ```text
//! magic u32 "TGF1" | length u32, of the payload | count u32, of events | flags u32
//! | first u64, LSN of the first event, or of the next if there is none | CRC-32C u32 | payload
//! ```
//!
//! The checksum begins with the segment's salt, then covers the header up to itself, then the
//! payload: bytes that an older use of the same disk blocks left behind never pass for a frame, and
//! no payload can contain one.

mod crc;

use tidegate_event::Lsn;

use super::Compression;

/// Bytes before the payload.
pub(super) const HEADER_LEN: usize = 28;
/// One of the events is to be retained.
pub(super) const HAS_RETAINED: u32 = 1;
/// There are control records among its blocks, or events with a packet id.
pub(super) const HAS_CONTROL: u32 = 2;
/// Bits 8 to 15: the compression of the payload.
const COMPRESSION: u32 = 0xff << COMPRESSION_AT;
const COMPRESSION_AT: u32 = 8;
const KNOWN_FLAGS: u32 = HAS_RETAINED | HAS_CONTROL | COMPRESSION;

const MAGIC: [u8; 4] = *b"TGF1";
const CRC_AT: usize = 24;

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: u32,
    pub(super) count: u32,
    pub(super) flags: u32,
    pub(super) first: Lsn,
}

/// What lies at the front of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A frame that verifies.
    Frame(Header),
    /// The front of what may be a frame of this many bytes.
    Incomplete(usize),
    /// No frame.
    Bad,
}

impl Header {
    /// Bytes of the whole frame.
    pub(super) fn frame_len(&self) -> usize {
        HEADER_LEN + self.length as usize
    }

    /// The LSN behind its last event.
    pub(super) fn end(&self) -> Lsn {
        self.first.saturating_add(u64::from(self.count))
    }

    /// How its payload is compressed.
    pub(super) fn compression(&self) -> Compression {
        // A frame with another one was never taken for a frame.
        Compression::from_number((self.flags >> COMPRESSION_AT) as u8).unwrap_or_default()
    }

    /// The header at the front of `bytes`, if that is one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let header = Self {
            length: u32_at(header, 4),
            count: u32_at(header, 8),
            flags: u32_at(header, 12),
            first: u64::from(u32_at(header, 16)) | u64::from(u32_at(header, 20)) << 32,
        };
        let compression = (header.flags >> COMPRESSION_AT) as u8;
        let is_known =
            header.flags & !KNOWN_FLAGS == 0 && Compression::from_number(compression).is_some();
        (bytes.starts_with(&MAGIC) && is_known).then_some(header)
    }
}

/// Writes the header of the frame in `bytes`, of which the first [`HEADER_LEN`] were left free.
pub(super) fn seal(bytes: &mut [u8], first: Lsn, count: u32, flags: u32, salt: u64) {
    let payload = crc32c::crc32c(&bytes[HEADER_LEN..]);
    seal_summed(bytes, payload, first, count, flags, salt);
}

/// As [`seal`], where the CRC-32C of the payload is known already.
pub(super) fn seal_summed(
    bytes: &mut [u8],
    payload: u32,
    first: Lsn,
    count: u32,
    flags: u32,
    salt: u64,
) {
    let length = (bytes.len() - HEADER_LEN) as u32;
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..12].copy_from_slice(&count.to_le_bytes());
    bytes[12..16].copy_from_slice(&flags.to_le_bytes());
    bytes[16..24].copy_from_slice(&first.to_le_bytes());
    let front = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &bytes[..CRC_AT]);
    let crc = crc::joined(front, payload, bytes.len() - HEADER_LEN);
    bytes[CRC_AT..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
}

/// The flags of a frame whose payload is compressed like this.
pub(super) fn compressed(compression: Compression) -> u32 {
    u32::from(compression.number()) << COMPRESSION_AT
}

/// Looks at the front of `bytes`, in the segment with this salt.
pub(super) fn parse(bytes: &[u8], salt: u64) -> Parsed {
    if bytes.len() < HEADER_LEN {
        return match bytes.len() {
            0 => Parsed::Bad,
            len if bytes.starts_with(&MAGIC[..len.min(4)]) => Parsed::Incomplete(HEADER_LEN),
            _ => Parsed::Bad,
        };
    }
    let Some(header) = Header::decode(bytes) else { return Parsed::Bad };
    let Some(frame) = bytes.get(..header.frame_len()) else {
        return Parsed::Incomplete(header.frame_len());
    };
    if Check::begin(frame, salt).is_right() { Parsed::Frame(header) } else { Parsed::Bad }
}

/// The headers of frames that seem to begin somewhere in `bytes`, and where.
pub(super) fn headers(bytes: &[u8]) -> impl Iterator<Item = (usize, Header)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(at..)?;
            let begin = at + rest.iter().position(|byte| *byte == MAGIC[0])?;
            at = begin + 1;
            if let Some(header) = Header::decode(&bytes[begin..]) {
                return Some((begin, header));
            }
        }
    })
}

/// Whether somewhere in `bytes` a header says that a frame begins whose first event is `first`, or a
/// later one.
pub(super) fn is_announced(bytes: &[u8], first: Lsn) -> bool {
    headers(bytes).any(|(_, header)| header.first >= first)
}

/// Whether `bytes` begin as a frame does, and no frame goes on like that.
pub(super) fn is_broken(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC) && Header::decode(bytes).is_none()
}

/// The checksum of a frame whose bytes come one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check {
    crc: u32,
    wanted: u32,
}

impl Check {
    /// Of the frame, in the segment with this salt, that `bytes` begin with: more than its header, perhaps.
    pub(super) fn begin(bytes: &[u8], salt: u64) -> Self {
        let crc = crc32c::crc32c(&salt.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &bytes[..CRC_AT]);
        let crc = crc32c::crc32c_append(crc, &bytes[HEADER_LEN..]);
        Self { crc, wanted: u32_at(bytes, CRC_AT) }
    }

    /// The bytes that follow.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }

    /// Whether it is right, now that all of the frame has come.
    pub(super) fn is_right(self) -> bool {
        self.crc == self.wanted
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x5a17;

    fn frame(first: Lsn, count: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes.extend_from_slice(payload);
        seal(&mut bytes, first, count, HAS_RETAINED, SALT);
        bytes
    }

    #[test]
    fn a_frame_reads_back_as_it_was_sealed() {
        let bytes = frame(u64::MAX - 3, 3, b"payload");
        let header = Header { length: 7, count: 3, flags: HAS_RETAINED, first: u64::MAX - 3 };
        assert_eq!(parse(&bytes, SALT), Parsed::Frame(header));
        for cut in 1..bytes.len() {
            assert!(matches!(parse(&bytes[..cut], SALT), Parsed::Incomplete(_)), "{cut}");
        }
    }

    #[test]
    fn no_flipped_bit_and_no_other_segment_passes() {
        let whole = frame(1, 1, b"payload");
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(parse(&bytes, SALT), Parsed::Frame(_)), "bit {bit}");
        }
        assert_eq!(parse(&whole, SALT + 1), Parsed::Bad);
    }
}
