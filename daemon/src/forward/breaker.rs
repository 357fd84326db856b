//! The circuit breaker: a sink that keeps failing is left alone, then tried with one batch.
//!
//! ```text
//! closed ── the third failure in a row ──▶ open ── its time is over ──▶ half-open: one batch goes
//!    ▲                                      ▲                              │
//!    └────────── any answer ────────────────┼──────── it arrived ──────────┤
//!                                           └──────── it failed ───────────┘
//! ```

use tokio::time::Instant;

/// Failures in a row that open it. A single lost answer is not an outage.
const THRESHOLD: u32 = 3;

#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// In a row, over all batches.
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen,
}

/// Whether a batch may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// Yes.
    Go,
    /// Not before then; ask again.
    At(Instant),
    /// Not before one that goes now is answered; ask again.
    AfterAnswer,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self { state: State::Closed, failures: 0 }
    }

    /// Whoever is told to go sends, and reports with one of the methods below.
    pub(super) fn permit(&mut self, now: Instant) -> Permit {
        match self.state {
            State::Closed => Permit::Go,
            State::Open { until } if now < until => Permit::At(until),
            State::Open { .. } => {
                self.state = State::HalfOpen;
                Permit::Go
            }
            State::HalfOpen => Permit::AfterAnswer,
        }
    }

    /// The bus answered.
    pub(super) fn answered(&mut self) {
        *self = Self::new();
    }

    /// Failures in a row, the one to be reported next included.
    pub(super) fn failures(&self) -> u32 {
        self.failures.saturating_add(1)
    }

    /// A batch failed; if that opens the breaker, it stays open until `until`. Failures of batches
    /// that were sent before it opened do not prolong that.
    pub(super) fn failed(&mut self, until: Instant) {
        if matches!(self.state, State::Open { .. }) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.state == State::HalfOpen || self.failures >= THRESHOLD {
            self.state = State::Open { until };
        }
    }

    /// Opens it at once, until `until`.
    pub(super) fn open(&mut self, until: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.state = State::Open { until };
    }

    /// Whether the last thing that was reported is a failure.
    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether every batch may go.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn opened(now: Instant) -> (Breaker, Instant) {
        let mut breaker = Breaker::new();
        let until = now + Duration::from_secs(5);
        for _ in 0..THRESHOLD {
            assert_eq!(breaker.permit(now), Permit::Go);
            breaker.failed(until);
        }
        (breaker, until)
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_between_them_does_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..10 {
            for _ in 1..THRESHOLD {
                breaker.failed(now);
                assert!(breaker.has_failed());
            }
            breaker.answered();
            assert!(breaker.is_closed() && !breaker.has_failed());
        }
        let (mut breaker, until) = opened(now);
        assert_eq!(breaker.permit(now), Permit::At(until));
        assert!(!breaker.is_closed());
    }

    #[test]
    fn after_its_time_one_batch_goes_and_the_others_wait_for_it() {
        let (mut breaker, until) = opened(Instant::now());
        assert_eq!(breaker.permit(until), Permit::Go);
        assert_eq!(breaker.permit(until), Permit::AfterAnswer);
        breaker.answered();
        assert_eq!(breaker.permit(until), Permit::Go);
        assert_eq!(breaker.permit(until), Permit::Go);
    }

    #[test]
    fn a_failed_probe_opens_it_again_and_a_late_failure_does_not_prolong_it() {
        let (mut breaker, until) = opened(Instant::now());
        breaker.failed(until + Duration::from_secs(60));
        assert_eq!(breaker.permit(until), Permit::Go);
        let failures = breaker.failures();
        let later = until + Duration::from_secs(9);
        breaker.failed(later);
        assert_eq!(breaker.permit(until), Permit::At(later));
        assert_eq!(breaker.failures(), failures + 1);
    }

    #[test]
    fn a_late_answer_closes_it() {
        let now = Instant::now();
        let (mut breaker, _) = opened(now);
        breaker.answered();
        assert_eq!(breaker.permit(now), Permit::Go);
        breaker.open(now + Duration::from_secs(1));
        assert_eq!(breaker.permit(now), Permit::At(now + Duration::from_secs(1)));
    }
}
