//! What a file holds behind its head: blocks in a sled database of its own.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::database::{Fault, catch};

/// Bytes of a block. sled keeps up to 20 entries in a page, and pages of more than a quarter of its
/// segments of 512 KiB as files of their own, which it never syncs: these stay far below that.
pub(super) const BLOCK: u64 = 4096;
/// Bytes of blocks that sled may keep in memory.
const CACHE: u64 = 2 << 20;

/// An open database. The key of a block is its number in the file, big-endian; the last one is as long
/// as the file wants it, and one that is missing is all zeros.
#[derive(Debug)]
pub(super) struct Blocks {
    db: sled::Db,
    /// The file that sled writes to: its own flush leaves what it wrote to the page cache.
    file: fs::File,
    /// Where the last block ends; 0 without blocks.
    len: AtomicU64,
}

impl Blocks {
    /// Opens or creates the database in `dir`, durably, and reads every block once: what can be read now
    /// will not surprise anybody later.
    pub(super) fn open(dir: &Path) -> Result<Self, Fault> {
        let is_new = !dir.join("db").exists();
        let (db, len) = catch(|| {
            let config = sled::Config::new().path(dir).cache_capacity(CACHE);
            // Nobody but us flushes, and garbage goes with the whole database.
            let db = config.mode(sled::Mode::LowSpace).flush_every_ms(None).open()?;
            let mut len = 0;
            for entry in &*db {
                let (key, block) = entry?;
                len = number(&key) * BLOCK + block.len() as u64;
            }
            Ok((db, len))
        })?;
        let file = fs::File::open(dir.join("db"))?;
        if is_new {
            let synced = [dir.join("conf"), dir.join("db"), dir.to_owned()];
            for path in synced.iter().map(Path::new).chain(dir.parent()) {
                fs::File::open(path)?.sync_all()?;
            }
        }
        Ok(Self { db, file, len: AtomicU64::new(len) })
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Writes `bytes` at `offset` of the file.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Fault> {
        catch(|| {
            let mut rest = bytes;
            let mut at = offset;
            while !rest.is_empty() {
                let within = (at % BLOCK) as usize;
                let (part, behind) = rest.split_at(rest.len().min(BLOCK as usize - within));
                let key = key(at / BLOCK);
                if part.len() == BLOCK as usize {
                    self.db.insert(key, part)?;
                } else {
                    let mut block = self.db.get(key)?.map_or_else(Vec::new, |old| old.to_vec());
                    block.resize(block.len().max(within + part.len()), 0);
                    block[within..within + part.len()].copy_from_slice(part);
                    self.db.insert(key, block)?;
                }
                at += part.len() as u64;
                rest = behind;
            }
            self.len.fetch_max(at, Ordering::AcqRel);
            Ok(())
        })
    }

    /// Fills `buffer` from `offset` on, which may not lie behind the end; answers how many bytes.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Fault> {
        let end = self.len().min(offset + buffer.len() as u64);
        let wanted = end.saturating_sub(offset) as usize;
        let buffer = &mut buffer[..wanted];
        buffer.fill(0);
        if wanted == 0 {
            return Ok(0);
        }
        catch(|| {
            for entry in self.db.range(key(offset / BLOCK)..=key((end - 1) / BLOCK)) {
                let (key, block) = entry?;
                let begin = number(&key) * BLOCK;
                let (from, to) = (begin.max(offset), (begin + block.len() as u64).min(end));
                if from < to {
                    let part = &block[(from - begin) as usize..(to - begin) as usize];
                    buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
                }
            }
            Ok(wanted)
        })
    }

    /// Cuts the file to `len` bytes, or fills it up with zeros.
    pub(super) fn truncate(&self, len: u64) -> Result<(), Fault> {
        if len >= self.len() {
            return if len > self.len() { self.write(&[0], len - 1) } else { Ok(()) };
        }
        catch(|| {
            let (last, within) = (len / BLOCK, (len % BLOCK) as usize);
            let behind = if within == 0 { last } else { last + 1 };
            for entry in self.db.range(key(behind)..) {
                self.db.remove(entry?.0)?;
            }
            if within > 0 {
                let mut block = self.db.get(key(last))?.map_or_else(Vec::new, |old| old.to_vec());
                block.resize(within, 0);
                self.db.insert(key(last), block)?;
            }
            self.len.store(len, Ordering::Release);
            Ok(())
        })
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> Result<(), Fault> {
        catch(|| self.db.flush())?;
        Ok(self.file.sync_data()?)
    }

    /// Closes it. Its own way of doing that panics where the disk fails.
    pub(super) fn close(self) {
        let Self { db, .. } = self;
        let closed = catch(|| {
            drop(db);
            Ok(())
        });
        // What was promised was synced before.
        drop(closed);
    }
}

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

fn number(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}
