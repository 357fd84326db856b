//! Bytes in: accept, codec, sessions.

mod metrics;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tidegate_config::Limits;

use crate::bus::BusHandle;
use crate::gate::Gate;
use crate::supervise::Supervisor;

pub use metrics::Metrics;

/// A bound socket, not yet served.
#[derive(Debug)]
pub struct Listener {}

/// What all listeners, and all their connections, share. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Shared {}

impl Shared {
    /// The way into the log and out of the bus for every connection.
    pub fn new(
        gate: Arc<Gate>,
        bus: BusHandle,
        limits: Limits,
        metrics: Metrics,
        supervisor: Supervisor,
    ) -> Self {
        let _ = (gate, bus, limits, metrics, supervisor);
        todo!()
    }
}

impl Listener {
    /// Binds and listens: clients may connect, and wait until [`Listener::serve`]. To be called inside
    /// the runtime.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let _ = address;
        todo!()
    }

    /// Where it listens; tells the port that port 0 became.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        todo!()
    }

    /// Accepts connections, each a task of its own, until the drain.
    pub fn serve(self, shared: Shared) {
        let _ = shared;
        todo!()
    }
}
