//! Services that watch the events at the edge.
//!
//! A service is a pure core: it is handed events and the time, and answers with events to publish
//! and changes to its own state. Whoever runs it (the daemon; later a process of its own over MQTT)
//! does the I/O.
//!
//! The runner persists the state only after the events that go with it are on disk. A crash between
//! the two makes the service look at the same events again, so what it emits must follow from its
//! state and the events alone: a consumer then knows the second copy by its id.

pub mod alerts;

use tidegate_event::{EventRef, Lsn, Qos, Received};

pub use alerts::Alerts;

/// A service.
pub trait Service: Send {
    /// Names it in logs and metrics, its state on disk, and its events' origin.
    fn name(&self) -> &'static str;

    /// Takes back one entry of the state it had; called for each, before anything else.
    fn restore(&mut self, key: &[u8], value: &[u8]);

    /// Called once, when the whole state is restored and before the first event.
    fn start(&mut self, now: Received, output: &mut Output) {
        let _ = (now, output);
    }

    /// Looks at one event of the log; called in LSN order, none twice after a clean restore.
    fn on_event(&mut self, event: &EventRef<'_>, output: &mut Output);

    /// Looks at the clock; never called before [`Service::wake`] asks for it, nor while there is an
    /// event left to look at.
    fn on_time(&mut self, now: Received, output: &mut Output);

    /// When it wants [`Service::on_time`] called, in microseconds since 1970, if at all.
    fn wake(&self) -> Option<i64>;
}

/// What a service wants done.
#[derive(Debug, Default, PartialEq)]
pub struct Output {
    /// Events to publish, in order.
    pub events: Vec<Emitted>,
    /// Entries of its state to set, or to remove, in order.
    pub state: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// An event that a service publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// A valid topic name.
    pub topic: String,
    /// For live subscribers.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// An encoded list (`tidegate_event::record::Property`).
    pub properties: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The event that led to it; 0 where it was the clock or the config.
    pub cause: Lsn,
}
