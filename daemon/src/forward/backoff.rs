//! How long to wait before the next try: exponential, with full jitter, so that gateways that lost
//! the same receiver at the same moment do not come back at the same moment.

use std::time::Duration;

use tidegate_config::sink::Retry;

/// `retry.*`
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    initial: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(config: &Retry) -> Self {
        Self { initial: config.initial.0.min(config.max.0), max: config.max.0 }
    }

    /// The longest wait there is.
    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// The bound of the wait after `failures` in a row (at least 1).
    fn ceiling(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.initial.saturating_mul(doubled).min(self.max)
    }

    /// The wait after `failures` in a row; `random` is drawn from 0 to 1.
    pub(super) fn delay(&self, failures: u32, random: f64) -> Duration {
        self.ceiling(failures).mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_config::Span;

    use super::*;

    fn backoff(initial: u64, max: u64) -> Backoff {
        Backoff::new(&Retry { initial: Span::milliseconds(initial), max: Span::milliseconds(max) })
    }

    #[test]
    fn the_bound_doubles_up_to_the_maximum() {
        let backoff = backoff(500, 10_000);
        let bounds: Vec<_> = (1..=7).map(|n| backoff.ceiling(n).as_millis()).collect();
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(backoff.delay(3, 0.5), Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_its_bound(
            initial in 0..u64::from(u32::MAX), max in 0..u64::from(u32::MAX),
            failures in any::<u32>(), random in 0.0..=1.0,
        ) {
            let backoff = backoff(initial, max);
            let delay = backoff.delay(failures, random);
            prop_assert!(delay <= backoff.ceiling(failures));
            prop_assert!(backoff.ceiling(failures) <= backoff.max());
            prop_assert!(failures == u32::MAX || backoff.ceiling(failures) <= backoff.ceiling(failures + 1));
        }
    }
}
