//! Whether to believe a bus that refuses an event: is it the event, or is it the wrong bus?
//!
//! An address that is not the bus's answers 400 to everything, and would have the whole backlog put
//! into the dead-letter queue. So an event that is refused is only a suspect, until something else was
//! delivered: then the bus is the right one, and the event is poison. Where a batch ends with suspects
//! and nothing was delivered meanwhile, a bus gets [`CREDIT`] events on trust between two
//! deliveries; beyond that the events stay where they are, and the operator is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Events that may go to the dead-letter queue without a delivery beside them.
const CREDIT: usize = 16;
/// Suspects that a batch may have before it is decided what they are.
pub(super) const MAX_SUSPECTS: usize = 16;

/// Shared by the batches of a sink.
#[derive(Debug)]
pub(super) struct Trust {
    deliveries: AtomicU64,
    credit: Mutex<usize>,
}

impl Trust {
    pub(super) fn new() -> Self {
        Self { deliveries: AtomicU64::new(0), credit: Mutex::new(CREDIT) }
    }

    /// Deliveries so far.
    pub(super) fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::Acquire)
    }

    /// The bus took something.
    pub(super) fn delivered(&self) {
        self.deliveries.fetch_add(1, Ordering::AcqRel);
        *self.credit.lock().unwrap_or_else(PoisonError::into_inner) = CREDIT;
    }

    /// Whether so many suspects, the first of which was refused when there had been `since` deliveries,
    /// are poison.
    pub(super) fn are_poison(&self, suspects: usize, since: u64) -> bool {
        if self.deliveries() != since {
            return true;
        }
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        match credit.checked_sub(suspects) {
            Some(left) => {
                *credit = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_that_takes_nothing_gets_few_events_on_trust() {
        let trust = Trust::new();
        assert!(trust.are_poison(CREDIT - 1, 0));
        assert!(trust.are_poison(1, 0));
        assert!(!trust.are_poison(1, 0));
        trust.delivered();
        assert!(trust.are_poison(1000, 0), "something was delivered since");
        assert!(!trust.are_poison(CREDIT + 1, 1));
        assert!(trust.are_poison(CREDIT, 1));
        assert!(!trust.are_poison(1, 1));
    }
}
