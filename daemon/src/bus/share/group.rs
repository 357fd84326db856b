//! A group: who is in it, what the bus leaves for its members, and who of them is called for that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tidegate_event::{EventRef, Filter, Lsn, Qos};

use super::super::Metrics;
use super::super::event::{Event, Options};
use super::super::queue::bound;
use super::records::Record;
use super::state::{Member, State};
use crate::log::Log;
use crate::memory::{Memory, Room, Sort};

/// A group of sessions that share a subscription.
#[derive(Debug)]
pub(in crate::bus) struct Group {
    key: Arc<str>,
    filter: Filter,
    pub(super) log: Arc<Log>,
    pub(super) metrics: Metrics,
    pub(super) memory: Memory,
    max_bytes: usize,
    touched: Arc<AtomicBool>,
    state: Mutex<State>,
}

/// What became of the events that [`Group::push`] was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) dropped: u64,
    pub(super) fell_behind: bool,
}

pub(super) fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Group {
    pub(super) fn new(
        key: Arc<str>,
        filter: Filter,
        log: Arc<Log>,
        metrics: Metrics,
        memory: Memory,
        max_bytes: usize,
        touched: Arc<AtomicBool>,
    ) -> Self {
        let own = memory.claim(Sort::Deliveries, 0);
        let state = Mutex::new(State { own: Some(own), ..State::default() });
        Self { key, filter, log, metrics, memory, max_bytes, touched, state }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to save, if it is kept.
    pub(super) fn touch(&self, state: &State) {
        if state.is_kept() {
            self.touched.store(true, Ordering::Release);
        }
    }

    /// Its `$share/NAME/FILTER`.
    pub(super) fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Which topics.
    pub(in crate::bus) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Holds an event in memory.
    pub(super) fn copy(&self, event: &EventRef<'_>) -> Event {
        Event::copy(event, &self.memory, Sort::Deliveries)
    }

    /// Whether it outlasts the daemon.
    pub(super) fn is_kept(&self) -> bool {
        self.lock().is_kept()
    }

    /// A session subscribes, or subscribes anew. The bus has handed out everything before `seen`.
    pub(in crate::bus) fn join(
        &self,
        id: u64,
        options: Options,
        kept: bool,
        live: bool,
        seen: Lsn,
    ) {
        let mut state = self.lock();
        let (was_kept, was_live) = (state.is_kept(), state.has_live());
        match state.members.iter_mut().find(|member| member.id == id) {
            Some(member) => member.options = options,
            None => state.members.push(Member { id, options, kept, live }),
        }
        if live && !was_live {
            state.back_since = self.log.committed() + 1;
        }
        if kept && !was_kept && live {
            let next = state.waits_from().unwrap_or(seen.max(state.next));
            let position = Record::Position { next, waits: true, owed: state.owed() };
            self.note(&mut state, &position);
        }
        self.touch(&state);
        let wakers = state.call();
        drop(state);
        wake(wakers);
    }

    /// A session has ended, or its subscription has. Whether it was the last one.
    pub(super) fn leave(&self, id: u64) -> bool {
        let mut state = self.lock();
        state.members.retain(|member| member.id != id);
        state.excuse(id);
        state.rest();
        self.touched.store(true, Ordering::Release);
        let (wakers, empty) = (state.call(), state.members.is_empty());
        drop(state);
        wake(wakers);
        empty
    }

    /// A session is left without a client, or its client is back.
    pub(super) fn set_live(&self, id: u64, live: bool) {
        let mut state = self.lock();
        if live && !state.has_live() {
            state.back_since = self.log.committed() + 1;
        }
        if let Some(member) = state.members.iter_mut().find(|member| member.id == id) {
            member.live = live;
        }
        if !live {
            state.excuse(id);
            state.rest();
        }
        let wakers = state.call();
        drop(state);
        wake(wakers);
    }

    /// Takes live events, in order.
    pub(super) fn push(&self, events: &mut Vec<(Lsn, Event)>) -> Pushed {
        let mut pushed = Pushed::default();
        let mut state = self.lock();
        let (live, owes) = (state.has_live(), state.owes());
        let room = self.memory.room();
        let slow = room > Room::Plenty && state.is_slow();
        if slow {
            pushed.dropped += state.shed();
            pushed.fell_behind = state.behind.is_some();
        }
        let bound = bound(&self.memory, self.max_bytes, slow);
        for (lsn, event) in events.drain(..) {
            if lsn < state.live_from {
                continue;
            }
            if state.behind.is_some() {
                state.skipped = state.skipped.max(lsn);
                continue;
            }
            if state.taken.remove(&lsn) {
                continue;
            }
            let size = event.size() + size_of::<(Lsn, Event)>();
            let alone = state.queue.is_empty() && !slow && room < Room::None;
            let fits = state.bytes + size <= bound || alone;
            if live && fits {
                state.bytes += size;
                state.queue.push_back((lsn, event));
                state.waits.get_or_insert_with(Instant::now);
            } else if owes && event.qos > Qos::AtMostOnce {
                state.behind = Some(lsn);
                state.skipped = lsn;
                pushed.fell_behind = live;
            } else {
                pushed.dropped += u64::from(live);
            }
        }
        state.weigh();
        let wakers = state.call();
        self.touch(&state);
        drop(state);
        wake(wakers);
        pushed
    }

    /// Ready when [`Group::take`] has something to do for this member, which can take something.
    pub(super) fn poll_ready(&self, id: u64, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.is_ready() {
            state.asked = true;
            return Poll::Ready(());
        }
        state.called.remove(&id);
        match state.waiting.iter_mut().find(|(waiting, _)| *waiting == id) {
            Some((_, waker)) => waker.clone_from(context.waker()),
            None => state.waiting.push_back((id, context.waker().clone())),
        }
        Poll::Pending
    }

    /// The member cannot take anything for now.
    pub(super) fn decline(&self, id: u64) {
        let mut state = self.lock();
        state.excuse(id);
        let wakers = state.call();
        drop(state);
        wake(wakers);
    }

    /// What a job of a member ends with.
    pub(super) fn job_done(&self) {
        let mut state = self.lock();
        state.reading = false;
        let wakers = state.call();
        drop(state);
        wake(wakers);
    }
}
