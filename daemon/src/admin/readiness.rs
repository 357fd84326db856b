//! Ready is when every part has said so.

use std::sync::{Arc, Weak};

/// Held by a part until it is up; dropping it says that it is.
#[derive(Debug, Clone)]
pub struct Latch {
    _held: Arc<()>,
}

/// Answers whether every [`Latch`] was dropped.
#[derive(Debug, Clone)]
pub struct Readiness(Weak<()>);

impl Readiness {
    /// The question and the first latch; clone that for each part.
    pub fn new() -> (Self, Latch) {
        let held = Arc::new(());
        (Self(Arc::downgrade(&held)), Latch { _held: held })
    }

    /// Whether every part is up.
    pub fn is_ready(&self) -> bool {
        self.0.strong_count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_latch_is_dropped() {
        let (readiness, log) = Readiness::new();
        let listener = log.clone();
        drop(log);
        assert!(!readiness.is_ready());
        drop(listener);
        assert!(readiness.is_ready());
    }
}
