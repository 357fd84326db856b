//! Reads the times that recorded data carries.

/// Microseconds since 1970-01-01T00:00:00Z of `2010-01-31T23:59:59.5+01:00` (RFC 3339) and of what
/// spreadsheets and loggers make of it: `/` for `-`, a space for `T`, no zone (then UTC), no seconds,
/// no time at all. None if it is nothing of the kind.
pub(super) fn parse(text: &str) -> Option<i64> {
    let mut rest = text.trim().as_bytes();
    let year = digits(&mut rest, 4)?;
    let separator = take(&mut rest, b"-/")?;
    let month = digits(&mut rest, 2)?;
    take(&mut rest, &[separator])?;
    let day = digits(&mut rest, 2)?;
    let days = days(year, month, day)?;
    let mut micros = days * 86_400_000_000;
    if rest.is_empty() {
        return Some(micros);
    }
    take(&mut rest, b"Tt ")?;
    let hour = digits(&mut rest, 2).filter(|hour| *hour < 24)?;
    take(&mut rest, b":")?;
    let minute = digits(&mut rest, 2).filter(|minute| *minute < 60)?;
    micros += (hour * 60 + minute) * 60_000_000;
    if take(&mut rest, b":").is_some() {
        // 60 is a leap second.
        micros += digits(&mut rest, 2).filter(|second| *second <= 60)? * 1_000_000;
        if take(&mut rest, b".,").is_some() {
            let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (fraction, after) = rest.split_at(length);
            rest = after;
            let padded = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(6);
            micros += padded.fold(0, |value, byte| value * 10 + i64::from(byte - b'0'));
            if length == 0 {
                return None;
            }
        }
    }
    micros -= zone(&mut rest)? * 60_000_000;
    rest.is_empty().then_some(micros)
}

/// Minutes east of Greenwich.
fn zone(rest: &mut &[u8]) -> Option<i64> {
    let sign = match take(rest, b"Zz+-") {
        None | Some(b'Z' | b'z') => return Some(0),
        Some(b'-') => -1,
        Some(_) => 1,
    };
    let hours = digits(rest, 2).filter(|hours| *hours < 24)?;
    take(rest, b":");
    let minutes = digits(rest, 2).filter(|minutes| *minutes < 60)?;
    Some(sign * (hours * 60 + minutes))
}

fn take(rest: &mut &[u8], one_of: &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first()?;
    let taken = one_of.contains(first).then_some(*first);
    if taken.is_some() {
        *rest = after;
    }
    taken
}

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (taken, after) = rest.split_at_checked(count)?;
    if !taken.iter().all(u8::is_ascii_digit) {
        return None;
    }
    *rest = after;
    Some(taken.iter().fold(0, |value, byte| value * 10 + i64::from(byte - b'0')))
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, if there is one such (Hinnant,
/// "chrono-compatible low-level date algorithms").
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: `date -u -d TEXT +%s`.
    #[test]
    fn recorded_times_are_read() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2010-01-01T01:00:00-08:00", 1_262_336_400),
            ("2010-01-01T01:00:00+0530", 1_262_287_800),
            ("2010/01/01 01:00", 1_262_307_600),
            ("2012-02-29", 1_330_473_600),
            (" 2000-03-01 00:00:00 ", 951_868_800),
            ("1969-12-31T23:59:59Z", -1),
        ] {
            assert_eq!(parse(text), Some(seconds * 1_000_000), "{text}");
        }
        assert_eq!(parse("1970-01-01T00:00:00.25Z"), Some(250_000));
        assert_eq!(parse("1970-01-01T00:00:00.1234567Z"), Some(123_456));
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "47.4",
            "Jan 1 2000",
            "2010-13-01",
            "2010-02-29",
            "2010-01/01",
            "2010-01-01T24:00",
            "2010-01-01T01",
            "2010-01-01T01:00:00.",
            "2010-01-01T01:00:00Zx",
            "2010-01-01T01:00+8",
            "2010-01-01T",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
