//! A group: what waits for its members, who of them can take something, and what is out on loan.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tidegate_event::{EventRef, Filter, Lsn, Qos};

use super::super::Metrics;
use super::super::event::{Delivery, Event, Options};
use super::super::queue::{bound, is_slow};
use super::loan::Loan;
use super::reading::{Job, Tail};
use super::records::{Record, Standing};
use crate::log::{Append, Commit, Log};
use crate::memory::{Claim, Memory, Room, Sort};

/// Bytes of events that a member takes at once.
const TAKE_BYTES: usize = 32 * 1024;

/// Bytes that an LSN takes, about.
const LSN: usize = 24;

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

#[derive(Debug, Default)]
pub(super) struct State {
    members: Vec<Member>,
    /// Members that can take something, and found nothing: who came first is called first.
    waiting: VecDeque<(u64, Waker)>,
    /// Those that were called and have not come yet.
    called: BTreeSet<u64>,
    /// What the bus left, or what was read in its place.
    pub(super) queue: VecDeque<(Lsn, Event)>,
    pub(super) bytes: usize,
    /// From here on the group reads the log; nothing more is queued by the bus meanwhile.
    pub(super) behind: Option<Lsn>,
    /// The last event that the bus passed over since.
    pub(super) skipped: Lsn,
    /// The bus queues from here on: what comes before was read.
    pub(super) live_from: Lsn,
    /// No member had a connection before this event: there is no QoS 0 from there.
    pub(super) back_since: Lsn,
    /// A member reads the log for the group.
    pub(super) reading: bool,
    /// Where it reads on.
    pub(super) tail: Option<Box<Tail>>,
    /// Given back, and to be read from the log.
    pub(super) returned: BTreeSet<Lsn>,
    /// Given back, and read.
    pub(super) fetched: BTreeMap<Lsn, Event>,
    /// Out on loan.
    lent: BTreeSet<Lsn>,
    /// Not to be given out, though it is still to come: known from before a restart.
    pub(super) taken: BTreeSet<Lsn>,
    /// Behind the last event that was given out in its turn.
    next: Lsn,
    /// What all of this takes, without the events.
    own: Option<Claim>,
    /// Since when something waits, and nothing was taken.
    pub(super) waits: Option<Instant>,
    /// A member has asked since: if it does not take, it is we who are slow.
    asked: bool,
    /// Control blocks that the log does not have yet: nothing is given out until it has.
    unlogged: Vec<u8>,
}

/// A session that subscribed.
#[derive(Debug, Clone, Copy)]
struct Member {
    id: u64,
    options: Options,
    /// Its session outlasts its connection.
    kept: bool,
    /// It has a connection.
    live: bool,
}

/// What became of the events that [`Group::push`] was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) dropped: u64,
    pub(super) fell_behind: bool,
}

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

impl State {
    fn has_live(&self) -> bool {
        self.members.iter().any(|member| member.live)
    }

    fn is_kept(&self) -> bool {
        self.members.iter().any(|member| member.kept)
    }

    /// Whether events with QoS 1 and 2 are owed, and not only passed on.
    fn owes(&self) -> bool {
        self.members.iter().any(|member| member.options.qos > Qos::AtMostOnce)
    }

    fn to_read(&self) -> bool {
        !self.reading && (self.behind.is_some() || !self.returned.is_empty())
    }

    /// Whether a member that comes now has something to do.
    fn is_ready(&self) -> bool {
        !self.fetched.is_empty() || !self.queue.is_empty() || self.to_read()
    }

    /// Picks the members that are to come for what is there.
    fn call(&mut self) -> Vec<Waker> {
        let work = self.fetched.len() + self.queue.len() + usize::from(self.to_read());
        let mut wakers = Vec::new();
        while self.called.len() < work
            && let Some((id, waker)) = self.waiting.pop_front()
        {
            self.called.insert(id);
            wakers.push(waker);
        }
        wakers
    }

    /// The member neither waits nor is expected.
    fn excuse(&mut self, id: u64) {
        self.called.remove(&id);
        self.waiting.retain(|(waiting, _)| *waiting != id);
    }

    /// Lets go what waits: what is owed comes from the log, and what came with QoS 0 before that from
    /// nowhere. Answers how much that is.
    fn shed(&mut self) -> u64 {
        let owes = self.owes();
        let first = self.queue.iter().find(|(_, event)| owes && event.qos > Qos::AtMostOnce);
        let first = first.map(|(lsn, _)| *lsn);
        let before = |(lsn, _): &&(Lsn, Event)| first.is_none_or(|first| *lsn < first);
        let dropped = self.queue.iter().filter(before).count();
        if first.is_some() {
            self.skipped = self.skipped.max(self.queue.back().map_or(0, |(last, _)| *last));
            self.behind = first;
        }
        (self.queue, self.bytes) = (VecDeque::new(), 0);
        let fetched = std::mem::take(&mut self.fetched);
        self.returned.extend(fetched.into_keys());
        self.tail = None;
        self.waits = None;
        self.weigh();
        dropped as u64
    }

    /// Nobody takes anything for now.
    fn rest(&mut self) {
        if !self.has_live() {
            self.shed();
        }
    }

    fn is_slow(&self) -> bool {
        is_slow(self.asked, self.waits)
    }

    /// Says what it takes.
    pub(super) fn weigh(&mut self) {
        let lsns = self.returned.len() + self.fetched.len() + self.lent.len() + self.taken.len();
        let tail = self.tail.as_ref().map_or(0, |tail| tail.memory());
        let queue = self.queue.capacity() * size_of::<(Lsn, Event)>();
        let bytes = queue + lsns * LSN + tail;
        self.own.iter_mut().for_each(|own| own.set(bytes));
    }

    /// The first event that is still to be given out in its turn, if there is one.
    fn waits_from(&self) -> Option<Lsn> {
        self.queue.front().map(|(lsn, _)| *lsn).or(self.behind)
    }

    fn owed(&self) -> BTreeSet<Lsn> {
        let fetched = self.fetched.keys();
        self.returned.iter().chain(fetched).chain(&self.lent).copied().collect()
    }
}

fn wake(wakers: Vec<Waker>) {
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
    fn touch(&self, state: &State) {
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

    /// It stands there. The bus begins behind `applied`.
    pub(super) fn stand(&self, standing: &Standing, applied: Lsn) {
        let mut state = self.lock();
        let next = match standing.waits {
            true => standing.next,
            false => standing.next.max(applied.saturating_add(1)),
        };
        state.behind = (next <= applied).then_some(next);
        state.skipped = applied;
        (state.next, state.live_from) = (next, next);
        let committed = self.log.committed();
        state.returned = standing.owed.iter().copied().filter(|lsn| *lsn <= committed).collect();
        state.taken = standing.taken.range(next..).copied().collect();
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

    /// QoS 2 for a session that is not kept: nobody else would know after a crash that it was sent.
    fn record_taken(&self, lsns: &[Lsn]) -> Next {
        if lsns.is_empty() {
            return Next::Send;
        }
        let mut record = Vec::new();
        Record::Taken(lsns.to_vec()).write(&self.key, &mut record);
        match self.log.append_control(&record) {
            Append::Accepted(commit) => Next::Commit(commit),
            _ => Next::Room(record.len()),
        }
    }

    /// Takes note of a record for the log.
    fn note(&self, state: &mut State, record: &Record) {
        record.write(&self.key, &mut state.unlogged);
        // Refused, whoever comes next tries again.
        let _ = self.write_down(state);
    }

    /// Hands to the log what it does not have yet. False if it takes nothing for now.
    fn write_down(&self, state: &mut State) -> bool {
        if !state.unlogged.is_empty()
            && let Append::Accepted(_) = self.log.append_control(&state.unlogged)
        {
            state.unlogged.clear();
        }
        state.unlogged.is_empty()
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

    /// Where it stands, and what the state is to have of it, unless that is what `last` says. The log
    /// is told too.
    pub(super) fn save(&self, seen: Lsn, last: Option<&Standing>) -> (Standing, Option<Vec<u8>>) {
        let mut state = self.lock();
        self.write_down(&mut state);
        let waits_from = state.waits_from();
        let standing = Standing {
            next: waits_from.unwrap_or(state.next),
            waits: waits_from.is_some(),
            owed: state.owed(),
            taken: state.taken.clone(),
        };
        if last == Some(&standing) {
            return (standing, None);
        }
        let next = waits_from.unwrap_or(state.next.max(seen));
        if state.unlogged.is_empty() {
            self.note(
                &mut state,
                &Record::Position { next, waits: true, owed: standing.owed.clone() },
            );
        }
        let encoded = Standing { next, ..standing.clone() }.encode(&self.key);
        (standing, Some(encoded))
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
