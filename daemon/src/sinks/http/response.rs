//! What an answer means, and what its absence does.
//!
//! | answer | outcome |
//! |---|---|
//! | 2xx | delivered |
//! | 207 | partly: its body, a JSON array, holds an object with a `status` for each event; else unclear |
//! | 400, 409, 413, 414, 422, 431; 415 in binary mode | poison: the receiver looked at the events and will not take them |
//! | 429, 503 with `Retry-After` | throttled, at most an hour |
//! | 408, 425, 429, 5xx | retry |
//! | 3xx, every other 4xx | misconfigured: it refuses us, not the events, and none is given up |
//! | none (refused, unreachable, dns, tls, timeout, broken off) | retry |
//!
//! What a 207 says about an event is read from the same table: delivered, poison, and retry for all
//! the rest.

use std::error::Error;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use tidegate_config::sink::Mode;

use super::super::{Failure, Fate, Outcome};

/// The longest pause that a receiver may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What the decision depends on.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) address: &'a str,
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<&'a str>,
    pub(super) location: Option<&'a str>,
    /// The beginning of the body.
    pub(super) excerpt: &'a str,
    /// The body of a 207.
    pub(super) parts: &'a [u8],
}

/// What a 207 says about one event.
#[derive(serde::Deserialize)]
struct Part {
    status: u16,
}

/// The table above.
pub(super) fn judge(answer: &Answer<'_>, mode: Mode, now: SystemTime) -> Outcome {
    let said = describe(answer);
    let retry =
        |reason| Outcome::Retry(Failure { reason, message: said.clone(), timed_out: false });
    match answer.status.as_u16() {
        207 => Outcome::Partly { fates: fates(answer, mode), message: said },
        200..=299 => Outcome::Delivered,
        300..=399 => {
            let target = answer.location.unwrap_or("nowhere");
            Outcome::Misconfigured(format!(
                "{said}; redirects are not followed, it points to {target}: put the final address into url"
            ))
        }
        status if is_poison(status, mode) => Outcome::Poison(said),
        408 => retry("http-408"),
        425 => retry("http-425"),
        status @ (429 | 503) => {
            let pause = answer.retry_after.and_then(|text| retry_after(text, now));
            match pause {
                Some(pause) if !pause.is_zero() => Outcome::Throttled(pause),
                _ if status == 429 => retry("http-429"),
                _ => retry("http-5xx"),
            }
        }
        401 | 403 => Outcome::Misconfigured(format!("{said}; check the token or the headers")),
        404 | 405 | 410 => Outcome::Misconfigured(format!("{said}; check url")),
        415 => Outcome::Misconfigured(format!("{said}; check mode and compression")),
        400..=499 => Outcome::Misconfigured(said),
        _ => retry("http-5xx"),
    }
}

/// Whether the receiver looked at the events and will not take them.
fn is_poison(status: u16, mode: Mode) -> bool {
    matches!(status, 400 | 409 | 413 | 414 | 422 | 431) || (status == 415 && mode == Mode::Binary)
}

/// Empty where the body does not say.
fn fates(answer: &Answer<'_>, mode: Mode) -> Vec<Fate> {
    let parts: Vec<Part> = serde_json::from_slice(answer.parts).unwrap_or_default();
    let fate = |(index, Part { status })| match status {
        200..=299 => Fate::Delivered,
        status if is_poison(status, mode) => {
            Fate::Poison(format!("{}: {status} for event {index} of a batch", answer.address))
        }
        _ => Fate::Retry,
    };
    parts.into_iter().enumerate().map(fate).collect()
}

fn describe(answer: &Answer<'_>) -> String {
    let Answer { address, status, excerpt, .. } = answer;
    // StatusCode's Display is the number and its usual phrase.
    let mut text = format!("{address}: {status}");
    if !excerpt.is_empty() {
        text.push_str(": ");
        text.push_str(excerpt);
    }
    text
}

/// RFC 9110 section 10.2.3: seconds, or an HTTP date.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let pause = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let until = httpdate::parse_http_date(text).ok()?;
        until.duration_since(now).unwrap_or_default()
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

/// Names what kept a request from being answered.
pub(super) fn failure(address: &str, error: &reqwest::Error) -> Failure {
    let reason = reason(error);
    let message = match reason {
        "timeout" => format!("{address}: no answer in time ({})", chain(error)),
        _ => format!("{address}: {}", chain(error)),
    };
    // An address that takes no connection says nothing about the link.
    let timed_out = reason == "timeout" && !error.is_connect();
    Failure { reason, message, timed_out }
}

fn reason(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        return "timeout";
    }
    for cause in causes(error) {
        if cause.downcast_ref::<rustls::Error>().is_some() {
            return "tls";
        }
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            if carries_tls(error) {
                return "tls";
            }
            match error.kind() {
                ErrorKind::ConnectionRefused => return "refused",
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => return "unreachable",
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return "broken-off",
                ErrorKind::TimedOut => return "timeout",
                _ => {}
            }
        }
        // The connector keeps its error type to itself; a test holds this text.
        if cause.to_string() == "dns error" {
            return "dns";
        }
    }
    if error.is_connect() { "unreachable" } else { "broken-off" }
}

/// rustls' errors travel inside io errors, one or two deep, which do not name them as their source.
fn carries_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        inner.is::<rustls::Error>()
            || inner.downcast_ref::<std::io::Error>().is_some_and(carries_tls)
    })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// An error's causes without reqwest's own frame, which names the URL and so its credentials.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let causes: Vec<String> = causes(error).skip(1).map(ToString::to_string).collect();
    if causes.is_empty() {
        return if error.is_timeout() { "timed out".into() } else { "request failed".into() };
    }
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn answer(status: u16) -> Answer<'static> {
        Answer {
            address: "http://bus/in",
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            location: None,
            excerpt: "",
            parts: b"",
        }
    }

    fn kind(status: u16, mode: Mode) -> &'static str {
        match judge(&answer(status), mode, UNIX_EPOCH) {
            Outcome::Delivered => "delivered",
            Outcome::Partly { .. } => "partly",
            Outcome::Throttled(_) => "throttled",
            Outcome::Retry(failure) => failure.reason,
            Outcome::Poison(_) => "poison",
            Outcome::Misconfigured(_) => "misconfigured",
        }
    }

    #[test]
    fn every_status_has_its_meaning() {
        for status in 100..1000 {
            let expected = match status {
                207 => "partly",
                200..=299 => "delivered",
                400 | 409 | 413 | 414 | 422 | 431 => "poison",
                408 => "http-408",
                425 => "http-425",
                429 => "http-429",
                300..=499 => "misconfigured",
                _ => "http-5xx",
            };
            assert_eq!(kind(status, Mode::Batch), expected, "{status}");
        }
        assert_eq!(kind(415, Mode::Binary), "poison");
        assert_eq!(kind(415, Mode::Structured), "misconfigured");
    }

    #[test]
    fn a_207_is_read_event_by_event_or_says_nothing() {
        let fates = |parts: &'static str| {
            let answer = Answer { parts: parts.as_bytes(), ..answer(207) };
            match judge(&answer, Mode::Batch, UNIX_EPOCH) {
                Outcome::Partly { fates, .. } => fates,
                other => panic!("{other:?}"),
            }
        };
        let why = "http://bus/in: 400 for event 1 of a batch".to_owned();
        assert_eq!(
            fates(
                r#"[{"status": 201, "id": "a"}, {"status": 400}, {"status": 503}, {"status": 401}]"#
            ),
            [Fate::Delivered, Fate::Poison(why), Fate::Retry, Fate::Retry]
        );
        for unclear in ["", "{}", "[1]", r#"[{"status": "ok"}]"#, "<multistatus/>"] {
            assert_eq!(fates(unclear), [], "{unclear}");
        }
    }

    // The date is the example of RFC 9110 section 10.2.3.
    #[test]
    fn retry_after_is_read_as_seconds_or_date_and_bounded() {
        let date = "Fri, 31 Dec 1999 23:59:59 GMT";
        let before = UNIX_EPOCH + Duration::from_secs(946_684_799 - 90);
        for (text, now, expected) in [
            ("120", UNIX_EPOCH, Some(120)),
            (" 7 ", UNIX_EPOCH, Some(7)),
            ("99999999999999999999999", UNIX_EPOCH, Some(3600)),
            ("86400", UNIX_EPOCH, Some(3600)),
            (date, before, Some(90)),
            (date, UNIX_EPOCH, Some(3600)),
            (date, before + Duration::from_secs(1000), Some(0)),
            ("-1", UNIX_EPOCH, None),
            ("1.5", UNIX_EPOCH, None),
            ("soon", UNIX_EPOCH, None),
            ("", UNIX_EPOCH, None),
        ] {
            assert_eq!(retry_after(text, now).map(|d| d.as_secs()), expected, "{text:?}");
        }
    }

    #[test]
    fn only_a_pause_that_is_one_throttles() {
        for status in [429, 503] {
            let with = |text| Answer { retry_after: Some(text), ..answer(status) };
            let outcome = judge(&with("3"), Mode::Batch, UNIX_EPOCH);
            assert_eq!(outcome, Outcome::Throttled(Duration::from_secs(3)));
            for text in ["0", "soon"] {
                let outcome = judge(&with(text), Mode::Batch, UNIX_EPOCH);
                assert!(matches!(outcome, Outcome::Retry(_)), "{status} {text}");
            }
        }
    }

    #[test]
    fn the_operator_reads_address_status_and_the_receivers_words() {
        let refused = Answer { excerpt: "no such tenant", ..answer(403) };
        assert_eq!(
            judge(&refused, Mode::Batch, UNIX_EPOCH),
            Outcome::Misconfigured(
                "http://bus/in: 403 Forbidden: no such tenant; check the token or the headers"
                    .into()
            )
        );
        let moved = Answer { location: Some("https://bus/in"), ..answer(301) };
        let Outcome::Misconfigured(text) = judge(&moved, Mode::Batch, UNIX_EPOCH) else {
            panic!("not misconfigured");
        };
        assert!(text.contains("points to https://bus/in"), "{text}");
    }
}
