//! Percent-encoding (RFC 3986 section 2.1).

use std::borrow::Cow;

/// `text` with `%XX` turned back into what it stands for. None where a `%` is not followed by two
/// hexadecimal digits, or the result is not UTF-8.
pub(super) fn decode(text: &str) -> Option<Cow<'_, str>> {
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

/// The value of `name` in the query `a=b&c=d`, where `+` is a space.
pub(super) fn query<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
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
    fn it_finds_a_value_in_a_query() {
        assert_eq!(query("from=1&subject=a%2Fb+c", "subject").as_deref(), Some("a/b c"));
        assert_eq!(query("from=1", "limit"), None);
    }
}
