//! `[limits]`: what one client, and all of them, may use.

use crate::reader::Section;
use crate::value::{ByteSize, Span};

/// `[limits]`: each with what happens when it is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Connections at once; one more is closed at once. 1 to 1,000,000; default 4096.
    pub max_connections: usize,
    /// Connections at once from one address (IPv6: from one /64 network); one more is closed at once.
    /// 1 to 1,000,000; default: half of `max-connections`, at least 64: many sensors may share the address
    /// of a router, and none takes all places. See [`Limits::connections_per_address`].
    pub max_connections_per_address: Option<usize>,
    /// Connections at once that have not sent a complete CONNECT (TLS and WebSocket handshakes
    /// included); one more is closed at once. 1 to 1,000,000; default 1024.
    pub max_connecting: usize,
    /// Bytes that all clients together may make the gateway hold in memory: connections, packets under
    /// way, what waits for subscribers, subscriptions, sessions, retained messages. Beyond it slow
    /// subscribers lose what waits for them (QoS 0 is dropped and counted, QoS 1 and 2 are read from the
    /// log), then new connections are refused (0x97, 3.1.1: code 3). 8 MiB to 1 TiB, and room for 8
    /// packets and 4 × `max-body-memory`; default 128 MiB.
    pub max_memory: ByteSize,
    /// Bytes of one MQTT packet; a larger one ends the connection (MQTT 5: 0x95). 1 KiB to 16 MiB, and
    /// no more than a commit holds; default 256 KiB.
    pub max_packet_size: ByteSize,
    /// Bytes of one HTTP request's body, inflated; a larger one is refused (413). 1 KiB to 16 MiB, and no
    /// more than a commit holds; default 1 MiB.
    pub max_body_size: ByteSize,
    /// Bytes of all HTTP requests' bodies in memory; beyond it requests are refused (503). 1 KiB to
    /// 1 GiB, and room for one body; default 8 MiB.
    pub max_body_memory: ByteSize,
    /// How long the body of an HTTP request may take, and then the commit of its events (408, 503).
    /// 1 s to 10 min; default 30 s.
    pub request_timeout: Span,
    /// Publishes of one client that are not yet acknowledged; the connection is not read while it
    /// has more (MQTT 5: receive maximum). 1 to 65535; default 1024.
    pub max_inflight: u16,
    /// Events a second that are taken from one client, after a burst of as many; one that sends more
    /// is made to wait. 1 to 1,000,000,000; default: no limit.
    pub max_events_per_second: Option<u64>,
    /// Bytes of PUBLISH packets a second, likewise. 1 KiB to 1 TiB; default: no limit.
    pub max_bytes_per_second: Option<ByteSize>,
    /// From accept to a complete CONNECT, TLS and WebSocket handshakes included; then the connection is closed.
    /// 100 ms to 5 min; default 10 s.
    pub connect_timeout: Span,
    /// How long a client may take nothing of what waits for it; then the connection is closed. 1 s to
    /// 1 d; default 60 s.
    pub send_timeout: Span,
    /// The longest keep-alive of an MQTT 5 client, which is told (Server Keep Alive); one of 0 becomes
    /// this too. 3.1.1 clients have no way to be told, and keep theirs. Whole seconds, 0 s to 65,535 s;
    /// default 0 s: the client decides.
    pub max_keep_alive: Span,
    /// Topic aliases of one MQTT 5 client, in each direction; a higher one ends the connection (0x94).
    /// 0 to 65535; default 32.
    pub max_topic_aliases: u16,
    /// Subscriptions of one client, shared ones among them; one more is refused (0x97, 3.1.1: 0x80). 1 to
    /// 100,000; default 128.
    pub max_subscriptions: usize,
    /// Levels of a topic or filter; a deeper one is refused (0x90, 0x8f). 1 to 1024; default 32.
    pub max_topic_levels: usize,
    /// Bytes of a topic or filter; a longer one is refused (0x90, 0x8f). 1 to 65535; default 1024.
    pub max_topic_length: usize,
    /// Bytes that wait for one slow subscriber, or for those that share a subscription. Beyond it QoS 0 is dropped
    /// and counted; QoS 1 and 2 are read from the log when it catches up. 4 KiB to 1 GiB, and room for one packet;
    /// default 1 MiB.
    pub max_queued: ByteSize,
    /// Sessions that outlast their connections; a client that wants one more is refused (0x97, 3.1.1:
    /// code 3). 0 to 1,000,000; default 10,000.
    pub max_sessions: usize,
    /// How long a session outlasts its connection at most; a longer wish is lowered to it, and the
    /// client told so (MQTT 5). 0 s to 10 years; default 7 d.
    pub max_session_expiry: Span,
    /// Bytes of the log that are kept for sessions, and for those that share a subscription, that have
    /// not read them, and no more than a quarter of a `[[lane]]` that refuses or drops new events when
    /// it is full, nor than half of what the log has of `log.max-size`; what is older goes when every sink
    /// has it, and what is missed by that is counted. At most 64 TiB; default: a quarter of `log.max-size`.
    pub max_session_backlog: Option<ByteSize>,
    /// Retained messages, which may take a quarter of `max-memory`; one more is stored as an event but
    /// not retained, and counted. 0 to 10,000,000; default 10,000.
    pub max_retained: usize,
    /// Bytes of them, and what then happens is the same. They take up to nine times that on disk: in the
    /// state, which is written anew in pieces, and in its checkpoints. At most a
    /// sixteenth of `log.max-size`; default: a 64th of it.
    pub max_retained_size: Option<ByteSize>,
    /// Devices whose alert of one `[[alert]]` is pending or raised; what others send is not watched for
    /// them, and counted. 1 to 1,000,000; default 10,000.
    pub max_alert_devices: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_connections_per_address: None,
            max_connecting: 1024,
            max_memory: ByteSize::mib(128),
            max_packet_size: ByteSize::kib(256),
            max_body_size: ByteSize::mib(1),
            max_body_memory: ByteSize::mib(8),
            request_timeout: Span::seconds(30),
            max_inflight: 1024,
            max_events_per_second: None,
            max_bytes_per_second: None,
            connect_timeout: Span::seconds(10),
            send_timeout: Span::seconds(60),
            max_keep_alive: Span::seconds(0),
            max_topic_aliases: 32,
            max_subscriptions: 128,
            max_topic_levels: 32,
            max_topic_length: 1024,
            max_queued: ByteSize::mib(1),
            max_sessions: 10_000,
            max_session_expiry: Span::seconds(7 * 86_400),
            max_session_backlog: None,
            max_retained: 10_000,
            max_retained_size: None,
            max_alert_devices: 10_000,
        }
    }
}

impl Limits {
    /// Connections at once from one address.
    pub fn connections_per_address(&self) -> usize {
        self.max_connections_per_address.unwrap_or((self.max_connections / 2).max(64))
    }

    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            max_connections: section.bounded(
                "max-connections",
                default.max_connections,
                1..=1_000_000,
            ),
            max_connections_per_address: section
                .get_bounded("max-connections-per-address", 1..=1_000_000),
            max_connecting: section.bounded(
                "max-connecting",
                default.max_connecting,
                1..=1_000_000,
            ),
            max_memory: section.bounded(
                "max-memory",
                default.max_memory,
                ByteSize::mib(8)..=ByteSize::gib(1 << 10),
            ),
            max_packet_size: section.bounded(
                "max-packet-size",
                default.max_packet_size,
                ByteSize::kib(1)..=ByteSize::mib(16),
            ),
            max_body_size: section.bounded(
                "max-body-size",
                default.max_body_size,
                ByteSize::kib(1)..=ByteSize::mib(16),
            ),
            max_body_memory: section.bounded(
                "max-body-memory",
                default.max_body_memory,
                ByteSize::kib(1)..=ByteSize::gib(1),
            ),
            request_timeout: section.bounded(
                "request-timeout",
                default.request_timeout,
                Span::seconds(1)..=Span::seconds(600),
            ),
            max_inflight: section.bounded("max-inflight", default.max_inflight, 1..=u16::MAX),
            max_events_per_second: section.get_bounded("max-events-per-second", 1..=1_000_000_000),
            max_bytes_per_second: section
                .get_bounded("max-bytes-per-second", ByteSize::kib(1)..=ByteSize::gib(1 << 10)),
            connect_timeout: section.bounded(
                "connect-timeout",
                default.connect_timeout,
                Span::milliseconds(100)..=Span::seconds(300),
            ),
            send_timeout: section.bounded(
                "send-timeout",
                default.send_timeout,
                Span::seconds(1)..=Span::seconds(86_400),
            ),
            max_keep_alive: section.bounded(
                "max-keep-alive",
                default.max_keep_alive,
                Span::seconds(0)..=Span::seconds(65_535),
            ),
            max_topic_aliases: section.bounded(
                "max-topic-aliases",
                default.max_topic_aliases,
                0..=u16::MAX,
            ),
            max_subscriptions: section.bounded(
                "max-subscriptions",
                default.max_subscriptions,
                1..=100_000,
            ),
            max_topic_levels: section.bounded(
                "max-topic-levels",
                default.max_topic_levels,
                1..=1024,
            ),
            max_topic_length: section.bounded(
                "max-topic-length",
                default.max_topic_length,
                1..=usize::from(u16::MAX),
            ),
            max_queued: section.bounded(
                "max-queued",
                default.max_queued,
                ByteSize::kib(4)..=ByteSize::gib(1),
            ),
            max_sessions: section.bounded("max-sessions", default.max_sessions, 0..=1_000_000),
            max_session_expiry: section.bounded(
                "max-session-expiry",
                default.max_session_expiry,
                Span::default()..=Span::seconds(3650 * 86_400),
            ),
            max_session_backlog: section
                .get_bounded("max-session-backlog", ByteSize(0)..=ByteSize::gib(64 << 10)),
            max_retained: section.bounded("max-retained", default.max_retained, 0..=10_000_000),
            max_retained_size: section.get("max-retained-size"),
            max_alert_devices: section.bounded(
                "max-alert-devices",
                default.max_alert_devices,
                1..=1_000_000,
            ),
        }
    }
}
