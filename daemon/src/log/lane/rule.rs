//! What an operator may say of a lane.

use std::time::Duration;

use tidegate_event::Filter;

/// The lane of all events that no other lane is for.
pub const DEFAULT: &str = "default";
/// What an operator says of a lane.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneOptions {
    /// Its name.
    pub name: String,
    /// Which topics are in it. The first lane that matches takes an event.
    pub topics: Vec<Filter>,
    /// Bytes of records; lane 0 has none.
    pub max_size: Option<u64>,
    /// How its events are treated.
    pub rule: Rule,
}

/// How the events of a lane are treated.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rule {
    /// Older events are not forwarded, and dropped.
    pub max_age: Option<Duration>,
    /// What happens when there is no room.
    pub when_full: WhenFull,
    /// Lanes with a higher one are forwarded first.
    pub priority: u8,
}

/// What happens when a lane has no room.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum WhenFull {
    /// Events are refused, until sinks have taken some.
    #[default]
    Reject,
    /// The oldest events are dropped, and entered in the ledger.
    DropOldest,
    /// New events are dropped, and entered in the ledger.
    DropNewest,
    /// Old events are thinned out; once all are, the oldest are dropped.
    Downsample(Downsample),
}

impl WhenFull {
    /// As the config calls it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::DropOldest => "drop-oldest",
            Self::DropNewest => "drop-newest",
            Self::Downsample(_) => "downsample",
        }
    }
}

/// What is left of old events.
#[derive(Debug, Clone, PartialEq)]
pub struct Downsample {
    /// One event for each topic in each such span, counted from 1970.
    pub interval: Duration,
    /// Which one.
    pub keep: Keep,
}

/// Which event of a span is kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Keep {
    /// The last one.
    Last,
    /// The last one, with the mean at this JSON pointer (RFC 6901).
    Mean(String),
    /// The one with the lowest number at this JSON pointer.
    Min(String),
    /// The one with the highest.
    Max(String),
}

impl WhenFull {
    /// Whether old events make room, so that new ones need not be refused.
    pub(super) fn drops_oldest(&self) -> bool {
        matches!(self, Self::DropOldest | Self::Downsample(_))
    }
}

impl LaneOptions {
    /// Lane 0, where nothing is said of it.
    pub fn default_lane() -> Self {
        let (name, topics) = (DEFAULT.to_owned(), Vec::new());
        Self { name, topics, max_size: None, rule: Rule::default() }
    }
}
