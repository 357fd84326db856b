//! What the services count.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tidegate_edge::alerts::{RuleStats, Stats};

/// Figures of all services. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    events: Family<ServiceLabel, Counter>,
    published: Family<ServiceLabel, Counter>,
    denied: Family<ServiceLabel, Counter>,
    given_up: Family<ServiceLabel, Counter>,
    restarts: Family<ServiceLabel, Counter>,
    passed_over: Family<ServiceLabel, Counter>,
    lost: Family<ServiceLabel, Counter>,
    alerts: AlertFigures,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabel {
    service: &'static str,
}

impl Metrics {
    /// Enters the figures, each as `tidegate_…`.
    pub fn register(&self, registry: &mut Registry) {
        let families = [
            ("events", "Events that the service has looked at", &self.events),
            ("published", "Events that the service has published", &self.published),
            ("denied", "Events of the service that the gate denied", &self.denied),
            (
                "given_up",
                "Events of the service that found no room in a log that waited for the service",
                &self.given_up,
            ),
            ("restarts", "How often the service was restarted after a failure", &self.restarts),
            (
                "passed_over",
                "Events passed over because the service panicked on them",
                &self.passed_over,
            ),
            ("lost", "Events that the log had lost before the service looked at them", &self.lost),
        ];
        for (name, help, family) in families {
            registry.register(format!("tidegate_service_{name}"), help, family.clone());
        }
        registry.register_collector(Box::new(self.alerts.clone()));
    }

    /// The figures of the alert rules; the first call counts.
    pub(super) fn alerts(&self, stats: Arc<Stats>) {
        let _ = self.alerts.0.set(stats);
    }

    pub(super) fn events(&self, service: &'static str) -> Counter {
        self.events.get_or_create_owned(&ServiceLabel { service })
    }

    pub(super) fn published(&self, service: &'static str) -> Counter {
        self.published.get_or_create_owned(&ServiceLabel { service })
    }

    pub(super) fn denied(&self, service: &'static str) -> Counter {
        self.denied.get_or_create_owned(&ServiceLabel { service })
    }

    pub(super) fn given_up(&self, service: &'static str) -> Counter {
        self.given_up.get_or_create_owned(&ServiceLabel { service })
    }

    pub(super) fn restarts(&self, service: &'static str) -> Counter {
        self.restarts.get_or_create_owned(&ServiceLabel { service })
    }

    pub(super) fn passed_over(&self, service: &'static str) -> Counter {
        self.passed_over.get_or_create_owned(&ServiceLabel { service })
    }

    pub(super) fn lost(&self, service: &'static str) -> Counter {
        self.lost.get_or_create_owned(&ServiceLabel { service })
    }

    /// Alerts that are raised now.
    pub fn open_alerts(&self) -> u64 {
        self.alerts.sum(|rule| &rule.open)
    }

    /// Alerts raised so far.
    pub fn raised_alerts(&self) -> u64 {
        self.alerts.sum(|rule| &rule.raised)
    }
}

/// Reads the figures where the alerts service keeps them.
#[derive(Debug, Clone, Default)]
struct AlertFigures(Arc<OnceLock<Arc<Stats>>>);

impl AlertFigures {
    fn rules(&self) -> &[RuleStats] {
        self.0.get().map_or(&[], |stats| &stats.rules)
    }

    fn sum(&self, figure: impl Fn(&RuleStats) -> &AtomicU64) -> u64 {
        self.rules().iter().map(|rule| figure(rule).load(Relaxed)).sum()
    }
}

fn alert(rule: &RuleStats) -> [(&'static str, &str); 1] {
    [("alert", &rule.alert)]
}

impl Collector for AlertFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Figure = fn(&RuleStats) -> &AtomicU64;
        let counters: [(&str, &str, Figure); 2] = [
            ("tidegate_alerts_raised", "Alerts raised", |rule| &rule.raised),
            ("tidegate_alerts_cleared", "Alerts cleared", |rule| &rule.cleared),
        ];
        for (name, help, figure) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for rule in self.rules() {
                let count = ConstCounter::new(figure(rule).load(Relaxed));
                count.encode(family.encode_family(&alert(rule))?)?;
            }
        }
        let help = "Alerts that are raised now";
        let mut family =
            encoder.encode_descriptor("tidegate_alerts_open", help, None, MetricType::Gauge)?;
        for rule in self.rules() {
            let open = ConstGauge::new(rule.open.load(Relaxed));
            open.encode(family.encode_family(&alert(rule))?)?;
        }
        let help = "Events that a rule's filter matched and that it could not use";
        let mut family = encoder.encode_descriptor(
            "tidegate_alerts_ignored",
            help,
            None,
            MetricType::Counter,
        )?;
        for rule in self.rules() {
            let reasons =
                [("no-number", &rule.ignored_values), ("too-many-devices", &rule.ignored_devices)];
            for (reason, figure) in reasons {
                let [alert] = alert(rule);
                let count = ConstCounter::new(figure.load(Relaxed));
                count.encode(family.encode_family(&[alert, ("reason", reason)])?)?;
            }
        }
        Ok(())
    }
}
