//! Files without a log: as many bytes in as large groups, one pwrite and one fdatasync each.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tidegate_event::BlockBuilder;

use crate::engine::Engine;
use crate::payload::{self, Event};

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

/// As [`Prewritten`], with groups that are made of the events, by another thread than the one that writes them:
/// what any log does that fills a group while the one before is synced.
#[derive(Debug)]
pub(crate) struct HandedOver {
    block: BlockBuilder,
    /// Groups on their way; `None` once there are no more.
    groups: Option<SyncSender<Vec<u8>>>,
    /// Their buffers, once they are written.
    written: Receiver<Vec<u8>>,
    writing: Option<JoinHandle<()>>,
}

impl HandedOver {
    /// For groups whose events take this many bytes in the log.
    pub(crate) fn create(dir: &Path, bytes: usize) -> Self {
        let mut file = Prewritten::create(dir, bytes);
        let (groups, received) = sync_channel::<Vec<u8>>(2);
        let (answers, written) = sync_channel(2);
        answers.send(vec![0; FRAME_HEADER + bytes]).expect("room for a buffer");
        answers.send(vec![0; FRAME_HEADER + bytes]).expect("room for a buffer");
        let writing = thread::spawn(move || {
            for group in received {
                let buffer = std::mem::replace(&mut file.0.bytes, group);
                file.commit(&[]);
                let group = std::mem::replace(&mut file.0.bytes, buffer);
                // Nobody waits for the last ones.
                let _ = answers.send(group);
            }
        });
        let block = payload::builder();
        Self { block, groups: Some(groups), written, writing: Some(writing) }
    }
}

impl Engine for HandedOver {
    fn commit(&mut self, group: &[Event]) {
        payload::block(&mut self.block, group);
        let mut buffer = self.written.recv().expect("a thread that writes");
        buffer.truncate(FRAME_HEADER);
        buffer.extend_from_slice(self.block.finish());
        if let Some(groups) = &self.groups {
            groups.send(buffer).expect("a thread that writes");
        }
    }

    fn finish(&mut self) {
        self.groups = None;
        if let Some(writing) = self.writing.take() {
            writing.join().expect("a thread that writes");
        }
    }
}
