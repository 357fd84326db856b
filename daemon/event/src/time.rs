//! When an event was received, and how far that can be trusted.
//!
//! Many boards have no clock battery: after a power cut they start in the past and know the time
//! only once the network is back. Until then an event carries what the clock said and, beside it,
//! the boot it belongs to and the nanoseconds since that boot, from which the true time follows as
//! soon as the clock is set.

/// A reading of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The wall clock was set.
    Synced {
        /// Microseconds since 1970-01-01T00:00:00Z.
        unix_micros: i64,
    },
    /// The wall clock had not been set since the machine booted.
    SinceBoot {
        /// What the wall clock said all the same, in microseconds since 1970-01-01T00:00:00Z.
        unix_micros: i64,
        /// Which boot: drawn from the kernel's boot id.
        boot: u64,
        /// Nanoseconds since that boot.
        nanos: u64,
    },
}

impl Received {
    /// The best known time, in microseconds since 1970-01-01T00:00:00Z.
    pub fn unix_micros(&self) -> i64 {
        match *self {
            Self::Synced { unix_micros } | Self::SinceBoot { unix_micros, .. } => unix_micros,
        }
    }
}

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Appends `unix_micros` as RFC 3339 in UTC with microseconds: `2026-11-21T08:30:00.000250Z`, 27
/// bytes. A time outside the years 0000 to 9999, which RFC 3339 cannot write, is written as the
/// nearest one that it can.
pub fn write_rfc3339(unix_micros: i64, out: &mut Vec<u8>) {
    const FIRST: i64 = -62_167_219_200 * MICROS_PER_SECOND;
    const LAST: i64 = 253_402_300_800 * MICROS_PER_SECOND - 1;
    let unix_micros = unix_micros.clamp(FIRST, LAST);
    let seconds = unix_micros.div_euclid(MICROS_PER_SECOND);
    let (year, month, day) = civil(seconds.div_euclid(SECONDS_PER_DAY));
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    digits::<4>(year, out);
    out.push(b'-');
    digits::<2>(month, out);
    out.push(b'-');
    digits::<2>(day, out);
    out.push(b'T');
    digits::<2>(second / 3600, out);
    out.push(b':');
    digits::<2>(second / 60 % 60, out);
    out.push(b':');
    digits::<2>(second % 60, out);
    out.push(b'.');
    digits::<6>(unix_micros.rem_euclid(MICROS_PER_SECOND), out);
    out.push(b'Z');
}

/// The Gregorian date of a day counted from 1970-01-01 (400-year eras that begin on 1 March, so that
/// the leap day is the last of its year; Hinnant, "chrono-compatible low-level date algorithms").
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted_month + 2) / 5 + 1)
}

fn digits<const N: usize>(mut value: i64, out: &mut Vec<u8>) {
    let mut text = [b'0'; N];
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(unix_micros: i64) -> String {
        let mut out = Vec::new();
        write_rfc3339(unix_micros, &mut out);
        String::from_utf8(out).unwrap()
    }

    // Expected values: `date -u -d @SECONDS +%FT%T`.
    #[test]
    fn times_are_written_as_rfc_3339_says() {
        assert_eq!(written(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(written(951_782_400_000_001), "2000-02-29T00:00:00.000001Z");
        assert_eq!(written(1_795_000_000_123_456), "2026-11-18T11:06:40.123456Z");
        assert_eq!(written(4_107_542_399_999_999), "2100-02-28T23:59:59.999999Z");
        assert_eq!(written(4_107_542_400_000_000), "2100-03-01T00:00:00.000000Z");
        assert_eq!(written(-1), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn a_time_that_cannot_be_written_becomes_the_nearest_one() {
        assert_eq!(written(i64::MIN), "0000-01-01T00:00:00.000000Z");
        assert_eq!(written(i64::MAX), "9999-12-31T23:59:59.999999Z");
    }
}
