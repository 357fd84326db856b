//! What was under way when the last connection ended, read from the log to be sent again.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use tidegate_event::Lsn;
use tracing::warn;

use super::{Flight, Resumed, Sessions, What};
use crate::bus::{Delivery, Subscriber, SubscriberError};
use crate::log::{Chunk, Log, Read, ReadError, Reader};

/// Bytes read from the log at once.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of events in memory at once.
const PORTION: usize = 64 * 1024;
/// Events that are read to get to the next one that is needed; a larger gap is passed over.
const NEAR: Lsn = 1000;

/// A delivery to be sent again under its packet id.
#[derive(Debug)]
pub(in crate::listener) struct Resending {
    pub(in crate::listener) id: u16,
    /// None if PUBREL is due, or if the log does not have the event any more.
    pub(in crate::listener) delivery: Option<Delivery>,
}

/// Deliveries that are still to be sent again, in their order.
#[derive(Debug)]
pub(in crate::listener) struct Again {
    log: Arc<Log>,
    flights: VecDeque<(Flight, bool)>,
    reader: Option<Reader>,
    chunk: Chunk,
}

impl Sessions {
    /// What is to be sent again of a session that was resumed.
    pub(in crate::listener) fn again(&self, resumed: &Resumed) -> Option<Again> {
        (!resumed.outgoing.is_empty()).then(|| Again {
            log: Arc::clone(&self.0.log),
            flights: resumed.outgoing.clone(),
            reader: None,
            chunk: Chunk::default(),
        })
    }
}

impl Again {
    /// Puts what comes next into `into`, which is empty. False once nothing is left.
    pub(in crate::listener) async fn fill(
        &mut self,
        subscriber: &Subscriber,
        into: &mut VecDeque<Resending>,
    ) -> Result<bool, SubscriberError> {
        let mut bytes = 0;
        while bytes < PORTION
            && let Some((flight, received)) = self.flights.pop_front()
        {
            let delivery = match &flight.what {
                _ if received => None,
                What::Event(lsn) => self.find(*lsn, &flight, None, subscriber)?,
                What::Shared(group, lsn) => self.find(*lsn, &flight, Some(group), subscriber)?,
                What::Retained(topic) => {
                    let message = subscriber.retained(topic).await?;
                    message.map(|message| Delivery { qos: flight.qos, ..message })
                }
            };
            bytes += delivery.as_ref().map_or(0, Delivery::size) + size_of::<Resending>();
            into.push_back(Resending { id: flight.id, delivery });
        }
        Ok(!self.flights.is_empty())
    }

    /// The topics of the retained messages that are to be sent again.
    pub(in crate::listener) fn topics(&self) -> HashSet<Box<str>> {
        let topics = self.flights.iter().filter_map(|(flight, _)| match &flight.what {
            What::Retained(topic) => Some(topic.clone()),
            What::Event(_) | What::Shared(..) => None,
        });
        topics.collect()
    }

    /// Reads one event from the log.
    fn find(
        &mut self,
        lsn: Lsn,
        flight: &Flight,
        group: Option<&str>,
        subscriber: &Subscriber,
    ) -> Result<Option<Delivery>, ReadError> {
        let mut passed = lsn > self.log.committed();
        loop {
            let found = {
                let mut events = self.chunk.frames().flat_map(|frame| frame.events()).flatten();
                let event = events.find(|event| event.lsn() == lsn);
                event.map(|event| subscriber.again(&event, flight.qos, group))
            };
            if found.is_some() {
                return Ok(found);
            }
            if passed {
                warn!(
                    id = flight.id,
                    lsn, "an event that was sent before is not in the log any more"
                );
                return Ok(None);
            }
            let near =
                |reader: &Reader| (reader.position()..=reader.position() + NEAR).contains(&lsn);
            let reader = match self.reader.take().filter(near) {
                Some(reader) => reader,
                None => self.log.reader(lsn),
            };
            let reader = self.reader.insert(reader);
            let read = reader.read(&mut self.chunk, READ_BYTES)?;
            passed = read == Read::Tail || reader.position() > lsn;
        }
    }
}
