//! What the listeners count.

use std::net::SocketAddr;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tidegate_event::Qos;

/// Figures of all listeners. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Open connections.
    pub connections: Gauge,
    /// Of those, the ones that have not sent a complete CONNECT.
    pub connecting: Gauge,
    /// Clients that were let in.
    pub connects: Counter,
    /// Clients that broke the protocol, and lost their connection for it.
    pub malformed: Counter,
    /// Clients that were silent for too long.
    pub timed_out: Counter,
    /// Clients that took nothing of what waited for them for too long.
    pub stuck: Counter,
    /// Clients replaced by a connection with the same client id.
    pub taken_over: Counter,
    /// Clients refused because their client id belongs to another user.
    pub foreign_clients: Counter,
    /// Sessions that outlast their connections, connected or not.
    pub sessions: Gauge,
    /// Sessions that a client went on with.
    pub sessions_resumed: Counter,
    /// Sessions that ended because their client was away for too long.
    pub sessions_expired: Counter,
    /// Clients refused because of `limits.max-sessions`.
    pub sessions_refused: Counter,
    /// Bytes read.
    pub bytes_in: Counter,
    /// Bytes written.
    pub bytes_out: Counter,
    /// Acknowledgements of durable events: PUBACK and PUBREC.
    pub acks: Counter,
    /// Events refused because the log had no room or the disk took no writes (MQTT 5: told so).
    pub refused: Counter,
    /// QoS 0 events that are lost because the log had no room or the disk took no writes.
    pub dropped: Counter,
    /// Times that a client had to wait because of its rate limits.
    pub paced: Counter,
    /// Wills that could not be published.
    pub wills_lost: Counter,
    /// Those of HTTP alone.
    pub(super) http: super::http::Metrics,
    connections_refused: Family<LimitLabel, Counter>,
    handshakes_failed: Family<ReasonLabel, Counter>,
    certificates: Family<ListenerLabel, Gauge>,
    received: Family<QosLabel, Counter>,
    denied: Family<ReasonLabel, Counter>,
    received_by_qos: [Counter; 3],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QosLabel {
    qos: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Metrics {
    /// Counts `count` events received with `qos`.
    pub fn received(&self, qos: Qos, count: u64) {
        self.received_by_qos[qos as usize].inc_by(count);
    }

    /// Events received, with any QoS.
    pub fn received_in_all(&self) -> u64 {
        self.received_by_qos.iter().map(Counter::get).sum()
    }

    /// Counts a connection closed at once because of `limits.` `limit`.
    pub fn refused_connection(&self, limit: &'static str) {
        self.connections_refused.get_or_create(&LimitLabel { limit }).inc();
    }

    /// Connections closed at once because of a limit.
    pub fn refused_connections(&self, limit: &'static str) -> u64 {
        self.connections_refused.get_or_create(&LimitLabel { limit }).get()
    }

    /// Counts a handshake, of TLS or WebSocket, that came to nothing.
    pub fn failed_handshake(&self, reason: &'static str) {
        self.handshakes_failed.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Notes when the certificate of the listener at `listener` ends, in seconds since 1970.
    pub fn certificate_ends(&self, listener: SocketAddr, not_after: i64) {
        let label = ListenerLabel { listener: listener.to_string() };
        self.certificates.get_or_create(&label).set(not_after);
    }

    /// Counts an event that the gate denied.
    pub fn denied(&self, reason: &'static str) {
        self.denied.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Enters the figures, each as `tidegate_…`.
    pub fn register(&self, registry: &mut Registry) {
        self.http.register(registry);
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counter("tidegate_connects", "MQTT clients let in", &self.connects);
        counter(
            "tidegate_clients_malformed",
            "Connections ended because the client broke the protocol",
            &self.malformed,
        );
        counter(
            "tidegate_clients_timed_out",
            "Connections ended because the client was silent for too long",
            &self.timed_out,
        );
        counter(
            "tidegate_clients_stuck",
            "Connections ended because the client took nothing for limits.send-timeout",
            &self.stuck,
        );
        counter(
            "tidegate_clients_taken_over",
            "Connections ended because the same client id connected again",
            &self.taken_over,
        );
        counter(
            "tidegate_clients_foreign",
            "Clients refused because their client id belongs to another user",
            &self.foreign_clients,
        );
        counter(
            "tidegate_sessions_resumed",
            "Sessions that a client came back to",
            &self.sessions_resumed,
        );
        counter(
            "tidegate_sessions_expired",
            "Sessions ended because their client was away for too long",
            &self.sessions_expired,
        );
        counter(
            "tidegate_sessions_refused",
            "Clients refused because of limits.max-sessions",
            &self.sessions_refused,
        );
        counter("tidegate_received_bytes", "Bytes read from MQTT clients", &self.bytes_in);
        counter("tidegate_sent_bytes", "Bytes written to MQTT clients", &self.bytes_out);
        counter("tidegate_acks", "PUBACK and PUBREC sent for durable events", &self.acks);
        counter(
            "tidegate_publishes_refused",
            "Events refused because the log had no room or the disk took no writes",
            &self.refused,
        );
        counter(
            "tidegate_publishes_dropped",
            "QoS 0 events lost because the log had no room or the disk took no writes",
            &self.dropped,
        );
        counter(
            "tidegate_clients_paced",
            "Times that a client had to wait because of limits.max-events-per-second or \
             limits.max-bytes-per-second",
            &self.paced,
        );
        counter("tidegate_wills_lost", "Wills that could not be published", &self.wills_lost);
        registry.register(
            "tidegate_sessions",
            "MQTT sessions that outlast their connections, connected or not",
            self.sessions.clone(),
        );
        registry.register(
            "tidegate_connections",
            "Open MQTT connections",
            self.connections.clone(),
        );
        registry.register(
            "tidegate_connecting",
            "Open connections that have not sent a complete CONNECT",
            self.connecting.clone(),
        );
        registry.register(
            "tidegate_connections_refused",
            "Connections closed at once because of a limit",
            self.connections_refused.clone(),
        );
        registry.register(
            "tidegate_handshakes_failed",
            "TLS and WebSocket handshakes that came to nothing",
            self.handshakes_failed.clone(),
        );
        registry.register(
            "tidegate_certificate_not_after_seconds",
            "When the certificate of a listener ends, in seconds since 1970",
            self.certificates.clone(),
        );
        registry.register("tidegate_publishes", "Events received", self.received.clone());
        registry.register(
            "tidegate_publishes_denied",
            "Events that the gate did not admit",
            self.denied.clone(),
        );
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let received = Family::<QosLabel, Counter>::default();
        let received_by_qos = [0, 1, 2].map(|qos| received.get_or_create_owned(&QosLabel { qos }));
        Self {
            connections: Gauge::default(),
            connecting: Gauge::default(),
            connects: Counter::default(),
            malformed: Counter::default(),
            timed_out: Counter::default(),
            stuck: Counter::default(),
            taken_over: Counter::default(),
            foreign_clients: Counter::default(),
            sessions: Gauge::default(),
            sessions_resumed: Counter::default(),
            sessions_expired: Counter::default(),
            sessions_refused: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            acks: Counter::default(),
            refused: Counter::default(),
            dropped: Counter::default(),
            paced: Counter::default(),
            wills_lost: Counter::default(),
            http: super::http::Metrics::default(),
            connections_refused: Family::default(),
            handshakes_failed: Family::default(),
            certificates: Family::default(),
            received,
            denied: Family::default(),
            received_by_qos,
        }
    }
}
