//! What is read of a connection that takes in no more, because its events wait: it is looked at
//! without being taken in, so that the client's PINGREQ is answered in time and its end is seen.

use super::codec::{self, Disconnect, Framed, Kind, Version};

/// Unread bytes at which a connection that takes in no more is not read on.
pub(super) const MAX_AHEAD: usize = 64 * 1024;

/// What was seen ahead of its turn.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Bytes of whole packets that were looked at.
    seen: usize,
    /// PINGREQs among them: their PINGRESPs have left.
    pings: usize,
    /// The DISCONNECT among them.
    goodbye: Option<Disconnect>,
}

impl Ahead {
    /// Looks at the whole packets in `unread` that are new, none larger than `max`, and appends the
    /// answers that need not wait to `out`. Whether there were any. What is wrong with a packet is
    /// found when it is taken in.
    pub(super) fn look(
        &mut self,
        unread: &[u8],
        max: usize,
        version: Version,
        out: &mut Vec<u8>,
    ) -> bool {
        let before = self.seen;
        while self.goodbye.is_none()
            && let Some(rest) = unread.get(self.seen..)
            && let Ok(Framed::Frame(frame)) = codec::frame(rest, max)
        {
            match frame.kind {
                Kind::PingReq if frame.body.is_empty() => {
                    self.pings += 1;
                    codec::write_pingresp(out);
                }
                Kind::Disconnect => self.goodbye = Disconnect::read(&frame, version).ok(),
                _ => {}
            }
            self.seen += frame.whole.len();
        }
        self.seen > before
    }

    /// The first `length` unread bytes, a whole packet, were taken in.
    pub(super) fn consumed(&mut self, length: usize) {
        self.seen = self.seen.saturating_sub(length);
    }

    /// A PINGREQ is taken in: whether it has been answered.
    pub(super) fn take_ping(&mut self) -> bool {
        let answered = self.pings > 0;
        self.pings -= usize::from(answered);
        answered
    }

    /// The client's last packet, if it was seen.
    pub(super) fn goodbye(&self) -> Option<Disconnect> {
        self.goodbye
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISH: &[u8] = &[0x32, 5, 0, 1, b'a', 0, 1];
    const PINGREQ: &[u8] = &[0xc0, 0];

    #[test]
    fn a_ping_is_answered_once_wherever_it_is_cut() {
        let whole = [PUBLISH, PINGREQ, PUBLISH, PINGREQ].concat();
        for cut in 0..whole.len() {
            let (mut ahead, mut out) = (Ahead::default(), Vec::new());
            ahead.look(&whole[..cut], 100, Version::V4, &mut out);
            ahead.look(&whole, 100, Version::V4, &mut out);
            assert_eq!(out, [0xd0, 0, 0xd0, 0], "{cut}");
            // Taken in as far as the first ping, and looked at again.
            ahead.consumed(PUBLISH.len());
            assert!(ahead.take_ping());
            ahead.consumed(PINGREQ.len());
            let rest = &whole[PUBLISH.len() + PINGREQ.len()..];
            assert!(!ahead.look(rest, 100, Version::V4, &mut out));
            assert_eq!(out.len(), 4);
            assert!(ahead.take_ping() && !ahead.take_ping());
        }
    }

    #[test]
    fn nothing_counts_behind_the_goodbye_or_behind_what_is_no_packet() {
        for middle in [&[0xe0, 0][..], &[0x00, 0]] {
            let (mut ahead, mut out) = (Ahead::default(), Vec::new());
            let whole = [PUBLISH, middle, PINGREQ].concat();
            assert!(ahead.look(&whole, 100, Version::V5, &mut out));
            assert!(!ahead.look(&whole, 100, Version::V5, &mut out));
            assert!(out.is_empty());
            assert_eq!(ahead.goodbye().is_some(), middle[0] == 0xe0);
        }
    }
}
