//! What a ledger's file holds.
//!
//! Entries of 48 bytes, each with its own checksum:
//!
//! ```text
//! magic "TGL1" | lane u8 | reason u8 | 2 zero bytes | first u64 | last u64 | count u64
//! | time i64, microseconds since 1970 | 4 zero bytes | CRC-32C u32 of the 44 bytes before
//! ```
//!
//! Its file is allocated ahead by a page, so that a full disk takes the next entries; behind the last entry are
//! zeros then.
//!
//! An entry that does not verify is damage, unless it is the last, and a power cut kept one side of the border of
//! two sectors in it. Those behind it are found wherever they begin.

use std::io;
use std::sync::Arc;

#[cfg(any(test, fuzzing))]
use tidegate_event::Lane;

#[cfg(any(test, fuzzing))]
use super::loss::Reason;
use super::loss::{ENTRY_LEN, Loss, MAGIC};
use crate::log::scan::Extent;
use crate::log::storage::File;

/// A file of more bytes is no ledger: the bound's bound.
pub(super) const LARGEST: u64 = 16 << 20;
/// What a disk writes at once, or not at all.
const SECTOR: usize = 512;

/// All of it, and whether the disk could read that; what it could not is zeros. An error if it is too large for a
/// ledger, or nothing of it can be read.
pub(super) fn read(file: Arc<dyn File>) -> io::Result<(Vec<u8>, bool)> {
    let len = file.len()?;
    if len > 2 * LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large for a loss ledger"));
    }
    let mut bytes = vec![0; len as usize];
    match file.read_at(&mut bytes, 0).or_else(|_| file.read_at(&mut bytes, 0)) {
        Ok(read) => {
            bytes.truncate(read);
            Ok((bytes, true))
        }
        Err(error) => {
            let all = Extent { file, offset: 0, len };
            all.pieces(|piece, at| {
                bytes[at as usize..][..piece.len()].copy_from_slice(piece);
                Ok(())
            })?;
            if is_zero(&bytes) { Err(error) } else { Ok((bytes, false)) }
        }
    }
}

/// The bytes of entries.
pub(super) fn encode(entries: &[Loss]) -> Vec<u8> {
    entries.iter().flat_map(Loss::encode).collect()
}

/// The entries that verify, and how many places do not. A torn end is none, nor what was allocated ahead.
pub(super) fn decode(bytes: &[u8]) -> (Vec<Loss>, u64) {
    let (mut entries, mut damaged, mut at) = (Vec::new(), 0, 0);
    while let Some((entry, rest)) = bytes[at..].split_first_chunk::<ENTRY_LEN>() {
        if let Some(loss) = Loss::decode(entry) {
            entries.push(loss);
            at += ENTRY_LEN;
            continue;
        }
        if is_zero(rest) && is_torn(entry, at) {
            break;
        }
        damaged += 1;
        let rest = &bytes[at + 1..];
        let next = rest.windows(MAGIC.len()).position(|window| window == MAGIC);
        let Some(next) = next else { break };
        at += 1 + next;
    }
    (entries, damaged)
}

/// Whatever the file holds, its entries are read, and read again once they are written; and one that is
/// written behind is found.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_any(bytes: &[u8]) {
    let (entries, _) = decode(bytes);
    assert!(entries.len() * ENTRY_LEN <= bytes.len());
    let again = encode(&entries);
    assert_eq!(decode(&again), (entries, 0));
    let more = Loss::now(Lane(1), 5..=9, Reason::Dropped);
    let (entries, _) = decode(&[bytes, &more.encode()].concat());
    assert!(entries.contains(&more), "not found behind {} bytes", bytes.len());
}

/// Whether of an entry at `at` only that part was written that lies in one sector; or none.
fn is_torn(entry: &[u8], at: usize) -> bool {
    let (one, other) = entry.split_at((SECTOR - at % SECTOR).min(entry.len()));
    is_zero(one) || is_zero(other) && !other.is_empty()
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
