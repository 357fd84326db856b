//! The demo's upstream: the receiver, which can be taken away and brought back.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::commands::{Failure, bind, local_address};
use crate::log::FileSystem;
use crate::receiver::{self, Counts, Receiver};
use crate::supervise::{Role, Supervisor};

/// The receiver in this process. While it is away its address refuses connections; what it holds
/// stays.
#[derive(Debug)]
pub(super) struct Upstream {
    receiver: Arc<Receiver>,
    tasks: Supervisor,
    address: SocketAddr,
    /// What serves it; `None` while it is away.
    serving: Option<Supervisor>,
}

impl Upstream {
    /// Opens the receiver and serves it.
    pub(super) async fn start(
        options: receiver::Options,
        address: SocketAddr,
    ) -> Result<Self, Failure> {
        let tasks = Supervisor::new();
        let receiver = Receiver::open(Arc::new(FileSystem), options, &tasks).map_err(|error| {
            Failure::new(Failure::EX_CANTCREAT, format!("cannot open the receiver: {error}"))
        })?;
        let mut this = Self { receiver, tasks, address, serving: None };
        this.bring_back().await?;
        Ok(this)
    }

    /// Where it is served.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is there.
    pub(super) fn is_up(&self) -> bool {
        self.serving.is_some()
    }

    /// What it has received.
    pub(super) fn counts(&self) -> Counts {
        self.receiver.counts()
    }

    /// Serves it again, at the address it had.
    pub(super) async fn bring_back(&mut self) -> Result<(), Failure> {
        let listener = bind("receiver", self.address).await?;
        self.address = local_address(listener.local_addr())?;
        let serving = Supervisor::new();
        let serve = Arc::clone(&self.receiver).serve(listener, serving.drain().clone());
        serving.spawn("receiver", Role::Critical, serve);
        self.serving = Some(serving);
        Ok(())
    }

    /// Closes its listening socket and its connections.
    pub(super) async fn take_away(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.begin_drain();
            serving.ended().await;
        }
    }

    /// Takes it away for good.
    pub(super) async fn close(mut self) {
        self.take_away().await;
        self.tasks.begin_drain();
        self.tasks.ended().await;
    }
}
