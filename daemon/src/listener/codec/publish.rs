//! PUBLISH (MQTT 5.0 section 3.3).

use tidegate_event::record::Properties;
use tidegate_event::{Property, Qos};

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
    /// UTF-8, and nothing more is known of it.
    pub(in crate::listener) topic: &'a str,
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
        if version == Version::V5 {
            read_properties(&mut input, list)?;
            if topic.is_empty() {
                return Err(Bad::protocol("PUBLISH without a topic"));
            }
        }
        let properties = Properties::new(list);
        Ok(Self { qos, retain, id, topic, properties, payload: input.0 })
    }
}

fn read_properties(input: &mut Input<'_>, list: &mut Vec<u8>) -> Result<(), Bad> {
    const ALLOWED: [u8; 7] = [
        id::PAYLOAD_FORMAT,
        id::MESSAGE_EXPIRY,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::TOPIC_ALIAS,
        id::USER,
    ];
    input.properties(&ALLOWED, |identifier, value| {
        let property = match (identifier, value) {
            (id::PAYLOAD_FORMAT, Value::Number(format)) => Property::PayloadFormat(format as u8),
            (id::MESSAGE_EXPIRY, Value::Number(seconds)) => Property::MessageExpiry(seconds),
            (id::CONTENT_TYPE, Value::Text(text)) => Property::ContentType(text),
            (id::RESPONSE_TOPIC, Value::Text(text)) if text.contains(['+', '#']) => {
                return Err(Bad::protocol("wildcard in a response topic"));
            }
            (id::RESPONSE_TOPIC, Value::Text(text)) => Property::ResponseTopic(text),
            (id::CORRELATION_DATA, Value::Data(data)) => Property::CorrelationData(data),
            (_, Value::Pair(name, value)) => Property::User(name, value),
            _ => return Err(Bad(Reason::TopicAliasInvalid, "topic alias, none is allowed")),
        };
        property.write(list);
        Ok(())
    })
}

/// Writes PUBLISH packets for one client.
#[derive(Debug)]
pub(in crate::listener) struct PublishWriter {
    version: Version,
    /// Bytes of the largest packet that the client takes.
    max: usize,
    properties: Vec<u8>,
}

impl PublishWriter {
    pub(in crate::listener) fn new(version: Version, max: usize) -> Self {
        Self { version, max, properties: Vec::new() }
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
        let (topic, payload) = (event.topic().as_bytes(), event.payload());
        let with_id = delivery.qos != Qos::AtMostOnce;
        self.properties.clear();
        let mut length = 2 + topic.len() + payload.len() + if with_id { 2 } else { 0 };
        if self.version == Version::V5 {
            self.collect(delivery, expiry);
            length += varint_len(self.properties.len()) + self.properties.len();
        }
        if 1 + varint_len(length) + length > self.max {
            return false;
        }
        out.reserve(5 + length);
        out.push(0x30 | (delivery.qos as u8) << 1 | u8::from(delivery.retain));
        write_varint(length, out);
        write_data(topic, out);
        if with_id {
            out.extend_from_slice(&id.to_be_bytes());
        }
        if self.version == Version::V5 {
            write_varint(self.properties.len(), out);
            out.extend_from_slice(&self.properties);
        }
        out.extend_from_slice(payload);
        true
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
            write_varint(*identifier as usize, out);
        }
    }
}

fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn write_varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// At most 65,535 bytes: what a packet brought in.
fn write_data(data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
}
