//! Reads blocks, where they lie.

use super::{
    EventRef, HAS_PROPERTIES, KIND_CONTROL, KIND_EVENTS, Malformed, Properties, Qos, RETAIN,
    SAME_TOPIC,
};
use crate::id::EventId;
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
            _ => Properties::new(take_bytes(&mut self.rest)?),
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
