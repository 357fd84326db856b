//! `[[sink]]`: where events go.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use tidegate_event::Filter;

use crate::grammar;
use crate::problem::Unfit;
use crate::reader::{Names, Section};
use crate::value::{ByteSize, Choice, Span, TopicFilter};

/// `[[sink]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Sink {
    /// Names the sink in logs and metrics, and its cursor on disk: renaming it starts over.
    /// 1 to 64 of `A-Z a-z 0-9 - _ .`.
    pub name: String,
    /// Which topics it wants. Default `["#"]`.
    pub topics: Vec<TopicFilter>,
    /// `batch.*`
    pub batch: Batch,
    /// Batches sent and not yet answered. 1 to 64; default 4.
    pub max_in_flight: usize,
    /// `retry.*`
    pub retry: Retry,
    /// `rate.*`
    pub rate: Rate,
    /// `dead-letter.*`
    pub dead_letter: DeadLetter,
    /// The bus and what it needs.
    pub bus: Bus,
}

/// `type = …` and the keys that go with it.
#[derive(Debug, Clone, PartialEq)]
pub enum Bus {
    /// `type = "http"`: CloudEvents over HTTP.
    Http(Http),
}

/// The keys of `type = "http"`. `Debug` does not show what the headers hold.
#[derive(Clone, PartialEq)]
pub struct Http {
    /// Where to POST, `http://` or `https://`.
    pub url: String,
    /// Default `"batch"`.
    pub mode: Mode,
    /// Default `"none"`.
    pub compression: Compression,
    /// How long one request may take. 100 ms to 10 min; default 30 s.
    pub timeout: Span,
    /// A file whose first line is sent as bearer token. Default: none.
    pub bearer_token_file: Option<PathBuf>,
    /// Further request headers. Default: none.
    pub headers: BTreeMap<String, String>,
}

/// The CloudEvents HTTP binding's content modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// `"batch"`: many events a request, a JSON array.
    #[default]
    Batch,
    /// `"structured"`: one event a request, attributes and data in one JSON object.
    Structured,
    /// `"binary"`: one event a request, attributes as headers and the data as the body.
    Binary,
}

/// How a request's body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// `"none"`: not at all.
    #[default]
    None,
    /// `"gzip"`: `Content-Encoding: gzip`.
    Gzip,
}

/// `batch.*`: a batch is sent when the first of these is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Events. 1 to 100,000; default 1000.
    pub max_events: usize,
    /// Bytes of the encoded body before compression; a larger event goes alone. 1 KiB to
    /// 64 MiB; default 1 MiB.
    pub max_bytes: ByteSize,
    /// Time since its first event was read. 0 s to 1 h; default 1 s.
    pub max_age: Span,
}

/// `retry.*`: exponential backoff with full jitter.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// The first delay's upper bound. 1 ms to 1 h; default 500 ms.
    pub initial: Span,
    /// Every delay's upper bound. `initial` to 1 d; default 1 min.
    pub max: Span,
}

/// `rate.*`: what the sink may take of the uplink, so that a backlog does not flood it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rate {
    /// Events a second. 1 to 1,000,000,000; default: no limit.
    pub max_events: Option<u64>,
    /// Bytes of request bodies a second, as they travel. 1 KiB to 1 TiB; default: no limit.
    pub max_bytes: Option<ByteSize>,
}

/// `dead-letter.*`: where events go that the bus will never take.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Bytes on disk; when they are used up, the sink waits until there is room. 1 MiB to 1 TiB;
    /// default 64 MiB.
    pub max_size: ByteSize,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max_events: 1000, max_bytes: ByteSize::mib(1), max_age: Span::seconds(1) }
    }
}

impl Default for DeadLetter {
    fn default() -> Self {
        Self { max_size: ByteSize::mib(64) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { initial: Span::milliseconds(500), max: Span::seconds(60) }
    }
}

impl Choice for Mode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("batch", Self::Batch), ("structured", Self::Structured), ("binary", Self::Binary)];
}

impl Choice for Compression {
    const WORDS: &'static [(&'static str, Self)] = &[("none", Self::None), ("gzip", Self::Gzip)];
}

impl Sink {
    /// A sink with everything but its name and its bus at the default.
    pub fn new(name: impl Into<String>, bus: Bus) -> Self {
        Self {
            name: name.into(),
            topics: vec![TopicFilter(Filter::everything())],
            batch: Batch::default(),
            max_in_flight: 4,
            retry: Retry::default(),
            rate: Rate::default(),
            dead_letter: DeadLetter::default(),
            bus,
        }
    }

    /// Reads one sink; `names` holds those of the sinks before it.
    pub(crate) fn read(section: &Section<'_>, names: &mut Names) -> Option<Self> {
        let name: Option<String> = section.require("name", "\"cloud\"");
        if let Some(name) = &name {
            section.check("name", grammar::check_name(name));
            section.check("name", names.take(name));
        }
        let kind: Option<String> = section.require("type", "\"http\"");
        let bus = match kind.as_deref() {
            Some("http") => Http::read(section).map(Bus::Http),
            other => {
                if other.is_some() {
                    section.refuse("type", Unfit::expected("\"http\""));
                }
                section.pass_unknown_keys();
                None
            }
        };
        // Read before anything is given up, so that every key is known and checked.
        let topics = section.get("topics");
        let batch = section.table("batch", Batch::read);
        let max_in_flight = section.bounded("max-in-flight", 4, 1..=64);
        let retry = section.table("retry", Retry::read);
        let rate = section.table("rate", Rate::read);
        let dead_letter = section.table("dead-letter", DeadLetter::read);
        let default = Self::new(name?, bus?);
        Some(Self {
            topics: topics.unwrap_or(default.topics),
            batch,
            max_in_flight,
            retry,
            rate,
            dead_letter,
            ..default
        })
    }
}

impl Http {
    /// POSTs to `url`, with everything else at the default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            mode: Mode::default(),
            compression: Compression::default(),
            timeout: Span::seconds(30),
            bearer_token_file: None,
            headers: BTreeMap::new(),
        }
    }

    fn read(section: &Section<'_>) -> Option<Self> {
        let url: Option<String> = section.require("url", "\"https://HOST/PATH\"");
        match url.as_deref() {
            // There may be a login in it, which is not for the screen.
            Some(url) if url.contains('@') => {
                section.check_unseen("url", grammar::check_url(url));
            }
            Some(url) => section.check("url", grammar::check_url(url)),
            None => {}
        }
        let default = Self::new(url.clone().unwrap_or_default());
        let http = Self {
            mode: section.or("mode", default.mode),
            compression: section.or("compression", default.compression),
            timeout: section.bounded(
                "timeout",
                default.timeout,
                Span::milliseconds(100)..=Span::seconds(600),
            ),
            bearer_token_file: section.get("bearer-token-file"),
            headers: section.table("headers", read_headers),
            url: default.url,
        };
        let authorization =
            http.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"));
        if authorization && http.bearer_token_file.is_some() {
            section.refuse(
                "bearer-token-file",
                Unfit::because("stands beside a header \"Authorization\"")
                    .so("expected one of them"),
            );
        }
        url.map(|_| http)
    }
}

fn read_headers(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in section.entries::<String>() {
        let twice = headers.keys().any(|other| other.eq_ignore_ascii_case(name));
        let found = match &value {
            _ if twice => Err(Unfit::because("is there twice")),
            Ok(value) => {
                grammar::check_header_name(name).and_then(|()| grammar::check_header_value(value))
            }
            Err(unfit) => Err(unfit.clone()),
        };
        section.check_unseen(name, found);
        headers.insert(name.to_owned(), value.unwrap_or_default());
    }
    headers
}

impl Batch {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            max_events: section.bounded("max-events", default.max_events, 1..=100_000),
            max_bytes: section.bounded(
                "max-bytes",
                default.max_bytes,
                ByteSize::kib(1)..=ByteSize::mib(64),
            ),
            max_age: section.bounded(
                "max-age",
                default.max_age,
                Span::seconds(0)..=Span::seconds(3600),
            ),
        }
    }
}

impl Retry {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let initial = section.bounded(
            "initial",
            default.initial,
            Span::milliseconds(1)..=Span::seconds(3600),
        );
        let max =
            section.bounded("max", default.max, Span::milliseconds(1)..=Span::seconds(86_400));
        if max < initial && section.has("max") {
            section.refuse("max", Unfit::because(format!("is below retry.initial ({initial})")));
        } else if max < initial {
            section.refuse("initial", Unfit::because(format!("is above retry.max ({max})")));
        }
        Self { initial, max }
    }
}

impl Rate {
    fn read(section: &Section<'_>) -> Self {
        let bytes = ByteSize::kib(1)..=ByteSize(1 << 40);
        let max_events = section.bounded("max-events", 1, 1..=1_000_000_000);
        let max_bytes = section.bounded("max-bytes", ByteSize::kib(1), bytes);
        Self {
            max_events: section.has("max-events").then_some(max_events),
            max_bytes: section.has("max-bytes").then_some(max_bytes),
        }
    }
}

impl DeadLetter {
    fn read(section: &Section<'_>) -> Self {
        let bounds = ByteSize::mib(1)..=ByteSize(1 << 40);
        Self { max_size: section.bounded("max-size", Self::default().max_size, bounds) }
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: BTreeMap<&str, &str> =
            self.headers.keys().map(|name| (name.as_str(), "***")).collect();
        f.debug_struct("Http")
            .field("url", &self.url)
            .field("mode", &self.mode)
            .field("compression", &self.compression)
            .field("timeout", &self.timeout)
            .field("bearer_token_file", &self.bearer_token_file)
            .field("headers", &headers)
            .finish()
    }
}
