//! Which events are older than `log.retain`.

use std::collections::VecDeque;
use std::time::Duration;

use tidegate_event::Lsn;
use tokio::time::Instant;

/// How many moments are remembered of the time that `retain` spans.
const MARKS: u32 = 64;

/// Which events are older than `retain`: from now and then a look at the newest one.
#[derive(Debug)]
pub(super) struct Marks {
    retain: Duration,
    /// When the newest LSN was this one.
    marks: VecDeque<(Instant, Lsn)>,
    /// The newest LSN that is known to be old enough.
    old: Lsn,
}

impl Marks {
    pub(super) fn new(retain: Duration) -> Self {
        Self { retain, marks: VecDeque::new(), old: 0 }
    }

    /// The first LSN that is still to be kept, now that `last` is the newest.
    pub(super) fn protected(&mut self, now: Instant, last: Lsn) -> Lsn {
        if self.retain.is_zero() {
            return Lsn::MAX;
        }
        let spacing = self.retain / MARKS;
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= spacing) {
            self.marks.push_back((now, last));
        }
        while let Some((at, lsn)) = self.marks.front()
            && now.duration_since(*at) >= self.retain
        {
            self.old = *lsn;
            self.marks.pop_front();
        }
        self.old.saturating_add(1)
    }
}
