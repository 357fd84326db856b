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
//! record     head u8 | lane u8, if IN_LANE | topic: varint length, UTF-8; or nothing, if SAME_TOPIC;
//!            or varint, if EARLIER_TOPIC: where the length of the same topic begins, in bytes from the
//!            first record of the block | properties: varint length, list, if HAS_PROPERTIES | payload: varint length, bytes
//! gone       head u8 (GONE and IN_LANE) | lane u8 | how many LSNs: varint
//! head       bits 0-1 QoS | bit 2 retain | bit 3 SAME_TOPIC (as the event before) | bit 4
//!            HAS_PROPERTIES | bit 5 IN_LANE | bit 6 GONE | bit 7 EARLIER_TOPIC, without SAME_TOPIC
//! property   tag u8 | value: varint length, bytes   (tags: [`Property`])
//! ```
//!
//! The count of a block is that of its LSNs: each event has one, and those that are **gone** had
//! events that were not kept (a full lane whose newest events are dropped, or its oldest). A record
//! without a lane is in lane 0.
//!
//! Integers are little-endian; a varint has 7 bits a byte, the low ones first, at most 5 bytes.
//! A control block's body begins with its type; it holds no events and takes no LSN. A reader passes
//! over control types and property tags that it does not know.
//!
//! Everything here that reads, reads bytes whose checksum was right, and still trusts none of them:
//! a length that does not fit is [`Malformed`], never a panic.

mod build;
mod lanes;
mod property;
mod read;
mod topics;

#[cfg(test)]
mod tests;

use crate::id::{EventId, Lane, Lsn};
use crate::time::Received;
use crate::topic;

pub use build::{BlockBuilder, write_control};
pub use lanes::{InLane, InLanes, lanes};
pub use property::{Properties, Property};
pub use read::{Block, EventIter, Events, Item, ItemIter, blocks, events, items};

/// Kinds of blocks.
const KIND_EVENTS: u8 = 1;
const KIND_CONTROL: u8 = 2;
/// Kind and length.
const BLOCK_HEADER: usize = 5;

/// Bits of a record's head.
const RETAIN: u8 = 1 << 2;
const SAME_TOPIC: u8 = 1 << 3;
const HAS_PROPERTIES: u8 = 1 << 4;
const IN_LANE: u8 = 1 << 5;
const GONE: u8 = 1 << 6;
const EARLIER_TOPIC: u8 = 1 << 7;

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
    /// Its lane in that log.
    pub lane: Lane,
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

impl<'a> EventRef<'a> {
    /// The place in its log.
    pub fn lsn(&self) -> Lsn {
        self.id.lsn
    }

    /// What its publisher sent.
    pub fn draft(&self) -> Draft<'a> {
        let Self { topic, qos, retain, properties, payload, .. } = *self;
        Draft { topic, qos, retain, properties, payload }
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
