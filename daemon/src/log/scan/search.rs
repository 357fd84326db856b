//! The search for the next good frame, behind one that is bad.

use std::io;
use std::ops::Range;

use tidegate_event::Lsn;

use super::extent::{Extent, UNREADABLE};
use crate::log::frame::{Check, HEADER_LEN, Header, headers};

/// The search looks at this many bytes of candidates for each byte it passes over, so that no content
/// makes it take minutes.
const EFFORT: u64 = 8;
/// Bytes of a candidate that are checked at once, where it lies across the window's end.
const PIECE: u64 = 64 << 10;

/// Looks through an extent that begins with a bad frame. Holds a window of it, and a piece of a candidate.
#[derive(Debug)]
pub(super) struct Search<'a> {
    extent: &'a Extent,
    salt: u64,
    /// What it holds at most: whole multiples of [`UNREADABLE`], at least two.
    most: u64,
    window: Vec<u8>,
    /// Where that begins, behind the extent's first byte.
    at: u64,
}

impl<'a> Search<'a> {
    /// In the segment with this salt, with a window of `most` bytes.
    pub(super) fn new(extent: &'a Extent, salt: u64, most: usize) -> Self {
        let most = (most as u64 / UNREADABLE).max(2) * UNREADABLE;
        Self { extent, salt, most, window: Vec::new(), at: 0 }
    }

    /// Bytes of the frame that its header at the front announces; `None` where there is none.
    pub(super) fn announced(&mut self) -> io::Result<Option<u64>> {
        Ok(Header::decode(self.from(0)?).map(|header| header.frame_len() as u64))
    }

    /// Finds the first good frame behind the bad one at the front, one whose events lie in `lsns`: its
    /// place, and its header.
    pub(super) fn find(&mut self, lsns: Range<Lsn>) -> io::Result<Option<(u64, Header)>> {
        let fits = |header: &Header| header.first >= lsns.start && header.end() <= lsns.end;
        let len = self.extent.len;
        // Damage is most often inside the payload: then the length still leads to the next frame.
        if let Some(at) = self.announced()?.filter(|at| *at <= len)
            && let Some(header) = Header::decode(self.from(at)?)
            && fits(&header)
            && self.is_good(at, &header)?
        {
            return Ok(Some((at, header)));
        }
        let mut effort = len.saturating_mul(EFFORT);
        let mut at = 1;
        while at + HEADER_LEN as u64 <= len {
            let bytes = self.from(at)?;
            let Some((behind, header)) = headers(bytes).next() else {
                // One may lie across the window's end.
                at += (bytes.len() - (HEADER_LEN - 1)) as u64;
                continue;
            };
            at += behind as u64;
            if header.frame_len() as u64 <= len - at && fits(&header) {
                let Some(left) = effort.checked_sub(header.frame_len() as u64) else {
                    return Ok(None);
                };
                effort = left;
                if self.is_good(at, &header)? {
                    return Ok(Some((at, header)));
                }
            }
            at += 1;
        }
        Ok(None)
    }

    /// The bytes from `at` on that the window holds: a whole header, unless the extent ends before.
    fn from(&mut self, at: u64) -> io::Result<&[u8]> {
        let end = (at + HEADER_LEN as u64).min(self.extent.len);
        let held = self.at..self.at + self.window.len() as u64;
        if at < held.start || end > held.end {
            let begin = at / UNREADABLE * UNREADABLE;
            let len = (self.extent.len - begin).min(self.most);
            self.window.resize(len as usize, 0);
            self.extent.read(&mut self.window, begin)?;
            self.at = begin;
        }
        Ok(&self.window[(at - self.at) as usize..])
    }

    /// Whether the frame with this header `at` is good. The window stays where it is.
    fn is_good(&mut self, at: u64, header: &Header) -> io::Result<bool> {
        let len = header.frame_len();
        if len as u64 > self.extent.len - at {
            return Ok(false);
        }
        let salt = self.salt;
        let held = self.from(at)?;
        let held = &held[..held.len().min(len)];
        let mut check = Check::begin(held, salt);
        let (mut next, end) = (at + held.len() as u64, at + len as u64);
        if next == end {
            return Ok(check.is_right());
        }
        let mut piece = vec![0; PIECE as usize];
        while next < end {
            let begin = next / UNREADABLE * UNREADABLE;
            let wanted = (self.extent.len - begin).min(PIECE);
            let piece = &mut piece[..wanted as usize];
            self.extent.read(piece, begin)?;
            let stop = (begin + wanted).min(end);
            check.add(&piece[(next - begin) as usize..(stop - begin) as usize]);
            next = stop;
        }
        Ok(check.is_right())
    }
}
