//! Waits for something to be written, without asking again and again.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

/// What may mean that a log has more to read.
const CHANGES: WatchFlags =
    WatchFlags::MODIFY.union(WatchFlags::CREATE).union(WatchFlags::MOVED_TO);

/// The changes in a log's directory (inotify(7)), from when it was made on.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// Watches the directory.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let inotify = init(CreateFlags::CLOEXEC)?;
        add_watch(&inotify, dir, CHANGES)?;
        Ok(Self(inotify))
    }

    /// Waits for a change that this was not called for yet. It may be one that brings nothing to read.
    pub fn wait(&self) -> io::Result<()> {
        // All that fit are taken with the first.
        let mut changes = [MaybeUninit::uninit(); 4096];
        loop {
            match Reader::new(&self.0, &mut changes).next() {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
