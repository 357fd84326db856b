//! May it enter: every event, from a client or from an edge service, passes here on its way to the
//! log.

use std::sync::Arc;

use tidegate_config::Limits;
use tidegate_event::{BlockBuilder, Draft, Received};

use crate::clock::Clock;
use crate::log::{Append, Log};

/// Admits events to the log.
#[derive(Debug)]
pub struct Gate {}

/// Why an event may not enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {}

impl Gate {
    /// A gate before `log`.
    pub fn new(log: Arc<Log>, limits: &Limits, clock: Clock) -> Self {
        let _ = (log, limits, clock);
        todo!()
    }

    /// The time of an event received now.
    pub fn now(&self) -> Received {
        todo!()
    }

    /// Decides about one event; it costs nothing else.
    pub fn check(&self, event: &Draft<'_>) -> Result<(), Denied> {
        let _ = event;
        todo!()
    }

    /// Hands a block of admitted events to the log.
    pub fn submit(&self, block: &mut BlockBuilder) -> Append {
        let _ = block;
        todo!()
    }

    /// Checks one event from `origin` and hands it to the log: for edge services and wills.
    pub fn publish(&self, origin: &str, event: &Draft<'_>) -> Result<Append, Denied> {
        let _ = (origin, event);
        todo!()
    }
}
