//! The checkpoint: every tree in one small file of ours, from which, with the log, all state can be
//! built again.
//!
//! ```text
//! file      magic "tidegckp" | version u32 (1) | body | body's length u64 | CRC-32C u32 of all before
//! body      CBOR items, one after the other (RFC 8742): a tree's head, its entries, the next head, …
//! head      [0, [name, version]]
//! entry     [1, [key, value]], byte strings
//! ```
//!
//! Integers outside the body are little-endian. A checkpoint is written under another name, synced,
//! renamed to `checkpoint-<number>`, and the directory is synced. The last two are kept; reading takes
//! the newest one whose length and checksum are right. Where the disk is full the older one makes room
//! for the new one.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing::warn;

use super::StateError;
use crate::log::Storage;
use crate::log::storage::File;

const MAGIC: &[u8; 8] = b"tidegckp";
const VERSION: u32 = 1;
const HEADER: u64 = 12;
const TRAILER: u64 = 12;
const PREFIX: &str = "checkpoint-";
/// The name while it is written.
const UNFINISHED: &str = "checkpoint.tmp";
/// Bytes that are read or written at once.
const BUFFER: usize = 64 * 1024;
/// How many are kept.
const KEEP: usize = 2;

/// One item of the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Item<'a> {
    /// A tree begins.
    #[serde(rename = "t")]
    Tree(String, u64),
    /// The next entry of the tree.
    #[serde(rename = "e")]
    Entry(Bytes<'a>, Bytes<'a>),
}

/// A CBOR byte string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bytes<'a>(pub(super) std::borrow::Cow<'a, [u8]>);

/// Writes a checkpoint with the items that `fill` puts into it, and answers its path and size. An
/// error of `fill` ends the attempt; nothing is left behind.
pub(super) fn write(
    storage: &dyn Storage,
    dir: &Path,
    mut fill: impl FnMut(&mut Writer) -> Result<(), StateError>,
) -> Result<(PathBuf, u64), StateError> {
    let mut kept = list(storage, dir)?;
    let number = kept.last().map_or(1, |(number, _)| number + 1);
    let unfinished = dir.join(UNFINISHED);
    let mut attempt = || -> Result<u64, StateError> {
        let mut writer = Writer::create(storage, &unfinished)?;
        fill(&mut writer)?;
        Ok(writer.finish()?)
    };
    let mut outcome = attempt();
    if outcome.as_ref().is_err_and(StateError::is_disk_full) && kept.len() >= KEEP {
        // The newest of the old ones stays; its name may not be durable, where an attempt failed at that.
        storage.sync_dir(dir)?;
        let (_, oldest) = kept.remove(0);
        storage.unlink(&oldest)?;
        outcome = attempt();
    }
    let size = outcome.inspect_err(|_| drop(storage.unlink(&unfinished)))?;
    let path = dir.join(format!("{PREFIX}{number:010}"));
    storage.rename(&unfinished, &path)?;
    storage.sync_dir(dir)?;
    let superfluous = (kept.len() + 1).saturating_sub(KEEP);
    for (_, old) in &kept[..superfluous] {
        // Tried again next time.
        let _ = storage.unlink(old);
    }
    Ok((path, size))
}

/// Opens the newest checkpoint that verifies, if there is one.
pub(super) fn newest(storage: &dyn Storage, dir: &Path) -> io::Result<Option<Items>> {
    for (_, path) in list(storage, dir)?.into_iter().rev() {
        let attempt = || storage.open(&path).and_then(verify);
        // A disk may fail to read once; the older one is there for more than that.
        match attempt().or_else(|_| attempt()) {
            Ok(items) => return Ok(Some(items)),
            Err(why) => warn!(file = %path.display(), %why, "the checkpoint is damaged"),
        }
    }
    Ok(None)
}

/// Removes all checkpoints: they belong to another log.
pub(super) fn remove_all(storage: &dyn Storage, dir: &Path) -> io::Result<()> {
    for (_, path) in list(storage, dir)? {
        storage.unlink(&path)?;
    }
    storage.sync_dir(dir)
}

/// The checkpoints by number.
fn list(storage: &dyn Storage, dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for name in storage.list(dir)? {
        let number = name.strip_prefix(PREFIX).and_then(|number| number.parse::<u64>().ok());
        found.extend(number.map(|number| (number, dir.join(&name))));
    }
    found.sort_unstable();
    Ok(found)
}

fn verify(file: Arc<dyn File>) -> io::Result<Items> {
    let size = file.len()?;
    let body = size.checked_sub(HEADER + TRAILER).ok_or_else(|| invalid("it is cut short"))?;
    let mut reader = From { file, offset: 0 };
    let mut crc = 0;
    let mut rest = size - 4;
    let mut buffer = vec![0; BUFFER];
    let mut head = Vec::new();
    let mut tail = Vec::new();
    while rest > 0 {
        let want = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let chunk = &mut buffer[..want];
        reader.read_exact(chunk)?;
        crc = crc32c::crc32c_append(crc, chunk);
        rest -= want as u64;
        if head.is_empty() {
            head = chunk[..chunk.len().min(HEADER as usize)].to_vec();
        }
        tail.extend_from_slice(&chunk[chunk.len().saturating_sub(8)..]);
        tail.drain(..tail.len().saturating_sub(8));
    }
    let mut stored = [0; 4];
    reader.read_exact(&mut stored)?;
    if crc != u32::from_le_bytes(stored) || tail != body.to_le_bytes() {
        return Err(invalid("its checksum or length is wrong"));
    }
    if head[..8] != MAGIC[..] || head[8..] != VERSION.to_le_bytes() {
        return Err(invalid("it is of another version"));
    }
    reader.offset = HEADER;
    let reader = BufReader::with_capacity(BUFFER, reader);
    Ok(Items(serde_cbor::Deserializer::from_reader(reader.take(body)).into_iter()))
}

/// A file from a place on.
struct From {
    file: Arc<dyn File>,
    offset: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The items of a verified checkpoint.
pub(super) struct Items(
    serde_cbor::StreamDeserializer<
        'static,
        serde_cbor::de::IoRead<io::Take<BufReader<From>>>,
        Item<'static>,
    >,
);

impl Iterator for Items {
    type Item = io::Result<Item<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)))
    }
}

/// Writes the body item by item, in memory that does not grow with it.
pub(super) struct Writer {
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    written: u64,
    item: Vec<u8>,
    crc: u32,
    body: u64,
}

impl Writer {
    fn create(storage: &dyn Storage, path: &Path) -> io::Result<Self> {
        // From an attempt that ended in a crash.
        match storage.unlink(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (file, buffer) = (storage.create(path)?, Vec::with_capacity(BUFFER));
        let mut writer = Self { file, buffer, written: 0, item: Vec::new(), crc: 0, body: 0 };
        writer.put(MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        Ok(writer)
    }

    pub(super) fn item(&mut self, item: &Item<'_>) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.item);
        bytes.clear();
        let mut serializer = serde_cbor::Serializer::new(&mut bytes).packed_format();
        item.serialize(&mut serializer).map_err(io::Error::other)?;
        self.put(&bytes)?;
        self.body += bytes.len() as u64;
        self.item = bytes;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() > BUFFER {
            self.file.write_at(bytes, self.written)?;
            self.written += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        self.put(&self.body.to_le_bytes())?;
        let crc = self.crc;
        self.write(&crc.to_le_bytes())?;
        self.flush()?;
        self.file.sync_data()?;
        Ok(HEADER + self.body + TRAILER)
    }
}

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BytesVisitor).map(|bytes| Self(bytes.into()))
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}
