//! What there is to know of a persistent session: the sum of its control records.
//!
//! Pure. The same records make it while its client is connected, when the log is read at the start,
//! and from the state; so a reconnect and a restart go on from the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidegate_event::{Lsn, Qos, record};

use super::super::codec::Will;
use super::records::{Detached, Flight, Position, Record, Subscription, What};

/// The state of one session (MQTT 5.0 section 4.1).
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Stored {
    /// Seconds that it outlasts its connection; [`u32::MAX`] is never-ending.
    pub(super) expiry: u32,
    /// The user that it belongs to, if its client had logged in.
    pub(super) user: Option<Box<str>>,
    /// None while its client is connected.
    pub(super) detached: Option<Detached>,
    pub(super) subscriptions: Vec<Subscription>,
    /// Everything before was sent, or need not be.
    pub(super) next: Lsn,
    /// The packet id that was given last.
    pub(super) last_id: u16,
    /// Deliveries under way, in the order in which they were sent; whether PUBREC came.
    pub(super) outgoing: VecDeque<(Flight, bool)>,
    /// Inbound QoS 2 packet ids that are in use.
    pub(super) incoming: BTreeSet<u16>,
}

impl Stored {
    /// A session that has just begun.
    pub(super) fn new(expiry: u32) -> Self {
        Self { expiry, ..Self::default() }
    }

    /// Takes in a record. [`Record::Ended`] leaves an empty one; [`Position::unsent`] is not kept here.
    pub(super) fn apply(&mut self, record: &Record<'_>) {
        match record {
            Record::Opened { expiry } => *self = Self::new(*expiry),
            Record::Ended => *self = Self::new(0),
            Record::Owned(user) => self.user = Some((&**user).into()),
            Record::Attached { expiry } => {
                self.expiry = *expiry;
                self.detached = None;
            }
            Record::Detached(detached) => {
                self.expiry = detached.expiry;
                self.detached = Some(detached.clone());
            }
            Record::Subscribed(list) => {
                for new in list.iter() {
                    match self.subscriptions.iter_mut().find(|old| old.filter == new.filter) {
                        Some(old) => *old = new.clone(),
                        None => self.subscriptions.push(new.clone()),
                    }
                }
            }
            Record::Unsubscribed(filters) => {
                self.subscriptions.retain(|old| !filters.contains(&old.filter));
            }
            Record::Greeted => {
                self.subscriptions.iter_mut().for_each(|old| old.greeting = false);
            }
            Record::Sent(flights) => {
                for flight in flights.iter() {
                    self.forget(flight.id);
                    self.last_id = flight.id;
                    if let What::Event(lsn) = flight.what {
                        self.next = self.next.max(lsn.saturating_add(1));
                    }
                    self.outgoing.push_back((flight.clone(), false));
                }
            }
            Record::Received(ids) => {
                for id in ids.iter() {
                    let flight = self.outgoing.iter_mut().find(|(flight, _)| flight.id == *id);
                    if let Some((_, received)) =
                        flight.filter(|(flight, _)| flight.qos == Qos::ExactlyOnce)
                    {
                        *received = true;
                    }
                }
            }
            Record::Done(ids) => ids.iter().for_each(|id| self.forget(*id)),
            Record::Released(ids) => ids.iter().for_each(|id| _ = self.incoming.remove(id)),
            Record::Taken(ids) => self.incoming.extend(ids.iter()),
            Record::Position(Position { next, last_id, .. }) => {
                (self.next, self.last_id) = (*next, *last_id);
            }
        }
    }

    /// Bytes that it takes, without its subscriptions.
    pub(super) fn memory(&self) -> usize {
        let will = self.detached.as_ref().and_then(|detached| detached.will.as_ref());
        self.outgoing.capacity() * size_of::<(Flight, bool)>()
            + self.incoming.len() * 8
            + will.map_or(0, Will::memory)
    }

    fn forget(&mut self, id: u16) {
        // Acknowledgements come in order, mostly.
        if let Some(at) = self.outgoing.iter().position(|(flight, _)| flight.id == id) {
            self.outgoing.remove(at);
        }
    }

    /// The QoS 1 events under way that groups gave it: others get them once it has ended. QoS 2 that
    /// was begun nobody else gets (`[MQTT-4.8.2-5]`).
    pub(super) fn shared(&self) -> BTreeMap<&Arc<str>, Vec<Lsn>> {
        let mut shared = BTreeMap::<_, Vec<Lsn>>::new();
        for (flight, _) in &self.outgoing {
            if let What::Shared(group, lsn) = &flight.what
                && flight.qos == Qos::AtLeastOnce
            {
                shared.entry(group).or_default().push(*lsn);
            }
        }
        shared
    }

    /// The first event that a delivery under way is of.
    pub(super) fn oldest_flight(&self) -> Option<Lsn> {
        let lsns = self.outgoing.iter().filter_map(|(flight, received)| match flight.what {
            What::Event(lsn) | What::Shared(_, lsn) if !received => Some(lsn),
            _ => None,
        });
        lsns.min()
    }

    /// The control blocks that make it anew: what the state holds.
    pub(super) fn encode(&self, unsent: Option<Lsn>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |record: Record<'_>| record.write("", &mut out);
        put(Record::Opened { expiry: self.expiry });
        if let Some(user) = &self.user {
            put(Record::Owned((&**user).into()));
        }
        put(Record::Subscribed((&self.subscriptions).into()));
        let flights: Vec<_> = self.outgoing.iter().map(|(flight, _)| flight.clone()).collect();
        put(Record::Sent(flights.into()));
        let received = self.outgoing.iter().filter(|(_, received)| *received);
        put(Record::Received(received.map(|(flight, _)| flight.id).collect()));
        put(Record::Taken(self.incoming.iter().copied().collect()));
        let (next, last_id) = (self.next, self.last_id);
        put(Record::Position(Position { next, last_id, unsent }));
        if let Some(detached) = &self.detached {
            put(Record::Detached(detached.clone()));
        }
        out
    }

    /// Reads what [`Stored::encode`] wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, Option<Lsn>)> {
        let mut stored = Self::default();
        let mut unsent = None;
        for block in record::blocks(bytes) {
            let Ok(record::Block::Control { control, body }) = block else { return None };
            let Some((_, record)) = Record::read(control, body).ok()? else { continue };
            if let Record::Position(position) = &record {
                unsent = position.unsent;
            }
            stored.apply(&record);
        }
        Some((stored, unsent))
    }
}
