//! What the forwarders count.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::status::{Status, StreamStatus};

/// Figures of all forwarders, by sink. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Metrics {
    events: Family<SinkLabel, Counter>,
    bytes: Family<SinkLabel, Counter>,
    filtered: Family<SinkLabel, Counter>,
    dead_letters: Family<SinkLabel, Counter>,
    lost: Family<SinkLabel, Counter>,
    splits: Family<SinkLabel, Counter>,
    failures: Family<ReasonLabel, Counter>,
    lag: Family<SinkLabel, Gauge>,
    oldest: Family<SinkLabel, Gauge>,
    expired: Family<SinkLabel, Counter>,
    stream_lag: Family<StreamLabel, Gauge>,
    stream_oldest: Family<StreamLabel, Gauge>,
    in_flight: Family<SinkLabel, Gauge>,
    held: Family<SinkLabel, Gauge>,
    answer_time: Family<SinkLabel, Histogram>,
}

/// Figures of one sink.
#[derive(Debug, Clone)]
pub(super) struct SinkMetrics {
    label: SinkLabel,
    failures: Family<ReasonLabel, Counter>,
    /// Events that the bus has.
    pub(super) events: Counter,
    /// Bytes of the bodies that brought them.
    pub(super) bytes: Counter,
    /// Events that the sink does not want.
    pub(super) filtered: Counter,
    /// Events put into the dead-letter queue.
    pub(super) dead_letters: Counter,
    /// Events that could not be read from the log.
    pub(super) lost: Counter,
    /// Events that were too old to be sent.
    pub(super) expired: Counter,
    /// Batches split because the bus, or the link, would not take them.
    pub(super) splits: Counter,
    lag: Gauge,
    oldest: Gauge,
    stream_lag: Family<StreamLabel, Gauge>,
    stream_oldest: Family<StreamLabel, Gauge>,
    /// The streams that are shown.
    shown: Arc<Mutex<Vec<StreamLabel>>>,
    /// Batches in flight.
    pub(super) in_flight: Gauge,
    /// Bytes of batches in memory.
    pub(super) held: Gauge,
    /// Seconds until a request was answered.
    pub(super) answer_time: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabel {
    sink: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabel {
    sink: String,
    /// `live` or `backlog`.
    stream: &'static str,
    /// The highest of its lanes.
    priority: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    sink: String,
    reason: &'static str,
}

impl Metrics {
    /// Enters the figures, each as `tidegate_sink_…`.
    pub fn register(&self, registry: &mut Registry) {
        let sinks = registry.sub_registry_with_prefix("tidegate_sink");
        sinks.register("events", "Events delivered", self.events.clone());
        sinks.register("sent_bytes", "Bytes of request bodies delivered", self.bytes.clone());
        sinks.register("filtered", "Events passed over by the filter", self.filtered.clone());
        sinks.register(
            "dead_letters",
            "Events put into the dead-letter queue",
            self.dead_letters.clone(),
        );
        sinks.register("lost", "Events that the log no longer had", self.lost.clone());
        sinks.register("expired", "Events too old to be sent", self.expired.clone());
        sinks.register(
            "splits",
            "Batches split: a poison event in them, or too slow for the link",
            self.splits.clone(),
        );
        sinks.register("failures", "Requests that did not deliver", self.failures.clone());
        sinks.register("lag_events", "Events not yet delivered", self.lag.clone());
        sinks.register(
            "lag_seconds",
            "Age of the oldest event not yet delivered",
            self.oldest.clone(),
        );
        sinks.register(
            "stream_lag_events",
            "Events not yet delivered, by stream, while a sink is behind and has more than one",
            self.stream_lag.clone(),
        );
        sinks.register(
            "stream_lag_seconds",
            "Age of the oldest event of a stream not yet delivered",
            self.stream_oldest.clone(),
        );
        sinks.register("in_flight", "Batches sent and not answered", self.in_flight.clone());
        sinks.register("held_bytes", "Bytes of batches in memory", self.held.clone());
        sinks.register(
            "answer_seconds",
            "Time until a request was answered",
            self.answer_time.clone(),
        );
    }

    pub(super) fn of(&self, sink: &str) -> SinkMetrics {
        let label = SinkLabel { sink: sink.to_owned() };
        SinkMetrics {
            failures: self.failures.clone(),
            events: self.events.get_or_create_owned(&label),
            bytes: self.bytes.get_or_create_owned(&label),
            filtered: self.filtered.get_or_create_owned(&label),
            dead_letters: self.dead_letters.get_or_create_owned(&label),
            lost: self.lost.get_or_create_owned(&label),
            splits: self.splits.get_or_create_owned(&label),
            expired: self.expired.get_or_create_owned(&label),
            stream_lag: self.stream_lag.clone(),
            stream_oldest: self.stream_oldest.clone(),
            shown: Arc::default(),
            lag: self.lag.get_or_create_owned(&label),
            oldest: self.oldest.get_or_create_owned(&label),
            in_flight: self.in_flight.get_or_create_owned(&label),
            held: self.held.get_or_create_owned(&label),
            answer_time: self.answer_time.get_or_create_owned(&label),
            label,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            events: Family::default(),
            bytes: Family::default(),
            filtered: Family::default(),
            dead_letters: Family::default(),
            lost: Family::default(),
            splits: Family::default(),
            failures: Family::default(),
            expired: Family::default(),
            stream_lag: Family::default(),
            stream_oldest: Family::default(),
            lag: Family::default(),
            oldest: Family::default(),
            in_flight: Family::default(),
            held: Family::default(),
            // 1 ms to 33 s.
            answer_time: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 16))
            }),
        }
    }
}

impl SinkMetrics {
    /// Shows how far the sink is, and each of its streams while there are several.
    pub(super) fn lag(&self, status: &Status) {
        self.lag.set(gauge(status.lag_events));
        self.oldest.set(gauge(status.lag_seconds));
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let label = |stream: &StreamStatus| StreamLabel {
            sink: self.label.sink.clone(),
            stream: if stream.backlog { "backlog" } else { "live" },
            priority: stream.priority,
        };
        let now: Vec<StreamLabel> = status.streams.iter().map(label).collect();
        for gone in shown.iter().filter(|label| !now.contains(label)) {
            self.stream_lag.remove(gone);
            self.stream_oldest.remove(gone);
        }
        for (label, stream) in now.iter().zip(&status.streams) {
            self.stream_lag.get_or_create(label).set(gauge(stream.lag_events));
            self.stream_oldest.get_or_create(label).set(gauge(stream.lag_seconds));
        }
        *shown = now;
    }

    /// Counts a request that did not deliver, by reason.
    pub(super) fn failed(&self, reason: &'static str) {
        let label = ReasonLabel { sink: self.label.sink.clone(), reason };
        self.failures.get_or_create(&label).inc();
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
