//! WebSocket (RFC 6455) as a stream of bytes: MQTT control packets in binary messages, whose borders mean
//! nothing (MQTT 5.0, section 6).
//!
//! Small on purpose: payloads are unmasked where the reader wants them, so that an idle connection holds
//! no buffer, and a frame of any length needs none. No extensions, no text.

mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod upgrade;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use frame::{Decoder, Violation};
pub(super) use upgrade::{Refused, upgrade};

/// Bytes that one message to the client carries at most.
const MAX_MESSAGE: usize = 16 * 1024;
/// What an idle connection may keep of its buffer for writing.
const SMALL: usize = 256;
/// "Normal closure".
const NORMAL: u16 = 1000;

/// The server's side of a WebSocket.
#[derive(Debug)]
pub(in crate::listener) struct WebSocket<S> {
    stream: S,
    decoder: Decoder,
    /// What came together with the request for the upgrade.
    early: Vec<u8>,
    /// Frames that wait to be written.
    output: Vec<u8>,
    written: usize,
    /// Whether the stream holds back what was written to it.
    flushed: bool,
    broken: Option<Violation>,
    closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// After the upgrade; `early` was read beyond its request.
    pub(super) fn new(stream: S, early: Vec<u8>) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
            early,
            output: Vec::new(),
            written: 0,
            flushed: true,
            broken: None,
            closed: false,
        }
    }

    fn violation(&mut self, violation: Violation) -> io::Error {
        self.broken = Some(violation);
        io::Error::new(io::ErrorKind::InvalidData, violation)
    }

    /// Reads what came; the payload is behind what `buffer` holds.
    fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.early.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
            return Poll::Ready(Ok(buffer.filled().len() - before));
        }
        let count = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early[..count]);
        self.early.drain(..count);
        self.early.shrink_to_fit();
        Poll::Ready(Ok(count))
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            let rest = &self.output[self.written..];
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.flushed = false;
        }
        self.output.clear();
        self.output.shrink_to(SMALL);
        self.written = 0;
        if !self.flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.broken.is_some() || this.decoder.close.is_some() {
                return Poll::Ready(Ok(()));
            }
            // Pongs of earlier pings; reading does not wait for them.
            if !this.output.is_empty() || !this.flushed {
                let _ = this.poll_send(context)?;
            }
            let before = buffer.filled().len();
            if ready!(this.poll_fill(context, buffer))? == 0 {
                return Poll::Ready(Ok(()));
            }
            let decoded = this.decoder.decode(&mut buffer.filled_mut()[before..]);
            let kept = decoded.map_err(|violation| this.violation(violation))?;
            buffer.set_filled(before + kept);
            // One pong at a time: a client that only pings has one of them in memory.
            if this.output.is_empty()
                && let Some(ping) = this.decoder.ping.take()
            {
                frame::write_pong(&ping, &mut this.output);
                let _ = this.poll_send(context)?;
            }
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(context))?;
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(MAX_MESSAGE);
        if count > 0 {
            frame::write_binary(&bytes[..count], &mut this.output);
            let _ = this.poll_send(context)?;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(context)
    }

    /// Says goodbye (section 7.1.2), and ends the stream.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed {
            this.closed = true;
            let code = this.broken.map_or(NORMAL, |violation| violation.code);
            frame::write_close(code, &mut this.output);
        }
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
