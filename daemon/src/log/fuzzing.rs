//! Any bytes, as what lies in a segment file, or in the ledger's.

use super::compress::{Compression, Unpacker};
use super::frame::{self, HEADER_LEN, Parsed};
use super::ledger;
use super::scan::memory;
use super::segment;

/// Headers are read or not; frames are found, whatever surrounds them.
pub(crate) fn frames(bytes: &[u8]) {
    const SALT: u64 = 0x5a17;
    let _ = segment::Header::decode(bytes);
    if let Ok(name) = std::str::from_utf8(bytes) {
        let _ = segment::parse_name(name);
    }
    ledger::check_any(bytes);
    match frame::parse(bytes, SALT) {
        Parsed::Frame(header) => assert!(header.frame_len() <= bytes.len()),
        Parsed::Incomplete(need) => assert!(need > bytes.len()),
        Parsed::Bad => {}
    }
    for compression in [Compression::Lz4, Compression::Deflate] {
        let mut payload = Vec::new();
        if Unpacker::default().unpack(compression, bytes, &mut payload).is_ok() {
            let length = bytes.first_chunk().map(|length| u32::from_le_bytes(*length));
            assert_eq!(length, Some(payload.len() as u32));
        }
    }
    let search = |bytes: &[u8]| memory::search(bytes, SALT, 0..u64::MAX, 0);
    let found = search(bytes);
    if let Some((at, header)) = found {
        assert_eq!(frame::parse(&bytes[at..], SALT), Parsed::Frame(header));
    }
    // A good one behind is found, or one before it, unless the search has to look at many that only
    // look like one.
    let mut good = vec![0; HEADER_LEN];
    good.extend_from_slice(b"payload");
    frame::seal(&mut good, 7, 1, 0, SALT);
    let all = [bytes, &good].concat();
    assert!(matches!(frame::parse(&good, SALT), Parsed::Frame(_)));
    let alike = bytes.windows(4).filter(|four| *four == b"TGF1").count();
    if !bytes.is_empty() && alike < 8 && !matches!(frame::parse(&all, SALT), Parsed::Frame(_)) {
        let at = search(&all).map(|(at, _)| at);
        assert!(at.is_some_and(|at| at <= bytes.len()), "{at:?}");
    }
}
