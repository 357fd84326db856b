//! When the next event is due.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How far events may be behind before the time lost is given up.
const MAX_LAG: Duration = Duration::from_secs(1);

/// Ticks at an exact rate: tick n is due n intervals after the start, however late the one before was
/// taken. Who is late catches up, but never more than [`MAX_LAG`] at once: a token bucket that holds a
/// second.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    interval: f64,
    ticks: u64,
}

impl Pace {
    /// `rate` ticks a second, the first at `start`.
    pub(super) fn new(start: Instant, rate: f64) -> Self {
        Self { start, interval: 1.0 / rate, ticks: 0 }
    }

    fn due(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.ticks as f64 * self.interval)
    }

    /// Waits for the next tick; answers with when it was due, none at `end` or later. Cancel safe.
    pub(super) async fn tick(&mut self, end: Option<Instant>) -> Option<Instant> {
        let behind = Instant::now().saturating_duration_since(self.due());
        if let Some(lost) = behind.checked_sub(MAX_LAG) {
            self.start += lost;
        }
        let due = self.due();
        if end.is_some_and(|end| due >= end) {
            return None;
        }
        sleep_until(due).await;
        self.ticks += 1;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_exactly() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 3.0);
        let end = start + Duration::from_secs(100);
        let mut ticks = 0;
        while pace.tick(Some(end)).await.is_some() {
            ticks += 1;
        }
        assert_eq!(ticks, 300);
        assert!(start.elapsed() < Duration::from_secs(100));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_late_catches_up_but_no_more_than_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 10.0);
        pace.tick(None).await;
        tokio::time::advance(Duration::from_secs(60)).await;
        let resumed = Instant::now();
        let mut burst = 0;
        while pace.tick(None).await.is_some_and(|_| resumed.elapsed().is_zero()) {
            burst += 1;
        }
        assert_eq!(burst, 11);
    }
}
