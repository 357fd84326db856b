//! Sessions: who has which client id, and what outlasts a connection.
//!
//! ```text
//! connect ─▶ attach ─▶ Hold ── Journal ─┬─▶ Stored (memory)       upkeep: wills and sessions that are
//!               ▲        │               └─▶ log (control records)         due, saves, retention
//!               │        ▼ its end                                 restore: state + log ─▶ Stored
//!               └──── parked: subscriptions stay in the bus
//! ```
//!
//! A client id belongs to one connection, the newest (`[MQTT-3.1.4-3]`): the older one is told to end,
//! and the newer one waits until it has. It belongs to the user of that connection too, and so does its
//! session: another user's CONNECT is refused (0x87, 3.1.1: code 5; MQTT 5.0 section 5.4.2), with a clean
//! start also, for as long as there is a connection or a session. What a client without a login has left
//! is everybody's, and becomes the user's that takes it up. A session with expiry 0 (3.1.1: clean) lives in its connection
//! and costs nothing here. What a client can rely on, of the others:
//!
//! - Before an answer leaves, what it says is on disk: CONNACK (the session), SUBACK and UNSUBACK (the
//!   subscriptions), PUBREC (the event, with its packet id), PUBCOMP (that the id is free), PUBREL
//!   towards it (that PUBREC came); and before a PUBLISH with QoS 2 leaves, its packet id. QoS 1
//!   deliveries and their acknowledgements are noted in the log and not waited for: a crash of the
//!   machine may send them again under another packet id.
//! - **A session is the sum of its control records** ([`records`], [`stored`]), whether its client
//!   comes back, or the daemon, or both after a kill. What was under way is sent again in the same
//!   order under the same packet ids; what came meanwhile is read from the log, in order. QoS 0 is not
//!   kept for a client that is away.
//! - It ends after its expiry interval, at most `limits.max-session-expiry`; across a restart by the
//!   wall clock, once that is set. A will with a delay is published at its end at the latest, not if
//!   the client is back before, and survives a restart too.
//!
//! Bounds: `limits.max-sessions`; a session keeps no more of the log than `limits.max-session-backlog`
//! ([`Sessions::needed`]), what it missed is counted (`tidegate_deliveries_lost`) and logged.

mod again;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hold;
mod journal;
mod records;
mod restore;
mod stored;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_event::{Lsn, Received};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::bus::{Backlog, BusHandle, Loan, Standing, Subscriber, note_returned};
use crate::gate::Gate;
use crate::log::{Append, Log};
use crate::memory::{Claim, Memory, Sort};
use crate::state::Tree;

pub(super) use again::{Again, Resending};
pub(super) use hold::{Attached, Hold, Unattached, Wish};
pub(super) use journal::Journal;
pub(super) use records::{Flight, Subscription, What};
pub use restore::{Parts, RestoreError};

use records::{Detached, Record};
use stored::Stored;

/// Bytes that a session takes while it is empty, about: with its client id, in the bus and here.
const SESSION: usize = 2048;

/// The name of the sessions' tree in the state.
const TREE: &str = "sessions";
/// What the key of a group of a shared subscription begins with there: no client id does.
const GROUP: u8 = 0xff;

/// All sessions, of all listeners. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Arc<Log>,
    gate: Arc<Gate>,
    bus: BusHandle,
    tree: Tree,
    max_sessions: usize,
    /// In seconds.
    max_expiry: u32,
    metrics: Metrics,
    table: Mutex<Table>,
    /// Something falls due earlier than before.
    earlier: Notify,
    /// A session that is kept has changed since the last save.
    touched: AtomicBool,
    /// Groups as the state has them; none where that is not known.
    groups: Mutex<HashMap<Arc<str>, Option<Standing>>>,
    needed: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Table {
    clients: HashMap<Arc<str>, Entry>,
    /// When something is to be done for whom.
    due: BTreeSet<(Instant, Arc<str>)>,
    /// How many sessions are kept.
    kept: usize,
    tickets: u64,
    /// Sessions that ended since the last save.
    ended: HashSet<Arc<str>>,
    /// Control blocks of sessions that are no more, which the log does not have yet.
    unlogged: Vec<u8>,
}

/// A client id.
#[derive(Debug, Default)]
struct Entry {
    /// Of the newest connection that wants it.
    ticket: u64,
    /// Ends the connection that has it.
    attached: Option<CancellationToken>,
    /// Told when a connection has left it.
    free: Arc<Notify>,
    /// Whose it is, while it is in use, or a session is kept; none is everybody's.
    user: Option<Arc<str>>,
    /// Its session, if that outlasts the connection.
    kept: Option<Arc<Kept>>,
    /// The session's place in the bus while no connection has it.
    parked: Option<Subscriber>,
    /// The same while: when it ends, when its will is to be published; the earlier of these stands in
    /// the table.
    ends: Option<Instant>,
    will: Option<Instant>,
    due: Option<Instant>,
}

/// A session that outlasts its connection, shared by that and the upkeep.
#[derive(Debug)]
struct Kept(Mutex<Live>);

#[derive(Debug)]
struct Live {
    stored: Stored,
    /// What it still has to get.
    backlog: Backlog,
    /// Control blocks that the log does not have yet, in order.
    unlogged: Vec<u8>,
    /// Deliveries of shared subscriptions that these say are sent.
    loans: Vec<Loan>,
    /// Whether the state does not have it as it is.
    dirty: bool,
    /// The [`Backlog`] that the state has.
    saved_unsent: Option<Lsn>,
    /// QoS 2 events of the client that `stored` does not know of lie behind this one.
    floor: Option<Lsn>,
    /// What it takes,
    own: Claim,
    /// and of that the topics of retained messages under way.
    topics: usize,
}

/// How an earlier connection left a session.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// In the order in which they were sent; whether PUBREC came.
    pub(super) outgoing: VecDeque<(Flight, bool)>,
    pub(super) incoming: BTreeSet<u16>,
    pub(super) last_id: u16,
    /// Subscriptions whose retained messages were not all sent.
    pub(super) greetings: Vec<Subscription>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first event that some session needs of the log; `Lsn::MAX` if none needs anything. To be
    /// looked at after the state's `applied`: then nothing is missing that the state covers.
    pub fn needed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.needed)
    }

    /// Where the bus must begin, so that no session misses anything.
    pub fn position(&self) -> Lsn {
        self.0.tree.applied().saturating_add(1)
    }

    /// The bus that they subscribe to.
    pub(super) fn bus(&self) -> &BusHandle {
        &self.0.bus
    }

    /// How many clients have a connection, and how many only a session.
    pub(super) fn count(&self) -> (usize, usize) {
        let table = self.lock();
        let connected = table.clients.values().filter(|entry| entry.attached.is_some()).count();
        let away = |entry: &&Entry| entry.attached.is_none() && entry.kept.is_some();
        (connected, table.clients.values().filter(away).count())
    }

    /// What the clients' memory is counted with.
    pub(super) fn memory(&self) -> &Memory {
        self.0.bus.memory()
    }

    /// The wall clock in microseconds, 0 while it is not set.
    fn now(&self) -> i64 {
        match self.0.gate.now() {
            Received::Synced { unix_micros } => unix_micros,
            Received::SinceBoot { .. } => 0,
        }
    }

    fn touch(&self) {
        self.0.touched.store(true, Ordering::Release);
    }
}

impl Table {
    /// Sets when something is to be done for `client`, whose session is parked.
    fn schedule(&mut self, client: &Arc<str>, ends: Option<Instant>, will: Option<Instant>) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        if let Some(old) = entry.due.take() {
            self.due.remove(&(old, Arc::clone(client)));
        }
        (entry.ends, entry.will) = (ends, will);
        entry.due = ends.into_iter().chain(will).min();
        self.due.extend(entry.due.map(|due| (due, Arc::clone(client))));
    }

    /// Ends the session of `client`: it is forgotten, here, in the log and in the state. What was in
    /// flight of shared subscriptions goes to other members.
    fn end(&mut self, client: &Arc<str>, inner: &Inner) {
        self.schedule(client, None, None);
        let Some(entry) = self.clients.get_mut(client) else { return };
        entry.parked = None;
        if let Some(kept) = entry.kept.take() {
            self.kept -= 1;
            self.ended.insert(Arc::clone(client));
            let mut live = kept.lock();
            live.loans.drain(..).for_each(Loan::settle);
            self.unlogged.append(&mut live.unlogged);
            for (group, lsns) in live.stored.shared() {
                inner.bus.groups().give_back(group, &lsns);
                note_returned(group, lsns, &mut self.unlogged);
            }
            Record::Ended.write(client, &mut self.unlogged);
            self.append(&inner.log);
        }
    }

    /// Hands to the log what it does not have yet.
    fn append(&mut self, log: &Log) {
        if !self.unlogged.is_empty()
            && let Append::Accepted(_) = log.append_control(&self.unlogged)
        {
            self.unlogged.clear();
        }
    }
}

impl Kept {
    fn new(stored: Stored, backlog: Backlog, memory: &Memory) -> Self {
        let mut live = Live {
            stored,
            backlog,
            unlogged: Vec::new(),
            loans: Vec::new(),
            dirty: true,
            saved_unsent: None,
            floor: None,
            own: memory.claim(Sort::Sessions, 0),
            topics: 0,
        };
        live.weigh(true);
        Self(Mutex::new(live))
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// Takes in a record about the session of `client`, and keeps it for the log.
    fn record(&mut self, client: &str, record: &Record<'_>) {
        self.stored.apply(record);
        record.write(client, &mut self.unlogged);
        self.dirty = true;
        let of_retained = |flight: &Flight| matches!(flight.what, What::Retained(_));
        self.weigh(match record {
            Record::Sent(flights) => flights.iter().any(of_retained),
            record => matches!(record, Record::Detached(_)),
        });
    }

    /// Says what it takes; the topics only when they may have changed.
    fn weigh(&mut self, with_topics: bool) {
        if with_topics {
            let flights = self.stored.outgoing.iter();
            self.topics = flights.map(|(flight, _)| flight.what.memory()).sum();
        }
        self.own.set(SESSION + self.stored.memory() + self.topics + self.unlogged.capacity());
    }

    /// Hands to the log what it does not have yet, without waiting for it.
    fn append(&mut self, log: &Log) -> Append {
        let append = log.append_control(&self.unlogged);
        if let Append::Accepted(_) = append {
            self.unlogged.clear();
            // A burst is over.
            self.unlogged.shrink_to(1024);
            self.loans.drain(..).for_each(Loan::settle);
        }
        append
    }

    fn resumed(&self) -> Resumed {
        let stored = &self.stored;
        Resumed {
            outgoing: stored.outgoing.clone(),
            incoming: stored.incoming.clone(),
            last_id: stored.last_id,
            greetings: stored.subscriptions.iter().filter(|it| it.greeting).cloned().collect(),
        }
    }

    /// Its subscriptions, as the bus wants them.
    fn held(&self) -> crate::bus::Held {
        let subscriptions = self.stored.subscriptions.iter();
        subscriptions.map(|it| (it.filter.clone(), (it.options, it.from))).collect()
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}
