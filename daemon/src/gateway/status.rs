//! How the gateway stands, and the parts that know.

use std::sync::Arc;

use serde::Serialize;
use tidegate_event::Lsn;
use tracing::warn;

use crate::forward::{self, ForwarderHandle};
use crate::listener;
use crate::log::Log;
use crate::services;
use crate::state::State;

/// How a gateway stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Its id.
    pub gateway: String,
    /// Events that clients published since the start.
    pub received: u64,
    /// The log.
    pub log: LogStatus,
    /// Alerts.
    pub alerts: AlertStatus,
    /// The sinks, as in the config.
    pub sinks: Vec<forward::Status>,
}

/// How its log stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogStatus {
    /// The newest event on disk: how many there have been since the log was created.
    pub last_lsn: Lsn,
    /// The oldest event still on disk; `last-lsn + 1` where there is none.
    pub first_lsn: Lsn,
    /// Bytes on disk.
    pub bytes: u64,
    /// Entries of the loss ledger.
    pub losses: usize,
}

/// How its alerts stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AlertStatus {
    /// Raised and not cleared.
    pub open: u64,
    /// Raised since the start.
    pub raised: u64,
}

/// What the status is made from.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) id: String,
    pub(super) log: Arc<Log>,
    pub(super) state: State,
    pub(super) forwarders: Vec<ForwarderHandle>,
    pub(super) listener: listener::Metrics,
    pub(super) services: services::Metrics,
}

impl Parts {
    /// Saves the state and closes the log.
    pub(super) async fn save(&self) {
        let state = self.state.clone();
        // sled may lose its last seconds in a power cut; the checkpoint is durable.
        let saved = tokio::task::spawn_blocking(move || state.checkpoint()).await;
        if let Ok(Err(error)) = saved {
            warn!("no checkpoint of the state, the next start rebuilds it from the log: {error}");
        }
        self.log.close().await;
    }

    /// How they stand.
    pub(super) fn status(&self) -> Status {
        let usage = self.log.usage();
        Status {
            gateway: self.id.clone(),
            received: self.listener.received_in_all(),
            log: LogStatus {
                last_lsn: usage.last,
                first_lsn: usage.first,
                bytes: usage.bytes,
                losses: self.log.losses().len(),
            },
            alerts: AlertStatus {
                open: self.services.open_alerts(),
                raised: self.services.raised_alerts(),
            },
            sinks: self.forwarders.iter().map(ForwarderHandle::status).collect(),
        }
    }
}

impl Status {
    /// Events that the slowest sink does not have yet.
    pub fn lag(&self) -> u64 {
        self.sinks.iter().map(|sink| sink.lag_events).max().unwrap_or_default()
    }

    /// Events that every sink has.
    pub fn forwarded(&self) -> u64 {
        self.log.last_lsn - self.lag().min(self.log.last_lsn)
    }
}
