//! Out: one forwarder a sink. It reads the log from the sink's cursor on, batches what the sink wants,
//! sends it until it is there, and moves the cursor.
//!
//! # How a batch lives
//!
//! ```text
//! log ─▶ intake ─▶ open batches ─▶ waiting ─▶ in flight ─▶ answered ─▶ cursor
//!        reads,     one a           closed     with the      delivered, or split,
//!        filters,   partition                  bus           or a dead letter
//!        encodes
//! ```
//!
//! - **Read** (`intake.rs`): a chunk of the log at a time, beside the runtime. Each event that the
//!   sink's `topics` match is encoded from the bytes in the log into the body of a batch, once.
//! - **Closed** (`opens.rs`, `batch.rs`): by `batch.max-events`, by `batch.max-bytes`, which no batch
//!   exceeds unless it is one event, or by `batch.max-age`.
//! - **Sent** (`deliver.rs`), up to `max-in-flight` at once, when breaker, pauses and rate limits allow
//!   (`pace.rs`). It stays in memory until it is answered; what fails goes again as it is.
//! - **Split** where the bus will never take it: in halves, down to the poison event, which goes to the
//!   dead-letter queue (`dead_letter.rs`), durable before the cursor passes it. The rest goes on. A bus
//!   that takes nothing at all is not believed (`trust.rs`): then nothing goes there.
//! - **Split** too where it is too slow for the link: two time-outs in a row (`width.rs`).
//!
//! # Order
//!
//! A source's events arrive in order, at any receiver. Requests that are under way together can
//! overtake each other, and a receiver need not know how to sort them. So sources are spread over
//! `max-in-flight` partitions, a batch holds whole partitions, and no two batches that are in flight
//! share one (`partition.rs`, `inflight.rs`). The other ways cost more: one batch at a time is one round
//! trip a batch, which on a slow link is the whole throughput; a sequence number in a header helps
//! with receivers of our own only. The price: one source alone has one batch in flight at a time.
//!
//! A batch that is sent again holds up its own partitions. The others go on, until the memory is used
//! up or they are 1,048,576 LSNs ahead of the cursor.
//!
//! # Bounds
//!
//! Bodies in memory: (`max-in-flight` + 1) × `batch.max-bytes`, and one event; with compression its
//! result beside each body in flight. The log in memory: one chunk of 256 KiB, or one frame where that
//! is larger. Whatever the backlog.
//!
//! # What a crash repeats
//!
//! The cursor is the lowest LSN that is not done with, saved every 100 ms. After a crash everything
//! from the saved cursor on goes again, in order, under the same ids: what was in flight, what was
//! delivered past a batch that was not, and what was delivered in the last 100 ms. Nothing is left out.

// From the log
mod intake;
mod partition;
// into batches,
mod batch;
mod opens;
// in order,
mod inflight;
// to the bus, at its pace,
mod backoff;
mod breaker;
mod deliver;
mod pace;
mod rate;
mod width;
// or out of the way.
pub mod dead_letter;
mod trust;
// Or once more, when somebody asks for it.
pub mod replay;
// The task that does it, and what it shows.
mod forwarder;
mod metrics;
mod status;

use std::path::PathBuf;
use std::sync::Arc;

use tidegate_config::Sink as Config;
use tidegate_event::cloudevents::Encoder;
use tracing::{info, warn};

pub use metrics::Metrics;
pub use status::{Condition, Status};

use crate::log::{Log, Storage};
use crate::progress::Progress;
use crate::sinks::{Sink, SinkError};
use crate::state::Cursors;
use crate::supervise::{Role, Supervisor};
use batch::Limits;
use dead_letter::DeadLetters;
use deliver::Courier;
use forwarder::Forwarder;
use inflight::InFlight;
use intake::Intake;
use opens::OpenBatches;
use pace::Pacer;
use partition::MAX_PARTITIONS;
use status::Monitor;
use trust::Trust;

/// Makes CloudEvents as this configuration says.
pub fn encoder(config: &tidegate_config::Config) -> Encoder {
    let gateway = &config.gateway;
    let types = config.event_types.iter();
    Encoder::new(
        &gateway.id,
        types.map(|entry| (entry.topic.0.clone(), entry.name.clone())).collect(),
        gateway.event_type.clone(),
        gateway.device_level,
    )
}

/// What all forwarders share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Where the events are.
    pub log: Arc<Log>,
    /// Makes CloudEvents of them.
    pub encoder: Arc<Encoder>,
    /// Where each sink stands.
    pub cursors: Cursors,
    /// The disk, for the dead-letter queues.
    pub storage: Arc<dyn Storage>,
    /// The directory of the dead-letter queues; each has its own in it, named as its sink.
    pub dead_letters: PathBuf,
    /// Figures.
    pub metrics: Metrics,
}

/// The way to a forwarder that runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ForwarderHandle {
    monitor: Arc<Monitor>,
    log: Arc<Log>,
}

/// Why a forwarder cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("sink {name:?}: {source}")]
pub struct StartError {
    /// The sink's name.
    pub name: String,
    /// What is wrong with it.
    pub source: SinkError,
}

impl ForwarderHandle {
    /// Starts the sink's forwarder where its cursor stands; a sink without one begins with the oldest
    /// event in the log. It ends with the drain, its cursor saved.
    pub fn start(
        config: &Config,
        shared: &Shared,
        supervisor: &Supervisor,
    ) -> Result<Self, StartError> {
        let name = &config.name;
        let sink = Sink::new(config).map_err(|source| StartError { name: name.clone(), source })?;
        let sink = Arc::new(sink);
        let log = &shared.log;
        let cursor = shared.cursors.get(name).unwrap_or_else(|| {
            let oldest = log.usage().first;
            // From now on the log keeps what this sink has not got.
            if let Err(error) = shared.cursors.set(name, oldest) {
                warn!(sink = name, "cannot save the cursor: {error}");
            }
            oldest
        });
        info!(sink = name, address = sink.address(), cursor, "forwarder starts");
        let monitor = Arc::new(Monitor::new(name, sink.address(), cursor));

        let partitions = config.max_in_flight.clamp(1, MAX_PARTITIONS);
        let limits = Limits {
            events: config.batch.max_events,
            bytes: config.batch.max_bytes.as_usize(),
            array: sink.takes_batches(),
        };
        let opens = OpenBatches::new(limits, config.batch.max_age.0, partitions);
        let encoder = Arc::clone(&shared.encoder);
        let reader = log.reader(cursor);
        let intake = Intake::new(reader, cursor, encoder, Arc::clone(&sink), config, opens);
        let dead_letters = DeadLetters::new(
            Arc::clone(log),
            Arc::clone(&shared.storage),
            shared.dead_letters.join(name),
            config,
            Arc::clone(&monitor),
        );
        let timeout = sink.timeout();
        let courier = Courier {
            sink,
            pacer: Pacer::new(config, timeout),
            trust: Trust::new(),
            monitor: Arc::clone(&monitor),
            metrics: shared.metrics.of(name),
            dead_letters,
        };
        let forwarder = Forwarder {
            log: Arc::clone(log),
            committed: log.watch(),
            courier: Arc::new(courier),
            cursors: shared.cursors.clone(),
            in_flight: InFlight::new(partitions),
            budget: limits.bytes.saturating_mul(partitions + 1),
            read_every: Forwarder::read_every(config.batch.max_age.0),
            drain: supervisor.drain().clone(),
        };
        let task = format!("forwarder {name}");
        supervisor.spawn(task, Role::Critical, forwarder.run(intake));
        Ok(Self { monitor, log: Arc::clone(log) })
    }

    /// The sink's name.
    pub fn name(&self) -> &str {
        self.monitor.name()
    }

    /// How far it is. A step is something read, sent, answered or saved, or a look at what there is to
    /// do; not while the disk keeps it waiting.
    pub fn progress(&self) -> Progress {
        self.monitor.progress(self.log.committed())
    }

    /// How the sink fares now.
    pub fn status(&self) -> Status {
        self.monitor.status(self.log.committed())
    }
}

#[cfg(test)]
mod tests;
