//! PUBACK, PUBREC, PUBREL, PUBCOMP; PINGRESP, DISCONNECT.

use super::input::{Value, id};
use super::{Bad, Frame, Input, Kind, Reason, Version};

/// A PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::listener) struct Ack {
    /// Which PUBLISH.
    pub(in crate::listener) id: u16,
    /// The reason code; 0 in 3.1.1.
    pub(in crate::listener) code: u8,
}

impl Ack {
    /// Reads one.
    pub(in crate::listener) fn read(frame: &Frame<'_>, version: Version) -> Result<Self, Bad> {
        let mut input = Input(frame.body);
        let id = input.packet_id()?;
        let mut code = 0;
        if version == Version::V5 && !input.is_empty() {
            code = input.byte()?;
            if !may_say(frame.kind, code) {
                return Err(Bad::protocol("reason code that an acknowledgement cannot have"));
            }
            if !input.is_empty() {
                input.properties(&[id::REASON_STRING, id::USER], |_, _| Ok(()))?;
            }
        }
        input.end()?;
        Ok(Self { id, code })
    }

    /// Whether the other side refuses (`[MQTT-4.4.0-1]`: a reason code of 0x80 or more).
    pub(in crate::listener) fn is_refusal(self) -> bool {
        self.code >= 0x80
    }
}

/// Whether a client's packet of this kind may have this reason code (MQTT 5.0 table 2-6).
fn may_say(kind: Kind, code: u8) -> bool {
    match kind {
        Kind::PubAck | Kind::PubRec => {
            matches!(code, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
        }
        Kind::PubRel | Kind::PubComp => matches!(code, 0 | 0x92),
        Kind::Disconnect => matches!(code, 0 | 4 | 0x80..=0x83 | 0x90 | 0x93..=0x99),
        _ => false,
    }
}

/// Appends an acknowledgement.
pub(in crate::listener) fn write_ack(
    kind: Kind,
    id: u16,
    reason: Reason,
    version: Version,
    out: &mut Vec<u8>,
) {
    let flags = if kind == Kind::PubRel { 2 } else { 0 };
    let [high, low] = id.to_be_bytes();
    let head = (kind as u8) << 4 | flags;
    match (version, reason) {
        (Version::V4, _) | (_, Reason::Success) => out.extend_from_slice(&[head, 2, high, low]),
        _ => out.extend_from_slice(&[head, 3, high, low, reason.code()]),
    }
}

/// Appends a PINGRESP.
pub(in crate::listener) fn write_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd0, 0]);
}

/// A client's DISCONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::listener) struct Disconnect {
    /// Whether the will is to be published all the same (`[MQTT-3.14.4-3]`).
    pub(in crate::listener) with_will: bool,
    /// Seconds that the session is to outlast the connection, instead of what CONNECT said.
    pub(in crate::listener) session_expiry: Option<u32>,
}

impl Disconnect {
    /// Reads one. rumqttd's codec takes a DISCONNECT without a property length, which clients send,
    /// for cut off.
    pub(in crate::listener) fn read(frame: &Frame<'_>, version: Version) -> Result<Self, Bad> {
        let mut input = Input(frame.body);
        let mut code = 0;
        let mut session_expiry = None;
        if version == Version::V5 && !input.is_empty() {
            code = input.byte()?;
            if !may_say(frame.kind, code) {
                return Err(Bad::protocol("reason code that a DISCONNECT cannot have"));
            }
            if !input.is_empty() {
                let allowed = [id::SESSION_EXPIRY, id::REASON_STRING, id::USER];
                input.properties(&allowed, |_, value| {
                    if let Value::Number(seconds) = value {
                        session_expiry = Some(seconds);
                    }
                    Ok(())
                })?;
            }
        }
        input.end()?;
        Ok(Self { with_will: code != 0, session_expiry })
    }
}

/// Appends a DISCONNECT, which only MQTT 5 has from the server. rumqttd's codec counts its length
/// wrongly where there are no properties.
pub(in crate::listener) fn write_disconnect(reason: Reason, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xe0, 1, reason.code()]);
}
