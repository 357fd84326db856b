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
/// The search behind damage looks at this many bytes of candidates for each byte it passes over, so
/// that no content makes it take minutes.
const RESYNC_EFFORT: usize = 8;

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

    fn decode(bytes: &[u8]) -> Option<Self> {
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
    if checksum(frame, salt) == u32_at(frame, CRC_AT) { Parsed::Frame(header) } else { Parsed::Bad }
}

/// Finds the first good frame behind the bad one at the front of `bytes`, one whose events lie in
/// `lsns`: its place, and its header.
pub(super) fn resync(
    bytes: &[u8],
    salt: u64,
    lsns: std::ops::Range<Lsn>,
) -> Option<(usize, Header)> {
    let fits = |header: &Header| header.first >= lsns.start && header.end() <= lsns.end;
    // Damage is most often inside the payload: then the length still leads to the next frame.
    if let Some(bad) = Header::decode(bytes)
        && let Some(rest) = bytes.get(bad.frame_len()..)
        && let Parsed::Frame(header) = parse(rest, salt)
        && fits(&header)
    {
        return Some((bad.frame_len(), header));
    }
    let mut effort = bytes.len().saturating_mul(RESYNC_EFFORT);
    for at in 1..bytes.len().saturating_sub(HEADER_LEN - 1) {
        let candidate = &bytes[at..];
        if !candidate.starts_with(&MAGIC) {
            continue;
        }
        let Some(header) = Header::decode(candidate) else { continue };
        if header.frame_len() > candidate.len() || !fits(&header) {
            continue;
        }
        effort = effort.checked_sub(header.frame_len())?;
        if let Parsed::Frame(header) = parse(candidate, salt) {
            return Some((at, header));
        }
    }
    None
}

/// Whether somewhere in `bytes` a header says that a frame begins whose first event is `first`, or a
/// later one.
pub(super) fn is_announced(bytes: &[u8], first: Lsn) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == MAGIC[0]) {
        rest = &rest[at..];
        if Header::decode(rest).is_some_and(|header| header.first >= first) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Whether `bytes` begin as a frame does, and no frame goes on like that.
pub(super) fn is_broken(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC) && Header::decode(bytes).is_none()
}

/// Bytes of the frame that its header at the front of `bytes` announces; `None` where there is none.
pub(super) fn announced_len(bytes: &[u8]) -> Option<usize> {
    Header::decode(bytes).map(|header| header.frame_len())
}

fn checksum(frame: &[u8], salt: u64) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &frame[..CRC_AT]);
    crc32c::crc32c_append(crc, &frame[HEADER_LEN..])
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

    #[test]
    fn the_search_finds_the_next_frame_whatever_was_damaged() {
        let (bad, good) = (frame(1, 2, &[7; 100]), frame(3, 1, b"next"));
        for byte in 0..bad.len() {
            let mut bytes = bad.clone();
            bytes[byte] ^= 0x55;
            bytes.extend_from_slice(&good);
            let (at, header) = resync(&bytes, SALT, 1..10).unwrap();
            assert_eq!((at, header.first), (bad.len(), 3), "byte {byte}");
        }
    }

    #[test]
    fn content_full_of_frame_headers_does_not_hold_the_search_up() {
        let mut fake = frame(2, 1, b"");
        fake[4..8].copy_from_slice(&1_000_000u32.to_le_bytes());
        let bytes = fake.repeat(4 << 20 >> 5);
        assert_eq!(resync(&bytes, SALT, 1..10), None);
    }
}
