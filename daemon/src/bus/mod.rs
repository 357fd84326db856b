//! Live fan-out: durable events to the MQTT sessions that subscribed, in LSN order; retained messages.
//!
//! The bus is one more reader of the log, one task: behind each commit it reads the new frames (from
//! the page cache), finds the subscriptions that match in a trie of its own, and puts each event,
//! copied once however many subscribers it has, into their queues. So what a subscriber sees is on
//! disk, and a publisher never waits for a subscriber.
//!
//! A queue is bounded in bytes (`limits.max-queued`). Beyond that QoS 0 is dropped and counted. A
//! session that is owed QoS 1 or 2 goes on from the log with a reader of its own, until it is at the
//! end, and then agrees with the bus where that takes over. It gets QoS 0 from there too.
//!
//! A session whose client is away is **parked**: its subscriptions stay, and nothing is queued. The
//! first event of QoS 1 or 2 that it is to have is noted, and it counts as behind; so it goes on from
//! the log, like a slow one, once its client is back. What came with QoS 0 meanwhile it does not get.
//!
//! Sessions that share a subscription are a group, which has a queue of its own (`share`).
//!
//! rumqttd's router is not used for this: it hides what a slow subscriber loses, never frees filters
//! and topics, and costs a thread and a channel hop an event.

mod catch_up;
mod event;
mod metrics;
mod queue;
mod retained;
mod share;
mod subscriber;
mod system;
mod task;
#[cfg(test)]
mod tests;
mod trie;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_config::Limits;
use tidegate_event::{Filter, Lsn};
use tokio::sync::{mpsc, watch};

use crate::log::Log;
use crate::memory::Memory;
use crate::state::{StateError, Tree};
use crate::supervise::{Role, Supervisor};

pub use event::{Delivery, Event, Options};
pub use metrics::Metrics;
pub use share::{Groups, Loan, Record as GroupRecord, Standing};
pub use share::{is_shared, names_share, note_returned, shared_filter};
pub use subscriber::{Backlog, Held, Subscriber, SubscriberError};
pub use system::SystemValue;

/// The name of the bus's tree in the state ([`crate::state::State::tree`]).
pub const TREE: &str = "retained";

/// The way to the bus for sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BusHandle {
    commands: mpsc::UnboundedSender<task::Command>,
    ids: Arc<AtomicU64>,
    log: Arc<Log>,
    metrics: Metrics,
    max_queued: usize,
    memory: Memory,
    /// The event that the bus hands out next.
    position: Arc<AtomicU64>,
    groups: Groups,
}

/// A bus that does not run yet.
#[derive(Debug)]
pub struct Prepared(task::Bus);

/// A subscription that a session asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Which topics; or a shared subscription ([`is_shared`]).
    pub filter: Filter,
    /// How.
    pub options: Options,
    /// Whether it is to be sent the retained messages.
    pub retain_handling: RetainHandling,
}

/// When a subscription is sent the retained messages that match (`[MQTT-3.3.1-9]` to
/// `[MQTT-3.3.1-11]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainHandling {
    /// Each time it is made.
    Always,
    /// When the session did not have it before.
    New,
    /// Not at all.
    Never,
}

impl BusHandle {
    /// Loads the retained messages from `tree`. Nothing is handed out before [`Prepared::start`].
    pub fn prepare(
        log: Arc<Log>,
        tree: Tree,
        limits: &Limits,
        memory: Memory,
        metrics: Metrics,
    ) -> Result<(Self, Prepared), StateError> {
        let retained = retained::Retained::load(
            tree,
            retained::Bounds::of(limits),
            memory.clone(),
            metrics.clone(),
        )?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let position = Arc::<AtomicU64>::default();
        let max_queued = limits.max_queued.as_usize();
        let groups = Groups::new(Arc::clone(&log), metrics.clone(), memory.clone(), max_queued);
        let bus = task::Bus::new(
            Arc::clone(&log),
            retained,
            memory.clone(),
            metrics.clone(),
            receiver,
            Arc::clone(&position),
            groups.clone(),
        );
        let ids = Arc::default();
        let handle = Self { commands, ids, log, metrics, max_queued, memory, position, groups };
        Ok((handle, Prepared(bus)))
    }

    /// The way for one session, whose client id is `client`; `kept` says whether it outlasts its
    /// connection. It costs nothing until it subscribes.
    pub fn subscriber(&self, client: Arc<str>, kept: bool) -> Subscriber {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        Subscriber::new(self.clone(), id, client, kept)
    }

    /// The way for a session that was there before the daemon started, parked: it has everything
    /// before `next`, and the log holds something for it from `unsent` on.
    pub fn restore(
        &self,
        client: Arc<str>,
        subscriptions: Held,
        next: Lsn,
        unsent: Option<Lsn>,
    ) -> Subscriber {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        Subscriber::restore(self.clone(), id, client, subscriptions, next, unsent)
    }

    /// What the clients' memory is counted with.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The groups of shared subscriptions.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// What the gateway says about itself, to who has subscribed to it and who will.
    pub fn publish_system(&self, values: Vec<SystemValue>) {
        // Without a bus nobody is told.
        let _ = self.commands.send(task::Command::System(values));
    }

    /// The event that is handed out next: whoever was to have one before has it in his queue, or is
    /// behind.
    pub fn position(&self) -> Lsn {
        self.position.load(Ordering::Acquire)
    }
}

impl Prepared {
    /// The same; it writes the retained messages to the state when that is asked for, too
    /// ([`crate::state::State::save_requests`]).
    pub fn saving(mut self, requests: watch::Receiver<u64>) -> Self {
        self.0.save_on(requests);
        self
    }

    /// Starts the bus, which reads the log from `from` on, or from where the retained messages end, if
    /// that is earlier. It ends with the drain, with its tree up to date.
    pub fn start(self, from: Lsn, supervisor: &Supervisor) {
        supervisor.spawn("bus", Role::Critical, self.0.run(from, supervisor.drain().clone()));
    }
}
