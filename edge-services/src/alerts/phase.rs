//! One rule's view of one device: a threshold with hysteresis and a time for which it must hold.
//!
//! ```text
//!           raise holds              held for `hold`
//!   clear ─────────────▶ pending ──────────────────▶ raised
//!     ▲  ◀─────────────     (at once where hold is 0)   │
//!     │   raise does not                                │
//!     └─────────────────────────────────────────────────┘
//!                        clear holds
//! ```
//!
//! A value counts until the next one comes. So an alert is due `hold` after the event from which on
//! `raise` held, whether a further event comes or not; the first event at or after that moment, or
//! the clock if that is earlier, raises it. A value of the very event that comes too late to matter
//! is looked at afterwards: it may clear what it has just raised. That way the transitions follow
//! from the events alone, and not from when the clock was looked at.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_config::alert::Condition;
use tidegate_event::Received;

/// A clock that steps back further than this has been set; less is events overtaking each other.
const REORDERING: i64 = 1_000_000;

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Thresholds {
    pub(super) raise: Condition,
    pub(super) clear: Option<Condition>,
    pub(super) hold: Duration,
}

/// A device that is not clear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Active {
    /// The event from which on the condition held, as id: what the alert is known by.
    pub(super) start: String,
    /// When that was, in microseconds since 1970.
    pub(super) since: i64,
    /// Whether the clock was set then: times before and after it was set cannot be compared.
    synced: bool,
    /// The newest value.
    pub(super) value: f64,
    /// The topic it came on.
    pub(super) topic: String,
    /// Whether the alert is out.
    pub(super) raised: bool,
}

/// What an event led to, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Transitions {
    /// The alert was raised: when it was due, in microseconds since 1970.
    pub(super) raised: Option<i64>,
    /// The device is clear again, and with it the alert, if that was raised before or just now.
    pub(super) clear: bool,
}

/// An event, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample<'a> {
    pub(super) value: f64,
    pub(super) at: Received,
    pub(super) topic: &'a str,
}

impl Thresholds {
    /// A device that was clear: `None` where it stays so.
    pub(super) fn begin(&self, sample: Sample<'_>, id: impl FnOnce() -> String) -> Option<Active> {
        self.raise.holds(sample.value).then(|| Active {
            start: id(),
            since: sample.at.unix_micros(),
            synced: is_synced(sample.at),
            value: sample.value,
            topic: sample.topic.to_owned(),
            raised: self.hold.is_zero(),
        })
    }

    /// A device that was pending or raised.
    pub(super) fn next(&self, active: &mut Active, sample: Sample<'_>) -> Transitions {
        let raised = self.tick(active, sample.at);
        let raise = self.raise.holds(sample.value);
        let clear = match active.raised {
            // Where the two conditions overlap, raise counts: it would be raised again at once.
            true => !raise && self.clear.is_none_or(|clear| clear.holds(sample.value)),
            false => !raise,
        };
        if !active.raised && raise {
            active.value = sample.value;
            active.topic.clear();
            active.topic.push_str(sample.topic);
        }
        Transitions { raised, clear }
    }

    /// The time alone: answers when the alert was due, if that raises it now.
    pub(super) fn tick(&self, active: &mut Active, now: Received) -> Option<i64> {
        if active.raised {
            return None;
        }
        let at = now.unix_micros();
        if is_synced(now) != active.synced || at < active.since.saturating_sub(REORDERING) {
            // The clock was set in between: how much time has passed is not known.
            active.since = at;
            active.synced = is_synced(now);
            return None;
        }
        let due = self.due(active);
        active.raised = at >= due;
        active.raised.then_some(due)
    }

    /// When a pending alert is due, in microseconds since 1970.
    pub(super) fn due(&self, active: &Active) -> i64 {
        let hold = i64::try_from(self.hold.as_micros()).unwrap_or(i64::MAX);
        active.since.saturating_add(hold)
    }
}

fn is_synced(at: Received) -> bool {
    matches!(at, Received::Synced { .. })
}
