//! Which number is which lane's: the file `lanes`, a line for each, so that a name keeps its number
//! whatever happens to the config.
//!
//! ```text
//! tidegate-lanes 1
//! 0 default
//! 1 alerts
//! crc32c 5f3a19c2
//! ```
//!
//! The checksum is of all lines before it.
//!
//! It is written as `lanes.new` and renamed. One that makes no sense is set aside, and numbers are given
//! anew in the order of the config: what was counted for one lane may then count for another.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tidegate_event::Lane;
use tracing::warn;

use super::super::storage::{Storage, write_anew};
use super::{DEFAULT, LaneOptions};

/// The file.
pub(in super::super) const FILE: &str = "lanes";
/// While it is written.
pub(in super::super) const UNFINISHED: &str = "lanes.new";
const HEAD: &str = "tidegate-lanes 1";
/// A larger file is none of ours: 256 names of 64 bytes.
const LARGEST: u64 = 32 << 10;

/// The names of all lanes that there ever were.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Names(BTreeMap<u8, String>);

impl Names {
    /// Reads the file in `dir`; an error of kind `InvalidData` is one that makes no sense.
    pub(in super::super) fn read(storage: &Arc<dyn Storage>, dir: &Path) -> io::Result<Self> {
        let file = match storage.open(&dir.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::new()),
            other => other?,
        };
        let len = file.len()?;
        if len > LARGEST {
            return Err(invalid());
        }
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, 0).or_else(|_| file.read_at(&mut bytes, 0))?;
        bytes.truncate(read);
        Self::parse(&bytes).ok_or_else(invalid)
    }

    /// Only lane 0.
    pub(in super::super) fn new() -> Self {
        Self(BTreeMap::from([(0, DEFAULT.to_owned())]))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        // Cut short, it ends without a line end.
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        let (text, last) = text.split_at(text.rfind('\n')? + 1);
        (last == checksum(text)).then_some(())?;
        let mut lines = text.lines();
        (lines.next()? == HEAD).then_some(())?;
        let mut names = BTreeMap::new();
        for line in lines {
            let (number, name) = line.split_once(' ')?;
            names.insert(number.parse().ok()?, name.to_owned());
        }
        (names.get(&0)? == DEFAULT).then_some(Self(names))
    }

    /// The numbers of `lanes`; lane 0 is first, if need be as nothing is said of it. A new name gets the
    /// next number, and the file is written. Where there is no number left, or the disk does not take the
    /// file, the lane has a number all the same, until the next start.
    pub(in super::super) fn number(
        mut self,
        storage: &Arc<dyn Storage>,
        dir: &Path,
        lanes: Vec<LaneOptions>,
    ) -> Vec<(Lane, LaneOptions)> {
        let known = self.0.len();
        let mut numbered = Vec::new();
        if lanes.iter().all(|lane| lane.name != DEFAULT) {
            numbered.push((Lane(0), LaneOptions::default_lane()));
        }
        for lane in lanes {
            match self.of(&lane.name) {
                Some(number) => numbered.push((Lane(number), lane)),
                None => warn!(lane = lane.name, "there were 255 other lanes: it has no number"),
            }
        }
        numbered.sort_by_key(|(lane, _)| *lane != Lane(0));
        if self.0.len() > known
            && let Err(error) = self.write(storage, dir)
        {
            warn!(path = %dir.join(FILE).display(), %error, "the lanes' numbers cannot be kept");
        }
        numbered
    }

    /// The number of the lane with this name.
    fn of(&mut self, name: &str) -> Option<u8> {
        if let Some((number, _)) = self.0.iter().find(|(_, known)| *known == name) {
            return Some(*number);
        }
        let number = (1..=u8::MAX).find(|number| !self.0.contains_key(number))?;
        self.0.insert(number, name.to_owned());
        Some(number)
    }

    fn write(&self, storage: &Arc<dyn Storage>, dir: &Path) -> io::Result<()> {
        let unfinished = dir.join(UNFINISHED);
        write_anew(&**storage, &unfinished, &dir.join(FILE), self.text().as_bytes())?;
        storage.sync_dir(dir)
    }

    fn text(&self) -> String {
        let lines = self.0.iter().map(|(number, name)| format!("{number} {name}\n"));
        let text: String = std::iter::once(format!("{HEAD}\n")).chain(lines).collect();
        let last = checksum(&text);
        format!("{text}{last}\n")
    }
}

/// The last line of a file with these lines.
fn checksum(lines: &str) -> String {
    format!("crc32c {:08x}", crc32c::crc32c(lines.as_bytes()))
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is no list of lanes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let mut names = Names::new();
        assert_eq!((names.of("alerts"), names.of("bulk")), (Some(1), Some(2)));
        let mut again = Names::parse(names.text().as_bytes()).unwrap();
        assert_eq!(again, names);
        assert_eq!((again.of("other"), again.of("bulk")), (Some(3), Some(2)));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_told() {
        let mut names = Names::new();
        names.of("alerts");
        let whole = names.text().into_bytes();
        assert_eq!(Names::parse(&whole), Some(names));
        for at in 0..whole.len() {
            assert_eq!(Names::parse(&whole[..at]), None, "{at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 2;
            assert_eq!(Names::parse(&flipped), None, "{at}");
        }
        for bad in ["", "0 default\n", "tidegate-lanes 1\n1 default\n", "tidegate-lanes 1\nx y\n"] {
            assert_eq!(Names::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
