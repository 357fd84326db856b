//! SUBSCRIBE, UNSUBSCRIBE and their answers, and CONNACK, by rumqttd's codec.
//!
//! It trusts lengths, takes duplicate and misplaced properties, U+0000, reserved bits and trailing
//! bytes, and has `unreachable!()` where a client can get to. So it is only shown whole packets whose
//! structure was checked here, and a panic in it costs that connection.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::BytesMut;
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{self as mqtt, Packet, Protocol};
use tidegate_event::Qos;

use super::input::{Value, id};
use super::{Bad, Frame, Input, Reason, Version};

/// A client's SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listener) struct Subscribe {
    pub(in crate::listener) id: u16,
    /// At least one.
    pub(in crate::listener) filters: Vec<SubscribeFilter>,
    /// The subscription identifier.
    pub(in crate::listener) identifier: Option<u32>,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listener) struct SubscribeFilter {
    /// UTF-8, and nothing more is known of it.
    pub(in crate::listener) text: String,
    pub(in crate::listener) qos: Qos,
    pub(in crate::listener) no_local: bool,
    pub(in crate::listener) retain_as_published: bool,
    pub(in crate::listener) retain_handling: crate::bus::RetainHandling,
}

/// A client's UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listener) struct Unsubscribe {
    pub(in crate::listener) id: u16,
    /// At least one; UTF-8, and nothing more is known of them.
    pub(in crate::listener) filters: Vec<String>,
}

/// What an MQTT 5 client is told in its CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listener) struct Accepted {
    pub(in crate::listener) session_present: bool,
    /// In seconds.
    pub(in crate::listener) session_expiry: u32,
    pub(in crate::listener) receive_maximum: u16,
    pub(in crate::listener) max_packet_size: u32,
    pub(in crate::listener) assigned_client_id: Option<String>,
    /// Topic aliases that we take.
    pub(in crate::listener) topic_alias_maximum: u16,
    /// In seconds, where it is not the client's own.
    pub(in crate::listener) keep_alive: Option<u16>,
    pub(in crate::listener) retain_available: bool,
}

const MALFORMED: Bad = Bad(Reason::Malformed, "packet that cannot be decoded");

/// Runs rumqttd's decoder over a whole packet.
fn decode(whole: &[u8], version: Version) -> Result<Packet, Bad> {
    let mut bytes = BytesMut::from(whole);
    let max = whole.len();
    let read = AssertUnwindSafe(|| match version {
        Version::V4 => V4.read_mut(&mut bytes, max),
        Version::V5 => V5.read_mut(&mut bytes, max),
    });
    catch_unwind(read).ok().and_then(Result::ok).ok_or(MALFORMED)
}

/// Runs rumqttd's encoder. An error is one of ours: the packet is left out.
fn encode(packet: Packet, version: Version, out: &mut Vec<u8>) {
    let mut bytes = BytesMut::new();
    let written = match version {
        Version::V4 => V4.write(packet, &mut bytes),
        Version::V5 => V5.write(packet, &mut bytes),
    };
    match written {
        Ok(_) => out.extend_from_slice(&bytes),
        Err(why) => tracing::error!("an answer to a client could not be encoded: {why}"),
    }
}

/// Reads a SUBSCRIBE (MQTT 5.0 section 3.8).
pub(in crate::listener) fn subscribe(
    frame: &Frame<'_>,
    version: Version,
) -> Result<Subscribe, Bad> {
    let mut input = Input(frame.body);
    let id = input.packet_id()?;
    let mut identifier = None;
    let mut reserved = 0xfc;
    if version == Version::V5 {
        reserved = 0xc0;
        input.properties(&[id::SUBSCRIPTION_ID, id::USER], |_, value| {
            match value {
                Value::Number(0) => return Err(Bad::protocol("subscription identifier 0")),
                Value::Number(number) => identifier = Some(number),
                _ => {}
            }
            Ok(())
        })?;
    }
    if input.is_empty() {
        return Err(Bad::protocol("SUBSCRIBE without a filter"));
    }
    while !input.is_empty() {
        let filter = input.text()?;
        let options = input.byte()?;
        if options & reserved != 0 || options & 3 == 3 {
            return Err(Bad::malformed("subscription options that cannot be"));
        }
        if options & 0x30 == 0x30 {
            return Err(Bad::protocol("retain handling 3"));
        }
        // `[MQTT-3.8.3-4]`
        if options & 4 != 0 && filter.starts_with("$share/") {
            return Err(Bad::protocol("no local on a shared subscription"));
        }
    }
    let Packet::Subscribe(subscribe, _) = decode(frame.whole, version)? else {
        return Err(MALFORMED);
    };
    let filters = subscribe.filters.into_iter().map(|filter| SubscribeFilter {
        text: filter.path,
        qos: from_rumqttd(filter.qos),
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        retain_handling: match filter.retain_forward_rule {
            mqtt::RetainForwardRule::OnEverySubscribe => crate::bus::RetainHandling::Always,
            mqtt::RetainForwardRule::OnNewSubscribe => crate::bus::RetainHandling::New,
            mqtt::RetainForwardRule::Never => crate::bus::RetainHandling::Never,
        },
    });
    Ok(Subscribe { id, filters: filters.collect(), identifier })
}

/// Reads an UNSUBSCRIBE (MQTT 5.0 section 3.10).
pub(in crate::listener) fn unsubscribe(
    frame: &Frame<'_>,
    version: Version,
) -> Result<Unsubscribe, Bad> {
    let mut input = Input(frame.body);
    let id = input.packet_id()?;
    if version == Version::V5 {
        input.properties(&[id::USER], |_, _| Ok(()))?;
    }
    if input.is_empty() {
        return Err(Bad::protocol("UNSUBSCRIBE without a filter"));
    }
    while !input.is_empty() {
        input.text()?;
    }
    match decode(frame.whole, version)? {
        Packet::Unsubscribe(unsubscribe, _) => Ok(Unsubscribe { id, filters: unsubscribe.filters }),
        _ => Err(MALFORMED),
    }
}

/// Appends the CONNACK of a client that is let in.
pub(in crate::listener) fn write_accepted(accepted: Accepted, version: Version, out: &mut Vec<u8>) {
    let Accepted { session_present, .. } = accepted;
    let connack = mqtt::ConnAck { session_present, code: mqtt::ConnectReturnCode::Success };
    let properties = mqtt::ConnAckProperties {
        session_expiry_interval: Some(accepted.session_expiry),
        receive_max: Some(accepted.receive_maximum),
        max_packet_size: Some(accepted.max_packet_size),
        assigned_client_identifier: accepted.assigned_client_id,
        topic_alias_max: Some(accepted.topic_alias_maximum),
        server_keep_alive: accepted.keep_alive,
        // By default they are; who asks may look for it all the same.
        shared_subscription_available: Some(1),
        retain_available: (!accepted.retain_available).then_some(0),
        ..mqtt::ConnAckProperties::default()
    };
    encode(Packet::ConnAck(connack, Some(properties)), version, out);
}

/// Appends the CONNACK of a client that is not let in; none if there is no word for the reason.
pub(in crate::listener) fn write_refused(reason: Reason, version: Version, out: &mut Vec<u8>) {
    use mqtt::ConnectReturnCode as Code;
    let code = match (version, reason) {
        (Version::V4, Reason::UnsupportedVersion) => Code::RefusedProtocolVersion,
        (_, Reason::ClientIdInvalid) => Code::ClientIdentifierNotValid,
        (_, Reason::BadLogin) => Code::BadUserNamePassword,
        (_, Reason::NotAuthorized) => Code::NotAuthorized,
        (
            Version::V4,
            Reason::ShuttingDown
            | Reason::ServerUnavailable
            | Reason::ServerBusy
            | Reason::QuotaExceeded
            | Reason::ConnectionRateExceeded,
        ) => Code::ServiceUnavailable,
        (Version::V4, _) => return,
        (_, Reason::UnsupportedVersion) => Code::UnsupportedProtocolVersion,
        (_, Reason::Malformed) => Code::MalformedPacket,
        (_, Reason::Protocol) => Code::ProtocolError,
        (_, Reason::BadAuthenticationMethod) => Code::BadAuthenticationMethod,
        (_, Reason::TopicInvalid) => Code::TopicNameInvalid,
        (_, Reason::RetainNotSupported) => Code::RetainNotSupported,
        (_, Reason::PacketTooLarge) => Code::PacketTooLarge,
        (_, Reason::QuotaExceeded) => Code::QuotaExceeded,
        (_, Reason::ServerBusy) => Code::ServerBusy,
        (_, Reason::ShuttingDown | Reason::ServerUnavailable) => Code::ServerUnavailable,
        (_, Reason::ConnectionRateExceeded) => Code::ConnectionRateExceeded,
        _ => Code::UnspecifiedError,
    };
    encode(Packet::ConnAck(mqtt::ConnAck { session_present: false, code }, None), version, out);
}

/// Appends a SUBACK: for each filter the granted QoS, or why not.
pub(in crate::listener) fn write_suback(
    id: u16,
    granted: &[Result<Qos, Reason>],
    version: Version,
    out: &mut Vec<u8>,
) {
    use mqtt::SubscribeReasonCode as Code;
    let code = |granted: &Result<Qos, Reason>| match (granted, version) {
        (Ok(Qos::AtMostOnce), _) => Code::Success(mqtt::QoS::AtMostOnce),
        (Ok(Qos::AtLeastOnce), _) => Code::Success(mqtt::QoS::AtLeastOnce),
        (Ok(Qos::ExactlyOnce), _) => Code::Success(mqtt::QoS::ExactlyOnce),
        (Err(_), Version::V4) => Code::Failure,
        (Err(Reason::FilterInvalid), _) => Code::TopicFilterInvalid,
        (Err(Reason::NotAuthorized), _) => Code::NotAuthorized,
        (Err(Reason::QuotaExceeded), _) => Code::QuotaExceeded,
        (Err(_), _) => Code::Unspecified,
    };
    let return_codes = granted.iter().map(code).collect();
    encode(Packet::SubAck(mqtt::SubAck { pkid: id, return_codes }, None), version, out);
}

/// Appends an UNSUBACK: for each filter whether there was such a subscription.
pub(in crate::listener) fn write_unsuback(
    id: u16,
    found: &[Result<(), Reason>],
    version: Version,
    out: &mut Vec<u8>,
) {
    use mqtt::UnsubAckReason as Code;
    let code = |found: &Result<(), Reason>| match found {
        Ok(()) => Code::Success,
        Err(Reason::FilterInvalid) => Code::TopicFilterInvalid,
        Err(_) => Code::NoSubscriptionExisted,
    };
    let reasons = found.iter().map(code).collect();
    encode(Packet::UnsubAck(mqtt::UnsubAck { pkid: id, reasons }, None), version, out);
}

fn from_rumqttd(qos: mqtt::QoS) -> Qos {
    match qos {
        mqtt::QoS::AtMostOnce => Qos::AtMostOnce,
        mqtt::QoS::AtLeastOnce => Qos::AtLeastOnce,
        mqtt::QoS::ExactlyOnce => Qos::ExactlyOnce,
    }
}
