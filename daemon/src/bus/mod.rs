//! Live fan-out: durable events to the MQTT sessions that subscribed, in LSN order.

mod metrics;

use std::sync::Arc;

use tidegate_config::Limits;

use crate::log::Log;
use crate::state::{StateError, Tree};
use crate::supervise::Supervisor;

pub use metrics::Metrics;

/// The name of the bus's tree in the state ([`crate::state::State::tree`]).
pub const TREE: &str = "retained";

/// The way to the bus for sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BusHandle {}

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
        let _ = (log, tree, limits, metrics, supervisor);
        todo!()
    }
}
