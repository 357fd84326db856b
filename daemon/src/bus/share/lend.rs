//! What is given out to the members of a group, and comes back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tidegate_event::{Lsn, Qos};

use super::super::event::{Delivery, Event};
use super::group::{Group, wake};
use super::loan::Loan;
use super::reading::Job;
use super::records::Record;
use crate::log::Commit;

/// Bytes of events that a member takes at once.
const TAKE_BYTES: usize = 32 * 1024;

/// What a member that takes something is to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Send what it has, if anything.
    Send,
    /// Read the log for the group.
    Read(Job),
    /// Wait for this before it sends what it has.
    Commit(Commit),
    /// Wait until the log has room for as many bytes of control records.
    Room(usize),
}

impl Group {
    /// Gives the member its share of what is there, at most `window` events, into `into`, which is
    /// empty. `reads` says whether it would read the log.
    pub(super) fn take(
        self: &Arc<Self>,
        id: u64,
        window: usize,
        reads: bool,
        into: &mut VecDeque<Delivery>,
    ) -> Next {
        let mut guard = self.lock();
        let state = &mut *guard;
        let others = state.called.iter().filter(|called| **called != id).count();
        state.excuse(id);
        state.asked = false;
        let Some(member) = state.members.iter().find(|member| member.id == id).copied() else {
            return Next::Send;
        };
        if !self.write_down(state) {
            return Next::Room(state.unlogged.len());
        }
        let reads = reads && !state.reading;
        if reads && state.fetched.is_empty() && !state.returned.is_empty() {
            return Next::Read(Job::returned(self, state));
        }
        let there = state.fetched.len() + state.queue.len();
        let share = there.div_ceil(others + 1).min(window);
        let recorded = !member.kept && state.is_kept();
        let (mut bytes, mut begun) = (0, Vec::new());
        while into.len() < share && bytes < TAKE_BYTES {
            let (lsn, event) = match state.fetched.pop_first() {
                Some(fetched) => fetched,
                None => {
                    let Some((lsn, event)) = state.queue.pop_front() else { break };
                    state.bytes -= event.size() + size_of::<(Lsn, Event)>();
                    state.next = state.next.max(lsn + 1);
                    (lsn, event)
                }
            };
            bytes += event.size();
            let mut delivery = Delivery::of(event, lsn);
            delivery.merge(&member.options);
            if delivery.qos > Qos::AtMostOnce {
                let recorded = recorded && delivery.qos == Qos::ExactlyOnce;
                if recorded {
                    begun.push(lsn);
                }
                state.lent.insert(lsn);
                let loan = Loan::new(Arc::clone(self), lsn, recorded, member.kept);
                delivery.loan = Some(Box::new(loan));
            }
            into.push_back(delivery);
        }
        if reads && into.is_empty() && state.queue.is_empty() && state.behind.is_some() {
            return Next::Read(Job::behind(self, state));
        }
        if !into.is_empty() {
            state.waits = (!state.queue.is_empty()).then(Instant::now);
        }
        if state.queue.is_empty() {
            state.queue = VecDeque::new();
        }
        state.weigh();
        let next = self.record_taken(&begun);
        let wakers = state.call();
        self.touch(state);
        drop(guard);
        self.metrics.deliveries.inc_by(into.len() as u64);
        wake(wakers);
        if let Next::Room(_) = next {
            // With its lock free: they go back.
            into.retain(|delivery| delivery.lsn.is_none_or(|lsn| !begun.contains(&lsn)));
        }
        next
    }

    /// A member has this event for good.
    pub(super) fn settle(&self, lsn: Lsn) {
        let mut state = self.lock();
        state.lent.remove(&lsn);
        self.touch(&state);
    }

    /// A member did not send this event, or its session has ended with it. `recorded` says whether the
    /// log has it as taken.
    pub(super) fn give_back(&self, lsn: Lsn, recorded: bool) {
        let mut state = self.lock();
        state.lent.remove(&lsn);
        state.returned.insert(lsn);
        if recorded {
            self.note(&mut state, &Record::Returned(vec![lsn]));
        }
        self.metrics.returned.inc();
        self.touch(&state);
        let wakers = state.call();
        drop(state);
        wake(wakers);
    }

    /// The same, of a session that was kept: the log is told with its end.
    pub(super) fn give_back_all(&self, lsns: &[Lsn]) {
        let mut state = self.lock();
        state.returned.extend(lsns);
        self.metrics.returned.inc_by(lsns.len() as u64);
        self.touch(&state);
        let wakers = state.call();
        drop(state);
        wake(wakers);
    }
}
