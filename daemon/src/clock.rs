//! What time it is, and whether to believe it.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tidegate_event::Received;

/// Before this (2026-01-01T00:00:00Z, in seconds) no clock that was ever set can be.
const EARLIEST: i64 = 1_767_225_600;

/// Reads the machine's clocks.
#[derive(Debug, Clone)]
pub struct Clock {
    boot: u64,
}

impl Clock {
    /// Finds out which boot this is; 0 where the kernel does not say.
    pub fn new() -> Self {
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = boot_id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        Self { boot: u64::from_str_radix(&digits, 16).unwrap_or_default() }
    }

    /// The reading for an event received now.
    pub fn now(&self) -> Received {
        let unix_micros = unix_micros();
        if is_set(unix_micros) {
            return Received::Synced { unix_micros };
        }
        Received::SinceBoot { unix_micros, boot: self.boot, nanos: nanos_since_boot() }
    }

    /// What `reading` is by the wall clock as it is set now. A reading of another boot stays what it is,
    /// and so does every one while the clock is not set.
    pub fn corrected(&self, reading: Received) -> Received {
        match reading {
            Received::Synced { .. } => reading,
            Received::SinceBoot { .. } => {
                corrected(reading, self.boot, unix_micros(), nanos_since_boot())
            }
        }
    }
}

/// `reading`, by a clock that says `unix_micros` at `nanos` since `boot`.
fn corrected(reading: Received, boot: u64, unix_micros: i64, nanos: u64) -> Received {
    match reading {
        Received::SinceBoot { boot: its, nanos: then, .. }
            if its == boot && boot != 0 && is_set(unix_micros) =>
        {
            let ago = i64::try_from(nanos.saturating_sub(then) / 1_000).unwrap_or(i64::MAX);
            Received::Synced { unix_micros: unix_micros.saturating_sub(ago) }
        }
        _ => reading,
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a wall clock that says this has been set.
pub fn is_set(unix_micros: i64) -> bool {
    unix_micros >= EARLIEST * 1_000_000
}

/// The wall clock, in microseconds since 1970-01-01T00:00:00Z; negative before.
pub fn unix_micros() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    }
}

/// With the time that the machine slept, so that it is as long as the wall clock's.
fn nanos_since_boot() -> u64 {
    let since = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(since.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000) + u64::try_from(since.tv_nsec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: u64 = 7;
    /// 2026-11-21T08:00:00Z, and the machine has run for a minute.
    const NOW: i64 = 1_795_248_000_000_000;
    const RUNS: u64 = 60_000_000_000;

    #[test]
    fn a_reading_of_this_boot_is_right_once_the_clock_is_set() {
        let reading = Received::SinceBoot { unix_micros: 5, boot: BOOT, nanos: 45_000_000_000 };
        let right = Received::Synced { unix_micros: NOW - 15_000_000 };
        assert_eq!(corrected(reading, BOOT, NOW, RUNS), right);
        assert_eq!(corrected(right, BOOT, NOW + 1, RUNS), right);
    }

    #[test]
    fn what_cannot_be_known_stays_as_it_is() {
        let reading = Received::SinceBoot { unix_micros: 5, boot: BOOT, nanos: 1 };
        assert_eq!(corrected(reading, BOOT, 20_000_000, RUNS), reading, "not set yet");
        assert_eq!(corrected(reading, BOOT + 1, NOW, RUNS), reading, "another boot");
        let nameless = Received::SinceBoot { unix_micros: 5, boot: 0, nanos: 1 };
        assert_eq!(corrected(nameless, 0, NOW, RUNS), nameless, "the kernel does not say which");
    }

    #[test]
    fn the_machine_has_run_for_a_while() {
        let (first, second) = (nanos_since_boot(), nanos_since_boot());
        assert!(0 < first && first <= second && second - first < 60_000_000_000);
    }
}
