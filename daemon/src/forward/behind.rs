//! Whether a sink has fallen behind: an event has waited for it longer than a batch is meant to take.
//!
//! By the forwarder's own clock, from the moment when it saw the event committed: what the event says of
//! when it was received may be wrong. Events that were on disk before the forwarder started count from
//! there: it has as long for them as for any other.

use std::collections::VecDeque;
use std::time::Duration;

use tidegate_event::Lsn;
use tokio::time::Instant;

/// What a batch may take beside waiting for more events: two requests and a retry on a slow link.
const SLACK: Duration = Duration::from_secs(5);
/// How many moments are remembered of the time that makes late.
const MARKS: u32 = 16;

#[derive(Debug)]
pub(super) struct Behind {
    /// An event that has waited for so long is late.
    after: Duration,
    /// When the newest LSN was this one.
    marks: VecDeque<(Instant, Lsn)>,
    /// The newest LSN that is late, if it is not done with.
    late: Lsn,
}

impl Behind {
    /// An event may wait so long for a sink whose batches take events for `max_age`.
    pub(super) fn after(max_age: Duration) -> Duration {
        max_age.saturating_mul(2).saturating_add(SLACK)
    }

    pub(super) fn new(after: Duration) -> Self {
        Self { after, marks: VecDeque::new(), late: 0 }
    }

    /// Now `newest` is the newest event.
    pub(super) fn note(&mut self, now: Instant, newest: Lsn) {
        let spacing = self.after / MARKS;
        let before = self.marks.len().checked_sub(2).map(|at| self.marks[at].0);
        match self.marks.back_mut() {
            // The last mark is always the last moment: the next one may be far away.
            Some(last) if before.is_some_and(|before| now.duration_since(before) < spacing) => {
                *last = (now, newest);
            }
            _ => self.marks.push_back((now, newest)),
        }
        while let Some((at, lsn)) = self.marks.front()
            && now.duration_since(*at) >= self.after
        {
            self.late = *lsn;
            self.marks.pop_front();
        }
    }

    /// Whether who has everything below `cursor` is behind.
    pub(super) fn is_late(&self, cursor: Lsn) -> bool {
        cursor <= self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_late_once_it_has_waited_for_too_long() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut behind = Behind::new(16 * second);
        for step in 0..40_u32 {
            behind.note(start + step * second, 100 + u64::from(step));
            // Whoever is 15 seconds behind is not late, whoever is 16 seconds behind is.
            assert_eq!(behind.is_late(100), step >= 16, "{step}");
            let cursor = 101 + u64::from(step).saturating_sub(16);
            assert!(!behind.is_late(cursor), "{step}");
        }
    }

    #[test]
    fn after_a_quiet_time_new_events_have_as_long_as_ever() {
        let start = Instant::now();
        let hour = Duration::from_secs(3600);
        let mut behind = Behind::new(Duration::from_secs(7));
        behind.note(start, 5);
        behind.note(start + hour, 9);
        assert!(behind.is_late(5) && !behind.is_late(6));
        behind.note(start + hour + Duration::from_secs(7), 9);
        assert!(behind.is_late(9) && !behind.is_late(10));
    }

    #[test]
    fn what_is_seen_just_before_a_quiet_time_counts_from_there() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut behind = Behind::new(16 * second);
        for step in 0..8 {
            behind.note(start + second / 10 * step, u64::from(step));
        }
        behind.note(start + 20 * second, 7);
        assert!(behind.is_late(7) && !behind.is_late(8));
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut behind = Behind::new(Duration::from_secs(7));
        for step in 0..10_000 {
            behind.note(start + Duration::from_millis(10) * step, u64::from(step));
            assert!(behind.marks.len() <= MARKS as usize + 2);
        }
    }
}
