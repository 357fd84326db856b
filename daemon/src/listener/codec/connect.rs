//! CONNECT (MQTT 5.0 section 3.1), read without rumqttd's codec: that takes a password for UTF-8, and
//! knows no bridges.

use tidegate_event::Qos;

use super::input::{Value, id};
use super::publish::message_property;
use super::{Bad, Frame, Input, Reason, Version};
use crate::gate::{Credentials, Secret};

/// mosquitto's bridges say 3.1.1 so.
const BRIDGE_4: u8 = 0x84;

/// A client's CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listener) struct Connect {
    pub(in crate::listener) version: Version,
    /// May be empty: then it wants one from us.
    pub(in crate::listener) client_id: String,
    /// A bridge of mosquitto (3.1.1 with the highest bit of the protocol level set): it is not sent back
    /// what it published, and RETAIN flags as they were published.
    pub(in crate::listener) bridge: bool,
    /// Clean session, clean start.
    pub(in crate::listener) clean: bool,
    /// Seconds; 0 means none.
    pub(in crate::listener) keep_alive: u16,
    /// Seconds that the session is to outlast the connection; [`u32::MAX`] is never-ending.
    pub(in crate::listener) session_expiry: u32,
    pub(in crate::listener) will: Option<Will>,
    pub(in crate::listener) credentials: Credentials,
    /// How many QoS 1 and 2 deliveries it takes at once.
    pub(in crate::listener) receive_maximum: u16,
    /// Bytes of the largest packet that it takes.
    pub(in crate::listener) max_packet_size: usize,
    /// Topic aliases that it takes.
    pub(in crate::listener) topic_alias_maximum: u16,
}

/// What is to be published when a client is gone without a DISCONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listener) struct Will {
    /// Seconds until it is published; the session's end comes before.
    pub(in crate::listener) delay: u32,
    /// UTF-8, and nothing more is known of it.
    pub(in crate::listener) topic: String,
    pub(in crate::listener) qos: Qos,
    pub(in crate::listener) retain: bool,
    /// An encoded list.
    pub(in crate::listener) properties: Vec<u8>,
    pub(in crate::listener) payload: Vec<u8>,
}

/// Why a CONNECT is refused, and how the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::listener) enum Refused {
    /// Nobody knows which protocol that is: no answer.
    #[error("{0}")]
    Silently(Bad),
    /// A CONNACK.
    #[error("{1}")]
    With(Version, Bad),
}

/// Reads a CONNECT.
pub(in crate::listener) fn connect(frame: &Frame<'_>) -> Result<Connect, Refused> {
    let mut input = Input(frame.body);
    let (version, bridge) = protocol_level(&mut input)?;
    let mut connect = Connect {
        version,
        client_id: String::new(),
        bridge,
        clean: false,
        keep_alive: 0,
        session_expiry: 0,
        will: None,
        credentials: Credentials::default(),
        receive_maximum: u16::MAX,
        max_packet_size: usize::MAX,
        topic_alias_maximum: 0,
    };
    let read = frame.check_length(version).and_then(|()| read(&mut input, &mut connect));
    read.map(|()| connect).map_err(|bad| Refused::With(version, bad))
}

/// Reads as far as the protocol level, which says how to answer, and whether it is a bridge.
fn protocol_level(input: &mut Input<'_>) -> Result<(Version, bool), Refused> {
    let unsupported = "protocol level other than 4 (MQTT 3.1.1) and 5";
    let name = input.data().map_err(Refused::Silently)?;
    let level = input.byte().map_err(Refused::Silently)?;
    match (name, level) {
        (b"MQTT", 4) => Ok((Version::V4, false)),
        (b"MQTT", BRIDGE_4) => Ok((Version::V4, true)),
        (b"MQTT", 5) => Ok((Version::V5, false)),
        // Older clients, and bridges, understand 3.1.1's answer, newer ones probably 5's.
        (b"MQIsdp", _) | (b"MQTT", 0..=3 | 0x80..) => {
            Err(Refused::With(Version::V4, Bad(Reason::UnsupportedVersion, unsupported)))
        }
        (b"MQTT", _) => {
            Err(Refused::With(Version::V5, Bad(Reason::UnsupportedVersion, unsupported)))
        }
        _ => Err(Refused::Silently(Bad::malformed("protocol name other than MQTT"))),
    }
}

/// Reads everything behind the protocol level.
fn read(input: &mut Input<'_>, connect: &mut Connect) -> Result<(), Bad> {
    let flags = input.byte()?;
    let (login, password) = (flags & 0x80 != 0, flags & 0x40 != 0);
    let (will, will_bits) = (flags & 0x04 != 0, flags & 0x38);
    let qos = Qos::from_number(flags >> 3 & 3);
    if flags & 1 != 0 || (!will && will_bits != 0) {
        return Err(Bad::malformed("flags of CONNECT that cannot be"));
    }
    let qos = qos.ok_or(Bad::malformed("flags of CONNECT that cannot be"))?;
    if connect.version == Version::V4 && password && !login {
        return Err(Bad::malformed("password without a user name"));
    }
    connect.clean = flags & 0x02 != 0;
    connect.keep_alive = input.two()?;
    if connect.version == Version::V5 {
        read_properties(input, connect)?;
    } else if !connect.clean {
        // 3.1.1 has sessions that end with the connection, and sessions that do not end.
        connect.session_expiry = u32::MAX;
    }
    input.text()?.clone_into(&mut connect.client_id);
    if will {
        connect.will = Some(read_will(input, connect.version, qos, flags & 0x20 != 0)?);
    }
    if login {
        connect.credentials.username = Some(input.text()?.to_owned());
    }
    if password {
        connect.credentials.password = Some(Secret::new(input.data()?));
    }
    input.end()
}

fn read_properties(input: &mut Input<'_>, connect: &mut Connect) -> Result<(), Bad> {
    const ALLOWED: [u8; 9] = [
        id::SESSION_EXPIRY,
        id::RECEIVE_MAXIMUM,
        id::MAXIMUM_PACKET_SIZE,
        id::TOPIC_ALIAS_MAXIMUM,
        id::REQUEST_RESPONSE_INFO,
        id::REQUEST_PROBLEM_INFO,
        id::USER,
        id::AUTH_METHOD,
        id::AUTH_DATA,
    ];
    input.properties(&ALLOWED, |identifier, value| {
        match (identifier, value) {
            (id::RECEIVE_MAXIMUM | id::MAXIMUM_PACKET_SIZE, Value::Number(0)) => {
                return Err(Bad::protocol("receive maximum or maximum packet size 0"));
            }
            (id::SESSION_EXPIRY, Value::Number(n)) => connect.session_expiry = n,
            (id::RECEIVE_MAXIMUM, Value::Number(n)) => connect.receive_maximum = n as u16,
            (id::MAXIMUM_PACKET_SIZE, Value::Number(n)) => connect.max_packet_size = n as usize,
            (id::TOPIC_ALIAS_MAXIMUM, Value::Number(n)) => connect.topic_alias_maximum = n as u16,
            (id::AUTH_METHOD, _) => {
                let what = "authentication method, there is none";
                return Err(Bad(Reason::BadAuthenticationMethod, what));
            }
            (id::AUTH_DATA, _) => {
                return Err(Bad::protocol("authentication data without a method"));
            }
            _ => {}
        }
        Ok(())
    })
}

fn read_will(input: &mut Input<'_>, version: Version, qos: Qos, retain: bool) -> Result<Will, Bad> {
    const ALLOWED: [u8; 7] = [
        id::WILL_DELAY,
        id::PAYLOAD_FORMAT,
        id::MESSAGE_EXPIRY,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::USER,
    ];
    let mut properties = Vec::new();
    let mut delay = 0;
    if version == Version::V5 {
        input.properties(&ALLOWED, |identifier, value| {
            if let (id::WILL_DELAY, Value::Number(seconds)) = (identifier, &value) {
                delay = *seconds;
            } else if let Some(property) = message_property(identifier, value)? {
                property.write(&mut properties);
            }
            Ok(())
        })?;
    }
    let topic = input.text()?.to_owned();
    Ok(Will { delay, topic, qos, retain, properties, payload: input.data()?.to_vec() })
}
