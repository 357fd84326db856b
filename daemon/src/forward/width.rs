//! How much goes at once: what a slow link carries within a request's time-out.
//!
//! A request that is too large for the link times out, however often it is sent. So messages that time
//! out make the sink send fewer at once, and one that times out twice in a row is halved, and those
//! after it made no larger. What arrives quickly widens both again, step by step.

use std::time::Duration;

/// No batch is made smaller than this because of time-outs.
const LEAST_BYTES: usize = 1024;

#[derive(Debug)]
pub(super) struct Width {
    max_messages: usize,
    /// Messages at once, now.
    messages: usize,
    /// Bytes of a body of more than one event, now.
    bytes: usize,
    /// What arrives within this widens.
    quick: Duration,
}

impl Width {
    /// At most `max_messages` at once, each of which may take `timeout`.
    pub(super) fn new(max_messages: usize, timeout: Duration) -> Self {
        let messages = max_messages.max(1);
        Self { max_messages: messages, messages, bytes: usize::MAX, quick: timeout / 4 }
    }

    /// Whether one more message may go beside `sending` others.
    pub(super) fn has_room(&self, sending: usize) -> bool {
        sending < self.messages
    }

    /// Whether a body of so many bytes, if it holds more than one event, may go whole.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.bytes
    }

    /// A message timed out.
    pub(super) fn timed_out(&mut self) {
        self.messages = (self.messages / 2).max(1);
    }

    /// A body of so many bytes timed out again and again.
    pub(super) fn too_slow(&mut self, bytes: usize) {
        self.bytes = self.bytes.min((bytes / 2).max(LEAST_BYTES));
    }

    /// A body of so many bytes arrived.
    pub(super) fn arrived(&mut self, bytes: usize, took: Duration) {
        if took <= self.quick {
            self.messages = (self.messages + 1).min(self.max_messages);
            if bytes >= self.bytes / 2 {
                self.bytes = self.bytes.saturating_mul(2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(8);
    const QUICK: Duration = Duration::from_secs(2);

    #[test]
    fn time_outs_leave_fewer_messages_at_once_and_never_none() {
        let mut width = Width::new(4, TIMEOUT);
        assert!(width.has_room(3) && !width.has_room(4));
        width.timed_out();
        assert!(width.has_room(1) && !width.has_room(2));
        width.timed_out();
        width.timed_out();
        assert!(width.has_room(0) && !width.has_room(1));
        width.arrived(10, QUICK * 2);
        assert!(!width.has_room(1), "it arrived, but not quickly");
        (0..9).for_each(|_| width.arrived(10, QUICK));
        assert!(width.has_room(3) && !width.has_room(4));
    }

    #[test]
    fn what_is_too_slow_is_halved_and_grows_again_with_what_arrives() {
        let mut width = Width::new(1, TIMEOUT);
        assert!(width.fits(usize::MAX));
        width.too_slow(1 << 20);
        assert!(width.fits(1 << 19) && !width.fits((1 << 19) + 1));
        width.too_slow(1 << 19);
        assert!(!width.fits(1 << 19));
        width.arrived(100, QUICK);
        assert!(!width.fits(1 << 19), "a small one says nothing about large ones");
        width.arrived(1 << 18, QUICK);
        assert!(width.fits(1 << 19) && !width.fits(1 << 20));
        (0..100).for_each(|_| width.too_slow(1));
        assert!(width.fits(LEAST_BYTES));
    }
}
