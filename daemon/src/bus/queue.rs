//! What waits for one session: filled by the bus, emptied by the session.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tidegate_event::{Lsn, Qos};

use super::event::Delivery;

/// A queue of deliveries, bounded in bytes.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// What the session took, and may not have sent to its end, begins here.
    taken: Option<Lsn>,
    /// From here on the session reads the log itself; nothing more is queued until it is back.
    behind: Option<Lsn>,
    /// Nobody takes anything: not even one delivery is queued.
    parked: bool,
    waker: Option<Waker>,
}

/// What became of the deliveries that [`Queue::push`] was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pushed {
    /// Waiting now.
    pub(super) queued: u64,
    /// QoS 0, and no room.
    pub(super) dropped: u64,
    /// Whether the session fell behind just now: it was slow.
    pub(super) fell_behind: bool,
    /// Whether nothing is taken until [`Queue::rejoin`].
    pub(super) behind: bool,
}

/// What [`Queue::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Some deliveries, or none.
    Deliveries,
    /// None are left, and the session goes on from the log, at this LSN.
    Behind(Lsn),
}

impl State {
    fn unsent(&self) -> Option<Lsn> {
        let queued = || self.deliveries.iter().find_map(|delivery| delivery.lsn);
        self.taken.or_else(queued).or(self.behind)
    }
}

impl Queue {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::default(), max_bytes }
    }

    /// A parked one, whose session has something to read in the log from `behind` on.
    pub(super) fn parked(max_bytes: usize, behind: Option<Lsn>) -> Self {
        let state = State { behind, parked: true, ..State::default() };
        Self { state: Mutex::new(state), max_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends deliveries with the LSNs of their events, in order.
    pub(super) fn push(&self, deliveries: &mut Vec<(Lsn, Delivery)>) -> Pushed {
        let mut pushed = Pushed::default();
        let waker = {
            let mut state = self.lock();
            if state.behind.is_some() {
                deliveries.clear();
                pushed.behind = true;
                return pushed;
            }
            for (lsn, delivery) in deliveries.drain(..) {
                let size = delivery.size();
                let fits = state.bytes + size <= self.max_bytes || state.deliveries.is_empty();
                if fits && !state.parked {
                    state.bytes += size;
                    state.deliveries.push_back(delivery);
                    pushed.queued += 1;
                } else if delivery.qos == Qos::AtMostOnce {
                    pushed.dropped += u64::from(!state.parked);
                } else {
                    state.behind = Some(lsn);
                    pushed.fell_behind = !state.parked;
                    pushed.behind = true;
                    break;
                }
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        pushed
    }

    /// Moves everything that waits to `into`, which is empty: what was taken before is sent. The
    /// queue keeps no memory.
    pub(super) fn take(&self, into: &mut VecDeque<Delivery>) -> Taken {
        let mut state = self.lock();
        state.taken = None;
        match state.behind {
            Some(from) if state.deliveries.is_empty() => Taken::Behind(from),
            _ => {
                *into = std::mem::take(&mut state.deliveries);
                state.bytes = 0;
                state.taken = into.iter().find_map(|delivery| delivery.lsn);
                Taken::Deliveries
            }
        }
    }

    /// The session reads the log itself, and has sent everything before `from`.
    pub(super) fn reads_from(&self, from: Lsn) {
        self.lock().taken = Some(from);
    }

    /// The session will be back in time: deliveries are queued again. Not if it was parked meanwhile:
    /// then the answer is false, and it stays behind.
    pub(super) fn rejoin(&self) -> bool {
        let mut state = self.lock();
        if !state.parked {
            state.behind = None;
        }
        !state.parked
    }

    /// The session has gone: what it did not send it will read in the log. It sent everything before
    /// `next`.
    pub(super) fn park(&self, next: Lsn) {
        let mut state = self.lock();
        state.behind = state.unsent().map(|unsent| unsent.max(next));
        (state.deliveries, state.bytes) = (VecDeque::new(), 0);
        (state.taken, state.waker) = (None, None);
        state.parked = true;
    }

    /// The session is back.
    pub(super) fn unpark(&self) {
        self.lock().parked = false;
    }

    /// The first event that the session may not have sent; none if it has everything that the bus has
    /// handed out.
    pub(super) fn unsent(&self) -> Option<Lsn> {
        self.lock().unsent()
    }

    /// Ready when [`Queue::take`] would find something. What was taken before is sent.
    pub(super) fn poll_ready(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        state.taken = None;
        if state.deliveries.is_empty() && state.behind.is_none() {
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                state.waker = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use tidegate_event::record::Properties;
    use tidegate_event::{Epoch, EventId, EventRef, Lane, Received};

    use super::super::event::Event;
    use super::*;

    fn delivery(lsn: Lsn, qos: Qos) -> (Lsn, Delivery) {
        let event = Event::copy(&EventRef {
            id: EventId { epoch: Epoch(1), lane: Lane(0), lsn },
            received: Received::Synced { unix_micros: 0 },
            origin: "sensor",
            topic: "t",
            qos,
            retain: false,
            properties: Properties::default(),
            payload: &[0; 100],
        });
        (lsn, Delivery { qos, ..Delivery::of(event, lsn) })
    }

    fn room_for(count: usize) -> Queue {
        Queue::new(count * delivery(1, Qos::AtMostOnce).1.size())
    }

    fn take(queue: &Queue) -> (Taken, usize) {
        let mut into = VecDeque::new();
        let taken = queue.take(&mut into);
        (taken, into.len())
    }

    #[test]
    fn beyond_its_bound_qos_0_is_dropped_and_counted() {
        let queue = room_for(2);
        let mut events = (1..=5).map(|lsn| delivery(lsn, Qos::AtMostOnce)).collect();
        assert_eq!(queue.push(&mut events), Pushed { queued: 2, dropped: 3, ..Pushed::default() });
        assert_eq!(take(&queue), (Taken::Deliveries, 2));
        assert_eq!(take(&queue), (Taken::Deliveries, 0));
    }

    #[test]
    fn beyond_its_bound_qos_1_comes_from_the_log_until_the_session_is_back() {
        let queue = room_for(2);
        let mut events = (1..=5).map(|lsn| delivery(lsn, Qos::AtLeastOnce)).collect();
        let pushed = Pushed { queued: 2, dropped: 0, fell_behind: true, behind: true };
        assert_eq!(queue.push(&mut events), pushed);
        let pushed = Pushed { behind: true, ..Pushed::default() };
        assert_eq!(queue.push(&mut vec![delivery(6, Qos::AtLeastOnce)]), pushed);
        assert_eq!(take(&queue), (Taken::Deliveries, 2));
        assert_eq!(take(&queue), (Taken::Behind(3), 0));
        queue.rejoin();
        assert_eq!(queue.push(&mut vec![delivery(7, Qos::AtLeastOnce)]).queued, 1);
        assert_eq!(take(&queue), (Taken::Deliveries, 1));
    }

    #[test]
    fn an_event_larger_than_the_bound_passes_alone() {
        let queue = Queue::new(1);
        assert_eq!(queue.push(&mut vec![delivery(1, Qos::AtMostOnce)]).queued, 1);
    }

    #[test]
    fn a_parked_queue_notes_the_first_event_that_it_owes() {
        let queue = room_for(9);
        queue.park(0);
        assert_eq!(queue.push(&mut vec![delivery(1, Qos::AtMostOnce)]), Pushed::default());
        assert_eq!(queue.unsent(), None);
        let mut events = (2..=5).map(|lsn| delivery(lsn, Qos::AtLeastOnce)).collect();
        let pushed = queue.push(&mut events);
        assert_eq!(pushed, Pushed { behind: true, ..Pushed::default() });
        assert_eq!(queue.unsent(), Some(2));
        queue.unpark();
        assert_eq!(take(&queue), (Taken::Behind(2), 0));
    }

    #[test]
    fn parking_goes_back_to_the_first_event_that_was_not_sent() {
        let queue = room_for(9);
        queue.push(&mut (1..=2).map(|lsn| delivery(lsn, Qos::AtLeastOnce)).collect());
        assert_eq!(queue.unsent(), Some(1));
        take(&queue);
        queue.push(&mut (3..=4).map(|lsn| delivery(lsn, Qos::AtLeastOnce)).collect());
        assert_eq!(queue.unsent(), Some(1), "taken, and who knows whether it was sent");
        take(&queue);
        assert_eq!(queue.unsent(), Some(3));
        queue.park(4);
        assert_eq!(queue.unsent(), Some(4));
        queue.unpark();
        queue.rejoin();
        assert_eq!(take(&queue), (Taken::Deliveries, 0));
        queue.park(0);
        assert_eq!(queue.unsent(), None);
    }
}
