//! `[[sink]]`: where events go.

mod http;

use tidegate_event::Filter;

use crate::grammar;
use crate::problem::Unfit;
use crate::reader::{Names, Section};
use crate::value::{ByteSize, Choice, Span, TopicFilter};

pub use http::{Compression, Http, Mode};

/// The least `dead-letter.max-size`.
const LEAST_DEAD_LETTERS: ByteSize = ByteSize::mib(1);
/// All sinks' dead letters share this part of `log.max-size`, where nothing is said of them.
const DEAD_LETTERS_PART: u64 = 8;

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
    /// Bytes on disk, damaged ones included; when they are used up, the sink waits until there is room. 1 MiB
    /// to 1 TiB, and 8 × `limits.max-packet-size`; default 64 MiB, or the sink's part of an eighth of
    /// `log.max-size` if that is less.
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

    /// Reads all of them. `packet` is the largest event, `log` is `log.max-size`.
    pub(crate) fn read_all(top: &Section<'_>, packet: ByteSize, log: ByteSize) -> Vec<Self> {
        let mut names = Names::default();
        let mut sinks = top.list("sink", |section| Self::read(section, &mut names, packet));
        let part = ByteSize(log.0 / DEAD_LETTERS_PART / sinks.len().max(1) as u64);
        let default = part.min(DeadLetter::default().max_size).max(DeadLetter::least(packet));
        for (sink, max_size) in &mut sinks {
            sink.dead_letter.max_size = max_size.unwrap_or(default);
        }
        sinks.into_iter().map(|(sink, _)| sink).collect()
    }

    /// Reads one sink; `names` holds those of the sinks before it, `packet` is the largest event. Beside it stands its
    /// `dead-letter.max-size`, if that is said.
    fn read(
        section: &Section<'_>,
        names: &mut Names,
        packet: ByteSize,
    ) -> Option<(Self, Option<ByteSize>)> {
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
        let sink = Self {
            topics: topics.unwrap_or(default.topics),
            batch,
            max_in_flight,
            retry,
            drain,
            rate,
            ..default
        };
        Some((sink, dead_letter))
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
    /// With events of at most this size: three quarters are a log of four segments, each of which has room
    /// for a letter.
    fn least(packet: ByteSize) -> ByteSize {
        LEAST_DEAD_LETTERS.max(ByteSize(packet.0.saturating_mul(8)))
    }

    fn read(section: &Section<'_>, packet: ByteSize) -> Option<ByteSize> {
        let bounds = LEAST_DEAD_LETTERS..=ByteSize::gib(1 << 10);
        let max_size = section.get_bounded("max-size", bounds)?;
        let least = Self::least(packet);
        if (LEAST_DEAD_LETTERS..least).contains(&max_size) {
            let why = format!("is less than 8 × limits.max-packet-size ({packet})");
            section
                .refuse("max-size", Unfit::because(why).so(format!("expected at least {least}")));
        }
        Some(max_size)
    }
}
