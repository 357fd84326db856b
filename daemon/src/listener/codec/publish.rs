//! PUBLISH (MQTT 5.0 section 3.3).

use std::collections::HashMap;

use tidegate_event::record::Properties;
use tidegate_event::{Property, Qos, varint};

use super::input::{Value, id};
use super::{Bad, Frame, Input, Reason, Version};
use crate::bus::Delivery;

/// What a client publishes: borrowed from the buffer it was read into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::listener) struct Publish<'a> {
    pub(in crate::listener) qos: Qos,
    pub(in crate::listener) retain: bool,
    /// 0 with QoS 0.
    pub(in crate::listener) id: u16,
    /// UTF-8, and nothing more is known of it. Empty: the alias says which.
    pub(in crate::listener) topic: &'a str,
    /// The topic alias, not 0.
    pub(in crate::listener) alias: Option<u16>,
    pub(in crate::listener) properties: Properties<'a>,
    pub(in crate::listener) payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// Reads one; the properties are put into `list`.
    pub(in crate::listener) fn read(
        frame: &Frame<'a>,
        version: Version,
        list: &'a mut Vec<u8>,
    ) -> Result<Self, Bad> {
        let qos = Qos::from_number(frame.flags >> 1 & 3).ok_or(Bad::malformed("QoS 3"))?;
        let (dup, retain) = (frame.flags & 8 != 0, frame.flags & 1 != 0);
        if dup && qos == Qos::AtMostOnce {
            return Err(Bad::malformed("DUP flag with QoS 0"));
        }
        let mut input = Input(frame.body);
        let topic = input.text()?;
        let id = match qos {
            Qos::AtMostOnce => 0,
            _ => input.packet_id()?,
        };
        list.clear();
        let mut alias = None;
        if version == Version::V5 {
            alias = read_properties(&mut input, list)?;
            if topic.is_empty() && alias.is_none() {
                return Err(Bad::protocol("PUBLISH without a topic"));
            }
        }
        let properties = Properties::new(list);
        Ok(Self { qos, retain, id, topic, alias, properties, payload: input.0 })
    }
}

/// Reads the properties into `list`, and answers the topic alias.
fn read_properties(input: &mut Input<'_>, list: &mut Vec<u8>) -> Result<Option<u16>, Bad> {
    const ALLOWED: [u8; 7] = [
        id::PAYLOAD_FORMAT,
        id::MESSAGE_EXPIRY,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::TOPIC_ALIAS,
        id::USER,
    ];
    let mut alias = None;
    input.properties(&ALLOWED, |identifier, value| {
        match (identifier, value) {
            (id::TOPIC_ALIAS, Value::Number(0)) => {
                return Err(Bad(Reason::TopicAliasInvalid, "topic alias 0"));
            }
            (id::TOPIC_ALIAS, Value::Number(number)) => alias = Some(number as u16),
            _ => {
                if let Some(property) = message_property(identifier, value)? {
                    property.write(list);
                }
            }
        }
        Ok(())
    })?;
    Ok(alias)
}

/// The property that travels with an event, if it is one.
pub(super) fn message_property(
    identifier: u8,
    value: Value<'_>,
) -> Result<Option<Property<'_>>, Bad> {
    Ok(Some(match (identifier, value) {
        (id::PAYLOAD_FORMAT, Value::Number(format)) => Property::PayloadFormat(format as u8),
        (id::MESSAGE_EXPIRY, Value::Number(seconds)) => Property::MessageExpiry(seconds),
        (id::CONTENT_TYPE, Value::Text(text)) => Property::ContentType(text),
        (id::RESPONSE_TOPIC, Value::Text(text)) if text.contains(['+', '#']) => {
            return Err(Bad::protocol("wildcard in a response topic"));
        }
        (id::RESPONSE_TOPIC, Value::Text(text)) => Property::ResponseTopic(text),
        (id::CORRELATION_DATA, Value::Data(data)) => Property::CorrelationData(data),
        (id::USER, Value::Pair(name, value)) => Property::User(name, value),
        _ => return Ok(None),
    }))
}

/// Bytes of a topic alias among the properties.
const ALIAS_LEN: usize = 3;

/// Bytes of a packet with this remaining length.
fn packet_len(length: usize) -> usize {
    1 + varint::len(length) + length
}

/// Writes PUBLISH packets for one client.
#[derive(Debug)]
pub(in crate::listener) struct PublishWriter {
    version: Version,
    /// Bytes of the largest packet that the client takes.
    max: usize,
    properties: Vec<u8>,
    /// The topics that have an alias: the first ones that were sent, as many as the client takes.
    aliases: HashMap<Box<str>, u16>,
    max_aliases: u16,
    /// Bytes of those topics.
    alias_bytes: usize,
}

impl PublishWriter {
    /// `max` is in bytes, `max_aliases` how many topic aliases the client takes.
    pub(in crate::listener) fn new(version: Version, max: usize, max_aliases: u16) -> Self {
        let (properties, aliases) = (Vec::new(), HashMap::new());
        Self { version, max, properties, aliases, max_aliases, alias_bytes: 0 }
    }

    /// Bytes that it takes.
    pub(in crate::listener) fn memory(&self) -> usize {
        let aliases = self.aliases.capacity() * size_of::<(Box<str>, u16)>();
        aliases + self.alias_bytes + self.properties.capacity()
    }

    /// Appends `delivery`; `id` is ignored with QoS 0. `expiry` is what is left of its life, in
    /// seconds. False if the client takes no packet of that size (`[MQTT-3.1.2-24]`).
    pub(in crate::listener) fn write(
        &mut self,
        delivery: &Delivery,
        id: u16,
        expiry: Option<u32>,
        out: &mut Vec<u8>,
    ) -> bool {
        let event = &delivery.event;
        let (mut topic, payload) = (event.topic(), event.payload());
        let known = self.aliases.get(topic).copied();
        let mut new = None;
        self.properties.clear();
        if self.version == Version::V5 {
            self.collect(delivery, expiry);
            if let Some(alias) = known {
                self.push_alias(alias);
                topic = "";
            } else if self.aliases.len() < usize::from(self.max_aliases) {
                // From the first delivery on the topic can stand for itself.
                new = Some(self.aliases.len() as u16 + 1);
                new.into_iter().for_each(|alias| self.push_alias(alias));
            }
        }
        let mut length = self.length(delivery.qos, topic, payload);
        if new.is_some() && packet_len(length) > self.max {
            self.properties.truncate(self.properties.len() - ALIAS_LEN);
            new = None;
            length = self.length(delivery.qos, topic, payload);
        }
        if packet_len(length) > self.max {
            return false;
        }
        out.reserve(5 + length);
        out.push(0x30 | (delivery.qos as u8) << 1 | u8::from(delivery.retain));
        varint::write(length as u64, out);
        write_data(topic.as_bytes(), out);
        if delivery.qos != Qos::AtMostOnce {
            out.extend_from_slice(&id.to_be_bytes());
        }
        if self.version == Version::V5 {
            varint::write(self.properties.len() as u64, out);
            out.extend_from_slice(&self.properties);
        }
        out.extend_from_slice(payload);
        if let Some(alias) = new {
            self.alias_bytes += topic.len();
            self.aliases.insert(topic.into(), alias);
        }
        true
    }

    /// The remaining length.
    fn length(&self, qos: Qos, topic: &str, payload: &[u8]) -> usize {
        let id = if qos == Qos::AtMostOnce { 0 } else { 2 };
        let properties = match self.version {
            Version::V4 => 0,
            Version::V5 => varint::len(self.properties.len()) + self.properties.len(),
        };
        2 + topic.len() + id + properties + payload.len()
    }

    fn push_alias(&mut self, alias: u16) {
        self.properties.push(id::TOPIC_ALIAS);
        self.properties.extend(alias.to_be_bytes());
    }

    /// Encodes the properties: the publisher's, in their order (`[MQTT-3.3.2-18]`), and the
    /// subscription identifiers.
    fn collect(&mut self, delivery: &Delivery, expiry: Option<u32>) {
        let out = &mut self.properties;
        for property in delivery.event.properties().iter() {
            match property {
                Property::PayloadFormat(format) => out.extend([id::PAYLOAD_FORMAT, format]),
                Property::MessageExpiry(limit) => {
                    out.push(id::MESSAGE_EXPIRY);
                    out.extend(expiry.unwrap_or(limit).to_be_bytes());
                }
                Property::ContentType(text) => {
                    out.push(id::CONTENT_TYPE);
                    write_data(text.as_bytes(), out);
                }
                Property::ResponseTopic(text) => {
                    out.push(id::RESPONSE_TOPIC);
                    write_data(text.as_bytes(), out);
                }
                Property::CorrelationData(data) => {
                    out.push(id::CORRELATION_DATA);
                    write_data(data, out);
                }
                // The gateway's own.
                Property::PacketId(_) => {}
                Property::User(name, value) => {
                    out.push(id::USER);
                    write_data(name.as_bytes(), out);
                    write_data(value.as_bytes(), out);
                }
            }
        }
        for identifier in &delivery.identifiers {
            out.push(id::SUBSCRIPTION_ID);
            varint::write(u64::from(*identifier), out);
        }
    }
}

/// At most 65,535 bytes: what a packet brought in.
fn write_data(data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
}
