//! Waiting is for a condition, with a limit.

use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for what takes milliseconds on an idle machine: on a slow and busy one that can be
/// seconds.
pub const SOON: Duration = Duration::from_secs(30);
/// How long a test waits for what moves a lot of data.
pub const LATER: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(10);

/// Returns when `condition` holds.
///
/// # Panics
/// When it does not within `limit`; `what` is part of the message.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || condition().then_some(()));
}

/// Returns what `attempt` found, as soon as it finds something.
///
/// # Panics
/// When it finds nothing within `limit`; `what` is part of the message.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        thread::park_timeout(PAUSE);
    }
}

/// What nine of ten of these waits did not exceed. A neighbour whom somebody holds up waits most of the time; one
/// whose machine stands still for a moment does once.
///
/// # Panics
/// When there are none.
#[track_caller]
pub fn nine_of_ten(mut waits: Vec<Duration>) -> Duration {
    assert!(!waits.is_empty(), "nobody waited for anything");
    waits.sort_unstable();
    waits[(waits.len() * 9).div_ceil(10) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_ten_may_be_long_and_of_fewer_none() {
        let waits =
            |long: u64, of: u64| (0..of).map(move |n| Duration::from_secs(u64::from(n < long)));
        for (long, of, expected) in
            [(0, 1, 0), (1, 1, 1), (1, 2, 1), (1, 9, 1), (1, 10, 0), (2, 10, 1), (2, 20, 0)]
        {
            let found = nine_of_ten(waits(long, of).collect());
            assert_eq!(found, Duration::from_secs(expected), "{long} of {of}");
        }
    }
}
