//! A connection's bytes: one buffer in, one buffer out. Both are small while little happens, grow
//! with the traffic, and are given back when it ends.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::Metrics;
use super::transport::Footprint;
use crate::memory::{Claim, Memory, Sort};

/// What a quiet connection reads into.
const SMALL: usize = 2 * 1024;
/// What a busy one does.
const LARGE: usize = 64 * 1024;

/// A stream with its buffers.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    input: Vec<u8>,
    /// Where the bytes begin that were not consumed.
    start: usize,
    /// What the next read makes room for.
    room: usize,
    /// What waits to be written.
    pub(super) output: Vec<u8>,
    written: usize,
    /// Whether the stream has all passed on that was written to it: TLS and WebSocket hold back what a
    /// full socket does not take.
    flushed: bool,
    /// Since when the peer has taken nothing of it.
    stuck: Option<Instant>,
    /// What the stream has taken meanwhile, at most.
    held_back: usize,
    /// What the buffers take beside two small ones, and what goes with them.
    memory: Claim,
    metrics: Metrics,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, footprint: Footprint, memory: &Memory, metrics: Metrics) -> Self {
        Self {
            stream,
            input: Vec::new(),
            start: 0,
            room: SMALL,
            output: Vec::new(),
            written: 0,
            flushed: true,
            stuck: None,
            held_back: footprint.stuck,
            memory: memory.claim(Sort::Buffers, 0),
            metrics,
        }
    }

    /// What was read and not consumed.
    pub(super) fn unread(&self) -> &[u8] {
        &self.input[self.start..]
    }

    /// [`Wire::unread`], and where answers to it go.
    pub(super) fn unread_and_output(&mut self) -> (&[u8], &mut Vec<u8>) {
        (&self.input[self.start..], &mut self.output)
    }

    /// Since when the peer takes nothing of what waits to be written.
    pub(super) fn stuck(&self) -> Option<Instant> {
        self.stuck
    }

    /// Passes over the first `length` bytes of [`Wire::unread`].
    pub(super) fn consume(&mut self, length: usize) {
        self.start += length;
    }

    /// Bytes that wait to be written.
    pub(super) fn backlog(&self) -> usize {
        self.output.len() - self.written
    }

    /// Whether there is something for [`Wire::poll_write`].
    pub(super) fn wants_write(&self) -> bool {
        self.backlog() > 0 || !self.flushed
    }

    /// Reads once, and makes room for `total` unread bytes if so many are expected. 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        total: Option<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.start == self.input.len() {
            self.input.clear();
            self.start = 0;
        }
        let unread = self.input.len() - self.start;
        // A packet's rest, and as much of the next ones as a read may bring.
        let wanted = total.map_or(0, |total| total.saturating_sub(unread)).max(self.room / 2);
        if self.input.capacity() - self.input.len() < wanted {
            self.input.drain(..self.start);
            self.start = 0;
            if !self.make_room(unread, wanted, total) {
                return match total {
                    Some(_) => Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())),
                    // What was read is to be taken in first.
                    None => Poll::Pending,
                };
            }
        }
        let space = self.input.capacity() - self.input.len();
        let read = pin!(self.stream.read_buf(&mut self.input));
        let count = ready!(read.poll(context))?;
        if count == space {
            self.room = (self.room * 4).min(LARGE);
        }
        self.metrics.bytes_in.inc_by(count as u64);
        Poll::Ready(Ok(count))
    }

    /// Makes room for `wanted` bytes behind those unread, and for more if there is memory in plenty. False
    /// if there is none.
    fn make_room(&mut self, unread: usize, wanted: usize, total: Option<usize>) -> bool {
        let least = total.map_or(SMALL / 2, |total| total.saturating_sub(unread)).max(1);
        for capacity in [(unread + wanted).max(self.room), (unread + least).max(SMALL)] {
            let more = capacity.saturating_sub(self.input.capacity());
            if capacity <= SMALL || self.memory.try_set(self.memory.bytes() + more) {
                self.input.reserve_exact(capacity.saturating_sub(self.input.len()));
                return true;
            }
            self.room = SMALL;
        }
        false
    }

    /// Notes what the buffers take by now, and `more` that goes with them.
    pub(super) fn account(&mut self, more: usize) {
        let buffers = self.input.capacity() + self.output.capacity();
        let held_back = if self.flushed { 0 } else { self.held_back };
        self.memory.set((buffers + held_back + more).saturating_sub(2 * SMALL));
    }

    /// Writes until nothing waits.
    pub(super) fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            let rest = &self.output[self.written..];
            let Poll::Ready(count) = Pin::new(&mut self.stream).poll_write(context, rest)? else {
                self.stuck.get_or_insert_with(Instant::now);
                self.forget_written();
                return Poll::Pending;
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.flushed = false;
            self.stuck = None;
            self.metrics.bytes_out.inc_by(count as u64);
        }
        self.output.clear();
        self.written = 0;
        if !self.flushed {
            if Pin::new(&mut self.stream).poll_flush(context)?.is_pending() {
                self.stuck.get_or_insert_with(Instant::now);
                return Poll::Pending;
            }
            self.flushed = true;
            self.stuck = None;
        }
        Poll::Ready(Ok(()))
    }

    /// A peer that always takes some, and never all, does not make the output grow.
    fn forget_written(&mut self) {
        if self.written >= LARGE && self.written >= self.output.len() / 2 {
            self.output.drain(..self.written);
            self.written = 0;
        }
    }

    /// Whether [`Wire::shrink`] would give something back.
    pub(super) fn is_large(&self) -> bool {
        self.input.capacity() > SMALL || self.output.capacity() > SMALL
    }

    /// Gives back what a quiet connection does not need.
    pub(super) fn shrink(&mut self) {
        self.room = SMALL;
        self.input.drain(..self.start);
        self.start = 0;
        self.input.shrink_to(SMALL);
        self.output.shrink_to(SMALL);
    }

    /// Tells the peer that nothing more comes, and takes what it has sent meanwhile, so that the
    /// last answer is not lost with it (a socket that is closed with unread bytes is reset).
    pub(super) async fn close(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_write(context)).await?;
        std::future::poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context)).await?;
        self.input = Vec::with_capacity(SMALL);
        while self.stream.read_buf(&mut self.input).await? > 0 {
            self.input.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{BufWriter, duplex};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_a_stream_holds_back_is_flushed() {
        // As TLS and WebSocket do, it takes everything and passes on what fits.
        let (mut peer, stream) = duplex(10);
        let mut wire = Wire::new(
            BufWriter::with_capacity(1000, stream),
            Footprint::default(),
            &Memory::new(1 << 20),
            Metrics::default(),
        );
        wire.output.extend_from_slice(&[7; 100]);
        let written = timeout(Duration::ZERO, poll_fn(|context| wire.poll_write(context))).await;
        assert!(written.is_err(), "the peer has room for ten bytes");
        assert_eq!((wire.backlog(), wire.wants_write()), (0, true));
        let mut received = Vec::new();
        while received.len() < 100 {
            peer.read_buf(&mut received).await.unwrap();
            let _ = timeout(Duration::ZERO, poll_fn(|context| wire.poll_write(context))).await;
        }
        assert!(!wire.wants_write());
    }
}
