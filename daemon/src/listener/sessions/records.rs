//! What a persistent session leaves in the log: control records, one type a fact.
//!
//! ```text
//! body       client: varint length, UTF-8 | the fact
//! 1 opened        expiry varint
//! 2 attached      expiry varint
//! 3 detached      at i64 (unix µs) | expiry varint | will? u8 | will
//! 4 ended
//! 5 subscribed    subscription, …
//! 6 unsubscribed  filter: text, …
//! 7 greeted
//! 8 sent          flight, …
//! 9 received      packet id u16, …
//! 10 done         packet id u16, …
//! 11 released     packet id u16, …
//! 12 taken        packet id u16, …
//! 13 position     next varint | last packet id u16 | unsent varint (0 = nothing)
//! 14 owned         user: text (since 0.1.0; a session without it is nobody's)
//! will            delay varint | flags u8 (bits 0-1 QoS, 2 retain) | topic, properties, payload: text
//! subscription    flags u8 (bits 0-1 QoS, 2 no local, 3 retain as published, 4 has an identifier,
//!                 5 greeting) | filter: text | from varint | identifier varint, if it has one
//! flight          flags u8 (bits 0-1 QoS, 2 retained message, 3 shared, 4 group follows)
//!                 | packet id u16 | LSN varint, or topic: text | group: text
//! ```
//!
//! The filter of a shared subscription is `$share/NAME/FILTER`. A flight for one says so, and the first
//! of a list says for which; others for the same one follow without. What a group of them leaves in the
//! log is in [`crate::bus`] (15 to 17).
//!
//! Integers are little-endian, a varint has 7 bits a byte, the low ones first; a text is a varint
//! length and bytes. Lists go on to the end of the body. The last record about a thing counts, so that
//! a part of the log may be applied twice. A type that is not known is passed over: a change of format
//! takes a new type. 12 and 13 stand in the state only (`model/sessions`), where a session is the
//! blocks that make it anew.

use std::borrow::Cow;
use std::sync::Arc;

use tidegate_event::record::write_control;
use tidegate_event::{Filter, Lsn, Qos, varint};

use super::super::codec::Will;
use crate::bus::{Delivery, Options};

/// One fact about a session.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record<'a> {
    /// It begins anew: nothing of an earlier one is left. In seconds; [`u32::MAX`] is never.
    Opened { expiry: u32 },
    /// Its client is back.
    Attached { expiry: u32 },
    /// Its client has gone.
    Detached(Detached),
    /// It is over.
    Ended,
    /// Subscriptions were added or replaced.
    Subscribed(Cow<'a, [Subscription]>),
    /// Subscriptions were ended.
    Unsubscribed(Cow<'a, [Filter]>),
    /// The retained messages of its subscriptions were sent.
    Greeted,
    /// These are sent, in this order.
    Sent(Cow<'a, [Flight]>),
    /// PUBREC came.
    Received(Cow<'a, [u16]>),
    /// PUBACK or PUBCOMP came, or there is no need for one.
    Done(Cow<'a, [u16]>),
    /// PUBREL came.
    Released(Cow<'a, [u16]>),
    /// Events with these packet ids are stored, and not released. In the log the events themselves
    /// say so ([`tidegate_event::Property::PacketId`]).
    Taken(Cow<'a, [u16]>),
    /// How far it is.
    Position(Position),
    /// It belongs to this user.
    Owned(Cow<'a, str>),
}

/// A session whose client has gone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Detached {
    /// When: microseconds since 1970.
    pub(super) at: i64,
    /// In seconds; [`u32::MAX`] is never.
    pub(super) expiry: u32,
    /// What is to be published when its delay is over, or the session.
    pub(super) will: Option<Will>,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::listener) struct Subscription {
    pub(in crate::listener) filter: Filter,
    pub(in crate::listener) options: Options,
    /// The first event that it sees.
    pub(in crate::listener) from: Lsn,
    /// Retained messages are still to be sent.
    pub(in crate::listener) greeting: bool,
}

/// A delivery under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listener) struct Flight {
    pub(in crate::listener) id: u16,
    pub(in crate::listener) qos: Qos,
    pub(in crate::listener) what: What,
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listener) enum What {
    Event(Lsn),
    /// The retained message of this topic.
    Retained(Box<str>),
    /// The event that the group of this shared subscription gave to the session.
    Shared(Arc<str>, Lsn),
}

impl What {
    /// Bytes that it takes beside itself.
    pub(super) fn memory(&self) -> usize {
        match self {
            // The name of the group is the group's own.
            Self::Event(_) | Self::Shared(..) => 0,
            Self::Retained(topic) => topic.len(),
        }
    }

    /// What a delivery is of, and which group it is from.
    pub(in crate::listener) fn of(delivery: &Delivery, group: Option<Arc<str>>) -> Self {
        match (delivery.lsn, group) {
            (Some(lsn), Some(group)) => Self::Shared(group, lsn),
            (Some(lsn), None) => Self::Event(lsn),
            (None, _) => Self::Retained(delivery.event.topic().into()),
        }
    }
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    /// Everything before was sent, or need not be.
    pub(super) next: Lsn,
    /// The packet id that was given last.
    pub(super) last_id: u16,
    /// The log holds something for it from here on.
    pub(super) unsent: Option<Lsn>,
}

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed control record of a session")]
pub(super) struct Malformed;

const RETAIN: u8 = 1 << 2;
const NO_LOCAL: u8 = 1 << 2;
const AS_PUBLISHED: u8 = 1 << 3;
const HAS_IDENTIFIER: u8 = 1 << 4;
const GREETING: u8 = 1 << 5;
const RETAINED: u8 = 1 << 2;
const SHARED: u8 = 1 << 3;
const HAS_GROUP: u8 = 1 << 4;

impl Record<'_> {
    /// Appends it, about the session of `client`, as a control block.
    pub(super) fn write(&self, client: &str, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(64);
        put_text(client.as_bytes(), &mut body);
        let control = self.put(&mut body);
        write_control(control, &body, out);
    }

    fn put(&self, out: &mut Vec<u8>) -> u8 {
        match self {
            Self::Opened { expiry } => {
                varint::write((*expiry).into(), out);
                1
            }
            Self::Attached { expiry } => {
                varint::write((*expiry).into(), out);
                2
            }
            Self::Detached(Detached { at, expiry, will }) => {
                out.extend_from_slice(&at.to_le_bytes());
                varint::write((*expiry).into(), out);
                out.push(will.is_some().into());
                if let Some(will) = will {
                    varint::write(will.delay.into(), out);
                    out.push(will.qos as u8 | flag(will.retain, RETAIN));
                    put_text(will.topic.as_bytes(), out);
                    put_text(&will.properties, out);
                    put_text(&will.payload, out);
                }
                3
            }
            Self::Ended => 4,
            Self::Subscribed(list) => {
                list.iter().for_each(|subscription| subscription.put(out));
                5
            }
            Self::Unsubscribed(list) => {
                list.iter().for_each(|filter| put_text(filter.as_str().as_bytes(), out));
                6
            }
            Self::Greeted => 7,
            Self::Sent(list) => {
                let mut group = None;
                list.iter().for_each(|flight| flight.put(&mut group, out));
                8
            }
            Self::Received(ids) => put_ids(9, ids, out),
            Self::Done(ids) => put_ids(10, ids, out),
            Self::Released(ids) => put_ids(11, ids, out),
            Self::Taken(ids) => put_ids(12, ids, out),
            Self::Position(Position { next, last_id, unsent }) => {
                varint::write(*next, out);
                out.extend_from_slice(&last_id.to_le_bytes());
                varint::write(unsent.unwrap_or_default(), out);
                13
            }
            Self::Owned(user) => {
                put_text(user.as_bytes(), out);
                14
            }
        }
    }

    /// Reads a control block: whose session it is about, and what it says. None if the type is not
    /// one of these.
    pub(super) fn read(
        control: u8,
        body: &[u8],
    ) -> Result<Option<(&str, Record<'static>)>, Malformed> {
        if !(1..=14).contains(&control) {
            return Ok(None);
        }
        let mut input = Input(body);
        let client = input.text()?;
        let record = match control {
            1 => Record::Opened { expiry: input.small()? },
            2 => Record::Attached { expiry: input.small()? },
            3 => Record::Detached(Detached {
                at: i64::from_le_bytes(input.array()?),
                expiry: input.small()?,
                will: if input.byte()? == 0 { None } else { Some(input.will()?) },
            }),
            4 => Record::Ended,
            5 => Record::Subscribed(input.list(Input::subscription)?),
            6 => Record::Unsubscribed(input.list(Input::filter)?),
            7 => Record::Greeted,
            8 => Record::Sent(input.flights()?),
            9 => Record::Received(input.list(Input::id)?),
            10 => Record::Done(input.list(Input::id)?),
            11 => Record::Released(input.list(Input::id)?),
            12 => Record::Taken(input.list(Input::id)?),
            14 => Record::Owned(input.text()?.to_owned().into()),
            _ => Record::Position(Position {
                next: input.number()?,
                last_id: input.id()?,
                unsent: Some(input.number()?).filter(|unsent| *unsent > 0),
            }),
        };
        if input.0.is_empty() { Ok(Some((client, record))) } else { Err(Malformed) }
    }
}

impl Subscription {
    fn put(&self, out: &mut Vec<u8>) {
        let Options { qos, no_local, retain_as_published, identifier } = self.options;
        out.push(
            qos as u8
                | flag(no_local, NO_LOCAL)
                | flag(retain_as_published, AS_PUBLISHED)
                | flag(identifier.is_some(), HAS_IDENTIFIER)
                | flag(self.greeting, GREETING),
        );
        put_text(self.filter.as_str().as_bytes(), out);
        varint::write(self.from, out);
        if let Some(identifier) = identifier {
            varint::write(identifier.into(), out);
        }
    }
}

impl Flight {
    /// `last` is the group that was named last.
    fn put<'a>(&'a self, last: &mut Option<&'a str>, out: &mut Vec<u8>) {
        let (what, group) = match &self.what {
            What::Event(_) => (0, None),
            What::Retained(_) => (RETAINED, None),
            What::Shared(group, _) if *last == Some(group) => (SHARED, None),
            What::Shared(group, _) => (SHARED | HAS_GROUP, Some(&**group)),
        };
        out.push(self.qos as u8 | what);
        out.extend_from_slice(&self.id.to_le_bytes());
        match &self.what {
            What::Event(lsn) | What::Shared(_, lsn) => varint::write(*lsn, out),
            What::Retained(topic) => put_text(topic.as_bytes(), out),
        }
        if let Some(group) = group {
            put_text(group.as_bytes(), out);
            *last = Some(group);
        }
    }
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

fn put_text(bytes: &[u8], out: &mut Vec<u8>) {
    varint::write(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_ids(control: u8, ids: &[u16], out: &mut Vec<u8>) -> u8 {
    ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    control
}

/// Bytes whose checksum was right; still none of them is trusted.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn id(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        varint::read(&mut self.0, varint::MAX_BYTES).ok_or(Malformed)
    }

    fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    fn filter(&mut self) -> Result<Filter, Malformed> {
        Filter::new(self.text()?).map_err(|_| Malformed)
    }

    fn will(&mut self) -> Result<Will, Malformed> {
        let delay = self.small()?;
        let flags = self.byte()?;
        Ok(Will {
            delay,
            qos: qos(flags)?,
            retain: flags & RETAIN != 0,
            topic: self.text()?.to_owned(),
            properties: self.bytes()?.to_vec(),
            payload: self.bytes()?.to_vec(),
        })
    }

    fn subscription(&mut self) -> Result<Subscription, Malformed> {
        let flags = self.byte()?;
        let (filter, from) = (self.filter()?, self.number()?);
        let identifier = if flags & HAS_IDENTIFIER == 0 { None } else { Some(self.small()?) };
        let options = Options {
            qos: qos(flags)?,
            no_local: flags & NO_LOCAL != 0,
            retain_as_published: flags & AS_PUBLISHED != 0,
            identifier,
        };
        Ok(Subscription { filter, options, from, greeting: flags & GREETING != 0 })
    }

    fn flight(&mut self, last: &mut Option<Arc<str>>) -> Result<Flight, Malformed> {
        let flags = self.byte()?;
        let id = self.id()?;
        let what = match flags & (RETAINED | SHARED) {
            0 => What::Event(self.number()?),
            RETAINED => What::Retained(self.text()?.into()),
            SHARED => {
                let lsn = self.number()?;
                if flags & HAS_GROUP != 0 {
                    *last = Some(self.text()?.into());
                }
                What::Shared(last.clone().ok_or(Malformed)?, lsn)
            }
            _ => return Err(Malformed),
        };
        Ok(Flight { id, qos: qos(flags)?, what })
    }

    fn flights(&mut self) -> Result<Cow<'static, [Flight]>, Malformed> {
        let (mut list, mut group) = (Vec::new(), None);
        while !self.0.is_empty() {
            list.push(self.flight(&mut group)?);
        }
        Ok(list.into())
    }

    fn list<T: Clone>(
        &mut self,
        take: fn(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Cow<'static, [T]>, Malformed> {
        let mut list = Vec::new();
        while !self.0.is_empty() {
            list.push(take(self)?);
        }
        Ok(list.into())
    }
}

fn qos(flags: u8) -> Result<Qos, Malformed> {
    Qos::from_number(flags & 3).ok_or(Malformed)
}
