//! What a name, a URL, a pointer, a header may look like.

use crate::problem::Unfit;

/// Characters of a name.
const MAX_NAME: usize = 64;
/// Bytes of a URL.
const MAX_URL: usize = 2048;

/// A name that is also part of a URI or of a file's name.
pub(crate) fn check_name(name: &str) -> Result<(), Unfit> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && name.len() <= MAX_NAME && name.chars().all(plain) {
        return Ok(());
    }
    Err(Unfit::expected(format_args!(
        "1 to {MAX_NAME} of the characters A-Z a-z 0-9 - _ . with a letter or digit in front"
    )))
}

/// The name of a lane, which is also a level of a topic and a label of metrics.
pub(crate) fn check_lane(name: &str) -> Result<(), Unfit> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain) {
        return Ok(());
    }
    Err(Unfit::expected(format_args!("1 to {MAX_NAME} of the characters a-z 0-9 -")))
}

/// A name that is one level of a topic.
pub(crate) fn check_level(name: &str) -> Result<(), Unfit> {
    let fits = |c: char| !c.is_control() && !matches!(c, '/' | '+' | '#');
    if (1..=MAX_NAME).contains(&name.chars().count()) && name.chars().all(fits) {
        return Ok(());
    }
    Err(Unfit::expected(format_args!(
        "1 to {MAX_NAME} characters, none of them / + # or a control character"
    )))
}

/// The type of a CloudEvent (CloudEvents 1.0.2, section "type": a non-empty string).
pub(crate) fn check_event_type(name: &str) -> Result<(), Unfit> {
    const MAX: usize = 255;
    if (1..=MAX).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Unfit::expected(format_args!(
        "1 to {MAX} visible ASCII characters, such as \"com.example.plant.temperature\""
    )))
}

/// A JSON pointer (RFC 6901 section 3): empty, or each part begins with `/`; `~` only as `~0`, `~1`.
pub(crate) fn check_pointer(pointer: &str) -> Result<(), Unfit> {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        let so = format!("did you mean \"/{}\"?", pointer.replace('.', "/"));
        return Err(Unfit::because("is not a JSON pointer").so(so));
    }
    if pointer.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
        return Err(Unfit::because("is not a JSON pointer")
            .so("expected `~0` for `~` and `~1` for `/` in a name (RFC 6901)"));
    }
    Ok(())
}

/// An address to POST to: `http://` or `https://`, a host, and no secret in it.
pub(crate) fn check_url(url: &str) -> Result<(), Unfit> {
    const EXPECTED: &str = "\"http://HOST/PATH\" or \"https://HOST/PATH\"";
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or_else(|| Unfit::expected(EXPECTED))?;
    if url.len() > MAX_URL {
        return Err(Unfit::because(format!("is {} bytes long", url.len()))
            .so(format!("expected {MAX_URL} at most")));
    }
    if let Some(bad) = url.chars().find(|c| !c.is_ascii_graphic() || "\"<>\\^`{|}".contains(*c)) {
        return Err(Unfit::because(format!("contains {bad:?}"))
            .so("expected it percent-encoded (a host name beyond ASCII: in its xn-- form)"));
    }
    if rest.contains('#') {
        return Err(Unfit::because("contains a fragment (`#`), which is never sent"));
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(Unfit::because("contains a login, which would show in logs")
            .so("expected a bearer-token-file, or a header"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(ipv6) => {
            let (address, port) = ipv6.split_once(']').ok_or_else(|| Unfit::expected(EXPECTED))?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| Unfit::because(format!("has no IPv6 address in [{address}]")))?;
            (address, port)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() {
        return Err(Unfit::because("has no host").so(format!("expected {EXPECTED}")));
    }
    let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.strip_prefix(':').filter(digits).and_then(|port| port.parse::<u16>().ok());
    if !port.is_empty() && number.is_none_or(|port| port == 0) {
        return Err(Unfit::because("has no valid port").so("expected 1 to 65535"));
    }
    Ok(())
}

/// A web origin as a browser writes it (RFC 6454, section 6.1), or `*`.
pub(crate) fn check_origin(origin: &str) -> Result<(), Unfit> {
    const MAX: usize = 300;
    let plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && !"/?#@\"\\".contains(c))
    };
    let written = origin
        .split_once("://")
        .is_some_and(|(scheme, host)| plain(scheme) && plain(host) && !scheme.contains(':'));
    let lower = !origin.chars().any(|c| c.is_ascii_uppercase());
    if matches!(origin, "*" | "null") || written && lower && origin.len() <= MAX {
        return Ok(());
    }
    Err(Unfit::because(format!("holds {origin:?}"))
        .so("expected origins such as \"https://scada.example.com\" in small letters, without a path, or \"*\""))
}

/// The name of a request header that is not one the sink sets itself (RFC 9110 section 5.1).
pub(crate) fn check_header_name(name: &str) -> Result<(), Unfit> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        return Err(Unfit::because("is not the name of a header"));
    }
    const OURS: [&str; 8] = [
        "host",
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "te",
        "upgrade",
    ];
    let lower = name.to_ascii_lowercase();
    if OURS.contains(&lower.as_str()) || lower.starts_with("ce-") {
        return Err(Unfit::because("is a header that the sink sets itself"));
    }
    Ok(())
}

/// The value of a request header (RFC 9110 section 5.5), without the bytes beyond ASCII.
pub(crate) fn check_header_value(value: &str) -> Result<(), Unfit> {
    if value.chars().all(|c| c == ' ' || c == '\t' || c.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Unfit::expected("a value of visible ASCII characters, spaces and tabs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_can_be_posted_to_are_taken() {
        for url in [
            "http://localhost",
            "http://127.0.0.1:8080/",
            "https://[::1]",
            "https://[2001:db8::1]:8443/events?tenant=a%20b",
            "https://xn--mnchen-3ya.example/~plant/@4",
        ] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn what_is_not_quite_an_address_is_refused() {
        for url in [
            "http://",
            "https://?x",
            "http://[::1",
            "http://[::1]8080",
            "http://a:",
            "http://a:+80",
            "http://a:65536",
            "HTTP//a",
            "http://a\\b",
        ] {
            assert!(check_url(url).is_err(), "{url}");
        }
        assert!(check_url(&format!("http://a/{}", "x".repeat(MAX_URL))).is_err());
    }

    #[test]
    fn pointers_are_those_of_rfc_6901() {
        for pointer in ["", "/", "/a/0", "/m~0n", "/a~1b", "/ ", "//"] {
            assert_eq!(check_pointer(pointer), Ok(()), "{pointer}");
        }
        for pointer in ["a", "/~", "/~2", "/a~0~"] {
            assert!(check_pointer(pointer).is_err(), "{pointer}");
        }
    }

    #[test]
    fn names_are_bounded_and_safe_as_a_file_name() {
        assert_eq!(check_name(&"x".repeat(MAX_NAME)), Ok(()));
        for name in ["", ".", "..", ".x", "-x", "a/b", "a b", "ä", &"x".repeat(MAX_NAME + 1)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert_eq!(check_level("Übertemperatur Kessel"), Ok(()));
        assert!(check_level("a\u{7}").is_err());
    }
}
