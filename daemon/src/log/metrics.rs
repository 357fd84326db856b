//! What a log shows to whoever watches it, read off when it is asked for.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Log;

/// A log's figures, each as `tidegate_log_…`.
#[derive(Debug)]
pub struct Metrics {
    log: Arc<Log>,
    max_size: u64,
}

impl Metrics {
    /// The figures of `log`, which may hold `max_size` bytes.
    pub fn new(log: Arc<Log>, max_size: u64) -> Self {
        Self { log, max_size }
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let usage = self.log.usage();
        let events = ConstCounter::new(usage.last);
        let descriptor = encoder.encode_descriptor(
            "tidegate_log_events",
            "Events on disk since the log was created",
            None,
            events.metric_type(),
        )?;
        events.encode(descriptor)?;
        let (quarantined, dropped) = self.log.quarantine();
        for (name, help, value) in [
            (
                "tidegate_log_control_losses",
                "Damaged places that cost control records and no event, since the start",
                self.log.control_lost(),
            ),
            (
                "tidegate_log_quarantine_dropped",
                "Files in quarantine that made room for others, since the start",
                dropped,
            ),
        ] {
            let counter = ConstCounter::new(value);
            let descriptor = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(descriptor)?;
        }
        let losses = self.log.loss_count();
        for (name, help, value) in [
            ("tidegate_log_bytes", "Bytes on disk", usage.bytes),
            (
                "tidegate_log_max_bytes",
                "Bytes on disk beyond which events are refused",
                self.max_size,
            ),
            ("tidegate_log_segments", "Segment files", usage.segments as u64),
            ("tidegate_log_first_lsn", "The oldest event on disk", usage.first),
            ("tidegate_log_losses", "Entries of the loss ledger", losses.entries),
            ("tidegate_log_lost_events", "Events in the loss ledger, at most", losses.events),
            (
                "tidegate_log_ledger_damaged",
                "Entries of the loss ledger that could not be read when the log was opened",
                losses.damaged,
            ),
            ("tidegate_log_quarantine_bytes", "Bytes on disk that were set aside", quarantined),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let descriptor = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(descriptor)?;
        }
        Ok(())
    }
}
