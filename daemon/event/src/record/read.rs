//! Reads blocks, where they lie.

use super::{
    EARLIER_TOPIC, EventRef, GONE, HAS_PROPERTIES, IN_LANE, KIND_CONTROL, KIND_EVENTS, Malformed,
    Properties, Qos, RETAIN, SAME_TOPIC,
};
use crate::id::{EventId, Lane, Lsn};
use crate::time::Received;
use crate::varint;

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
    /// How many LSNs.
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

/// What stands at an LSN, or at some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// An event.
    Event(EventRef<'a>),
    /// Events that were not kept.
    Gone {
        /// Their lane.
        lane: Lane,
        /// The first of their LSNs.
        first: Lsn,
        /// How many.
        count: u32,
    },
}

/// The events of a frame whose first event is `first`. Ends after the first one that is malformed.
pub fn events(
    payload: &[u8],
    first: EventId,
) -> impl Iterator<Item = Result<EventRef<'_>, Malformed>> {
    items(payload, first).filter_map(event)
}

/// All that stands in a frame whose first LSN is that of `first`. Ends after the first item that is
/// malformed.
pub fn items(payload: &[u8], first: EventId) -> impl Iterator<Item = Result<Item<'_>, Malformed>> {
    let mut blocks = blocks(payload);
    let mut next = first;
    let mut current: Option<ItemIter<'_>> = None;
    std::iter::from_fn(move || {
        loop {
            if let Some(items) = &mut current
                && let Some(item) = items.next()
            {
                return Some(item);
            }
            match blocks.next()? {
                Ok(Block::Events(events)) => {
                    current = Some(events.items(next));
                    next.lsn = next.lsn.saturating_add(u64::from(events.count));
                }
                Ok(Block::Control { .. }) => {}
                Err(malformed) => return Some(Err(malformed)),
            }
        }
    })
}

fn event(item: Result<Item<'_>, Malformed>) -> Option<Result<EventRef<'_>, Malformed>> {
    match item {
        Ok(Item::Event(event)) => Some(Ok(event)),
        Ok(Item::Gone { .. }) => None,
        Err(malformed) => Some(Err(malformed)),
    }
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
    /// The events, where `first` is the id that belongs to the first LSN.
    pub fn iter(&self, first: EventId) -> EventIter<'a> {
        EventIter(self.items(first))
    }

    /// The events, and what is gone between them.
    pub fn items(&self, first: EventId) -> ItemIter<'a> {
        ItemIter { block: *self, rest: self.records, topic: "", id: first, left: self.count }
    }

    /// Bytes of the block before its records.
    pub(super) fn head_len(&self) -> usize {
        let origin = self.origin.len();
        let time = match self.received {
            Received::Synced { .. } => 9,
            Received::SinceBoot { .. } => 25,
        };
        super::BLOCK_HEADER + 4 + time + varint::len(origin) + origin
    }
}

/// Iterates over the events of a block. Ends after the first one that is malformed.
#[derive(Debug, Clone)]
pub struct EventIter<'a>(ItemIter<'a>);

impl<'a> Iterator for EventIter<'a> {
    type Item = Result<EventRef<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.find_map(event)
    }
}

/// Iterates over all that stands in a block. Ends after the first item that is malformed.
#[derive(Debug, Clone)]
pub struct ItemIter<'a> {
    block: Events<'a>,
    rest: &'a [u8],
    topic: &'a str,
    id: EventId,
    /// LSNs.
    left: u32,
}

impl<'a> Iterator for ItemIter<'a> {
    type Item = Result<Item<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let item = self.take();
        if item.is_err() {
            self.left = 0;
        }
        Some(item)
    }
}

impl<'a> ItemIter<'a> {
    /// Bytes of the block's records that were not looked at.
    pub(super) fn rest(&self) -> usize {
        self.rest.len()
    }

    /// The topic that stands where the rest says.
    fn earlier_topic(&mut self) -> Result<&'a str, Malformed> {
        let records = self.block.records;
        let read = records.len() - self.rest.len();
        let at = take_varint(&mut self.rest)?;
        let mut earlier = records.get(at..read).ok_or(Malformed)?;
        take_str(&mut earlier)
    }

    fn take(&mut self) -> Result<Item<'a>, Malformed> {
        let head = take_u8(&mut self.rest)?;
        let lane = match head & IN_LANE {
            0 => Lane(0),
            _ => Lane(take_u8(&mut self.rest)?),
        };
        let id = self.id;
        if head & GONE != 0 {
            let count = take_varint(&mut self.rest)? as u32;
            self.left = self.left.checked_sub(count).filter(|_| count > 0).ok_or(Malformed)?;
            self.id.lsn = id.lsn.saturating_add(u64::from(count));
            return Ok(Item::Gone { lane, first: id.lsn, count });
        }
        self.topic = match head & (SAME_TOPIC | EARLIER_TOPIC) {
            0 => take_str(&mut self.rest)?,
            SAME_TOPIC => self.topic,
            EARLIER_TOPIC => self.earlier_topic()?,
            _ => return Err(Malformed),
        };
        let properties = match head & HAS_PROPERTIES {
            0 => Properties::default(),
            _ => Properties::new(take_bytes(&mut self.rest)?),
        };
        self.left -= 1;
        self.id.lsn = id.lsn.saturating_add(1);
        Ok(Item::Event(EventRef {
            id,
            lane,
            received: self.block.received,
            origin: self.block.origin,
            topic: self.topic,
            qos: Qos::from_number(head & 3).ok_or(Malformed)?,
            retain: head & RETAIN != 0,
            properties,
            payload: take_bytes(&mut self.rest)?,
        }))
    }
}

pub(super) fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = input.split_at_checked(length).ok_or(Malformed)?;
    *input = rest;
    Ok(taken)
}

pub(super) fn take_array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (taken, rest) = input.split_first_chunk::<N>().ok_or(Malformed)?;
    *input = rest;
    Ok(*taken)
}

pub(super) fn take_u8(input: &mut &[u8]) -> Result<u8, Malformed> {
    take_array::<1>(input).map(|[byte]| byte)
}

pub(super) fn take_varint(input: &mut &[u8]) -> Result<usize, Malformed> {
    let value = varint::read(input, 5).ok_or(Malformed)?;
    u32::try_from(value).map(|v| v as usize).map_err(|_| Malformed)
}

pub(super) fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = take_varint(input)?;
    take(input, length)
}

pub(super) fn take_str<'a>(input: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    std::str::from_utf8(take_bytes(input)?).map_err(|_| Malformed)
}
