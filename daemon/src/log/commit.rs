//! What an appender is answered.

use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::task::{Context, Poll};

use tidegate_event::Lsn;
use tokio::sync::oneshot;

use super::queue;
#[cfg(doc)]
use super::{BlockBuilder, Log};

/// What [`Log::append`] did with a block.
#[derive(Debug)]
pub enum Append {
    /// It waits for the next commit.
    Accepted(Commit),
    /// There is no room on disk (`max_size`): the block was not taken. [`Log::room`] says when to try
    /// again.
    Full,
    /// As many bytes wait for the disk as may (4 × `max_bytes`): the block was not taken.
    /// [`Log::room`] says when to try again, which is after the next commit.
    Busy,
    /// The disk does not take writes: the block was not taken. [`Log::room`] says when to try again.
    Unavailable,
}

/// Resolves when the block's fate is known: its LSNs once an fdatasync covers it; an empty range for
/// control records.
#[derive(Debug)]
pub struct Commit(oneshot::Receiver<queue::Answer>);

impl Commit {
    pub(super) fn of(answer: oneshot::Receiver<queue::Answer>) -> Self {
        Self(answer)
    }
}

impl Future for Commit {
    type Output = Result<RangeInclusive<Lsn>, NotStored>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(NotStored)))
    }
}

/// The commit failed: none of the block's events may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event could not be written to disk")]
pub struct NotStored;
