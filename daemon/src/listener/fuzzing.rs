//! Any bytes, as packets and as the events of a session.

use std::collections::{HashMap, VecDeque};

use tidegate_event::{Qos, varint};

use super::codec::{self, Ack, Disconnect, Frame, Framed, Kind, Publish, Reason, Version};
use super::session::{Inbound, Session};

pub(crate) use super::http::fuzzing::posts;
pub(crate) use super::sessions::fuzzing::records;
pub(crate) use super::transport::fuzzing::websocket;

/// No packet is larger than that here.
const MAX_PACKET: usize = 4096;

/// Reads `bytes` as the packets of a connection, each by all that may have to read it.
pub(crate) fn packets(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        let frame = match codec::frame(rest, MAX_PACKET) {
            Err(_) => return,
            Ok(Framed::Partial(total)) => {
                assert!(total.is_none_or(|total| total > rest.len() && total <= MAX_PACKET));
                return;
            }
            Ok(Framed::Frame(frame)) => frame,
        };
        let length = frame.whole.len();
        assert!(length <= MAX_PACKET && length > varint::len(frame.body.len()));
        assert!(frame.whole.ends_with(frame.body));
        for version in [Version::V4, Version::V5] {
            packet(&frame, version);
        }
        rest = &rest[length..];
    }
}

fn packet(frame: &Frame<'_>, version: Version) {
    match frame.kind {
        Kind::Connect => {
            if let Ok(connect) = codec::connect(frame) {
                assert!(connect.receive_maximum > 0 && connect.max_packet_size > 0);
                assert!(!connect.client_id.contains('\0'));
            }
        }
        Kind::Publish => {
            let mut list = Vec::new();
            if let Ok(publish) = Publish::read(frame, version, &mut list) {
                assert_eq!(publish.id == 0, publish.qos == Qos::AtMostOnce);
                assert!(frame.body.ends_with(publish.payload));
                assert_ne!(publish.alias, Some(0));
                // What was checked once can be read again without a check.
                let bytes = publish.properties.as_bytes();
                assert!(bytes.is_empty() || publish.properties.iter().count() > 0);
            }
        }
        Kind::Subscribe => {
            if let Ok(subscribe) = codec::subscribe(frame, version) {
                assert!(subscribe.id > 0 && !subscribe.filters.is_empty());
                assert_ne!(subscribe.identifier, Some(0));
            }
        }
        Kind::Unsubscribe => {
            if let Ok(unsubscribe) = codec::unsubscribe(frame, version) {
                assert!(unsubscribe.id > 0 && !unsubscribe.filters.is_empty());
            }
        }
        Kind::Disconnect => _ = Disconnect::read(frame, version),
        Kind::PubAck | Kind::PubRec | Kind::PubRel | Kind::PubComp => {
            if let Ok(ack) = Ack::read(frame, version) {
                assert!(ack.id > 0 && (version == Version::V5 || ack.code == 0));
            }
        }
        Kind::PingReq => {}
    }
}

/// How far an outbound packet id has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    One,
    Two,
    Released,
}

/// What MQTT allows, said once more, in a few lines.
#[derive(Debug, Default)]
struct Model {
    outgoing: HashMap<u16, Sent>,
    /// Inbound QoS 2; whether our PUBREC has left.
    incoming: HashMap<u16, bool>,
    /// Inbound, stored next.
    waiting: VecDeque<(Qos, u16)>,
}

/// Does to a session what `bytes` say, two bytes a step, and compares it with a model.
pub(crate) fn session(bytes: &[u8]) {
    let Some((&[limits], steps)) = bytes.split_first_chunk::<1>() else { return };
    let window = usize::from(limits & 0x0f) + 1;
    let receive_maximum = usize::from(limits >> 4) + 1;
    let mut session = Session::new(Some(receive_maximum), window);
    let mut model = Model::default();
    for step in steps.chunks_exact(2) {
        // Few ids, so that they meet again.
        let (what, id) = (step[0], u16::from(step[1] & 0x1f) + 1);
        let code = if step[1] & 0x80 == 0 { 0 } else { 0x80 };
        if !model.step(&mut session, what, Ack { id, code }, receive_maximum) {
            return;
        }
        assert!(model.outgoing.len() <= window, "more in flight than the client takes");
    }
}

impl Model {
    /// Whether the connection goes on.
    fn step(&mut self, session: &mut Session, what: u8, ack: Ack, maximum: usize) -> bool {
        let Ack { id, .. } = ack;
        match what % 7 {
            0 => {
                let (qos, sent) = match what & 0x40 {
                    0 => (Qos::AtLeastOnce, Sent::One),
                    _ => (Qos::ExactlyOnce, Sent::Two),
                };
                if let Some(id) = session.send(qos) {
                    assert!(id != 0 && self.outgoing.insert(id, sent).is_none(), "id in use");
                }
            }
            1 => {
                session.puback(ack);
                self.outgoing.retain(|other, sent| *other != id || *sent != Sent::One);
            }
            2 => {
                let known = self.outgoing.get(&id).is_some_and(|sent| *sent != Sent::One);
                let says = session.pubrec(ack);
                match (known, ack.is_refusal()) {
                    (_, true) => assert_eq!(says, None),
                    (true, false) => assert_eq!(says, Some(Reason::Success)),
                    (false, false) => assert_eq!(says, Some(Reason::PacketIdNotFound)),
                }
                if known && ack.is_refusal() {
                    self.outgoing.remove(&id);
                } else if known {
                    self.outgoing.insert(id, Sent::Released);
                }
            }
            3 => {
                session.pubcomp(ack);
                self.outgoing.retain(|other, sent| *other != id || *sent != Sent::Released);
            }
            4 | 5 => {
                let qos = if what % 7 == 4 { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
                let before = self.incoming.get(&id).filter(|_| qos == Qos::ExactlyOnce);
                let expected = before.map_or(Inbound::Store, |received| match received {
                    true => Inbound::Acknowledge,
                    false => Inbound::Ignore,
                });
                let ones = self.waiting.iter().filter(|(qos, _)| *qos == Qos::AtLeastOnce).count();
                let used = ones + self.incoming.len();
                match session.publish(qos, id) {
                    Ok(said) => assert_eq!(said, expected),
                    Err(bad) => {
                        assert_eq!(bad.0, Reason::ReceiveMaximumExceeded);
                        assert!(used >= maximum, "refused within the receive maximum");
                        return false;
                    }
                }
                if expected == Inbound::Store {
                    assert!(used < maximum, "more taken than the receive maximum");
                    self.waiting.push_back((qos, id));
                    if qos == Qos::ExactlyOnce {
                        self.incoming.insert(id, false);
                    }
                }
            }
            _ if what & 0x40 == 0 => {
                let Some((qos, id)) = self.waiting.pop_front() else { return true };
                let stored = !ack.is_refusal();
                session.acknowledged(qos, id, stored);
                if qos == Qos::ExactlyOnce {
                    self.incoming.insert(id, true);
                    if !stored {
                        self.incoming.remove(&id);
                    }
                }
            }
            _ => match (self.incoming.get(&id), session.pubrel(id)) {
                (Some(true), said) => {
                    assert_eq!(said, Ok(Reason::Success));
                    self.incoming.remove(&id);
                }
                (Some(false), said) => {
                    assert_eq!(said.map_err(|bad| bad.0), Err(Reason::Protocol));
                    return false;
                }
                (None, said) => assert_eq!(said, Ok(Reason::PacketIdNotFound)),
            },
        }
        true
    }
}
