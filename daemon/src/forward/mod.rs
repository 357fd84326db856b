//! Out: one forwarder a sink. It reads the log from the sink's cursor on, batches what the sink wants,
//! sends it until it is there, and moves the cursor. A sink that has fallen behind gets first what matters
//! first.
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
//! # Streams
//!
//! A **stream** is a range of the log that is read in order for some lanes (`stream.rs`); the streams of a
//! sink together are its cursor (`streams.rs`). A sink that keeps up has one: all lanes, from its cursor on.
//! It is **behind** once an event has waited for 5 s and twice `batch.max-age`, counted from when the
//! forwarder saw it: longer than gathering a batch and sending it, once more, takes (`behind.rs`). Then,
//! as soon as the bus takes something, its stream is divided:
//!
//! - **By priority** of the lanes (`rules.rs`): from the same LSN on, one stream for each. Each reads the
//!   log and passes over what is of the others.
//! - **By time** where `drain = "live-first"`: what is on disk by then is a backlog, divided by priority, and
//!   a new stream begins behind it, with all lanes. It goes first; the ranges of the backlog follow one by
//!   one, by priority, then age. What is read of a backlog is sent with `historical: true`, within
//!   `rate.backlog-*`, takes of `rate.max-*` what the newest events leave, and leaves them one of
//!   `max-in-flight` requests.
//!
//! Batches of the stream that ranks highest go first; reading goes round. What is in memory and
//! the bus has nothing of (it waits for its turn: for the breaker, the rate, or a place in flight) is given
//! back and read again, each event by the stream that it is of now. What the bus may have in a moment, or has
//! in part, stays as it is, and holds up both.
//!
//! Streams that go on with the log become one again: those ahead wait at the next chunk, until all of them
//! are at the same LSN. So a sink that keeps up reads the log once. A range of a backlog ends; the next
//! outage makes another one. There are 16 streams at most: where a division would make more, the sink goes
//! on in order.
//!
//! Order holds within each priority, and where `drain = "live-first"` within what is historical and within
//! what is not. Who needs strict order of a source has it with `drain = "in-order"` and lanes of one
//! priority.
//!
//! # What is not sent
//!
//! An event that is older than its lane's `max-age`, or than the seconds for which an MQTT 5 publisher said
//! that it is of use, if the clock was set when it came and is set now. What damage, a release or a lane's
//! `when-full` left no event of. Both are counted, and stand in the log's ledger: once, whatever sinks meet
//! them, in one entry for a chunk of the log. So for each sink, events delivered, filtered, expired, lost
//! and dead letters together are as many as LSNs passed.
//!
//! # Bounds
//!
//! Bodies in memory: (`max-in-flight` + 1) × `batch.max-bytes`, two more while there are several streams,
//! and one event; with compression its result beside each body in flight. The log in memory: one chunk of
//! 256 KiB for each stream that is read, or one frame where that is larger. Whatever the backlog.
//!
//! # What a crash repeats
//!
//! The cursor is for each stream the lowest LSN that is not done with, saved every 100 ms. After a crash
//! everything from the saved cursor on goes again, in order, under the same ids: what was in flight, what was
//! delivered past a batch that was not, and what was delivered in the last 100 ms. Nothing is left out.

// From the log
mod intake;
mod partition;
mod rules;
// in one stream, or several,
mod behind;
mod stream;
mod streams;
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
use std::time::Duration;

use tidegate_config::Sink as Config;
use tidegate_config::sink::{Drain, Rate};
use tidegate_event::cloudevents::Encoder;
use tokio::time::Instant;
use tracing::{info, warn};

pub use metrics::Metrics;
pub use status::{Condition, Status, StreamStatus};

use crate::clock::Clock;
use crate::log::{Log, Storage};
use crate::progress::Progress;
use crate::sinks::{Sink, SinkError};
use crate::state::{Cursors, Span};
use crate::supervise::{Role, Supervisor};
use batch::Limits;
use behind::Behind;
use dead_letter::DeadLetters;
use deliver::Courier;
use forwarder::Forwarder;
use inflight::InFlight;
use intake::Source;
use pace::Pacer;
use partition::MAX_PARTITIONS;
use rate::BacklogRate;
use rules::Rules;
use status::Monitor;
use streams::Streams;
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
    /// When a sink counts as behind; `None` as its batches say.
    pub late_after: Option<Duration>,
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
        let mut spans = shared.cursors.spans(name);
        if spans.is_empty() {
            let oldest = log.usage().first;
            // From now on the log keeps what this sink has not got.
            if let Err(error) = shared.cursors.set(name, oldest) {
                warn!(sink = name, "cannot save the cursor: {error}");
            }
            spans.push(Span::onward(oldest));
        }
        let cursor = spans.iter().map(|span| span.from).min().unwrap_or_default();
        info!(sink = name, address = sink.address(), cursor, "forwarder starts");
        let monitor = Arc::new(Monitor::new(name, sink.address(), cursor));

        let partitions = config.max_in_flight.clamp(1, MAX_PARTITIONS);
        let limits = Limits {
            events: config.batch.max_events,
            bytes: config.batch.max_bytes.as_usize(),
            array: sink.takes_batches(),
        };
        let max_age = config.batch.max_age.0;
        let source = Source {
            log: Arc::clone(log),
            encoder: Arc::clone(&shared.encoder),
            historical: Arc::new(Encoder::clone(&shared.encoder).historical()),
            sink: Arc::clone(&sink),
            filters: config.topics.iter().map(|topic| topic.0.clone()).collect(),
            rules: Rules::of(log),
            limits,
            backlog_limits: backlog_limits(limits, &config.rate),
            max_age,
            partitions,
            clock: Clock::new(),
        };
        let streams = Streams::new(
            Arc::new(source),
            spans,
            config.drain == Drain::LiveFirst,
            Forwarder::read_every(max_age),
            (limits.bytes.saturating_mul(partitions + 1), limits.bytes.saturating_mul(2)),
        );
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
            behind: Behind::new(shared.late_after.unwrap_or(Behind::after(max_age))),
            backlog_rate: BacklogRate::new(&config.rate, Instant::now()),
            drain: supervisor.drain().clone(),
        };
        let task = format!("forwarder {name}");
        supervisor.spawn(task, Role::Critical, forwarder.run(streams));
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

/// Batches of a backlog hold no more than goes in a second, so that they are sent steadily.
fn backlog_limits(limits: Limits, rate: &Rate) -> Limits {
    let events = rate.backlog_events.and_then(|events| usize::try_from(events).ok());
    let bytes = rate.backlog_bytes.map(|bytes| bytes.as_usize());
    Limits {
        events: limits.events.min(events.unwrap_or(usize::MAX)),
        bytes: limits.bytes.min(bytes.unwrap_or(usize::MAX)),
        ..limits
    }
}

#[cfg(test)]
mod tests;
