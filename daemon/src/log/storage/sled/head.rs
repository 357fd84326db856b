//! The head of a segment that lies in a database: a file that says which one, and holds the segment's
//! first bytes.
//!
//! ```text
//! twice, a sector each: magic "tgsled01" | number of the database u64 | CRC u32 of the 16 bytes before
//! | the first bytes of the segment, up to 4096
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::log::storage::fill;

/// Bytes of the segment in its head.
pub(super) const HEAD: u64 = 4096;
/// How the name of a database ends.
const SUFFIX: &str = "sled";
const MAGIC: [u8; 8] = *b"tgsled01";
const SECTOR: usize = 512;
/// Bytes before those of the segment.
const FRONT: u64 = 2 * SECTOR as u64;

/// An open head.
#[derive(Debug)]
pub(super) struct Head(fs::File);

impl Head {
    /// Makes a head of a new file.
    pub(super) fn begin(file: fs::File, number: u64) -> io::Result<Self> {
        let mut sector = [0; SECTOR];
        sector[..8].copy_from_slice(&MAGIC);
        sector[8..16].copy_from_slice(&number.to_le_bytes());
        let crc = crc32c::crc32c(&sector[..16]);
        sector[16..20].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&[sector, sector].concat(), 0)?;
        Ok(Self(file))
    }

    /// A file with the number of its database; or itself, where it is no head.
    pub(super) fn of(file: fs::File) -> Result<(Self, u64), fs::File> {
        match number(&file) {
            Some(number) => Ok((Self(file), number)),
            None => Err(file),
        }
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, FRONT + offset)
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        fill(buffer, FRONT + offset, |part, offset| self.0.read_at(part, offset))
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len().saturating_sub(FRONT))
    }

    pub(super) fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(FRONT + len)
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// The database that a file says is its own, if it says so in either place.
fn number(file: &fs::File) -> Option<u64> {
    let mut front = [0; FRONT as usize];
    let mut read = || fill(&mut front, 0, |part, offset| file.read_at(part, offset));
    // What the disk cannot read, also not the second time, is damaged.
    let read = read().or_else(|_| read()).unwrap_or(0);
    let number = |sector: &[u8]| {
        let (number, crc) = (sector.get(8..16)?, sector.get(16..20)?);
        let is_whole = crc32c::crc32c(&sector[..16]).to_le_bytes() == crc;
        (is_whole && sector.starts_with(&MAGIC))
            .then(|| number.try_into().map(u64::from_le_bytes).ok())?
    };
    front[..read].chunks(SECTOR).find_map(number)
}

/// The database of the file at `path`, if it says that it has one.
pub(super) fn database_of(path: &Path) -> Option<u64> {
    number(&fs::File::open(path).ok()?)
}

/// The directory of a database whose head lies in `dir`.
pub(super) fn directory(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{SUFFIX}"))
}

/// The databases in `dir`.
pub(super) fn directories(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|it| it == SUFFIX) && path.is_dir()).collect()
}
