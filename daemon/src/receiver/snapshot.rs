//! What the store alone cannot rebuild once its oldest events are released, in one file.
//!
//! ```text
//! snapshot   magic "TGRCVSN1" | CRC-32C u32 of the body | body: CBOR
//! ```
//!
//! Written to `snapshot.new`, synced, renamed to `snapshot`, the directory synced: there is always a
//! whole one. A damaged one is set aside as `snapshot.damaged`; everything that the store still holds
//! is then read again, and what it no longer holds shows as gaps.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_event::Lsn;

use super::model::Model;
use super::seen::LogView;

const MAGIC: &[u8; 8] = b"TGRCVSN1";
const NAME: &str = "snapshot";

/// What is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// The store's events up to this one are in it.
    pub(super) applied: Lsn,
    pub(super) logs: Vec<LogView>,
    pub(super) window: [Bytes; 2],
    pub(super) model: Model,
}

/// A CBOR byte string.
#[derive(Debug)]
pub(super) struct Bytes(pub(super) Vec<u8>);

/// What [`Snapshot::read`] found.
#[derive(Debug)]
pub(super) enum Found {
    /// There is none.
    None,
    Whole(Box<Snapshot>),
    /// It could not be read, and was set aside.
    Damaged(PathBuf),
}

impl Snapshot {
    /// The file's content.
    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_cbor::Error> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[0; 4]);
        serde_cbor::to_writer(&mut bytes, self)?;
        let crc = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (crc, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut snapshot: Self = serde_cbor::from_slice(body).ok()?;
        snapshot.model.index();
        Some(snapshot)
    }

    /// Reads the snapshot in `dir`.
    pub(super) fn read(dir: &Path) -> io::Result<Found> {
        let path = dir.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
            Err(error) => return Err(error),
        };
        if let Some(snapshot) = Self::decode(&bytes) {
            return Ok(Found::Whole(Box::new(snapshot)));
        }
        let aside = dir.join("snapshot.damaged");
        fs::rename(&path, &aside)?;
        Ok(Found::Damaged(aside))
    }
}

/// Makes `encoded` the snapshot in `dir`, durably.
pub(super) fn write(dir: &Path, encoded: &[u8]) -> io::Result<()> {
    let new = dir.join("snapshot.new");
    let mut file = File::create(&new)?;
    file.write_all(encoded)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(NAME))?;
    File::open(dir)?.sync_all()
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let log = LogView { epoch: 1, lane: 0, gateway: None, ranges: vec![(1, 9)] };
        let window = [Bytes(vec![1; 32]), Bytes(Vec::new())];
        Snapshot { applied: 7, logs: vec![log], window, model: Model::default() }
    }

    #[test]
    fn it_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Snapshot::read(dir.path()).unwrap(), Found::None));
        write(dir.path(), &snapshot().encode().unwrap()).unwrap();
        let Found::Whole(read) = Snapshot::read(dir.path()).unwrap() else { panic!("not whole") };
        assert_eq!((read.applied, &read.logs), (7, &snapshot().logs));
        assert_eq!(read.window[0].0, [1; 32]);
    }

    #[test]
    fn a_damaged_one_is_set_aside() {
        let whole = snapshot().encode().unwrap();
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 0x10;
            assert!(Snapshot::decode(&damaged).is_none(), "byte {byte}");
            assert!(Snapshot::decode(&whole[..byte]).is_none(), "cut at {byte}");
        }
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &whole[..20]).unwrap();
        let Found::Damaged(aside) = Snapshot::read(dir.path()).unwrap() else { panic!("whole") };
        assert!(aside.exists());
        assert!(matches!(Snapshot::read(dir.path()).unwrap(), Found::None));
    }
}
