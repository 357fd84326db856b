//! What time it is, and whether to believe it.

use std::time::{SystemTime, UNIX_EPOCH};

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

/// From `/proc/uptime`, to 10 ms: read only while the wall clock is not set.
fn nanos_since_boot() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = uptime.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or_default();
    (seconds * 1e9) as u64
}
