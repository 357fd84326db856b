//! Files without a log: as many bytes in as large groups, one pwrite and one fdatasync each.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::engine::Engine;
use crate::payload::Event;

/// Before the events in a frame of the log.
const FRAME_HEADER: usize = 28;
/// Bytes that are overwritten again and again.
const PREWRITTEN: u64 = 64 << 20;

/// Bytes that nobody can tell from events.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; FRAME_HEADER + bytes];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    noise
}

/// A file that grows.
#[derive(Debug)]
pub(crate) struct Append {
    file: File,
    bytes: Vec<u8>,
    at: u64,
}

impl Append {
    /// For groups whose events take this many bytes in the log.
    pub(crate) fn create(dir: &Path, bytes: usize) -> Self {
        let file = File::create_new(dir.join("append")).expect("a new file");
        Self { file, bytes: noise(bytes), at: 0 }
    }
}

impl Engine for Append {
    fn commit(&mut self, _: &[Event]) {
        self.file.write_all_at(&self.bytes, self.at).expect("a write");
        self.file.sync_data().expect("a sync");
        self.at += self.bytes.len() as u64;
    }
}

/// A file that was written before, from its beginning to its end and again.
#[derive(Debug)]
pub(crate) struct Prewritten(Append);

impl Prewritten {
    /// For groups whose events take this many bytes in the log.
    pub(crate) fn create(dir: &Path, bytes: usize) -> Self {
        let append = Append::create(dir, bytes);
        for at in (0..PREWRITTEN).step_by(1 << 20) {
            append.file.write_all_at(&[1; 1 << 20], at).expect("a write");
        }
        append.file.sync_all().expect("a sync");
        Self(append)
    }
}

impl Engine for Prewritten {
    fn commit(&mut self, group: &[Event]) {
        if self.0.at + self.0.bytes.len() as u64 > PREWRITTEN {
            self.0.at = 0;
        }
        self.0.commit(group);
    }
}
