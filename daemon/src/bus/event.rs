//! What travels from the bus to sessions.

use std::sync::Arc;

use tidegate_event::record::Properties;
use tidegate_event::{EventRef, Lsn, Property, Qos, Received};

use super::share::Loan;
use crate::clock::is_set;
use crate::memory::{Claim, Memory, Sort};

/// One event, copied once from the log however many subscribers it has.
#[derive(Debug, Clone)]
pub struct Event {
    body: Arc<Body>,
    topic_end: u32,
    properties_end: u32,
    /// As published.
    pub qos: Qos,
    /// As published.
    pub retain: bool,
    /// When it was received.
    pub received: Received,
}

/// What an event consists of, once for all who wait for it.
#[derive(Debug)]
struct Body {
    /// Topic, properties, payload.
    bytes: Box<[u8]>,
    _memory: Claim,
}

impl Event {
    /// Bytes that it takes beside what it says.
    const OVERHEAD: usize = size_of::<Body>() + 48;

    /// Copies an event of the log, to be held in memory as one of this sort.
    pub fn copy(event: &EventRef<'_>, memory: &Memory, sort: Sort) -> Self {
        let properties = event.properties.as_bytes();
        let topic_end = event.topic.len();
        let properties_end = topic_end + properties.len();
        let mut bytes = Vec::with_capacity(properties_end + event.payload.len());
        bytes.extend_from_slice(event.topic.as_bytes());
        bytes.extend_from_slice(properties);
        bytes.extend_from_slice(event.payload);
        let _memory = memory.claim(sort, Self::OVERHEAD + bytes.len());
        Self {
            body: Arc::new(Body { bytes: bytes.into(), _memory }),
            topic_end: topic_end as u32,
            properties_end: properties_end as u32,
            qos: event.qos,
            retain: event.retain,
            received: event.received,
        }
    }

    /// A valid topic name.
    pub fn topic(&self) -> &str {
        std::str::from_utf8(&self.body.bytes[..self.topic_end as usize]).unwrap_or_default()
    }

    /// As published.
    pub fn properties(&self) -> Properties<'_> {
        Properties::new(&self.body.bytes[self.topic_end as usize..self.properties_end as usize])
    }

    /// As published.
    pub fn payload(&self) -> &[u8] {
        &self.body.bytes[self.properties_end as usize..]
    }

    /// Bytes that it holds.
    pub fn size(&self) -> usize {
        self.body.bytes.len()
    }

    /// Seconds of life it has left (`[MQTT-3.3.2-6]`), if the publisher set a limit: 0 once it is
    /// over. Where the wall clock was set in between, time before that is not counted.
    pub fn expiry(&self, now_micros: i64) -> Option<u32> {
        let limit = self.properties().iter().find_map(|property| match property {
            Property::MessageExpiry(seconds) => Some(seconds),
            _ => None,
        })?;
        let unix_micros = match self.received {
            Received::Synced { unix_micros } => unix_micros,
            // A clock that nobody has set runs all the same.
            Received::SinceBoot { unix_micros, .. } if !is_set(now_micros) => unix_micros,
            Received::SinceBoot { .. } => return Some(limit),
        };
        let age = now_micros.saturating_sub(unix_micros).max(0) / 1_000_000;
        Some(limit.saturating_sub(u32::try_from(age).unwrap_or(u32::MAX)))
    }
}

/// An event for one subscriber.
#[derive(Debug)]
pub struct Delivery {
    /// What to send.
    pub event: Event,
    /// Where it stands in the log; none for a retained message.
    pub lsn: Option<Lsn>,
    /// The lower of the publisher's and the subscription's QoS; of several subscriptions that match,
    /// the highest counts (`[MQTT-3.3.4-2]`).
    pub qos: Qos,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// The identifiers of the subscriptions that match (`[MQTT-3.3.4-3]`).
    pub identifiers: Vec<u32>,
    /// Of a shared subscription, with QoS 1 or 2: another member gets it unless this one does.
    pub loan: Option<Box<Loan>>,
}

impl Delivery {
    /// What it counts against `limits.max-queued`: its bytes and the queue's own.
    pub fn size(&self) -> usize {
        self.event.size() + size_of::<Self>() + self.identifiers.capacity() * size_of::<u32>()
    }
}

/// What a session wants of the events that match one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The highest QoS to deliver with.
    pub qos: Qos,
    /// Not its own events (`[MQTT-3.8.3-3]`).
    pub no_local: bool,
    /// Leave the RETAIN flag as the publisher set it (`[MQTT-3.3.1-12]`, `[MQTT-3.3.1-13]`).
    pub retain_as_published: bool,
    /// The subscription identifier, 1 to 268,435,455.
    pub identifier: Option<u32>,
}

impl Options {
    /// Whether a subscriber whose client id is `client` is to have `event`, whose topic matches.
    pub(super) fn wants(&self, event: &EventRef<'_>, client: &str) -> bool {
        !(self.no_local && event.origin == client)
    }
}

impl Delivery {
    /// The event at `lsn`, for a subscriber none of whose subscriptions was looked at yet.
    pub(super) fn of(event: Event, lsn: Lsn) -> Self {
        Self { lsn: Some(lsn), ..Self::new(event) }
    }

    /// A message without a place in the log.
    pub(super) fn new(event: Event) -> Self {
        let (lsn, loan, identifiers) = (None, None, Vec::new());
        Self { event, lsn, qos: Qos::AtMostOnce, retain: false, identifiers, loan }
    }

    /// One more subscription matches.
    pub(super) fn merge(&mut self, options: &Options) {
        self.qos = self.qos.max(options.qos.min(self.event.qos));
        self.retain |= options.retain_as_published && self.event.retain;
        self.identifiers.extend(options.identifier);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_event::{Epoch, EventId, Lane};

    use super::*;

    fn with_expiry(list: &mut Vec<u8>, received: Received) -> Event {
        list.clear();
        Property::MessageExpiry(60).write(list);
        let event = EventRef {
            lane: Lane(0),
            id: EventId { epoch: Epoch(1), lane: Lane(0), lsn: 1 },
            received,
            origin: "sensor",
            topic: "a/b",
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: Properties::new(list),
            payload: b"payload",
        };
        Event::copy(&event, &Memory::new(0), Sort::Deliveries)
    }

    #[test]
    fn a_copy_is_the_event() {
        let event = with_expiry(&mut Vec::new(), Received::Synced { unix_micros: 0 });
        assert_eq!((event.topic(), event.payload()), ("a/b", &b"payload"[..]));
        assert_eq!(event.properties().iter().count(), 1);
    }

    #[test]
    fn an_event_expires_when_its_time_is_over() {
        let event = with_expiry(&mut Vec::new(), Received::Synced { unix_micros: 5_000_000 });
        assert_eq!(event.expiry(5_000_000), Some(60));
        assert_eq!(event.expiry(64_999_999), Some(1));
        assert_eq!(event.expiry(65_000_000), Some(0));
        assert_eq!(event.expiry(i64::MAX), Some(0));
        assert_eq!(event.expiry(0), Some(60));
    }

    #[test]
    fn time_that_no_clock_measured_does_not_expire_an_event() {
        let unset = Received::SinceBoot { unix_micros: 5, boot: 1, nanos: 1 };
        let event = with_expiry(&mut Vec::new(), unset);
        assert_eq!(event.expiry(i64::MAX), Some(60));
        // The clock is still not set; the machine was started again.
        assert_eq!(event.expiry(20_000_005), Some(40));
        assert_eq!(event.expiry(1), Some(60));
    }
}
