//! `[[sink]]`: where events go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::value::{ByteSize, Span, TopicFilter};

/// `[[sink]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sink {
    /// Names the sink in logs and metrics, and its cursor on disk: renaming it starts over.
    pub name: String,
    /// Which topics it wants. Default `["#"]`.
    #[serde(default = "crate::everything")]
    pub topics: Vec<TopicFilter>,
    /// `batch.*`
    #[serde(default)]
    pub batch: Batch,
    /// Batches sent and not yet answered. Default 4.
    #[serde(default = "default_in_flight")]
    pub max_in_flight: usize,
    /// `retry.*`
    #[serde(default)]
    pub retry: Retry,
    /// The bus and what it needs.
    #[serde(flatten)]
    pub bus: Bus,
}

/// `type = …` and the keys that go with it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Bus {
    /// `type = "http"`: CloudEvents over HTTP.
    Http(Http),
}

/// The keys of `type = "http"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Http {
    /// Where to POST, `http://` or `https://`.
    pub url: String,
    /// Default `"batch"`.
    #[serde(default)]
    pub mode: Mode,
    /// Default `"none"`.
    #[serde(default)]
    pub compression: Compression,
    /// How long one request may take. Default 30 s.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// A file whose first line is sent as bearer token. Default: none.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// Further request headers. Default: none.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// The CloudEvents HTTP binding's content modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Many events a request, a JSON array.
    #[default]
    Batch,
    /// One event a request, attributes and data in one JSON object.
    Structured,
    /// One event a request, attributes as headers and the data as the body.
    Binary,
}

/// How a request's body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// `Content-Encoding: gzip`.
    Gzip,
}

/// `batch.*`: a batch is sent when the first of these is reached.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Batch {
    /// Events. Default 1000.
    pub max_events: usize,
    /// Bytes of the encoded body before compression. Default 1 MiB.
    pub max_bytes: ByteSize,
    /// Time since its first event was read. Default 1 s.
    pub max_age: Span,
}

/// `retry.*`: exponential backoff with full jitter.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Retry {
    /// The first delay's upper bound. Default 500 ms.
    pub initial: Span,
    /// Every delay's upper bound. Default 1 min.
    pub max: Span,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max_events: 1000, max_bytes: ByteSize::mib(1), max_age: Span::seconds(1) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { initial: Span::milliseconds(500), max: Span::seconds(60) }
    }
}

fn default_in_flight() -> usize {
    4
}

fn default_timeout() -> Span {
    Span::seconds(30)
}
