//! tidegate's log.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};

use tidegate::log::{Append, Commit, Engine as Beneath, Log, Options};
use tidegate_event::{BlockBuilder, Lsn};

use crate::engine::Engine;
use crate::payload::{self, Event, Events};

/// Far more than any measurement writes.
const ROOMY: u64 = 1 << 40;

/// How the log is kept: as by default, but for its size, and for frames that hold about `max_bytes`.
pub(crate) fn options(dir: &Path, max_bytes: usize) -> Options {
    Options { dir: dir.into(), max_size: ROOMY, max_bytes, ..Options::default() }
}

/// Opens or creates one. One that has segments in sled databases is read whatever `engine` says.
pub(crate) fn open(engine: Beneath, options: Options) -> Arc<Log> {
    Log::open(engine.storage(&options.dir), options).expect("a log").0
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
        Self::new(open(Beneath::Log, options(dir, bytes)))
    }

    /// As [`Ours::create`], its segments in sled databases.
    pub(crate) fn create_on_sled(dir: &Path, bytes: usize) -> Self {
        Self::new(open(Beneath::Sled, options(dir, bytes)))
    }

    /// An appender of `log`.
    pub(crate) fn new(log: Arc<Log>) -> Self {
        Self { log, block: payload::builder(), under_way: None }
    }
}

impl Engine for Ours {
    fn commit(&mut self, group: &[Event]) {
        payload::block(&mut self.block, group);
        let commit = loop {
            match self.log.append(&mut self.block) {
                Append::Accepted(commit) => break commit,
                // A large one was answered, and is still counted.
                Append::Busy => wait(self.log.room(self.block.len())),
                refused => panic!("the log refuses: {refused:?}"),
            }
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

/// Bytes of a log of which an eighth is spare: as many as by default.
const WARM_SIZE: u64 = 1 << 30;
/// Bytes of it beyond which what is older is released.
const KEPT: u64 = 24 << 20;
/// Events in a group of those that are written before, at least: less would take long.
const FILLING: usize = 256;

/// The log, which writes over what was released, and one appender.
#[derive(Debug)]
pub(crate) struct Warm {
    ours: Ours,
    release: Option<Sender<Lsn>>,
    releasing: Option<JoinHandle<()>>,
}

impl Warm {
    /// For groups of this many bytes: each has a frame of its own. It was written before in as large ones: a
    /// kernel with large folios keeps the pages of a file together that were written together.
    pub(crate) fn create(dir: &Path, (count, bytes): (usize, usize), events: &mut Events) -> Self {
        let log = open(Beneath::Log, Options { max_size: WARM_SIZE, ..options(dir, bytes) });
        let mut ours = Ours::new(Arc::clone(&log));
        let mut fill = |is_enough: &dyn Fn() -> bool| {
            while !is_enough() {
                ours.commit(events.group(count.max(FILLING)));
                ours.finish();
            }
        };
        fill(&|| log.usage().bytes >= KEPT + WARM_SIZE / 8);
        log.release(log.committed());
        // The newest segment is not written over.
        let segments = log.usage().segments;
        fill(&|| log.usage().segments > segments);
        let (release, released) = channel();
        let freed = Arc::clone(&log);
        let releasing = thread::spawn(move || released.iter().for_each(|lsn| freed.release(lsn)));
        Self { ours, release: Some(release), releasing: Some(releasing) }
    }
}

impl Engine for Warm {
    fn commit(&mut self, group: &[Event]) {
        self.ours.commit(group);
        let usage = self.ours.log.usage();
        if usage.bytes > KEPT
            && let Some(release) = &self.release
        {
            release.send(self.ours.log.newest_within(KEPT / 2)).expect("a thread that releases");
        }
    }

    fn finish(&mut self) {
        self.ours.finish();
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        self.release = None;
        if let Some(releasing) = self.releasing.take() {
            releasing.join().expect("a thread that releases");
        }
    }
}

/// As [`Warm`], one group strictly after the other, as a raw file takes them.
#[derive(Debug)]
pub(crate) struct OneInFlight(pub(crate) Warm);

impl Engine for OneInFlight {
    fn commit(&mut self, group: &[Event]) {
        self.0.commit(group);
        self.0.finish();
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
