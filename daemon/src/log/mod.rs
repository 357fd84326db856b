//! The log (specification to be written here).

mod storage;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_event::{BlockBuilder, EventId, Lane, Lsn};

pub use storage::Storage;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory, created if missing; nothing else lives there.
    pub dir: PathBuf,
    /// Its lane.
    pub lane: Lane,
    /// Bytes on disk beyond which [`Log::append`] answers [`Append::Full`].
    pub max_size: u64,
    /// Bytes of a segment file.
    pub segment_size: u64,
    /// How long a commit waits for more events.
    pub max_delay: Duration,
    /// Bytes of blocks that end that wait, and that one frame holds at most.
    pub max_bytes: usize,
}

/// One lane's log. Shared: appenders, readers and the writer thread each hold it.
#[derive(Debug)]
pub struct Log {}

/// What [`Log::append`] did with a block.
#[derive(Debug)]
pub enum Append {
    /// It waits for the next commit.
    Accepted(Commit),
    /// There is no room: the block was not taken. [`Log::room`] says when to try again.
    Full,
    /// The disk does not take writes: the block was not taken. [`Log::room`] says when to try again.
    Unavailable,
}

/// Resolves when the block's fate is known: its LSNs once an fdatasync covers it.
#[derive(Debug)]
pub struct Commit {}

impl std::future::Future for Commit {
    type Output = Result<RangeInclusive<Lsn>, NotStored>;
    fn poll(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        todo!()
    }
}

/// The commit failed: none of the block's events is in the log, none may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event could not be written to disk")]
pub struct NotStored;

/// What opening a log found and did.
#[derive(Debug, Default)]
pub struct Recovery {
    /// LSNs that cannot be read: damaged and set aside, entered in the ledger.
    pub quarantined: Vec<RangeInclusive<Lsn>>,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {}

/// What a log holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// The oldest LSN that can still be read; `last + 1` when there is none.
    pub first: Lsn,
    /// The newest durable LSN; 0 when there never was one.
    pub last: Lsn,
    /// Segment files.
    pub segments: usize,
}

impl Log {
    /// Opens or creates the log and starts its writer thread.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: Options,
    ) -> Result<(Arc<Self>, Recovery), OpenError> {
        let _ = (storage, options);
        todo!()
    }

    /// Hands a block to the writer. Never waits for the disk.
    pub fn append(&self, block: &mut BlockBuilder) -> Append {
        let _ = block;
        todo!()
    }

    /// Resolves when it is worth trying [`Log::append`] again after it was refused.
    pub async fn room(&self) {
        todo!()
    }

    /// The newest durable LSN; 0 when there never was one.
    pub fn committed(&self) -> Lsn {
        todo!()
    }

    /// Follows [`Log::committed`].
    pub fn watch(&self) -> tokio::sync::watch::Receiver<Lsn> {
        todo!()
    }

    /// The id of the event at `lsn`.
    pub fn id(&self, lsn: Lsn) -> EventId {
        let _ = lsn;
        todo!()
    }

    /// A reader whose first event is the one at `from`, or the oldest after it.
    pub fn reader(self: &Arc<Self>, from: Lsn) -> Reader {
        let _ = from;
        todo!()
    }

    /// Nobody needs events below `before` any more: segments that hold no others are removed.
    pub fn release(&self, before: Lsn) {
        let _ = before;
        todo!()
    }

    /// What it holds now.
    pub fn usage(&self) -> Usage {
        todo!()
    }

    /// Commits what waits, then stops the writer; later appends answer [`Append::Unavailable`].
    pub async fn close(&self) {
        todo!()
    }
}

/// Reads durable frames in order. Blocking file reads, of pages that are usually cached.
#[derive(Debug)]
pub struct Reader {}

/// What [`Reader::read`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The chunk holds at least one frame.
    Frames,
    /// There is nothing newer yet.
    Tail,
    /// These LSNs are gone (released, quarantined, or damaged since); the reader stands behind them.
    Lost(RangeInclusive<Lsn>),
}

/// Why a read failed: the file system refused. The reader stands where it stood.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {}

impl Reader {
    /// Fills `chunk` with the frames that follow, up to about `max_bytes` and at least one frame.
    /// Frames begin at a commit's first event, so the first frame after [`Log::reader`] may hold
    /// events below `from`: [`Frame::events`] passes over them.
    pub fn read(&mut self, chunk: &mut Chunk, max_bytes: usize) -> Result<Read, ReadError> {
        let _ = (chunk, max_bytes);
        todo!()
    }

    /// The LSN that comes next.
    pub fn position(&self) -> Lsn {
        todo!()
    }
}

/// Frames in memory, in a buffer that is used again.
#[derive(Debug, Default)]
pub struct Chunk {}

/// One commit's events.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The id of the first event.
    pub first: EventId,
    /// How many events.
    pub count: u32,
    /// Whether one of them is to be retained.
    pub has_retained: bool,
    /// Its blocks (`tidegate_event::record`).
    pub payload: &'a [u8],
}

impl Chunk {
    /// The frames in order.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        std::iter::empty()
    }
}
