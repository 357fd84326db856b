//! What an operator may say: the types of `tidegate.toml`, their defaults and their bounds.
//!
//! Strict: an unknown key is an error. Keys are kebab-case; durations and sizes carry their unit
//! (`"30s"`, `"512MiB"`). A section is a struct; its defaults stand in the doc comments, and
//! `tidegate.toml` beside this crate shows every key.

pub mod alert;
pub mod sink;
pub mod value;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use tidegate_event::Filter;

pub use alert::Alert;
pub use sink::Sink;
pub use value::{ByteSize, Span, TopicFilter};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[[listener]]`: where events come in.
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    /// `[limits]`: what one client, and all of them, may use.
    pub limits: Limits,
    /// `[log]`: the events on disk.
    pub log: Log,
    /// `[[event-type]]`: the CloudEvents type by topic.
    #[serde(rename = "event-type")]
    pub event_types: Vec<EventType>,
    /// `[[sink]]`: where events go.
    #[serde(rename = "sink")]
    pub sinks: Vec<Sink>,
    /// `[[alert]]`: rules over the events.
    #[serde(rename = "alert")]
    pub alerts: Vec<Alert>,
    /// `[admin]`: health, metrics, status.
    pub admin: Admin,
    /// `[log-output]`: what the daemon says about itself.
    pub log_output: LogOutput,
}

/// `[gateway]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Gateway {
    /// Names this gateway upstream: part of every event's source. Default `"tidegate"`.
    pub id: String,
    /// Everything the daemon keeps. Default `"/var/lib/tidegate"`.
    pub data_dir: PathBuf,
    /// The CloudEvents type of an event that no `[[event-type]]` names. Default `"tidegate.event"`.
    pub event_type: String,
    /// Which level of the topic names the device, counted from 1. Default: none, the device is the
    /// MQTT client id.
    pub device_level: Option<usize>,
}

/// `[[event-type]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EventType {
    /// Which topics. The first entry that matches counts.
    pub topic: TopicFilter,
    /// The CloudEvents type.
    #[serde(rename = "type")]
    pub name: String,
}

/// `[[listener]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, tag = "type", rename_all = "kebab-case")]
pub enum Listener {
    /// `type = "mqtt"`: MQTT 3.1.1 and 5 over TCP.
    #[serde(rename_all = "kebab-case")]
    Mqtt {
        /// Address and port, e.g. `"127.0.0.1:1883"`; port 0 takes a free one.
        bind: SocketAddr,
        /// Lets clients in without a login on an address other than loopback. Default false.
        #[serde(default)]
        allow_anonymous: bool,
    },
}

/// `[limits]`: each with what happens when it is reached.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Connections at once; one more is closed at once. Default 4096.
    pub max_connections: usize,
    /// Bytes of one MQTT packet; a larger one ends the connection (MQTT 5: 0x95). Default 256 KiB.
    pub max_packet_size: ByteSize,
    /// Publishes of one client that are not yet acknowledged; the connection is not read while it
    /// has more (MQTT 5: receive maximum). Default 1024.
    pub max_inflight: u16,
    /// From accept to a complete CONNECT; then the connection is closed. Default 10 s.
    pub connect_timeout: Span,
    /// Subscriptions of one client; one more is refused (0x97, 3.1.1: 0x80). Default 128.
    pub max_subscriptions: usize,
    /// Levels of a topic or filter; a deeper one is refused (0x90, 0x8f). Default 32.
    pub max_topic_levels: usize,
    /// Bytes of a topic or filter; a longer one is refused (0x90, 0x8f). Default 1024.
    pub max_topic_length: usize,
    /// Bytes that wait for one slow subscriber. Beyond it QoS 0 is dropped and counted; QoS 1 and 2
    /// are read from the log when it catches up. Default 1 MiB.
    pub max_queued: ByteSize,
    /// Retained messages; one more is stored as an event but not retained, and counted. Default
    /// 10,000.
    pub max_retained: usize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Log {
    /// Bytes on disk; when they are used up, `when-full` says what happens. Default 1 GiB.
    pub max_size: ByteSize,
    /// Default `"reject"`.
    pub when_full: WhenFull,
    /// Bytes of one segment file. Default 8 MiB.
    pub segment_size: ByteSize,
    /// How long events stay on disk after every sink has them. Default 0 s.
    pub retain: Span,
    /// `[log.commit]`
    pub commit: Commit,
}

/// What happens to a new event when the log is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The publisher is refused, or made to wait: backpressure.
    Reject,
}

/// `[log.commit]`: latency against wear of the flash.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Commit {
    /// How long a commit waits for more events. Default 0 s: as soon as the disk is free.
    pub max_delay: Span,
    /// Bytes that end that wait, and that one commit holds at most. Default 1 MiB.
    pub max_bytes: ByteSize,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Admin {
    /// Where `/health`, `/ready`, `/metrics` and `/status` are served. Default `"127.0.0.1:9883"`.
    pub bind: SocketAddr,
}

/// `[log-output]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LogOutput {
    /// Default `"auto"`.
    pub format: LogFormat,
    /// Default `"info"`.
    pub level: LogLevel,
}

/// Where and how the daemon logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// journald when started by systemd, text otherwise.
    Auto,
    /// journald, with fields.
    Journald,
    /// Lines on standard error.
    Text,
    /// JSON lines on standard error.
    Json,
}

/// How much the daemon logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may fail soon, too.
    Warn,
    /// What an operator wants to know, too.
    Info,
    /// Each connection and batch, too.
    Debug,
    /// Each packet, too.
    Trace,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            id: "tidegate".into(),
            data_dir: "/var/lib/tidegate".into(),
            event_type: "tidegate.event".into(),
            device_level: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_packet_size: ByteSize::kib(256),
            max_inflight: 1024,
            connect_timeout: Span::seconds(10),
            max_subscriptions: 128,
            max_topic_levels: 32,
            max_topic_length: 1024,
            max_queued: ByteSize::mib(1),
            max_retained: 10_000,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            max_size: ByteSize::mib(1024),
            when_full: WhenFull::Reject,
            segment_size: ByteSize::mib(8),
            retain: Span::seconds(0),
            commit: Commit::default(),
        }
    }
}

impl Default for Commit {
    fn default() -> Self {
        Self { max_delay: Span::seconds(0), max_bytes: ByteSize::mib(1) }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { bind: SocketAddr::from(([127, 0, 0, 1], 9883)) }
    }
}

impl Default for LogOutput {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: LogLevel::Info }
    }
}

/// The filter that a sink has unless it names others: everything.
fn everything() -> Vec<TopicFilter> {
    vec![TopicFilter(Filter::everything())]
}
