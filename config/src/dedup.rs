//! `[dedup]`: CloudEvents that come twice.

use crate::reader::Section;
use crate::value::Span;

/// `[dedup]`: an event that brings its own source and id is stored once.
#[derive(Debug, Clone, PartialEq)]
pub struct Dedup {
    /// For how long an event is remembered. 0 s (never) to 7 d; default 10 min.
    pub window: Span,
    /// Events that are remembered at once, about 100 bytes each; beyond it the oldest is forgotten
    /// early. 0 to 10,000,000; default 50,000.
    pub max_events: usize,
}

impl Default for Dedup {
    fn default() -> Self {
        Self { window: Span::seconds(600), max_events: 50_000 }
    }
}

impl Dedup {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            window: section.bounded(
                "window",
                default.window,
                Span::seconds(0)..=Span::seconds(7 * 86_400),
            ),
            max_events: section.bounded("max-events", default.max_events, 0..=10_000_000),
        }
    }
}
