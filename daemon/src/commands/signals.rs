//! The signals that a command listens to.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::error;

use super::Failure;

/// SIGTERM and SIGINT: finish in order.
#[derive(Debug)]
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

/// SIGHUP: read what may have been replaced again.
#[derive(Debug)]
pub(super) struct Reload(Signal);

impl Reload {
    /// From now on the signal does not end the process.
    pub(super) fn listen() -> Result<Self, Failure> {
        listen_for(SignalKind::hangup()).map(Self)
    }

    /// Resolves when one comes.
    pub(super) async fn requested(&mut self) {
        self.0.recv().await;
    }
}

impl Stop {
    /// From now on the signals do not end the process by themselves.
    pub(super) fn listen() -> Result<Self, Failure> {
        Ok(Self {
            terminate: listen_for(SignalKind::terminate())?,
            interrupt: listen_for(SignalKind::interrupt())?,
        })
    }

    /// Waits for `ending`, an end in order. A second signal ends the process at once: nothing is waited
    /// for, not even the disk. What was acknowledged is on it.
    pub(super) async fn unless_again<T>(&mut self, ending: impl Future<Output = T>) -> T {
        tokio::select! {
            done = ending => done,
            signal = self.requested() => {
                error!("{signal} while stopping: stopped at once");
                std::process::exit(Failure::EX_TEMPFAIL.into());
            }
        }
    }

    /// Resolves with the signal's name when one comes.
    pub(super) async fn requested(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn listen_for(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::system("cannot listen for signals", &error))
}
