//! What a client and the gateway owe each other: QoS 1 and 2 in both directions (MQTT 5.0 section
//! 4.3, 4.4, 4.9). A pure state machine: it is told what came and what was stored, and answers what
//! to do.
//!
//! Inbound, a packet id is in use from its PUBLISH to our PUBACK, or, with QoS 2, to our PUBCOMP: in
//! between the same PUBLISH may come again, and is not stored again. Outbound, a packet id is in use
//! until the client's PUBACK or PUBCOMP.
//!
//! Of a session that outlasts its connection it also notes what happens: that is to be in the log
//! ([`super::sessions`]).

use std::collections::HashMap;

use tidegate_event::Qos;

use super::codec::{Ack, Bad, Reason};
use super::sessions::{Flight, Resumed, What};
use crate::bus::Loan;

/// The state of one session.
#[derive(Debug)]
pub(super) struct Session {
    /// Inbound QoS 1 events that wait for their commit.
    unacknowledged: usize,
    /// Inbound QoS 2 packet ids in use.
    incoming: HashMap<u16, Incoming>,
    /// How many of them are carried over.
    carried: usize,
    /// How many inbound packet ids an MQTT 5 client may use at once; a 3.1.1 client was told nothing.
    receive_maximum: Option<usize>,
    /// Outbound packet ids in use.
    outgoing: HashMap<u16, Out>,
    /// Of shared subscriptions, with QoS 1, of a session that ends with its connection: until they are
    /// acknowledged.
    loans: HashMap<u16, Loan>,
    /// How many deliveries may be sent until one is acknowledged (MQTT 5.0 section 4.9).
    quota: usize,
    last_id: u16,
    /// What happened since this was looked at; none for a session that ends with its connection.
    notes: Option<Box<Notes>>,
}

/// What happened to a session that is kept.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Inbound QoS 2 packet ids whose events are stored.
    pub(super) taken: Vec<u16>,
    /// Those whose PUBREL came.
    pub(super) released: Vec<u16>,
    /// Deliveries that are about to leave.
    pub(super) sent: Vec<Flight>,
    /// Those of them that are of shared subscriptions: until the log has them as sent.
    pub(super) loans: Vec<Loan>,
    /// Those whose PUBREC came.
    pub(super) received: Vec<u16>,
    /// Those that need nothing more.
    pub(super) done: Vec<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incoming {
    /// It waits for its commit.
    Waiting,
    /// The client has our PUBREC; its PUBREL comes next.
    Received,
    /// The same, since an earlier connection: it takes no part in the receive maximum of this one.
    Carried,
}

/// A delivery that is not complete.
#[derive(Debug, Clone, Copy)]
struct Out {
    state: Outgoing,
    /// Whether its PUBLISH left on this connection: only then it takes part in the window.
    counts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outgoing {
    /// QoS 1, until PUBACK.
    Sent,
    /// QoS 2, until PUBREC.
    SentTwo,
    /// QoS 2, until PUBCOMP.
    Released,
}

/// What to do with a delivery of an earlier connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resend {
    /// Send it with its packet id, and the DUP flag.
    Publish,
    /// The client has it: send PUBREL.
    Release,
    /// Once the window opens.
    Later,
    /// It was acknowledged meanwhile.
    Never,
}

/// What to do with a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inbound {
    /// Store it, and acknowledge it when that is done.
    Store,
    /// It is stored; send PUBREC again.
    Acknowledge,
    /// It is about to be stored; its PUBREC comes then.
    Ignore,
}

impl Session {
    /// `receive_maximum` is what the client was told, if it could be; `window` is how many deliveries
    /// it takes at once, at least 1.
    pub(super) fn new(receive_maximum: Option<usize>, window: usize) -> Self {
        Self {
            unacknowledged: 0,
            incoming: HashMap::new(),
            carried: 0,
            receive_maximum,
            outgoing: HashMap::new(),
            loans: HashMap::new(),
            quota: window,
            last_id: 0,
            notes: None,
        }
    }

    /// A session that outlasts its connection, as an earlier one left it.
    pub(super) fn kept(receive_maximum: Option<usize>, window: usize, before: &Resumed) -> Self {
        let outgoing = before.outgoing.iter().map(|(flight, received)| {
            let state = match flight.qos {
                _ if *received => Outgoing::Released,
                Qos::ExactlyOnce => Outgoing::SentTwo,
                _ => Outgoing::Sent,
            };
            (flight.id, Out { state, counts: false })
        });
        Self {
            outgoing: outgoing.collect(),
            incoming: before.incoming.iter().map(|id| (*id, Incoming::Carried)).collect(),
            carried: before.incoming.len(),
            last_id: before.last_id,
            notes: Some(Box::default()),
            ..Self::new(receive_maximum, window)
        }
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        // A hash table has a byte of its own for each entry.
        self.incoming.capacity() * (size_of::<(u16, Incoming)>() + 1)
            + self.outgoing.capacity() * (size_of::<(u16, Out)>() + 1)
            + self.loans.capacity() * (size_of::<(u16, Loan)>() + 1)
    }

    /// What happened since this was emptied last.
    pub(super) fn notes(&mut self) -> Option<&mut Notes> {
        self.notes.as_deref_mut()
    }

    fn note(&mut self, note: impl FnOnce(&mut Notes)) {
        if let Some(notes) = &mut self.notes {
            note(notes);
        }
    }

    /// Whether a PUBLISH came before, and is not to be stored again.
    pub(super) fn knows(&self, qos: Qos, id: u16) -> bool {
        qos == Qos::ExactlyOnce && self.incoming.contains_key(&id)
    }

    /// A PUBLISH came.
    pub(super) fn publish(&mut self, qos: Qos, id: u16) -> Result<Inbound, Bad> {
        match qos {
            Qos::AtMostOnce => return Ok(Inbound::Store),
            Qos::AtLeastOnce => self.unacknowledged += 1,
            Qos::ExactlyOnce => match self.incoming.get(&id) {
                Some(Incoming::Received | Incoming::Carried) => return Ok(Inbound::Acknowledge),
                Some(Incoming::Waiting) => return Ok(Inbound::Ignore),
                None => _ = self.incoming.insert(id, Incoming::Waiting),
            },
        }
        let used = self.unacknowledged + self.incoming.len() - self.carried;
        if self.receive_maximum.is_some_and(|maximum| used > maximum) {
            return Err(Bad(Reason::ReceiveMaximumExceeded, "more PUBLISH than receive maximum"));
        }
        Ok(Inbound::Store)
    }

    /// The PUBACK or PUBREC of an inbound PUBLISH leaves; `stored` or refused (`[MQTT-4.3.3-9]`: then
    /// the packet id is free).
    pub(super) fn acknowledged(&mut self, qos: Qos, id: u16, stored: bool) {
        match qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.unacknowledged = self.unacknowledged.saturating_sub(1),
            Qos::ExactlyOnce if stored => {
                self.incoming.insert(id, Incoming::Received);
                self.note(|notes| notes.taken.push(id));
            }
            Qos::ExactlyOnce => _ = self.incoming.remove(&id),
        }
    }

    /// A PUBREL came. Answers what the PUBCOMP says.
    pub(super) fn pubrel(&mut self, id: u16) -> Result<Reason, Bad> {
        // An id that is not known too: an earlier PUBREL may not have come to the log.
        self.note(|notes| notes.released.push(id));
        match self.incoming.remove(&id) {
            Some(Incoming::Received) => Ok(Reason::Success),
            Some(Incoming::Carried) => {
                self.carried -= 1;
                Ok(Reason::Success)
            }
            Some(Incoming::Waiting) => Err(Bad::protocol("PUBREL before the PUBREC")),
            None => Ok(Reason::PacketIdNotFound),
        }
    }

    /// A packet id for a delivery with QoS 1 or 2; none while the window is full.
    pub(super) fn send(&mut self, qos: Qos) -> Option<u16> {
        if !self.has_window() {
            return None;
        }
        let state = if qos == Qos::ExactlyOnce { Outgoing::SentTwo } else { Outgoing::Sent };
        // One is free: see has_window.
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if let std::collections::hash_map::Entry::Vacant(free) =
                self.outgoing.entry(self.last_id)
            {
                free.insert(Out { state, counts: true });
                self.quota -= 1;
                return Some(self.last_id);
            }
        }
    }

    /// The delivery that has this packet id now leaves.
    pub(super) fn sent(
        &mut self,
        id: u16,
        qos: Qos,
        what: impl FnOnce() -> What,
        loan: Option<Loan>,
    ) {
        match (&mut self.notes, loan) {
            (Some(notes), loan) => {
                notes.sent.push(Flight { id, qos, what: what() });
                notes.loans.extend(loan);
            }
            // Nobody else gets it any more (`[MQTT-4.8.2-5]`).
            (None, Some(loan)) if qos == Qos::ExactlyOnce => loan.settle(),
            (None, Some(loan)) => _ = self.loans.insert(id, loan),
            (None, None) => {}
        }
    }

    /// The delivery with this packet id was not sent after all.
    pub(super) fn unsend(&mut self, id: u16) {
        self.outgoing.remove(&id);
        self.quota += 1;
    }

    /// A delivery of an earlier connection is to be sent again: whether that is still so, and there is
    /// room for it in the window.
    pub(super) fn resend(&mut self, id: u16) -> Resend {
        match self.outgoing.get_mut(&id) {
            None => Resend::Never,
            Some(out) if out.state == Outgoing::Released => Resend::Release,
            Some(_) if self.quota == 0 => Resend::Later,
            Some(out) => {
                out.counts = true;
                self.quota -= 1;
                Resend::Publish
            }
        }
    }

    /// A delivery of an earlier connection cannot be sent again, or need not.
    pub(super) fn give_up(&mut self, id: u16) {
        if self.outgoing.contains_key(&id) {
            self.done(id);
        }
    }

    /// Whether another delivery with QoS 1 or 2 may leave.
    pub(super) fn has_window(&self) -> bool {
        self.window() > 0
    }

    /// How many more may leave.
    pub(super) fn window(&self) -> usize {
        self.quota.min(usize::from(u16::MAX).saturating_sub(self.outgoing.len()))
    }

    /// The connection ends. What it did not acknowledge of shared subscriptions others get.
    pub(super) fn close(&mut self) {
        self.loans.clear();
    }

    fn done(&mut self, id: u16) {
        if self.outgoing.remove(&id).is_some_and(|out| out.counts) {
            self.quota += 1;
        }
        if !self.loans.is_empty()
            && let Some(loan) = self.loans.remove(&id)
        {
            loan.settle();
        }
        self.note(|notes| notes.done.push(id));
    }

    fn is(&self, id: u16, state: Outgoing) -> bool {
        self.outgoing.get(&id).is_some_and(|out| out.state == state)
    }

    /// A PUBACK came. One for an id that is not in use changes nothing.
    pub(super) fn puback(&mut self, ack: Ack) {
        if self.is(ack.id, Outgoing::Sent) {
            self.done(ack.id);
        }
    }

    /// A PUBREC came. Answers what the PUBREL says, if one is due.
    pub(super) fn pubrec(&mut self, ack: Ack) -> Option<Reason> {
        match self.outgoing.get_mut(&ack.id).map(|out| &mut out.state) {
            Some(Outgoing::SentTwo | Outgoing::Released) if ack.is_refusal() => {
                self.done(ack.id);
                None
            }
            Some(state @ (Outgoing::SentTwo | Outgoing::Released)) => {
                *state = Outgoing::Released;
                self.note(|notes| notes.received.push(ack.id));
                Some(Reason::Success)
            }
            _ if ack.is_refusal() => None,
            _ => Some(Reason::PacketIdNotFound),
        }
    }

    /// A PUBCOMP came. One for an id that is not in use changes nothing.
    pub(super) fn pubcomp(&mut self, ack: Ack) {
        if self.is(ack.id, Outgoing::Released) {
            self.done(ack.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(id: u16) -> Ack {
        Ack { id, code: 0 }
    }

    fn refusal(id: u16) -> Ack {
        Ack { id, code: 0x80 }
    }

    const TWO: Qos = Qos::ExactlyOnce;

    #[test]
    fn a_resent_qos_2_publish_is_stored_once() {
        let mut session = Session::new(Some(10), 10);
        assert_eq!(session.publish(TWO, 7), Ok(Inbound::Store));
        assert_eq!(session.publish(TWO, 7), Ok(Inbound::Ignore));
        session.acknowledged(TWO, 7, true);
        assert_eq!(session.publish(TWO, 7), Ok(Inbound::Acknowledge));
        assert_eq!(session.pubrel(7), Ok(Reason::Success));
        assert_eq!(session.pubrel(7), Ok(Reason::PacketIdNotFound));
        assert_eq!(session.publish(TWO, 7), Ok(Inbound::Store));
    }

    #[test]
    fn a_refused_qos_2_publish_frees_its_id() {
        let mut session = Session::new(Some(1), 10);
        assert_eq!(session.publish(TWO, 7), Ok(Inbound::Store));
        session.acknowledged(TWO, 7, false);
        assert_eq!(session.publish(TWO, 7), Ok(Inbound::Store));
    }

    #[test]
    fn a_pubrel_before_the_pubrec_breaks_the_protocol() {
        let mut session = Session::new(Some(1), 10);
        assert_eq!(session.publish(TWO, 7), Ok(Inbound::Store));
        assert_eq!(session.pubrel(7).map_err(|bad| bad.0), Err(Reason::Protocol));
    }

    #[test]
    fn the_receive_maximum_counts_qos_1_and_2_and_not_0() {
        let mut session = Session::new(Some(2), 10);
        for qos in [Qos::AtLeastOnce, TWO, Qos::AtMostOnce] {
            assert_eq!(session.publish(qos, 1), Ok(Inbound::Store), "{qos:?}");
        }
        let exceeded = session.publish(Qos::AtLeastOnce, 2).map_err(|bad| bad.0);
        assert_eq!(exceeded, Err(Reason::ReceiveMaximumExceeded));
    }

    #[test]
    fn a_client_that_was_told_no_receive_maximum_has_none() {
        let mut session = Session::new(None, 10);
        for id in 1..=u16::MAX {
            assert_eq!(session.publish(TWO, id), Ok(Inbound::Store));
        }
    }

    #[test]
    fn the_window_opens_with_each_acknowledgement() {
        let mut session = Session::new(None, 2);
        assert_eq!(session.send(Qos::AtLeastOnce), Some(1));
        assert_eq!(session.send(TWO), Some(2));
        assert_eq!(session.send(TWO), None);
        session.puback(ack(2));
        session.pubcomp(ack(1));
        assert!(!session.has_window(), "acknowledgements of the wrong kind count for nothing");
        session.puback(ack(1));
        assert_eq!(session.send(TWO), Some(3));
        assert_eq!(session.pubrec(ack(2)), Some(Reason::Success));
        assert_eq!(session.pubrec(ack(2)), Some(Reason::Success));
        assert_eq!(session.send(TWO), None);
        session.pubcomp(ack(2));
        assert_eq!(session.pubrec(refusal(3)), None);
        assert_eq!((session.send(TWO), session.send(TWO)), (Some(4), Some(5)));
    }

    #[test]
    fn a_pubrec_for_an_unknown_id_is_told_so() {
        let mut session = Session::new(None, 2);
        assert_eq!(session.pubrec(ack(9)), Some(Reason::PacketIdNotFound));
        assert_eq!(session.pubrec(refusal(9)), None);
    }

    #[test]
    fn packet_ids_wrap_around_and_pass_over_those_in_use() {
        let mut session = Session::new(None, 2);
        assert_eq!(session.send(TWO), Some(1));
        for _ in 2..=u16::MAX {
            let id = session.send(Qos::AtLeastOnce).unwrap();
            session.puback(ack(id));
        }
        assert_eq!(session.send(Qos::AtLeastOnce), Some(2));
    }
}
