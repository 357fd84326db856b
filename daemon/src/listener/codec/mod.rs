//! Bytes to packets and back: MQTT 3.1.1 and 5.0.
//!
//! CONNECT, PUBLISH and its acknowledgements, PINGREQ and DISCONNECT are code of our own
//! (`connect.rs`, `publish.rs`, `ack.rs`): rumqttd's codec takes passwords for UTF-8, hides a PUBLISH's
//! QoS and packet id, copies, and reads and writes DISCONNECT wrongly. The rest goes through
//! `rumqttd::protocol`, behind checks of our own ([`control`]). Nothing here does I/O.

mod ack;
mod connect;
mod control;
mod input;
mod publish;
mod reason;
#[cfg(test)]
mod tests;

pub(super) use ack::{Ack, Disconnect, write_ack, write_disconnect, write_pingresp};
pub(super) use connect::{Connect, Refused, Will, connect};
pub(super) use control::{
    Accepted, Subscribe, SubscribeFilter, Unsubscribe, subscribe, unsubscribe, write_accepted,
    write_refused, write_suback, write_unsuback,
};
pub(super) use publish::{Publish, PublishWriter};
pub(super) use reason::{Bad, Reason};

use tidegate_event::varint;

use input::Input;

/// Which protocol a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// 3.1.1, protocol level 4.
    V4,
    /// 5.0, protocol level 5.
    V5,
}

/// The packets that a client may send, by their number (MQTT 5.0 table 2-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Connect = 1,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    Unsubscribe = 10,
    PingReq = 12,
    Disconnect = 14,
}

/// A whole packet, not yet looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    /// The low half of the first byte.
    pub(super) flags: u8,
    /// What follows the fixed header.
    pub(super) body: &'a [u8],
    /// Fixed header and body.
    pub(super) whole: &'a [u8],
}

impl Frame<'_> {
    /// A length has no more bytes than it needs (`[MQTT-1.5.5-1]`); 3.1.1 asks for no such thing, and
    /// has clients that fill up to four.
    pub(super) fn check_length(&self, version: Version) -> Result<(), Bad> {
        let taken = self.whole.len() - self.body.len() - 1;
        if version == Version::V5 && taken > varint::len(self.body.len()) {
            return Err(Bad::malformed("remaining length of more bytes than it needs"));
        }
        Ok(())
    }
}

/// What [`frame`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framed<'a> {
    /// A packet.
    Frame(Frame<'a>),
    /// The beginning of a packet. It is this long, where that is known.
    Partial(Option<usize>),
}

/// Finds the packet at the beginning of `input`. `max` bytes is how large it may be. A first byte
/// that begins no packet, and a length beyond `max`, are seen before the rest has arrived.
pub(super) fn frame(input: &[u8], max: usize) -> Result<Framed<'_>, Bad> {
    let Some((&head, rest)) = input.split_first() else { return Ok(Framed::Partial(None)) };
    let (kind, flags) = (kind(head)?, head & 0x0f);
    let mut length = 0;
    for (at, byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let (start, total) = (at + 2, at + 2 + length);
            if total > max {
                return Err(Bad(
                    Reason::PacketTooLarge,
                    "packet larger than limits.max-packet-size",
                ));
            }
            return Ok(match input.get(..total) {
                Some(whole) => Framed::Frame(Frame { kind, flags, body: &whole[start..], whole }),
                None => Framed::Partial(Some(total)),
            });
        }
    }
    if rest.len() >= 4 {
        return Err(Bad::malformed("remaining length of more than four bytes"));
    }
    Ok(Framed::Partial(None))
}

/// The packet that `head` begins, with the flags that it must have (MQTT 5.0 table 2-2).
fn kind(head: u8) -> Result<Kind, Bad> {
    let (kind, flags) = match head >> 4 {
        1 => (Kind::Connect, 0),
        3 => (Kind::Publish, head & 0x0f),
        4 => (Kind::PubAck, 0),
        5 => (Kind::PubRec, 0),
        6 => (Kind::PubRel, 2),
        7 => (Kind::PubComp, 0),
        8 => (Kind::Subscribe, 2),
        10 => (Kind::Unsubscribe, 2),
        12 => (Kind::PingReq, 0),
        14 => (Kind::Disconnect, 0),
        0 => return Err(Bad::malformed("packet type 0")),
        15 => return Err(Bad::protocol("AUTH without an authentication method")),
        _ => return Err(Bad::protocol("packet that only a server sends")),
    };
    if head & 0x0f != flags {
        return Err(Bad::malformed("reserved flags of a packet's first byte"));
    }
    Ok(kind)
}
