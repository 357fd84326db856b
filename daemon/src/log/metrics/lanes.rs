//! The figures of the lanes, each as `tidegate_lane_…` with the lane's name.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::super::{LaneUsage, Log};

/// Name, help, and where it stands.
type Figure = (&'static str, &'static str, fn(&LaneUsage) -> u64);

const GAUGES: [Figure; 4] = [
    ("tidegate_lane_events", "Events of the lane on disk", |usage| usage.events),
    ("tidegate_lane_bytes", "Bytes that they take there", |usage| usage.bytes),
    ("tidegate_lane_max_bytes", "Bytes that they may take", |usage| usage.max_bytes),
    ("tidegate_lane_full", "Whether the lane is full", |usage| u64::from(usage.is_full)),
];
const COUNTERS: [Figure; 4] = [
    ("tidegate_lane_dropped", "Events dropped for want of room, since the start", |usage| {
        usage.dropped
    }),
    ("tidegate_lane_refused", "Events refused for want of room, since the start", |usage| {
        usage.refused
    }),
    ("tidegate_lane_expired", "Events dropped because of their age, since the start", |usage| {
        usage.expired
    }),
    ("tidegate_lane_thinned", "Events thinned out for want of room, since the start", |usage| {
        usage.thinned
    }),
];

/// Writes them.
pub(super) fn encode(log: &Log, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let lanes = log.lanes();
    let all: Vec<_> =
        lanes.all().map(|lane| ([("lane", lanes.name(lane))], log.lane_usage(lane))).collect();
    let mut write = |kind: MetricType, figures: &[Figure]| {
        for (name, help, value) in figures {
            let mut descriptor = encoder.encode_descriptor(name, help, None, kind)?;
            for (label, usage) in &all {
                let value = value(usage);
                let family = descriptor.encode_family(label)?;
                match kind {
                    MetricType::Counter => ConstCounter::new(value).encode(family)?,
                    _ => {
                        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(family)?
                    }
                }
            }
        }
        Ok(())
    };
    write(MetricType::Gauge, &GAUGES)?;
    write(MetricType::Counter, &COUNTERS)
}
