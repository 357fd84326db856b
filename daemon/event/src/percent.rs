//! Percent-encoding (RFC 3986 section 2.1).

use std::borrow::Cow;

/// `text` with `%XX` turned back into what it stands for. None where a `%` is not followed by two
/// hexadecimal digits, or the result is not UTF-8.
pub fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(text.into());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let [high, low, tail @ ..] = tail else { return None };
        let digit = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
        out.push(digit(*high)? << 4 | digit(*low)?);
        rest = tail;
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

/// Appends `text` to `out`, every byte but the `plain` ones as `%XX`.
pub fn encode(text: &str, plain: impl Fn(u8) -> bool, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        if plain(byte) {
            out.push(byte);
        } else {
            out.push(b'%');
            for nibble in [byte >> 4, byte & 0xf] {
                out.push(b"0123456789ABCDEF"[usize::from(nibble)]);
            }
        }
    }
}

/// `text` as one segment of a URI path (RFC 3986 section 3.3): everything but `pchar` is escaped.
pub fn encode_segment(text: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b);
    if text.bytes().all(plain) {
        return text.into();
    }
    let mut out = Vec::with_capacity(text.len() + 8);
    encode(text, plain, &mut out);
    // Plain bytes and escapes are ASCII.
    String::from_utf8(out).unwrap_or_default().into()
}

/// The value of `name` in the query `a=b&c=d`, where `+` is a space.
pub fn query<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let value = query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value)?;
    if value.contains('+') {
        return decode(&value.replace('+', " ")).map(|text| text.into_owned().into());
    }
    decode(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_decodes_what_is_encoded_and_nothing_else() {
        assert_eq!(decode("boiler%207").as_deref(), Some("boiler 7"));
        assert_eq!(decode("Euro%20%E2%82%AC").as_deref(), Some("Euro €"));
        for bad in ["%", "%2", "a%zz", "%ff", "%+1"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_segment_comes_back_as_it_was() {
        for text in ["boiler 7", "a/b", "100 %", "Ölkessel", "plain-._~!$&'()*+,;=:@", ""] {
            assert_eq!(decode(&encode_segment(text)).as_deref(), Some(text));
        }
        assert_eq!(encode_segment("a/b ü"), "a%2Fb%20%C3%BC");
    }

    #[test]
    fn it_finds_a_value_in_a_query() {
        assert_eq!(query("from=1&subject=a%2Fb+c", "subject").as_deref(), Some("a/b c"));
        assert_eq!(query("from=1", "limit"), None);
    }
}
