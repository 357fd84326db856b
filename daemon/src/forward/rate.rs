//! A token bucket that may go into debt: whatever is sent next waits until the debt is paid, so a
//! batch larger than a second's allowance goes, and the rate still holds over time.

use std::time::Duration;

use tidegate_config::sink::Rate;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Bucket {
    /// Units a second; infinite where there is no limit.
    rate: f64,
    /// Below zero: a debt.
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// `rate` units a second, and as many at once. No limit if `None`.
    pub(super) fn new(rate: Option<u64>, now: Instant) -> Self {
        let rate = rate.map_or(f64::INFINITY, |rate| rate.max(1) as f64);
        Self { rate, tokens: rate, filled: now }
    }

    /// When there is no debt: now, or the moment it will be paid.
    pub(super) fn ready(&mut self, now: Instant) -> Instant {
        if self.rate.is_finite() {
            let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
            self.tokens = (self.tokens + elapsed * self.rate).min(self.rate);
            self.filled = now;
            if self.tokens < 0.0 {
                // Rounded up, so that whoever waits until then waits once.
                let wait = Duration::from_secs_f64(-self.tokens / self.rate);
                return now + wait + Duration::from_millis(1);
            }
        }
        now
    }

    /// Takes `units`.
    pub(super) fn take(&mut self, units: usize) {
        if self.rate.is_finite() {
            self.tokens -= units as f64;
        }
    }
}

/// What a backlog may take that newer events go ahead of: `rate.backlog-*`.
#[derive(Debug)]
pub(super) struct BacklogRate {
    events: Bucket,
    bytes: Bucket,
}

impl BacklogRate {
    pub(super) fn new(config: &Rate, now: Instant) -> Self {
        let bytes = config.backlog_bytes.map(|size| size.0);
        Self { events: Bucket::new(config.backlog_events, now), bytes: Bucket::new(bytes, now) }
    }

    /// When its next batch may go: now, or later.
    pub(super) fn ready(&mut self, now: Instant) -> Instant {
        self.events.ready(now).max(self.bytes.ready(now))
    }

    /// A batch goes.
    pub(super) fn take(&mut self, events: usize, bytes: usize) {
        self.events.take(events);
        self.bytes.take(bytes);
    }

    /// Whether there is a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.events.rate.is_finite() || self.bytes.rate.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_limit_nothing_waits() {
        let now = Instant::now();
        let mut bucket = Bucket::new(None, now);
        for _ in 0..100 {
            bucket.take(usize::MAX);
            assert_eq!(bucket.ready(now), now);
        }
    }

    proptest! {
        #[test]
        fn the_rate_holds_over_time_whatever_the_sizes(
            rate in 1..100_000_u64, sizes in prop::collection::vec(1..50_000_usize, 1..50),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(Some(rate), start);
            let mut sent = 0;
            for size in &sizes {
                now = bucket.ready(now).max(now);
                prop_assert_eq!(bucket.ready(now), now, "one wait is enough");
                // All but the last one, which may go into debt.
                let allowed = rate as f64 * (1.0 + (now - start).as_secs_f64());
                prop_assert!(sent as f64 <= allowed + 1.0, "{} of {}", sent, allowed);
                bucket.take(*size);
                sent += size;
            }
            let slack = 1.0 + sizes.len() as f64 * 0.002;
            prop_assert!((now - start).as_secs_f64() <= sent as f64 / rate as f64 + slack);
        }
    }
}
