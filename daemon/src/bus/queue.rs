//! What waits for one session: filled by the bus, emptied by the session.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tidegate_event::{Lsn, Qos};

use super::event::Delivery;
use crate::memory::{Claim, Memory, Room, Sort};

/// Who has asked for nothing for that long, though something waited, is slow: when memory is tight, it is the
/// first to lose what waits for it.
const SLOW: Duration = Duration::from_millis(500);
/// Bytes that may wait for each session that takes, however little memory there is.
const LEAST: usize = 8 * 1024;
/// A queue grows up to this part of what is left for all: however many fill up, as much is left for each
/// other.
const PART: usize = 16;
/// Bytes that are taken at once when memory is tight.
const PORTION: usize = 8 * 1024;

/// A queue of deliveries, bounded in bytes: each by itself, and all together by `limits.max-memory`.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    max_bytes: usize,
    memory: Memory,
}

#[derive(Debug)]
struct State {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// The queue's own memory; that of the events is theirs.
    own: Claim,
    /// Since when something waits, and nothing was taken.
    waits: Option<Instant>,
    /// The session has asked since it took something last: if it does not take, it is we who are slow.
    asked: bool,
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

/// Whether who is to take what waits is slow: `asked` says whether they asked since they took last, `waits`
/// since when something waits.
pub(super) fn is_slow(asked: bool, waits: Option<Instant>) -> bool {
    !asked && waits.is_some_and(|since| since.elapsed() >= SLOW)
}

/// Bytes that may wait in a queue of at most `max_bytes`, as memory is now.
pub(super) fn bound(memory: &Memory, max_bytes: usize, slow: bool) -> usize {
    let left = memory.left(Sort::Deliveries) / PART;
    if slow { 0 } else { left.max(LEAST).min(max_bytes) }
}

impl State {
    fn unsent(&self) -> Option<Lsn> {
        let queued = || self.deliveries.iter().find_map(|delivery| delivery.lsn);
        self.taken.or_else(queued).or(self.behind)
    }

    fn is_slow(&self) -> bool {
        is_slow(self.asked, self.waits)
    }

    /// Lets go what waits: the session goes on from the log, if it is owed something with QoS 1 or 2, and
    /// gets what came with QoS 0 before that nowhere.
    fn shed(&mut self, pushed: &mut Pushed) {
        let owed = |delivery: &Delivery| delivery.lsn.filter(|_| delivery.qos > Qos::AtMostOnce);
        let kept = self.deliveries.iter().find_map(owed);
        let before = |delivery: &&Delivery| kept.is_none_or(|kept| delivery.lsn < Some(kept));
        pushed.dropped += self.deliveries.iter().filter(before).count() as u64;
        if kept.is_some() {
            (self.behind, pushed.fell_behind) = (kept, true);
        }
        (self.deliveries, self.bytes) = (VecDeque::new(), 0);
        self.note_capacity();
    }

    /// Moves the first of what waits to `into`.
    fn take_portion(&mut self, into: &mut VecDeque<Delivery>) {
        let mut taken = 0;
        while taken < PORTION
            && let Some(delivery) = self.deliveries.pop_front()
        {
            taken += delivery.size();
            into.push_back(delivery);
        }
        self.bytes -= taken;
        if self.deliveries.is_empty() {
            self.deliveries = VecDeque::new();
        }
    }

    fn note_capacity(&mut self) {
        self.own.set(self.deliveries.capacity() * size_of::<Delivery>());
    }
}

impl Queue {
    pub(super) fn new(max_bytes: usize, memory: Memory) -> Self {
        let state = State {
            deliveries: VecDeque::new(),
            bytes: 0,
            own: memory.claim(Sort::Deliveries, 0),
            waits: None,
            asked: false,
            taken: None,
            behind: None,
            parked: false,
            waker: None,
        };
        Self { state: Mutex::new(state), max_bytes, memory }
    }

    /// A parked one, whose session has something to read in the log from `behind` on.
    pub(super) fn parked(max_bytes: usize, memory: Memory, behind: Option<Lsn>) -> Self {
        let queue = Self::new(max_bytes, memory);
        {
            let mut state = queue.lock();
            (state.behind, state.parked) = (behind, true);
        }
        queue
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends deliveries with the LSNs of their events, in order.
    pub(super) fn push(&self, deliveries: &mut Vec<(Lsn, Delivery)>) -> Pushed {
        let mut pushed = Pushed::default();
        let waker = {
            let mut state = self.lock();
            let room = self.memory.room();
            let slow = room > Room::Plenty && state.is_slow();
            if slow {
                state.shed(&mut pushed);
            }
            let bound = bound(&self.memory, self.max_bytes, slow);
            if state.behind.is_some() {
                deliveries.clear();
                pushed.behind = true;
                return pushed;
            }
            for (lsn, delivery) in deliveries.drain(..) {
                let size = delivery.size();
                let alone = state.deliveries.is_empty() && !slow && room < Room::None;
                let fits = state.bytes + size <= bound || alone;
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
            if pushed.queued > 0 {
                state.waits.get_or_insert_with(Instant::now);
            }
            state.note_capacity();
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        pushed
    }

    /// Moves what waits to `into`, which is empty: what was taken before is sent. The queue keeps no
    /// memory. When memory is tight, it is not everything at once.
    pub(super) fn take(&self, into: &mut VecDeque<Delivery>) -> Taken {
        let mut state = self.lock();
        (state.taken, state.asked) = (None, false);
        match state.behind {
            Some(from) if state.deliveries.is_empty() => Taken::Behind(from),
            _ => {
                if self.memory.room() == Room::Plenty {
                    *into = std::mem::take(&mut state.deliveries);
                    state.bytes = 0;
                } else {
                    state.take_portion(into);
                }
                state.waits = (!state.deliveries.is_empty()).then(Instant::now);
                state.note_capacity();
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
        (state.taken, state.waker, state.waits, state.asked) = (None, None, None, false);
        state.note_capacity();
        state.parked = true;
    }

    /// Whether the session reads the log itself.
    pub(super) fn is_behind(&self) -> bool {
        self.lock().behind.is_some()
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
        (state.taken, state.asked) = (None, true);
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
        let event = &EventRef {
            lane: Lane(0),
            id: EventId { epoch: Epoch(1), lane: Lane(0), lsn },
            received: Received::Synced { unix_micros: 0 },
            origin: "sensor",
            topic: "t",
            qos,
            retain: false,
            properties: Properties::default(),
            payload: &[0; 100],
        };
        let event = Event::copy(event, &memory(), Sort::Deliveries);
        (lsn, Delivery { qos, ..Delivery::of(event, lsn) })
    }

    fn memory() -> Memory {
        Memory::new(1 << 20)
    }

    fn room_for(count: usize) -> Queue {
        Queue::new(count * delivery(1, Qos::AtMostOnce).1.size(), memory())
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
        let queue = Queue::new(1, memory());
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
    /// One that has been full since a while.
    fn slow(memory: &Memory, qos: Qos) -> Queue {
        let queue = Queue::new(1 << 20, memory.clone());
        queue.push(&mut (1..=100).map(|lsn| delivery(lsn, qos)).collect());
        queue.lock().waits = Instant::now().checked_sub(SLOW);
        queue
    }

    #[test]
    fn when_memory_is_tight_a_slow_session_loses_what_waits_and_another_does_not() {
        let memory = Memory::new(1 << 20);
        let (slow, quick) = (slow(&memory, Qos::AtMostOnce), Queue::new(1 << 20, memory.clone()));
        assert_eq!(slow.push(&mut vec![delivery(101, Qos::AtMostOnce)]).queued, 1);
        let _others = memory.claim(Sort::Deliveries, 300 << 10);
        assert_eq!(memory.room(), Room::Tight);
        let pushed = slow.push(&mut vec![delivery(102, Qos::AtMostOnce)]);
        assert_eq!(pushed, Pushed { dropped: 102, ..Pushed::default() });
        let mut many: Vec<_> = (1..=60).map(|lsn| delivery(lsn, Qos::AtMostOnce)).collect();
        assert_eq!(quick.push(&mut many).queued, 60);
        let (_, taken) = take(&quick);
        assert!((1..60).contains(&taken), "a portion at a time: {taken}");
    }

    #[test]
    fn what_a_slow_session_is_owed_comes_from_the_log_when_memory_is_tight() {
        let memory = Memory::new(1 << 20);
        let slow = slow(&memory, Qos::AtLeastOnce);
        let _others = memory.claim(Sort::Deliveries, 300 << 10);
        let pushed = slow.push(&mut vec![delivery(101, Qos::AtLeastOnce)]);
        assert_eq!(pushed, Pushed { fell_behind: true, behind: true, ..Pushed::default() });
        assert_eq!(take(&slow), (Taken::Behind(1), 0));
    }

    #[test]
    fn without_memory_each_session_gets_a_little() {
        let memory = Memory::new(1 << 20);
        let _others = memory.claim(Sort::Connections, 1 << 20);
        let queue = Queue::new(1 << 20, memory);
        let mut events = (1..=1000).map(|lsn| delivery(lsn, Qos::AtMostOnce)).collect();
        let pushed = queue.push(&mut events);
        assert!((10..100).contains(&pushed.queued), "{pushed:?}");
        assert_eq!(pushed.queued + pushed.dropped, 1000);
    }
}
