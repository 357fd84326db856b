//! tidegate's log.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tidegate::log::{Append, Commit, FileSystem, Log, Options};
use tidegate_event::BlockBuilder;

use crate::engine::Engine;
use crate::payload::{self, Event};

/// Far more than any measurement writes.
const ROOMY: u64 = 1 << 40;

/// How the log is kept: as by default, but for its size, and for frames that hold about `max_bytes`.
pub(crate) fn options(dir: &Path, max_bytes: usize) -> Options {
    Options { dir: dir.into(), max_size: ROOMY, max_bytes, ..Options::default() }
}

/// Opens or creates one.
pub(crate) fn open(options: Options) -> Arc<Log> {
    Log::open(Arc::new(FileSystem), options).expect("a log").0
}

/// The log, and one appender.
#[derive(Debug)]
pub(crate) struct Ours {
    log: Arc<Log>,
    block: BlockBuilder,
    under_way: Option<Commit>,
}

impl Ours {
    /// For groups of this many bytes: each has a frame of its own.
    pub(crate) fn create(dir: &Path, bytes: usize) -> Self {
        Self::new(open(options(dir, bytes)))
    }

    /// An appender of `log`.
    pub(crate) fn new(log: Arc<Log>) -> Self {
        Self { log, block: payload::builder(), under_way: None }
    }
}

impl Engine for Ours {
    fn commit(&mut self, group: &[Event]) {
        payload::block(&mut self.block, group);
        let commit = match self.log.append(&mut self.block) {
            Append::Accepted(commit) => commit,
            refused => panic!("the log refuses: {refused:?}"),
        };
        self.finish();
        self.under_way = Some(commit);
    }

    fn finish(&mut self) {
        if let Some(commit) = self.under_way.take() {
            wait(commit).expect("a commit");
        }
    }
}

/// Runs a future on this thread.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
