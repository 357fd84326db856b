//! Bytes of a file that are damaged, read a piece at a time.

use std::io;
use std::sync::Arc;

use super::is_unreadable;
use crate::log::storage::File;

/// A disk that cannot read a sector answers EIO; around it, this much is given up. Pieces begin at multiples of
/// it, counted from the front of the extent: so the same bytes are given up however large the pieces are.
pub(super) const UNREADABLE: u64 = 4096;
/// Bytes of a piece.
const PIECE: u64 = 256 << 10;

/// Bytes of a file, with zeros where the disk cannot read it.
#[derive(Debug, Clone)]
pub(in super::super) struct Extent {
    pub(in super::super) file: Arc<dyn File>,
    /// Where in the file they begin.
    pub(in super::super) offset: u64,
    /// How many.
    pub(in super::super) len: u64,
}

impl Extent {
    /// Hands its bytes over in pieces of at most 256 KiB, each with where it begins behind the first byte.
    pub(in super::super) fn pieces(
        &self,
        mut take: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut piece = vec![0; self.len.min(PIECE) as usize];
        let mut at = 0;
        while at < self.len {
            let wanted = (self.len - at).min(PIECE);
            let piece = &mut piece[..wanted as usize];
            self.read(piece, at)?;
            take(piece, at)?;
            at += wanted;
        }
        Ok(())
    }

    /// Fills `buffer` with what lies `at` bytes, a multiple of [`UNREADABLE`], behind the first one: with zeros
    /// also where the file ends before.
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let mut offset = self.offset + at;
        match self.file.read_at(buffer, offset) {
            Err(error) if is_unreadable(&error) => {}
            other => {
                buffer[other?..].fill(0);
                return Ok(());
            }
        }
        for part in buffer.chunks_mut(UNREADABLE as usize) {
            match self.file.read_at(part, offset) {
                Err(error) if is_unreadable(&error) => part.fill(0),
                other => part[other?..].fill(0),
            }
            offset += part.len() as u64;
        }
        Ok(())
    }
}
