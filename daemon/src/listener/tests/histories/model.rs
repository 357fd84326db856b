//! What MQTT allows a server to send to one session, in a few words.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_event::Filter;

/// A message, by the order in which they were published.
pub(super) type Number = u32;

/// A message that a client publishes.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: &'static str,
    pub(super) qos: u8,
    pub(super) publisher: usize,
    /// How often it left its publisher: with QoS 1 it may be stored as often.
    pub(super) copies: u32,
    /// PUBACK or PUBREC came.
    pub(super) acknowledged: bool,
}

/// A delivery that is not complete.
#[derive(Debug, Clone)]
struct Flight {
    number: Number,
    qos: u8,
    /// How the deliveries follow each other.
    order: u32,
    /// The connection on which it was sent last.
    on: u32,
    /// PUBACK or PUBREC has left, on that connection.
    answered: bool,
    /// PUBREL came.
    released: bool,
}

/// What came of a message so far.
#[derive(Debug, Default, Clone)]
struct Seen {
    /// By QoS; redeliveries do not count.
    times: [u32; 3],
}

/// One session, as its client sees it.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// It outlasts its connection.
    pub(super) kept: bool,
    /// The daemon was killed when it was about to end: it may be there or not.
    pub(super) unsure: bool,
    /// What each filter may be subscribed with; one entry where that is certain.
    subscriptions: BTreeMap<&'static str, BTreeSet<Option<u8>>>,
    flights: BTreeMap<u16, Flight>,
    /// QoS 1 deliveries of before a kill: how many may come again, as if for the first time.
    forgotten: BTreeMap<Number, u32>,
    /// The order of every delivery.
    orders: BTreeMap<(Number, u16), u32>,
    /// Packet ids whose PUBCOMP may not have been taken in, and on which connection it was sent; and
    /// all whose PUBCOMP was ever sent.
    completed: BTreeMap<u16, u32>,
    ever_completed: BTreeSet<u16>,
    /// Those whose PUBREL came once more, and was not answered.
    again: BTreeSet<u16>,
    seen: BTreeMap<Number, Seen>,
    /// By publisher and QoS: the newest message.
    newest: BTreeMap<(usize, u8), Number>,
    /// It has to get these, because of these filters.
    owed: BTreeMap<Number, BTreeSet<&'static str>>,
    /// These, once they are acknowledged.
    pending: BTreeMap<Number, BTreeSet<&'static str>>,
    /// It may get these.
    allowed: BTreeSet<Number>,
    /// With this QoS, and no other.
    exact: BTreeMap<Number, u8>,
    /// What was published before this connection began may come with DUP.
    old: Number,
    connection: u32,
    order: u32,
    /// The order of the newest redelivery on this connection.
    redelivered: u32,
    /// How many deliveries it takes at once.
    pub(super) window: usize,
}

/// What the client answers: PUBACK, PUBREC, PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Acknowledged(u16),
    Received(u16),
    Complete(u16),
}

impl Session {
    pub(super) fn begin(kept: bool) -> Self {
        Self { kept, ..Self::default() }
    }

    /// A connection begins.
    pub(super) fn attach(&mut self, kept: bool, window: usize, published: Number) {
        (self.kept, self.unsure, self.window) = (kept, false, window);
        self.old = if self.connection == 0 { 0 } else { published };
        self.connection += 1;
        self.redelivered = 0;
    }

    /// The daemon is gone with all that it did not have to have on disk: acknowledgements, and which
    /// QoS 1 deliveries it sent.
    pub(super) fn killed(&mut self) {
        self.flights.retain(|_, flight| flight.qos == 2);
        let sent = self.seen.iter().map(|(number, seen)| (*number, seen.times[1]));
        self.forgotten = sent.filter(|(_, times)| *times > 0).collect();
        self.completed = self.ever_completed.iter().map(|id| (*id, 0)).collect();
    }

    fn filters(&self, topic: &str) -> impl Iterator<Item = &BTreeSet<Option<u8>>> {
        let matching = move |filter: &str| Filter::new(filter).unwrap().matches(topic);
        self.subscriptions.iter().filter(move |(it, _)| matching(it)).map(|(_, may)| may)
    }

    /// The QoS that it is certain to have at least.
    fn certain(&self, topic: &str) -> Option<u8> {
        let certain = |may: &BTreeSet<Option<u8>>| *may.first().unwrap();
        self.filters(topic).filter_map(certain).max()
    }

    /// The filters because of which it is certain to get a message with QoS 1 or 2.
    fn lasting(&self, message: &Message) -> impl Iterator<Item = &'static str> {
        let certain = |may: &BTreeSet<Option<u8>>| {
            may.first().unwrap().is_some_and(|qos| qos.min(message.qos) > 0)
        };
        let matching = |filter: &str| Filter::new(filter).unwrap().matches(message.topic);
        let subscriptions = self.subscriptions.iter();
        subscriptions.filter(move |(it, may)| matching(it) && certain(may)).map(|(it, _)| *it)
    }

    fn possible(&self, topic: &str) -> Option<u8> {
        self.filters(topic).filter_map(|may| *may.last().unwrap()).max()
    }

    /// A message leaves its publisher for the first time.
    pub(super) fn published(&mut self, number: Number, message: &Message) {
        let Some(possible) = self.possible(message.topic) else { return };
        self.allowed.insert(number);
        if self.unsure {
            return;
        }
        let certain = self.certain(message.topic);
        if certain == Some(possible) {
            self.exact.insert(number, possible.min(message.qos));
        }
        let filters: BTreeSet<_> = self.lasting(message).collect();
        if !filters.is_empty() {
            self.pending.insert(number, filters);
        }
    }

    /// Its publisher has the acknowledgement.
    pub(super) fn acknowledged(&mut self, number: Number) {
        if let Some(filters) = self.pending.remove(&number)
            && !self.seen.contains_key(&number)
        {
            self.owed.insert(number, filters);
        }
    }

    /// Whether it was there before this connection, or one before.
    pub(super) fn outlived(&self) -> bool {
        self.connection > 1
    }

    /// A filter may be subscribed with `qos` from here on, or not at all.
    pub(super) fn may_subscribe(
        &mut self,
        filter: &'static str,
        qos: Option<u8>,
        messages: &[Message],
    ) {
        let before = self.subscriptions.entry(filter).or_insert_with(|| [None].into());
        before.insert(qos);
        let matching = Filter::new(filter).unwrap();
        for (number, message) in (0..).zip(messages).filter(|(_, it)| matching.matches(it.topic)) {
            self.exact.remove(&number);
            if !message.acknowledged && qos.is_some() {
                self.allowed.insert(number);
            }
        }
        // What was published for a subscription that has ended may come or not.
        if qos.is_none_or(|qos| qos == 0) {
            for due in [&mut self.owed, &mut self.pending] {
                due.retain(|_, filters| {
                    filters.remove(filter);
                    !filters.is_empty()
                });
            }
        }
    }

    /// It is.
    pub(super) fn subscribed(&mut self, filter: &'static str, qos: Option<u8>) {
        self.subscriptions.insert(filter, [qos].into());
    }

    /// PUBLISH came; answers what is to be sent.
    pub(super) fn delivered(
        &mut self,
        (qos, dup, id): (u8, bool, u16),
        number: Number,
        message: &Message,
    ) -> Option<Answer> {
        assert!(self.allowed.contains(&number), "{number} was not subscribed");
        // Its PUBACK was taken in: the packet id is free.
        self.flights.retain(|it, flight| *it != id || flight.qos == 2 || !flight.answered || dup);
        let known = self.flights.get_mut(&id).filter(|_| qos > 0);
        if let Some(flight) = known {
            assert_eq!(flight.number, number, "packet id {id} is in use");
            assert_eq!(flight.qos, qos, "{number} comes again with another QoS");
            assert!(dup, "{number} comes again without DUP");
            assert!(flight.on < self.connection, "{number} comes twice on one connection");
            assert!(!flight.released, "{number} comes again after its PUBREL");
            assert!(flight.order > self.redelivered, "{number} comes again out of order");
            self.redelivered = flight.order;
            (flight.on, flight.answered) = (self.connection, false);
        } else {
            self.first_delivery((qos, dup, id), number, message);
        }
        let (now, window) = (self.connection, self.window);
        let open = self.flights.values().filter(|it| it.on == now && !(it.qos == 1 && it.answered));
        assert!(open.count() <= window, "more than the receive maximum");
        match qos {
            0 => None,
            1 => Some(Answer::Acknowledged(id)),
            _ => Some(Answer::Received(id)),
        }
    }

    fn first_delivery(
        &mut self,
        (qos, dup, id): (u8, bool, u16),
        number: Number,
        message: &Message,
    ) {
        let seen = self.seen.entry(number).or_default();
        let again = self.forgotten.get_mut(&number).filter(|left| qos == 1 && **left > 0);
        let times = seen.times.iter().sum::<u32>();
        assert!(seen.times[2] == 0, "{number} comes again, and was delivered with QoS 2");
        assert!(qos < 2 || times == 0, "{number} comes again with QoS 2");
        assert!(qos > 0 || !dup, "{number}: DUP with QoS 0");
        assert!(qos == 0 || id > 0, "{number} has no packet id");
        let exact = self.exact.get(&number).copied();
        assert!(
            qos <= message.qos && exact.is_none_or(|exact| exact == qos),
            "{number}: QoS {qos}"
        );
        if let Some(left) = again {
            *left -= 1;
        } else {
            assert!(times < message.copies, "{number} comes {times} times and again");
            assert!(!dup || number < self.old, "{number} is new, and has DUP");
            seen.times[usize::from(qos)] += 1;
        }
        // A second copy may be the first that was subscribed.
        if times == 0 && message.copies == 1 {
            let newest = self.newest.insert((message.publisher, qos), number);
            assert!(newest.is_none_or(|newest| newest < number), "{number} comes after {newest:?}");
        }
        if qos > 0 {
            self.order += 1;
            self.completed.remove(&id);
            let order = *self.orders.entry((number, id)).or_insert(self.order);
            let on = self.connection;
            let flight = Flight { number, qos, order, on, answered: false, released: false };
            self.flights.insert(id, flight);
            self.owed.remove(&number);
            self.pending.remove(&number);
        }
    }

    /// PUBREL came.
    pub(super) fn released(&mut self, id: u16) -> Answer {
        match self.flights.get_mut(&id) {
            Some(flight) => {
                assert_eq!(flight.qos, 2, "PUBREL {id} of QoS 1");
                assert!(flight.answered, "PUBREL {id} before PUBREC");
                flight.released = true;
            }
            None => {
                assert!(self.completed.contains_key(&id), "PUBREL {id} of nothing");
                self.again.insert(id);
            }
        }
        Answer::Complete(id)
    }

    /// The answer leaves.
    pub(super) fn answered(&mut self, answer: Answer) {
        let (Answer::Acknowledged(id) | Answer::Received(id) | Answer::Complete(id)) = answer;
        match answer {
            Answer::Complete(_) => {
                self.flights.remove(&id);
                self.again.remove(&id);
                self.completed.insert(id, self.connection);
                self.ever_completed.insert(id);
            }
            _ => self.flights.get_mut(&id).into_iter().for_each(|flight| flight.answered = true),
        }
    }

    /// What was answered has been taken in.
    pub(super) fn confirmed(&mut self) {
        let now = self.connection;
        self.flights.retain(|_, it| it.qos == 2 || !it.answered || it.on < now);
        let again = &self.again;
        self.completed.retain(|id, on| *on < now || again.contains(id));
    }

    /// What it has to get, or to complete.
    pub(super) fn open(&self) -> Option<String> {
        let open = self.flights.values().any(|flight| flight.qos == 2 || !flight.answered);
        let some = open || !self.owed.is_empty();
        some.then(|| format!("owed {:?}, under way {:?}", self.owed, self.flights))
    }
}
