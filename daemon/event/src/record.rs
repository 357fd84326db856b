//! How events lie in the log.
//!
//! A **block** is what one source handed over at one moment: the events that one read from one
//! connection brought. They share their origin (the MQTT client id) and the time they were received,
//! so these are written once a block. A log frame holds blocks, one after the other.
//!
//! ```text
//! block      kind u8 (1 = events, 2 = control) | length u32 | body of that length
//! events     count u32 | clock u8 (0 = synced, 1 = since boot) | unix_micros i64
//!            | boot u64, nanos u64, if since boot | origin: varint length, UTF-8 | records
//! record     head u8 | topic: varint length, UTF-8, unless SAME_TOPIC
//!            | properties: varint length, list, if HAS_PROPERTIES | payload: varint length, bytes
//! head       bits 0-1 QoS | bit 2 retain | bit 3 SAME_TOPIC (as the record before) | bit 4
//!            HAS_PROPERTIES | bits 5-7 zero
//! property   tag u8 | value: varint length, bytes   (tags: [`Property`])
//! ```
//!
//! Integers are little-endian; a varint has 7 bits a byte, the low ones first, at most 5 bytes.
//! A control block's body begins with its type; it holds no events and takes no LSN. A reader passes
//! over control types and property tags that it does not know.
//!
//! Everything here that reads, reads bytes whose checksum was right, and still trusts none of them:
//! a length that does not fit is [`Malformed`], never a panic.

use crate::id::{EventId, Lsn};
use crate::time::Received;
use crate::{topic, varint};

const KIND_EVENTS: u8 = 1;
const KIND_CONTROL: u8 = 2;
/// Kind and length.
const BLOCK_HEADER: usize = 5;

const RETAIN: u8 = 1 << 2;
const SAME_TOPIC: u8 = 1 << 3;
const HAS_PROPERTIES: u8 = 1 << 4;

/// The tag of [`Property::PacketId`].
const PACKET_ID: u8 = 7;

/// MQTT's quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Qos {
    /// 0, fire and forget.
    #[default]
    AtMostOnce = 0,
    /// 1, acknowledged.
    AtLeastOnce = 1,
    /// 2, a handshake of four.
    ExactlyOnce = 2,
}

impl Qos {
    /// The QoS with this number; there is no 3.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

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

/// An event on its way into the log: what the publisher sent.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// A valid topic name.
    pub topic: &'a str,
    /// As published.
    pub qos: Qos,
    /// As published.
    pub retain: bool,
    /// As published.
    pub properties: Properties<'a>,
    /// As published.
    pub payload: &'a [u8],
}

/// An event as it lies in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// Its place, and so its id.
    pub id: EventId,
    /// When it was received.
    pub received: Received,
    /// Who published it: the MQTT client id, or the name of an edge service.
    pub origin: &'a str,
    /// A valid topic name.
    pub topic: &'a str,
    /// As published.
    pub qos: Qos,
    /// As published.
    pub retain: bool,
    /// As published.
    pub properties: Properties<'a>,
    /// As published.
    pub payload: &'a [u8],
}

/// Bytes that are not a block: damage that the checksum did not see, or a newer version's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed block")]
pub struct Malformed;

/// Builds one block of events in a buffer that can be used again.
#[derive(Debug)]
pub struct BlockBuilder {
    bytes: Vec<u8>,
    count: u32,
    has_retained: bool,
    has_packet_id: bool,
    /// Where the topic of the record before lies in `bytes`.
    last_topic: std::ops::Range<usize>,
}

/// Where the count lies: behind the block's header.
const COUNT_AT: usize = BLOCK_HEADER;

impl BlockBuilder {
    /// An empty block of events from `origin` (at most 65,535 bytes, as an MQTT string), received at
    /// `received`.
    pub fn new(origin: &str, received: Received) -> Self {
        let mut builder = Self {
            bytes: Vec::new(),
            count: 0,
            has_retained: false,
            has_packet_id: false,
            last_topic: 0..0,
        };
        builder.restart(origin, received);
        builder
    }

    /// Empties the block and begins it anew, keeping the buffer.
    pub fn restart(&mut self, origin: &str, received: Received) {
        self.bytes.clear();
        self.count = 0;
        (self.has_retained, self.has_packet_id) = (false, false);
        self.last_topic = 0..0;
        self.bytes.push(KIND_EVENTS);
        self.bytes.extend_from_slice(&[0; 8]);
        match received {
            Received::Synced { unix_micros } => {
                self.bytes.push(0);
                self.bytes.extend_from_slice(&unix_micros.to_le_bytes());
            }
            Received::SinceBoot { unix_micros, boot, nanos } => {
                self.bytes.push(1);
                self.bytes.extend_from_slice(&unix_micros.to_le_bytes());
                self.bytes.extend_from_slice(&boot.to_le_bytes());
                self.bytes.extend_from_slice(&nanos.to_le_bytes());
            }
        }
        write_bytes(origin.as_bytes(), &mut self.bytes);
    }

    /// Appends one event.
    pub fn push(&mut self, event: &Draft<'_>) {
        let same_topic =
            self.count > 0 && &self.bytes[self.last_topic.clone()] == event.topic.as_bytes();
        let mut head = event.qos as u8;
        if event.retain {
            head |= RETAIN;
            self.has_retained = true;
        }
        if same_topic {
            head |= SAME_TOPIC;
        }
        if !event.properties.is_empty() {
            head |= HAS_PROPERTIES;
            self.has_packet_id |= event.properties.packet_id().is_some();
        }
        self.bytes.push(head);
        if !same_topic {
            write_bytes(event.topic.as_bytes(), &mut self.bytes);
            self.last_topic = self.bytes.len() - event.topic.len()..self.bytes.len();
        }
        if !event.properties.is_empty() {
            write_bytes(event.properties.as_bytes(), &mut self.bytes);
        }
        write_bytes(event.payload, &mut self.bytes);
        self.count += 1;
    }

    /// How many events it holds.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether one of them is to be retained.
    pub fn has_retained(&self) -> bool {
        self.has_retained
    }

    /// Whether one of them has a [`Property::PacketId`].
    pub fn has_packet_id(&self) -> bool {
        self.has_packet_id
    }

    /// Bytes so far, headers included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it holds no event.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The finished block. More events may follow; then finish it again.
    pub fn finish(&mut self) -> &[u8] {
        let length = (self.bytes.len() - BLOCK_HEADER) as u32;
        self.bytes[1..BLOCK_HEADER].copy_from_slice(&length.to_le_bytes());
        self.bytes[COUNT_AT..COUNT_AT + 4].copy_from_slice(&self.count.to_le_bytes());
        &self.bytes
    }
}

/// Appends a control block of type `control` to `out`.
pub fn write_control(control: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(KIND_CONTROL);
    out.extend_from_slice(&(1 + body.len() as u32).to_le_bytes());
    out.push(control);
    out.extend_from_slice(body);
}

/// One block of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block<'a> {
    /// Events of one origin and time.
    Events(Events<'a>),
    /// A control record.
    Control {
        /// Which one.
        control: u8,
        /// What it says.
        body: &'a [u8],
    },
}

/// The events of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events<'a> {
    /// How many.
    pub count: u32,
    /// When they were received.
    pub received: Received,
    /// Who published them.
    pub origin: &'a str,
    records: &'a [u8],
}

/// The blocks that a frame's payload holds. Ends after the first one that is malformed.
pub fn blocks(mut payload: &[u8]) -> impl Iterator<Item = Result<Block<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if payload.is_empty() {
            return None;
        }
        let block = Block::take(&mut payload);
        if block.is_err() {
            payload = &[];
        }
        Some(block)
    })
}

/// The events of a frame whose first event is `first`. Ends after the first one that is malformed.
pub fn events(
    payload: &[u8],
    first: EventId,
) -> impl Iterator<Item = Result<EventRef<'_>, Malformed>> {
    let mut blocks = blocks(payload);
    let mut next = first;
    let mut current: Option<(Events<'_>, EventIter<'_>)> = None;
    std::iter::from_fn(move || {
        loop {
            if let Some((_, iter)) = &mut current
                && let Some(event) = iter.next()
            {
                next.lsn += 1;
                return Some(event);
            }
            match blocks.next()? {
                Ok(Block::Events(events)) => current = Some((events, events.iter(next))),
                Ok(Block::Control { .. }) => {}
                Err(malformed) => return Some(Err(malformed)),
            }
        }
    })
}

impl<'a> Block<'a> {
    fn take(input: &mut &'a [u8]) -> Result<Self, Malformed> {
        let kind = take_u8(input)?;
        let length = u32::from_le_bytes(take_array(input)?) as usize;
        let mut body = take(input, length)?;
        match kind {
            KIND_CONTROL => Ok(Self::Control { control: take_u8(&mut body)?, body }),
            KIND_EVENTS => {
                let count = u32::from_le_bytes(take_array(&mut body)?);
                let clock = take_u8(&mut body)?;
                let unix_micros = i64::from_le_bytes(take_array(&mut body)?);
                let received = match clock {
                    0 => Received::Synced { unix_micros },
                    1 => Received::SinceBoot {
                        unix_micros,
                        boot: u64::from_le_bytes(take_array(&mut body)?),
                        nanos: u64::from_le_bytes(take_array(&mut body)?),
                    },
                    _ => return Err(Malformed),
                };
                let origin = take_str(&mut body)?;
                Ok(Self::Events(Events { count, received, origin, records: body }))
            }
            _ => Err(Malformed),
        }
    }
}

impl<'a> Events<'a> {
    /// The events, the first of which has the id `first`.
    pub fn iter(&self, first: EventId) -> EventIter<'a> {
        EventIter { block: *self, rest: self.records, topic: "", id: first, left: self.count }
    }
}

/// Iterates over the events of a block. Ends after the first one that is malformed.
#[derive(Debug, Clone)]
pub struct EventIter<'a> {
    block: Events<'a>,
    rest: &'a [u8],
    topic: &'a str,
    id: EventId,
    left: u32,
}

impl<'a> Iterator for EventIter<'a> {
    type Item = Result<EventRef<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let event = self.take();
        if event.is_err() {
            self.left = 0;
        }
        self.id.lsn = self.id.lsn.saturating_add(1);
        Some(event)
    }
}

impl<'a> EventIter<'a> {
    fn take(&mut self) -> Result<EventRef<'a>, Malformed> {
        let head = take_u8(&mut self.rest)?;
        if head & SAME_TOPIC == 0 {
            self.topic = take_str(&mut self.rest)?;
        }
        let properties = match head & HAS_PROPERTIES {
            0 => Properties::default(),
            _ => Properties(take_bytes(&mut self.rest)?),
        };
        Ok(EventRef {
            id: self.id,
            received: self.block.received,
            origin: self.block.origin,
            topic: self.topic,
            qos: Qos::from_number(head & 3).ok_or(Malformed)?,
            retain: head & RETAIN != 0,
            properties,
            payload: take_bytes(&mut self.rest)?,
        })
    }
}

impl<'a> EventRef<'a> {
    /// The place in its lane.
    pub fn lsn(&self) -> Lsn {
        self.id.lsn
    }

    /// The device that published it: the topic's level `device_level` (counted from 1) where set,
    /// present and not empty, else the origin.
    pub fn device(&self, device_level: Option<usize>) -> &'a str {
        device_level
            .and_then(|number| topic::level(self.topic, number))
            .filter(|level| !level.is_empty())
            .unwrap_or(self.origin)
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    varint::write(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = input.split_at_checked(length).ok_or(Malformed)?;
    *input = rest;
    Ok(taken)
}

fn take_array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (taken, rest) = input.split_first_chunk::<N>().ok_or(Malformed)?;
    *input = rest;
    Ok(*taken)
}

fn take_u8(input: &mut &[u8]) -> Result<u8, Malformed> {
    take_array::<1>(input).map(|[byte]| byte)
}

fn take_varint(input: &mut &[u8]) -> Result<usize, Malformed> {
    let mut value: u64 = 0;
    for shift in [0, 7, 14, 21, 28] {
        let byte = take_u8(input)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).map(|v| v as usize).map_err(|_| Malformed);
        }
    }
    Err(Malformed)
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = take_varint(input)?;
    take(input, length)
}

fn take_str<'a>(input: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    std::str::from_utf8(take_bytes(input)?).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, Lane};

    const FIRST: EventId = EventId { epoch: Epoch(7), lane: Lane(0), lsn: 41 };

    fn frame() -> Vec<u8> {
        let mut properties = Vec::new();
        Property::ContentType("text/plain").write(&mut properties);
        Property::User("traceparent", "00-1-2-01").write(&mut properties);
        Property::CorrelationData(&[0, 255]).write(&mut properties);
        Property::MessageExpiry(60).write(&mut properties);
        Property::PacketId(0x1234).write(&mut properties);
        let mut builder = BlockBuilder::new("boiler-7", Received::Synced { unix_micros: 5 });
        let plain = Draft {
            topic: "plant/boiler-7/temperature",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            payload: b"91.5",
        };
        builder.push(&plain);
        builder.push(&Draft { payload: &[7; 300], ..plain });
        builder.push(&Draft {
            topic: "x",
            retain: true,
            qos: Qos::ExactlyOnce,
            properties: Properties::new(&properties),
            payload: b"",
        });
        let mut frame = builder.finish().to_vec();
        write_control(9, b"later", &mut frame);
        builder.restart("pump-1", Received::SinceBoot { unix_micros: -1, boot: 3, nanos: 4 });
        builder.push(&plain);
        frame.extend_from_slice(builder.finish());
        frame
    }

    #[test]
    fn events_read_back_as_they_were_written() {
        let frame = frame();
        let events: Vec<_> = events(&frame, FIRST).collect::<Result<_, _>>().unwrap();
        let lsns: Vec<_> = events.iter().map(EventRef::lsn).collect();
        assert_eq!(lsns, [41, 42, 43, 44]);
        assert_eq!(events[0].topic, "plant/boiler-7/temperature");
        assert_eq!(
            (events[0].qos, events[0].retain, events[0].payload),
            (Qos::AtLeastOnce, false, &b"91.5"[..])
        );
        assert_eq!(
            (events[1].topic, events[1].payload),
            ("plant/boiler-7/temperature", &[7; 300][..])
        );
        assert_eq!(
            (events[2].topic, events[2].qos, events[2].retain),
            ("x", Qos::ExactlyOnce, true)
        );
        let properties: Vec<_> = events[2].properties.iter().collect();
        assert_eq!(
            properties,
            [
                Property::ContentType("text/plain"),
                Property::User("traceparent", "00-1-2-01"),
                Property::CorrelationData(&[0, 255]),
                Property::MessageExpiry(60),
                Property::PacketId(0x1234),
            ]
        );
        assert_eq!(events[0].properties.packet_id(), None);
        assert_eq!(events[2].properties.packet_id(), Some(0x1234));
        assert_eq!(events[2].origin, "boiler-7");
        assert_eq!(
            (events[3].origin, events[3].received),
            ("pump-1", Received::SinceBoot { unix_micros: -1, boot: 3, nanos: 4 })
        );
    }

    #[test]
    fn a_cut_frame_is_malformed_and_never_a_panic() {
        let whole = frame();
        for end in 1..whole.len() {
            let read = events(&whole[..end], FIRST).filter(Result::is_ok).count();
            assert!(read <= 4);
        }
    }

    #[test]
    fn a_flipped_bit_is_never_a_panic() {
        let whole = frame();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            for event in events(&flipped, FIRST).flatten() {
                event.properties.iter().for_each(drop);
            }
        }
    }

    #[test]
    fn a_typical_sensor_event_costs_three_bytes_beside_its_payload() {
        let mut builder = BlockBuilder::new("a", Received::Synced { unix_micros: 0 });
        let event = Draft {
            topic: "t",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            payload: &[1; 200],
        };
        builder.push(&event);
        let before = builder.len();
        builder.push(&event);
        assert_eq!(builder.len() - before, 203);
    }
}
