//! What a publisher sent along with a payload: a list of properties in bytes.

use super::read::{take_bytes, take_u8};
use crate::varint;

/// The tag of [`Property::PacketId`].
const PACKET_ID: u8 = 7;

/// What a publisher sent along with the payload (the properties of an MQTT 5 PUBLISH, section
/// 3.3.2.3). An event has a list of them, in the order they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property<'a> {
    /// Tag 1.
    ContentType(&'a str),
    /// Tag 2.
    ResponseTopic(&'a str),
    /// Tag 3.
    CorrelationData(&'a [u8]),
    /// Tag 4: name and value, as varint length of the name, name, value.
    User(&'a str, &'a str),
    /// Tag 5, u32: seconds after which a receiver has no use for the event.
    MessageExpiry(u32),
    /// Tag 6, u8: 1 says that the payload is UTF-8.
    PayloadFormat(u8),
    /// Tag 7, u16: the packet id under which a persistent session published the event at QoS 2, until
    /// a control record says that it is released. The gateway's own: it leaves it for nobody.
    PacketId(u16),
}

impl Property<'_> {
    /// Appends the property to an encoded list.
    pub fn write(&self, list: &mut Vec<u8>) {
        fn put(list: &mut Vec<u8>, tag: u8, value: &[u8]) {
            list.push(tag);
            write_bytes(value, list);
        }
        match self {
            Self::ContentType(text) => put(list, 1, text.as_bytes()),
            Self::ResponseTopic(text) => put(list, 2, text.as_bytes()),
            Self::CorrelationData(data) => put(list, 3, data),
            Self::User(name, value) => {
                list.push(4);
                varint::write((varint::len(name.len()) + name.len() + value.len()) as u64, list);
                write_bytes(name.as_bytes(), list);
                list.extend_from_slice(value.as_bytes());
            }
            Self::MessageExpiry(seconds) => put(list, 5, &seconds.to_le_bytes()),
            Self::PayloadFormat(format) => put(list, 6, &[*format]),
            Self::PacketId(id) => put(list, PACKET_ID, &id.to_le_bytes()),
        }
    }
}

/// An encoded list of properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// The list in `encoded`, as [`Property::write`] made it.
    pub fn new(encoded: &'a [u8]) -> Self {
        Self(encoded)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The encoded list.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The [`Property::PacketId`], if there is one.
    pub fn packet_id(&self) -> Option<u16> {
        let mut rest = self.0;
        loop {
            let tag = take_u8(&mut rest).ok()?;
            let value = take_bytes(&mut rest).ok()?;
            if tag == PACKET_ID {
                return value.try_into().ok().map(u16::from_le_bytes);
            }
        }
    }

    /// The properties in order. Ends early at one that is malformed.
    pub fn iter(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            loop {
                let tag = take_u8(&mut rest).ok()?;
                let mut value = take_bytes(&mut rest).ok()?;
                let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).ok();
                return Some(match tag {
                    1 => Property::ContentType(text(value)?),
                    2 => Property::ResponseTopic(text(value)?),
                    3 => Property::CorrelationData(value),
                    4 => {
                        let name = take_bytes(&mut value).ok()?;
                        Property::User(text(name)?, text(value)?)
                    }
                    5 => Property::MessageExpiry(u32::from_le_bytes(value.try_into().ok()?)),
                    6 => Property::PayloadFormat(*value.first()?),
                    PACKET_ID => Property::PacketId(u16::from_le_bytes(value.try_into().ok()?)),
                    _ => continue,
                });
            }
        })
    }
}

pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    varint::write(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
