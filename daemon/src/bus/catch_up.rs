//! What a session reads from the log itself, because it was slow, or away.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_event::{EventRef, Lsn, Qos};
use tokio::time::{Sleep, sleep};

use super::BusHandle;
use super::event::{Delivery, Event};
use super::subscriber::Held;
use crate::log::{Chunk, Read, ReadError, Reader};
use crate::memory::{Claim, Memory, Room, Sort};

/// Bytes read from the log at once, with memory in plenty.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of deliveries at once: with memory in plenty, when it is tight (which goes for reading too), and
/// when there is none.
const PORTION: usize = 128 * 1024;
const SMALL_PORTION: usize = 16 * 1024;
const LEAST: usize = 4 * 1024;
/// Without any memory, a large event waits that long for the next look.
const PATIENCE: Duration = Duration::from_millis(100);

/// Reads what the bus did not wait for.
#[derive(Debug)]
pub(super) struct CatchUp {
    reader: Reader,
    chunk: Chunk,
    /// What the chunk takes.
    own: Claim,
    /// What the log had removed before it was looked for.
    gone: Option<RangeInclusive<Lsn>>,
    /// The chunk holds more, from here on.
    rest: Option<Lsn>,
    /// The bus takes over at this LSN, once that is agreed.
    pub(super) until: Option<Lsn>,
    /// There is no memory for the next event.
    waits: Option<Pin<Box<Sleep>>>,
}

/// Whose deliveries they are.
pub(super) struct Reading<'a> {
    pub(super) bus: &'a BusHandle,
    pub(super) subscriptions: &'a Held,
    pub(super) client: &'a str,
    /// What came with QoS 0 before this is not delivered.
    pub(super) back_since: Lsn,
}

impl CatchUp {
    /// From this event on.
    pub(super) fn new(bus: &BusHandle, from: Lsn) -> Self {
        let (reader, gone) = begin(bus, from);
        Self {
            reader,
            gone,
            chunk: Chunk::default(),
            own: bus.memory.claim(Sort::Deliveries, 0),
            rest: None,
            until: None,
            waits: None,
        }
    }

    /// Everything before this was read.
    pub(super) fn position(&self) -> Lsn {
        self.rest.unwrap_or_else(|| self.reader.position())
    }

    /// Ready when it is worth reading on.
    pub(super) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.waits {
            Some(waits) => waits.as_mut().poll(context),
            None => Poll::Ready(()),
        }
    }

    /// Puts what comes next into `into`, which is empty. It may stay so.
    pub(super) fn read(
        &mut self,
        session: &Reading<'_>,
        into: &mut VecDeque<Delivery>,
    ) -> Result<Read, ReadError> {
        self.waits = None;
        if let Some(gone) = self.gone.take() {
            return Ok(Read::Lost(gone));
        }
        let room = session.bus.memory.room();
        let bytes = if room == Room::Plenty { READ_BYTES } else { SMALL_PORTION };
        let from = match self.rest.take() {
            Some(rest) => rest,
            None => match self.reader.read(&mut self.chunk, bytes)? {
                Read::Frames => 0,
                other => return Ok(other),
            },
        };
        self.deliver(session, from, room, into);
        if room == Room::Plenty {
            self.own.set(self.chunk.capacity());
        } else {
            self.forget(session.bus);
        }
        Ok(Read::Frames)
    }

    fn deliver(
        &mut self,
        session: &Reading<'_>,
        from: Lsn,
        room: Room,
        into: &mut VecDeque<Delivery>,
    ) {
        let portion = match room {
            Room::Plenty => PORTION,
            Room::Tight => SMALL_PORTION,
            Room::None => LEAST,
        };
        let until = self.until.unwrap_or(Lsn::MAX);
        let mut bytes = 0;
        let events = self.chunk.frames().flat_map(|frame| frame.events()).flatten();
        for event in events.filter(|event| (from..until).contains(&event.lsn())) {
            let large = room == Room::None && event.payload.len() > LEAST;
            if bytes >= portion || large {
                self.rest = Some(event.lsn());
                if bytes == 0 {
                    self.waits = Some(Box::pin(sleep(PATIENCE)));
                }
                break;
            }
            let Reading { bus, subscriptions, client, back_since } = session;
            let wanted =
                |next: &Delivery| next.qos > Qos::AtMostOnce || next.lsn >= Some(*back_since);
            if let Some(next) = deliver(&event, subscriptions, client, &bus.memory).filter(wanted) {
                bytes += next.size();
                into.push_back(next);
            }
        }
    }

    /// Gives the chunk back: what is left of it is read again.
    fn forget(&mut self, bus: &BusHandle) {
        if let Some(rest) = self.rest.take() {
            (self.reader, self.gone) = begin(bus, rest);
        }
        self.chunk = Chunk::default();
        self.own.set(0);
    }
}

/// A reader from this event on, or from the oldest one behind it that is still there; and what is not.
fn begin(bus: &BusHandle, from: Lsn) -> (Reader, Option<RangeInclusive<Lsn>>) {
    let reader = bus.log.reader(from);
    let oldest = reader.position();
    (reader, (from < oldest).then(|| from..=oldest - 1))
}

/// The delivery of an event to a session with these subscriptions.
pub(super) fn deliver(
    event: &EventRef<'_>,
    subscriptions: &Held,
    client: &str,
    memory: &Memory,
) -> Option<Delivery> {
    let mut delivery: Option<Delivery> = None;
    let lsn = event.lsn();
    for (filter, (options, from)) in subscriptions {
        if lsn >= *from && filter.matches(event.topic) && options.wants(event, client) {
            let new = || Delivery::of(Event::copy(event, memory, Sort::Deliveries), lsn);
            delivery.get_or_insert_with(new).merge(options);
        }
    }
    delivery
}
