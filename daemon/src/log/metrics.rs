//! What a log shows to whoever watches it, read off when it is asked for.

mod lanes;

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
        let written = self.log.written();
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
            (
                "tidegate_log_payload_bytes",
                "Bytes of payload that were handed over, since the start",
                written.payload,
            ),
            (
                "tidegate_log_written_bytes",
                "Bytes of frames and segment headers that were written, since the start",
                written.bytes,
            ),
            (
                "tidegate_log_flash_bytes",
                "Bytes of the pages of 4 KiB that they lie in, each as often as it was written, since the start",
                written.on_flash,
            ),
            ("tidegate_log_syncs", "Calls of fdatasync, since the start", written.syncs),
        ] {
            let counter = ConstCounter::new(value);
            let descriptor = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(descriptor)?;
        }
        let amplification = written.on_flash as f64 / written.payload.max(1) as f64;
        for (name, help, value) in [
            (
                "tidegate_log_write_amplification",
                "Bytes on flash for each byte of payload, since the start",
                amplification,
            ),
            (
                "tidegate_log_stretch_seconds",
                "How long commits wait for the daily write budget's sake",
                written.stretch.as_secs_f64(),
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let descriptor = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(descriptor)?;
        }
        let (day, budget) = written.day.unwrap_or_default();
        let losses = self.log.loss_count();
        for (name, help, value) in [
            ("tidegate_log_bytes", "Bytes on disk", usage.bytes),
            (
                "tidegate_log_spare_bytes",
                "Bytes taken on disk beside these, and free for events: allocated ahead, and files to be written over",
                usage.spare,
            ),
            (
                "tidegate_log_max_bytes",
                "Bytes on disk of everything, beyond which events are refused; log.max-size",
                self.max_size,
            ),
            (
                "tidegate_log_set_aside_bytes",
                "Bytes of log.max-size that are not there for events: for dead letters, quarantine, ledger, ballast, state",
                self.max_size.saturating_sub(self.log.budget()),
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
            (
                "tidegate_log_projected_year_bytes",
                "Bytes on flash in a year, if it goes on as since the start; 0 in the first minute",
                written.a_year.unwrap_or_default(),
            ),
            (
                "tidegate_log_day_bytes",
                "Bytes on flash in the last 24 hours; 0 without a budget",
                day,
            ),
            (
                "tidegate_log_daily_write_budget_bytes",
                "Bytes on flash a day beyond which commits wait for more events; 0 without a budget",
                budget,
            ),
            ("tidegate_log_quarantine_bytes", "Bytes on disk that were set aside", quarantined),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let descriptor = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(descriptor)?;
        }
        lanes::encode(&self.log, &mut encoder)
    }
}
