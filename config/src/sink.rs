//! `[[sink]]`: where events go.

mod http;

use tidegate_event::Filter;

use crate::grammar;
use crate::problem::Unfit;
use crate::reader::{Names, Section};
use crate::value::{ByteSize, Choice, Span, TopicFilter};

pub use http::{Compression, Http, Mode};

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
    /// What comes first after an outage. Default `"in-order"`.
    pub drain: Drain,
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

/// `drain`: what comes first once a sink has fallen behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drain {
    /// `"in-order"`: the oldest; what a source publishes arrives in order.
    #[default]
    InOrder,
    /// `"live-first"`: the newest; the backlog follows, marked as historical, in an order of its own.
    LiveFirst,
}

impl Choice for Drain {
    const WORDS: &'static [(&'static str, Self)] =
        &[("in-order", Self::InOrder), ("live-first", Self::LiveFirst)];
}

/// `rate.*`: what the sink may take of the uplink, so that a backlog does not flood it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rate {
    /// Events a second. 1 to 1,000,000,000; default: no limit.
    pub max_events: Option<u64>,
    /// Bytes of request bodies a second, as they travel. 1 KiB to 1 TiB; default: no limit.
    pub max_bytes: Option<ByteSize>,
    /// Of these, events a second of a backlog that newer events go ahead of. The same bounds; default:
    /// what newer events leave.
    pub backlog_events: Option<u64>,
    /// Of these, bytes a second of such a backlog. The same bounds and default.
    pub backlog_bytes: Option<ByteSize>,
}

/// `dead-letter.*`: where events go that the bus will never take.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Bytes on disk; when they are used up, the sink waits until there is room. 1 MiB to 1 TiB, and
    /// room for 8 events of `limits.max-packet-size`; default 64 MiB, or that.
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

impl Sink {
    /// A sink with everything but its name and its bus at the default.
    pub fn new(name: impl Into<String>, bus: Bus) -> Self {
        Self {
            name: name.into(),
            topics: vec![TopicFilter(Filter::everything())],
            batch: Batch::default(),
            max_in_flight: 4,
            retry: Retry::default(),
            drain: Drain::default(),
            rate: Rate::default(),
            dead_letter: DeadLetter::default(),
            bus,
        }
    }

    /// Reads one sink; `names` holds those of the sinks before it, `packet` is the largest event.
    pub(crate) fn read(section: &Section<'_>, names: &mut Names, packet: ByteSize) -> Option<Self> {
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
        let drain = section.get("drain").unwrap_or_default();
        let rate = section.table("rate", Rate::read);
        let dead_letter = section.table("dead-letter", |section| DeadLetter::read(section, packet));
        let default = Self::new(name?, bus?);
        Some(Self {
            topics: topics.unwrap_or(default.topics),
            batch,
            max_in_flight,
            retry,
            drain,
            rate,
            dead_letter,
            ..default
        })
    }
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
        let events = 1..=1_000_000_000;
        let bytes = ByteSize::kib(1)..=ByteSize::gib(1 << 10);
        Self {
            max_events: section.get_bounded("max-events", events.clone()),
            max_bytes: section.get_bounded("max-bytes", bytes.clone()),
            backlog_events: section.get_bounded("backlog-events", events),
            backlog_bytes: section.get_bounded("backlog-bytes", bytes),
        }
    }
}

impl DeadLetter {
    fn read(section: &Section<'_>, packet: ByteSize) -> Self {
        let bounds = ByteSize::mib(1)..=ByteSize::gib(1 << 10);
        // The queue is a log of four segments, each of which has room for two events.
        let least = ByteSize(packet.0.saturating_mul(8));
        let default = Self::default().max_size.max(least);
        let max_size = section.bounded("max-size", default, bounds);
        if max_size < least {
            let why = format!("has no room for 8 events of limits.max-packet-size ({packet})");
            section
                .refuse("max-size", Unfit::because(why).so(format!("expected at least {least}")));
        }
        Self { max_size }
    }
}
