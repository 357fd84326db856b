//! What a file holds behind its head: pieces in a sled database of its own.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::database::{Fault, catch};

/// Bytes of a piece at most. sled keeps up to 20 entries in a page, and pages of more than a quarter of
/// its segments of 512 KiB in files of their own, which it never syncs: these stay far below that.
const PIECE: u64 = 4096;
/// Bytes of pieces that sled may keep in memory.
const CACHE: u64 = 2 << 20;
/// Bytes by which sled's file grows: when it opens the file again it fills up the last of them, or begins
/// the next.
const STEP: u64 = 512 << 10;

/// An open database. The key of a piece is its offset in the file, big-endian; no two of them overlap, and
/// what is between them is zeros. A write at the end takes nothing but pieces of its own: blocks of
/// fixed size would be written again with each small commit, with all their page.
#[derive(Debug)]
pub(super) struct Pieces {
    db: sled::Db,
    /// The file that sled writes to: its own flush leaves what it wrote to the page cache.
    file: fs::File,
    /// Where the last piece ends; 0 without one.
    end: AtomicU64,
    /// Bytes that the file has on disk for certain.
    allocated: AtomicU64,
}

impl Pieces {
    /// Opens or creates the database in `dir`, durably, and reads every piece once: what can be read now
    /// will not surprise anybody later.
    pub(super) fn open(dir: &Path) -> Result<Self, Fault> {
        let is_new = !dir.join("db").exists();
        let (db, end) = catch(|| {
            let config = sled::Config::new().path(dir).cache_capacity(CACHE);
            // Nobody but us flushes, and garbage goes with the whole database.
            let db = config.mode(sled::Mode::LowSpace).flush_every_ms(None).open()?;
            let mut end = 0;
            for entry in &*db {
                let (key, piece) = entry?;
                end = offset_of(&key) + piece.len() as u64;
            }
            Ok((db, end))
        })?;
        let file = fs::OpenOptions::new().read(true).write(true).open(dir.join("db"))?;
        if is_new {
            let synced = [dir.join("conf"), dir.join("db"), dir.to_owned()];
            for path in synced.iter().map(AsRef::as_ref).chain(dir.parent()) {
                fs::File::open(path)?.sync_all()?;
            }
        }
        Ok(Self { db, file, end: AtomicU64::new(end), allocated: AtomicU64::new(0) })
    }

    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Writes `bytes` at `offset` of the file. What was there before goes in the same step: bytes that
    /// are written again are never gone.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Fault> {
        self.allocate(bytes.len() as u64)?;
        let end = offset + bytes.len() as u64;
        let pieces = bytes.chunks(PIECE as usize).zip((offset..).step_by(PIECE as usize));
        catch(|| {
            if offset < self.end() {
                let mut batch = self.cut_out(offset, end)?;
                pieces.for_each(|(piece, at)| batch.insert(&key(at), piece));
                self.db.apply_batch(batch)?;
            } else {
                for (piece, at) in pieces {
                    self.db.insert(key(at), piece)?;
                }
            }
            self.end.fetch_max(end, Ordering::AcqRel);
            Ok(())
        })
    }

    /// Takes room for what is about to be written, and for opening the file again, should the disk be full
    /// then.
    fn allocate(&self, bytes: u64) -> Result<(), Fault> {
        let wanted = (self.file.metadata()?.len() + bytes).next_multiple_of(STEP) + STEP;
        if wanted > self.allocated.load(Ordering::Relaxed) {
            match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, wanted) {
                // Not every file system can.
                Ok(()) | Err(Errno::OPNOTSUPP) => self.allocated.store(wanted, Ordering::Relaxed),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    /// Fills `buffer` from `offset` on, up to the end; answers how many bytes.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Fault> {
        let end = self.end().min(offset + buffer.len() as u64);
        let wanted = end.saturating_sub(offset) as usize;
        let buffer = &mut buffer[..wanted];
        buffer.fill(0);
        catch(|| {
            for entry in self.over(offset, end) {
                let (begin, piece) = entry?;
                let (from, to) = (begin.max(offset), (begin + piece.len() as u64).min(end));
                if from < to {
                    let part = &piece[(from - begin) as usize..(to - begin) as usize];
                    buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
                }
            }
            Ok(wanted)
        })
    }

    /// Cuts the file to `len` bytes, or fills it up with zeros.
    pub(super) fn truncate(&self, len: u64) -> Result<(), Fault> {
        if len > self.end() {
            return self.write(&[0], len - 1);
        }
        catch(|| self.db.apply_batch(self.cut_out(len, u64::MAX)?))?;
        let last = catch(|| self.db.last())?;
        let end = last.map_or(0, |(key, piece)| offset_of(&key) + piece.len() as u64);
        self.end.store(end, Ordering::Release);
        // Where a hole was before.
        if end < len { self.write(&[0], len - 1) } else { Ok(()) }
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

    /// The pieces that may have bytes between the two, with their offsets.
    fn over(
        &self,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = sled::Result<(u64, sled::IVec)>> + use<> {
        let first = from.saturating_sub(PIECE - 1);
        let range = self.db.range(key(first)..key(to.max(first)));
        range.map(|entry| entry.map(|(key, piece)| (offset_of(&key), piece)))
    }

    /// The removal of the bytes between the two from the pieces that have some.
    fn cut_out(&self, from: u64, to: u64) -> sled::Result<sled::Batch> {
        let mut batch = sled::Batch::default();
        for entry in self.over(from, to) {
            let (begin, piece) = entry?;
            let end = begin + piece.len() as u64;
            if end <= from {
                continue;
            }
            if begin < from {
                batch.insert(&key(begin), &piece[..(from - begin) as usize]);
            } else {
                batch.remove(&key(begin));
            }
            if end > to {
                batch.insert(&key(to), &piece[(to - begin) as usize..]);
            }
        }
        Ok(batch)
    }
}

fn key(offset: u64) -> [u8; 8] {
    offset.to_be_bytes()
}

fn offset_of(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}
