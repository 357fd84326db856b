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
//! rumqttd's router is not used for this: it hides what a slow subscriber loses, never frees filters
//! and topics, and costs a thread and a channel hop an event.

mod event;
mod metrics;
mod queue;
mod retained;
mod subscriber;
mod task;
mod trie;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_config::Limits;
use tidegate_event::Filter;
use tokio::sync::mpsc;

use crate::log::Log;
use crate::state::{StateError, Tree};
use crate::supervise::{Role, Supervisor};

pub use event::{Delivery, Event, Options};
pub use metrics::Metrics;
pub use subscriber::{Subscriber, SubscriberError};

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
}

/// A subscription that a session asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Which topics.
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
    /// Loads the retained messages from `tree` and starts the bus, which reads `log` from there on.
    /// It ends with the drain, with `tree` up to date.
    pub fn start(
        log: Arc<Log>,
        tree: Tree,
        limits: &Limits,
        metrics: Metrics,
        supervisor: &Supervisor,
    ) -> Result<Self, StateError> {
        let retained = retained::Retained::load(tree, limits.max_retained, metrics.clone())?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let bus = task::Bus::new(Arc::clone(&log), retained, metrics.clone(), receiver);
        supervisor.spawn("bus", Role::Critical, bus.run(supervisor.drain().clone()));
        let max_queued = limits.max_queued.as_usize();
        Ok(Self { commands, ids: Arc::default(), log, metrics, max_queued })
    }

    /// The way for one session, whose client id is `client`. It costs nothing until it subscribes.
    pub fn subscriber(&self, client: Arc<str>) -> Subscriber {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        Subscriber::new(self.clone(), id, client)
    }
}
