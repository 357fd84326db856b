//! How the gateway stands, and the parts that know.

use std::iter;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidegate_event::Lsn;
use tracing::warn;

use crate::forward::{self, ForwarderHandle};
use crate::listener;
use crate::log::{self, Log, Refusing};
use crate::progress::{Progress, Watch};
use crate::services;
use crate::state::State;

/// A part that has work and takes no step for this long stands still.
const STANDS_STILL: Duration = Duration::from_secs(30);

/// How a gateway stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Its id.
    pub gateway: String,
    /// Its version.
    pub version: String,
    /// Why it does not do its work, a sentence each; none where it is healthy. A sink that is away is
    /// none: its events wait on disk.
    pub problems: Vec<String>,
    /// Events that clients published since the start.
    pub received: u64,
    /// The log.
    pub log: LogStatus,
    /// The disk under the data directory.
    pub disk: DiskStatus,
    /// MQTT clients.
    pub clients: ClientStatus,
    /// Alerts.
    pub alerts: AlertStatus,
    /// The sinks, as in the config.
    pub sinks: Vec<forward::Status>,
}

/// How its log stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogStatus {
    /// The newest event on disk: how many there have been since the log was created.
    pub last_lsn: Lsn,
    /// The oldest event still on disk; `last-lsn + 1` where there is none.
    pub first_lsn: Lsn,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes on disk that it may use: `log.max-size`.
    pub max_bytes: u64,
    /// Entries of the loss ledger.
    pub losses: usize,
    /// Events that they are about, at most.
    pub lost_events: u64,
    /// Its lanes, `default` first.
    pub lanes: Vec<LaneStatus>,
}

/// How a lane stands. The counts are of what happened since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LaneStatus {
    /// Its name.
    pub name: String,
    /// Events on disk.
    pub events: u64,
    /// Bytes that they take there.
    pub bytes: u64,
    /// Bytes that they may take: `max-size`.
    pub max_bytes: u64,
    /// What happens when these are used up, as in the config.
    pub when_full: String,
    /// Whether that happens to new events now.
    pub full: bool,
    /// Events dropped for want of room,
    pub dropped: u64,
    /// refused,
    pub refused: u64,
    /// dropped because of their age,
    pub expired: u64,
    /// and thinned out.
    pub thinned: u64,
}

/// How its disk stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskStatus {
    /// The data directory.
    pub directory: PathBuf,
    /// Bytes that the gateway may still write there; none where the system does not say.
    pub free_bytes: Option<u64>,
}

/// Who is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClientStatus {
    /// Open connections.
    pub connected: i64,
    /// Sessions that outlast their connections, connected or not.
    pub sessions: i64,
}

/// How its alerts stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `log.max-size`.
    pub(super) max_bytes: u64,
    pub(super) data_dir: PathBuf,
    /// For who asks over HTTP; each asker's last look is the next one's beginning.
    pub(super) watch: Mutex<Watch>,
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

    /// How far those are that must not stand still: the log's writer, then every forwarder.
    pub(super) fn progress(&self) -> impl Iterator<Item = Progress> {
        let forwarders = self.forwarders.iter().map(ForwarderHandle::progress);
        iter::once(self.log.progress()).chain(forwarders)
    }

    /// The name of one of them.
    pub(super) fn name(&self, index: usize) -> &str {
        let sink = index.checked_sub(1).and_then(|index| self.forwarders.get(index));
        sink.map_or("the log's writer", ForwarderHandle::name)
    }

    /// What stands still, as far as anybody looked.
    pub(super) fn standing_still(&self) -> Option<String> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let (part, lasts) = watch.standing_still(self.progress(), Instant::now(), STANDS_STILL)?;
        Some(format!("{} has stood still for {} s", self.name(part), lasts.as_secs()))
    }

    /// How they stand.
    pub(super) fn status(&self) -> Status {
        let usage = self.log.usage();
        let losses = self.log.loss_count();
        let lanes = self.lanes();
        let refusing = match self.log.refusing() {
            Some(why) => vec![self.refusing(why)],
            None => lanes.iter().filter(|lane| lane.refuses()).map(LaneStatus::problem).collect(),
        };
        Status {
            gateway: self.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            problems: refusing.into_iter().chain(self.standing_still()).collect(),
            received: self.listener.received_in_all(),
            log: LogStatus {
                last_lsn: usage.last,
                first_lsn: usage.first,
                bytes: usage.bytes,
                max_bytes: self.max_bytes,
                losses: losses.entries as usize,
                lost_events: losses.events,
                lanes,
            },
            disk: DiskStatus {
                directory: self.data_dir.clone(),
                free_bytes: rustix::fs::statvfs(&self.data_dir)
                    .ok()
                    .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
            },
            clients: ClientStatus {
                connected: self.listener.connections.get(),
                sessions: self.listener.sessions.get(),
            },
            alerts: AlertStatus {
                open: self.services.open_alerts(),
                raised: self.services.raised_alerts(),
            },
            sinks: self.forwarders.iter().map(ForwarderHandle::status).collect(),
        }
    }

    fn lanes(&self) -> Vec<LaneStatus> {
        let lanes = self.log.lanes();
        let status = |lane| {
            let usage = self.log.lane_usage(lane);
            LaneStatus {
                name: lanes.name(lane).to_owned(),
                events: usage.events,
                bytes: usage.bytes,
                max_bytes: usage.max_bytes,
                when_full: lanes.rule(lane).when_full.as_str().to_owned(),
                full: usage.is_full,
                dropped: usage.dropped,
                refused: usage.refused,
                expired: usage.expired,
                thinned: usage.thinned,
            }
        };
        lanes.all().map(status).collect()
    }

    fn refusing(&self, why: Refusing) -> String {
        let directory = self.data_dir.display();
        match why {
            Refusing::Full => "the log is full: events are refused until a sink has taken some; \
                               log.max-size bounds it"
                .to_owned(),
            Refusing::DiskFull => {
                format!(
                    "the disk under {directory} is full: events are refused until there is room"
                )
            }
            Refusing::DiskFails => {
                format!("the disk under {directory} takes no writes: events are refused")
            }
        }
    }
}

impl LaneStatus {
    /// Whether new events are refused now.
    pub fn refuses(&self) -> bool {
        self.full && self.when_full == log::WhenFull::Reject.as_str()
    }

    fn problem(&self) -> String {
        let name = &self.name;
        if name == log::DEFAULT_LANE {
            return "the log is full: events are refused until a sink has taken some, but for those of \
                    other lanes; log.max-size bounds it"
                .to_owned();
        }
        format!(
            "the lane {name:?} is full: its events are refused until a sink has taken some; its max-size \
             bounds it"
        )
    }
}

impl Status {
    /// Whether it does its work.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }

    /// Events that the slowest sink does not have yet.
    pub fn lag(&self) -> u64 {
        self.sinks.iter().map(|sink| sink.lag_events).max().unwrap_or_default()
    }

    /// Events that every sink has.
    pub fn forwarded(&self) -> u64 {
        self.log.last_lsn - self.lag().min(self.log.last_lsn)
    }
}
