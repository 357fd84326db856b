//! What the bus counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Figures of the bus. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Subscriptions of all sessions.
    pub subscriptions: Gauge,
    /// Of those, the shared ones.
    pub shared_subscriptions: Gauge,
    /// Retained messages.
    pub retained: Gauge,
    /// Bytes of them, as the state keeps them.
    pub retained_bytes: Gauge,
    /// Retained messages refused because `limits.max-retained`, `limits.max-retained-size` or their part of
    /// `limits.max-memory` was reached.
    pub retained_refused: Counter,
    /// Deliveries handed to sessions.
    pub deliveries: Counter,
    /// QoS 0 deliveries dropped because a subscriber was slow (`limits.max-queued`).
    pub dropped: Counter,
    /// How often a subscriber was so slow that it went on from the log.
    pub lagged: Counter,
    /// Events of shared subscriptions that one session had and another gets.
    pub returned: Counter,
    /// Events that the log had removed before the bus or a slow subscriber came to read them.
    pub lost: Counter,
}

impl Metrics {
    /// Enters the figures, each as `tidegate_…`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "tidegate_subscriptions",
            "Subscriptions of all MQTT sessions",
            self.subscriptions.clone(),
        );
        registry.register(
            "tidegate_shared_subscriptions",
            "Shared subscriptions of all MQTT sessions",
            self.shared_subscriptions.clone(),
        );
        registry.register("tidegate_retained", "Retained messages", self.retained.clone());
        registry.register(
            "tidegate_retained_bytes",
            "Bytes of retained messages, of each copy on disk",
            self.retained_bytes.clone(),
        );
        registry.register(
            "tidegate_retained_refused",
            "Retained messages not kept because limits.max-retained, limits.max-retained-size or limits.max-memory was reached",
            self.retained_refused.clone(),
        );
        registry.register(
            "tidegate_deliveries",
            "Deliveries handed to MQTT subscribers",
            self.deliveries.clone(),
        );
        registry.register(
            "tidegate_deliveries_dropped",
            "QoS 0 deliveries dropped because the subscriber was slower than limits.max-queued allows",
            self.dropped.clone(),
        );
        registry.register(
            "tidegate_subscribers_lagged",
            "How often a slow MQTT subscriber had to go on from the log",
            self.lagged.clone(),
        );
        registry.register(
            "tidegate_deliveries_returned",
            "Events of shared subscriptions that one MQTT session was given and another one gets",
            self.returned.clone(),
        );
        registry.register(
            "tidegate_deliveries_lost",
            "Events that the log had removed before a slow MQTT subscriber read them",
            self.lost.clone(),
        );
    }
}
