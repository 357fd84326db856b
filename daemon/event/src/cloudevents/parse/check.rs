//! What names and values of attributes may look like.

/// [3.1]: lower-case letters and digits. (That names should not be longer than 20 is advice.)
pub(in crate::cloudevents) fn is_attribute_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// `2026-11-21T08:30:00.25Z`, `…+01:00` (RFC 3339 section 5.6, a leap second included).
pub(in crate::cloudevents) fn is_rfc3339(text: &str) -> bool {
    fn number(text: &[u8]) -> Option<u32> {
        text.iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0'))
        })
    }
    let Some((date_time, zone)) = text.as_bytes().split_at_checked(19) else { return false };
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, t, hours @ .., b':', s0, s1] = date_time
    else {
        return false;
    };
    let [h0, h1, b':', n0, n1] = hours else { return false };
    let (Some(year), Some(month), Some(day), Some(hour), Some(minute), Some(second)) = (
        number(&[*y0, *y1, *y2, *y3]),
        number(&[*m0, *m1]),
        number(&[*d0, *d1]),
        number(&[*h0, *h1]),
        number(&[*n0, *n1]),
        number(&[*s0, *s1]),
    ) else {
        return false;
    };
    let leap_year = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap_year),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    let fits = (1..=days).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !fits || !matches!(t, b'T' | b't') {
        return false;
    }
    let zone = match zone {
        [b'.', fraction @ ..] => match fraction.iter().position(|b| !b.is_ascii_digit()) {
            Some(0) | None => return false,
            Some(digits) => &fraction[digits..],
        },
        zone => zone,
    };
    match zone {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', h0, h1, b':', m0, m1] => {
            number(&[*h0, *h1]).is_some_and(|hours| hours < 24)
                && number(&[*m0, *m1]).is_some_and(|minutes| minutes < 60)
        }
        _ => false,
    }
}

/// RFC 4648 section 4, with its padding.
pub(super) fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    text.len().is_multiple_of(4)
        && text.len() - digits.len() <= 2
        && digits.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rfc_3339() {
        for good in [
            "2026-11-21T08:30:00Z",
            "2026-11-21t08:30:00.123456789z",
            "1985-04-12T23:20:50.52+05:30",
            "1990-12-31T23:59:60Z",
            "2024-02-29T00:00:00-00:00",
        ] {
            assert!(is_rfc3339(good), "{good}");
        }
        for bad in [
            "",
            "2026-11-21",
            "2026-11-21 08:30:00Z",
            "2026-11-21T08:30:00",
            "2026-11-21T08:30Z",
            "2026-13-21T08:30:00Z",
            "2026-00-21T08:30:00Z",
            "2026-11-31T08:30:00Z",
            "2025-02-29T08:30:00Z",
            "2026-11-21T24:30:00Z",
            "2026-11-21T08:60:00Z",
            "2026-11-21T08:30:61Z",
            "2026-11-21T08:30:00.Z",
            "2026-11-21T08:30:00+0100",
            "2026-11-21T08:30:00+24:00",
            "2026-11-21T08:30:00Z ",
            "２026-11-21T08:30:00Z",
            "+026-11-21T08:30:00Z",
        ] {
            assert!(!is_rfc3339(bad), "{bad}");
        }
    }
}
