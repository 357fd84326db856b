//! The times of a connection: how long its client may be silent, how long it may take nothing, and
//! when it is quiet enough to give its buffers back. One timer for the three.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::End;

/// Without traffic for that long, the buffers are given back.
const QUIET: Duration = Duration::from_secs(2);
/// So many bytes of a packet whose rest is under way are as good a sign of life as a whole packet: a
/// large one may take longer than the keep-alive on a slow link.
const SIGN_OF_LIFE: usize = 1000;

/// A connection's times.
#[derive(Debug)]
pub(super) struct Watch {
    /// One and a half times the keep-alive (`[MQTT-3.1.2-22]`, 3.1.1 `[MQTT-3.1.2-24]`).
    patience: Option<Duration>,
    /// `limits.send-timeout`.
    send_timeout: Duration,
    /// When a packet came last, or the client had to wait.
    heard: Instant,
    /// When bytes came last.
    read: Instant,
    /// Bytes read since `heard`.
    progress: usize,
    timer: Pin<Box<Sleep>>,
    /// The buffers have grown.
    shrinks: bool,
}

/// What [`Watch::look`] is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Whether the client is made to wait: it may have more to say than is read.
    pub(super) waits: bool,
    /// Since when what waits to be written has not become less.
    pub(super) stuck: Option<Instant>,
}

impl Watch {
    /// `keep_alive` is in seconds; 0 is none.
    pub(super) fn new(keep_alive: u16, send_timeout: Duration) -> Self {
        let patience =
            (keep_alive != 0).then(|| Duration::from_millis(1500) * u32::from(keep_alive));
        let now = Instant::now();
        Self {
            patience,
            send_timeout,
            heard: now,
            read: now,
            progress: 0,
            timer: Box::pin(sleep(patience.unwrap_or(QUIET))),
            shrinks: false,
        }
    }

    /// So many bytes came, `whole` packets among them or none.
    pub(super) fn heard(&mut self, bytes: usize, whole: bool) {
        self.read = Instant::now();
        self.progress += bytes;
        if whole || self.progress >= SIGN_OF_LIFE {
            self.heard = self.read;
            self.progress = 0;
        }
    }

    /// The buffers have grown: [`Watch::look`] says when to give them back.
    pub(super) fn grown(&mut self) {
        if !self.shrinks {
            self.shrinks = true;
            self.arm(None);
        }
    }

    /// Ready when it is time to [`Watch::look`]. `stuck` is that of [`Seen`].
    pub(super) fn poll(&mut self, context: &mut Context<'_>, stuck: Option<Instant>) -> Poll<()> {
        if let Some(since) = stuck {
            let due = since + self.send_timeout;
            if self.timer.is_elapsed() || self.timer.deadline() > due {
                self.arm(stuck);
            }
        } else if self.patience.is_none() && !self.shrinks {
            return Poll::Pending;
        }
        self.timer.as_mut().poll(context)
    }

    /// Whether the buffers are to be given back now.
    pub(super) fn look(&mut self, seen: Seen) -> Result<bool, End> {
        let now = Instant::now();
        if seen.waits {
            self.heard = now;
        }
        if self.patience.is_some_and(|patience| now - self.heard >= patience) {
            return Err(End::KeepAlive);
        }
        if seen.stuck.is_some_and(|since| now - since >= self.send_timeout) {
            return Err(End::Stuck);
        }
        let shrinks = self.shrinks && now - self.read >= QUIET;
        self.shrinks &= !shrinks;
        self.arm(seen.stuck);
        Ok(shrinks)
    }

    fn arm(&mut self, stuck: Option<Instant>) {
        let quiet = self.shrinks.then(|| Instant::now() + QUIET);
        let silent = self.patience.map(|patience| self.heard + patience);
        let stuck = stuck.map(|since| since + self.send_timeout);
        if let Some(next) = quiet.into_iter().chain(silent).chain(stuck).min() {
            self.timer.as_mut().reset(next);
        }
    }
}
