//! Bytes in memory as a file, for tests of what is read from one.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_event::Lsn;

use super::{EIO, Extent, Search};
use crate::log::frame::Header;
use crate::log::storage::File;

/// A file that is only read.
#[derive(Debug, Default)]
pub(in super::super) struct Memory {
    pub(in super::super) bytes: Vec<u8>,
    /// Reads that touch these fail.
    pub(in super::super) unreadable: Range<u64>,
    /// Bytes of the largest read.
    pub(in super::super) largest: AtomicUsize,
}

impl Memory {
    /// All of it.
    pub(in super::super) fn extent(self) -> Extent {
        let len = self.bytes.len() as u64;
        Extent { file: Arc::new(self), offset: 0, len }
    }
}

impl File for Memory {
    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.largest.fetch_max(buffer.len(), Ordering::Relaxed);
        let end = offset + buffer.len() as u64;
        if offset < self.unreadable.end && end > self.unreadable.start {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn truncate(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Searches `bytes`, which begin with a bad frame, with a window of so many.
pub(in super::super) fn search(
    bytes: &[u8],
    salt: u64,
    lsns: Range<Lsn>,
    window: usize,
) -> Option<(usize, Header)> {
    let extent = Memory { bytes: bytes.to_vec(), ..Memory::default() }.extent();
    let found = Search::new(&extent, salt, window).find(lsns).ok()?;
    found.map(|(at, header)| (at as usize, header))
}
