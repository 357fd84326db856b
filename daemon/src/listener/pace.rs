//! How fast one client may publish: `limits.max-events-per-second`, `limits.max-bytes-per-second`. Who
//! sends more is made to wait, by taking in no more; nothing is refused.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_config::Limits;
use tokio::time::{Instant, Sleep, sleep_until};

/// What may come at once after a pause: as much as otherwise in this time.
const BURST: Duration = Duration::from_secs(1);

/// One connection's pace. Without limits it costs nothing.
#[derive(Debug)]
pub(super) struct Pace {
    events: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Until when the client has to wait.
    wait: Option<Pin<Box<Sleep>>>,
}

/// A leaky bucket that is told as the time when it is empty (GCRA).
#[derive(Debug)]
struct Bucket {
    /// Seconds that one takes to leak.
    each: f64,
    empty: Instant,
}

impl Pace {
    pub(super) fn new(limits: &Limits) -> Self {
        let bucket = |rate: u64| Bucket { each: 1.0 / rate as f64, empty: Instant::now() };
        Self {
            events: limits.max_events_per_second.map(bucket),
            bytes: limits.max_bytes_per_second.map(|rate| bucket(rate.0)),
            wait: None,
        }
    }

    /// A PUBLISH of so many bytes came. Answers whether the client has to wait from now on.
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        if self.events.is_none() && self.bytes.is_none() {
            return false;
        }
        let now = Instant::now();
        let events = self.events.as_mut().map(|bucket| bucket.fill(1.0, now));
        let bytes = self.bytes.as_mut().map(|bucket| bucket.fill(bytes as f64, now));
        let until = events.max(bytes).filter(|until| *until > now);
        if let Some(until) = until {
            self.wait = Some(Box::pin(sleep_until(until)));
        }
        until.is_some()
    }

    /// Whether the client has to wait.
    pub(super) fn is_spent(&self) -> bool {
        self.wait.is_some()
    }

    /// Ready when the client has waited long enough.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(wait) = &mut self.wait else { return Poll::Pending };
        let polled = wait.as_mut().poll(context);
        if polled.is_ready() {
            self.wait = None;
        }
        polled
    }
}

impl Bucket {
    /// Puts `amount` in. Answers when it holds no more than a burst.
    fn fill(&mut self, amount: f64, now: Instant) -> Instant {
        let leaks = Duration::try_from_secs_f64(amount * self.each).unwrap_or(Duration::MAX);
        let begins = self.empty.max(now);
        self.empty = begins.checked_add(leaks).unwrap_or(begins);
        self.empty.checked_sub(BURST).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tidegate_config::ByteSize;

    use super::*;

    /// Publishes for some seconds as fast as it is let; answers how often.
    async fn publish(limits: &Limits, bytes: usize, seconds: u64) -> u32 {
        let mut pace = Pace::new(limits);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut count = 0;
        while Instant::now() < end {
            count += 1;
            if pace.spend(bytes) {
                assert!(pace.is_spent());
                poll_fn(|context| pace.poll(context)).await;
            }
            assert!(!pace.is_spent());
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_comes_to_its_rate_and_one_burst() {
        let limits = Limits { max_events_per_second: Some(100), ..Limits::default() };
        let count = publish(&limits, 10, 10).await;
        assert!((1090..=1110).contains(&count), "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_tighter_of_both_limits_counts() {
        let limits = Limits {
            max_events_per_second: Some(1000),
            max_bytes_per_second: Some(ByteSize(10_000)),
            ..Limits::default()
        };
        let count = publish(&limits, 1000, 10).await;
        assert!((105..=115).contains(&count), "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_larger_than_a_burst_passes_and_is_paid_for() {
        let limits = Limits { max_bytes_per_second: Some(ByteSize(1000)), ..Limits::default() };
        let mut pace = Pace::new(&limits);
        let before = Instant::now();
        assert!(pace.spend(11_000));
        poll_fn(|context| pace.poll(context)).await;
        let waited = (before.elapsed().as_secs_f64() * 10.0).round();
        assert_eq!(waited, 100.0, "ten seconds for what is beyond one");
    }
}
