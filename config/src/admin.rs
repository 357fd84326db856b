//! `[admin]` and `[log-output]`: what an operator sees.

use std::net::SocketAddr;

use crate::reader::Section;
use crate::value::Choice;

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where `/health`, `/ready`, `/metrics` and `/status` are served. Default `"127.0.0.1:9883"`.
    pub bind: SocketAddr,
    /// Connections at once; one more waits until another ends. 1 to 10,000; default 64.
    pub max_connections: usize,
}

/// `[log-output]`
#[derive(Debug, Clone, PartialEq)]
pub struct LogOutput {
    /// Default `"auto"`.
    pub format: LogFormat,
    /// Default `"info"`.
    pub level: LogLevel,
}

/// Where and how the daemon logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `"auto"`: journald when started by systemd, else JSON where the environment says
    /// `TIDEGATE_LOG_FORMAT=json`, else text.
    Auto,
    /// `"journald"`: journald, with fields.
    Journald,
    /// `"text"`: lines on standard error.
    Text,
    /// `"json"`: JSON lines on standard error.
    Json,
}

/// How much the daemon logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// `"error"`: what failed.
    Error,
    /// `"warn"`: what may fail soon, too.
    Warn,
    /// `"info"`: what an operator wants to know, too.
    Info,
    /// `"debug"`: each connection and batch, too.
    Debug,
    /// `"trace"`: each packet, too.
    Trace,
}

impl Choice for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("journald", Self::Journald),
        ("text", Self::Text),
        ("json", Self::Json),
    ];
}

impl Choice for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Default for Admin {
    fn default() -> Self {
        Self { bind: SocketAddr::from(([127, 0, 0, 1], 9883)), max_connections: 64 }
    }
}

impl Default for LogOutput {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: LogLevel::Info }
    }
}

impl Admin {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            bind: section.or("bind", default.bind),
            max_connections: section.bounded(
                "max-connections",
                default.max_connections,
                1..=10_000,
            ),
        }
    }
}

impl LogOutput {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            format: section.or("format", default.format),
            level: section.or("level", default.level),
        }
    }
}
