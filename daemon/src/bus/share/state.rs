//! What a group knows: who is in it, what waits for them, what is out on loan.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;
use std::time::Instant;

use tidegate_event::{Lsn, Qos};

use super::super::event::{Event, Options};
use super::super::queue::is_slow;
use super::reading::Tail;
use crate::memory::Claim;

/// Bytes that an LSN takes, about.
const LSN: usize = 24;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) members: Vec<Member>,
    /// Members that can take something, and found nothing: who came first is called first.
    pub(super) waiting: VecDeque<(u64, Waker)>,
    /// Those that were called and have not come yet.
    pub(super) called: BTreeSet<u64>,
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
    pub(super) lent: BTreeSet<Lsn>,
    /// Not to be given out, though it is still to come: known from before a restart.
    pub(super) taken: BTreeSet<Lsn>,
    /// Behind the last event that was given out in its turn.
    pub(super) next: Lsn,
    /// What all of this takes, without the events.
    pub(super) own: Option<Claim>,
    /// Since when something waits, and nothing was taken.
    pub(super) waits: Option<Instant>,
    /// A member has asked since: if it does not take, it is we who are slow.
    pub(super) asked: bool,
    /// Control blocks that the log does not have yet: nothing is given out until it has.
    pub(super) unlogged: Vec<u8>,
}

/// A session that subscribed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) id: u64,
    pub(super) options: Options,
    /// Its session outlasts its connection.
    pub(super) kept: bool,
    /// It has a connection.
    pub(super) live: bool,
}

impl State {
    pub(super) fn has_live(&self) -> bool {
        self.members.iter().any(|member| member.live)
    }

    pub(super) fn is_kept(&self) -> bool {
        self.members.iter().any(|member| member.kept)
    }

    /// Whether events with QoS 1 and 2 are owed, and not only passed on.
    pub(super) fn owes(&self) -> bool {
        self.members.iter().any(|member| member.options.qos > Qos::AtMostOnce)
    }

    pub(super) fn to_read(&self) -> bool {
        !self.reading && (self.behind.is_some() || !self.returned.is_empty())
    }

    /// Whether a member that comes now has something to do.
    pub(super) fn is_ready(&self) -> bool {
        !self.fetched.is_empty() || !self.queue.is_empty() || self.to_read()
    }

    /// Picks the members that are to come for what is there.
    pub(super) fn call(&mut self) -> Vec<Waker> {
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
    pub(super) fn excuse(&mut self, id: u64) {
        self.called.remove(&id);
        self.waiting.retain(|(waiting, _)| *waiting != id);
    }

    /// Lets go what waits: what is owed comes from the log, and what came with QoS 0 before that from
    /// nowhere. Answers how much that is.
    pub(super) fn shed(&mut self) -> u64 {
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
    pub(super) fn rest(&mut self) {
        if !self.has_live() {
            self.shed();
        }
    }

    pub(super) fn is_slow(&self) -> bool {
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
    pub(super) fn waits_from(&self) -> Option<Lsn> {
        self.queue.front().map(|(lsn, _)| *lsn).or(self.behind)
    }

    pub(super) fn owed(&self) -> BTreeSet<Lsn> {
        let fetched = self.fetched.keys();
        self.returned.iter().chain(fetched).chain(&self.lent).copied().collect()
    }
}
