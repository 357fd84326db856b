//! The number at a JSON pointer (RFC 6901), found without building the document in memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// The pointer written as `text`; empty for the whole document. `None` for one that neither is
    /// empty nor begins with `/`, or has a `~` that is not `~0` or `~1`.
    pub fn new(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        text.strip_prefix('/')?.split('/').map(unescape).collect::<Option<_>>().map(Self)
    }

    /// The number it points to in the JSON text `payload`. `None` where the payload is no JSON, the
    /// place does not exist, or holds no finite number. Of members with the same name the last
    /// counts.
    pub fn number(&self, payload: &[u8]) -> Option<f64> {
        let mut json = serde_json::Deserializer::from_slice(payload);
        let found = Find(&self.0).deserialize(&mut json).ok()?;
        json.end().ok()?;
        found
    }
}

fn unescape(token: &str) -> Option<String> {
    let mut plain = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(char) = chars.next() {
        plain.push(match char {
            '~' => match chars.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            char => char,
        });
    }
    Some(plain)
}

/// Walks one value: down the rest of the pointer, or to the number.
struct Find<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = Option<f64>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<f64>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<f64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_f64<E>(self, number: f64) -> Result<Option<f64>, E> {
        Ok(self.0.is_empty().then_some(number).filter(|number| number.is_finite()))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Option<f64>, E> {
        self.visit_f64(number as f64)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Option<f64>, E> {
        self.visit_f64(number as f64)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<f64>, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Option<f64>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<f64>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<f64>, A::Error> {
        let mut found = None;
        match self.0.split_first() {
            None => while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {},
            Some((name, rest)) => {
                while let Some(same) = map.next_key_seed(Is(name))? {
                    if same {
                        found = map.next_value_seed(Find(rest))?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Option<f64>, A::Error> {
        let mut found = None;
        if let Some((token, rest)) = self.0.split_first()
            && let Some(index) = index(token)
        {
            for _ in 0..index {
                if seq.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(None);
                }
            }
            found = seq.next_element_seed(Find(rest))?.flatten();
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// RFC 6901 section 4: digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let plain =
        token.bytes().all(|b| b.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    if plain { token.parse().ok() } else { None }
}

/// Whether a member's name is this one.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(pointer: &str, payload: &str) -> Option<f64> {
        Pointer::new(pointer).unwrap().number(payload.as_bytes())
    }

    #[test]
    fn a_payload_that_is_a_number() {
        assert_eq!(number("", "91.5"), Some(91.5));
        assert_eq!(number("", " -3\n"), Some(-3.0));
        assert_eq!(number("", "18446744073709551615"), Some(18_446_744_073_709_551_615.0));
        assert_eq!(number("/t", "91.5"), None);
    }

    #[test]
    fn a_number_inside() {
        let payload = r#"{"a":[{"b":1},{"b":{"c~/d":2.5,"":7}}],"t":21,"n":null,"s":"21"}"#;
        assert_eq!(number("/t", payload), Some(21.0));
        assert_eq!(number("/a/1/b/c~0~1d", payload), Some(2.5));
        assert_eq!(number("/a/1/b/", payload), Some(7.0));
        for pointer in ["", "/n", "/s", "/a", "/a/2", "/a/01", "/a/-", "/a/0/b/c", "/x", "/t/t"] {
            assert_eq!(number(pointer, payload), None, "{pointer}");
        }
    }

    #[test]
    fn what_is_no_json_has_no_number() {
        for payload in ["", "{", "1 2", "{\"t\":1", "{\"t\":1}x", "1e999", "NaN", "{\"t\":01}"] {
            assert_eq!(number("", payload), None, "{payload}");
            assert_eq!(number("/t", payload), None, "{payload}");
        }
        assert_eq!(Pointer::new("").unwrap().number(&[0xff, b'1']), None);
        let deep = "[".repeat(100_000);
        assert_eq!(number("/0", &deep), None);
    }

    #[test]
    fn of_two_members_with_one_name_the_last_counts() {
        assert_eq!(number("/t", r#"{"t":1,"t":2}"#), Some(2.0));
    }

    #[test]
    fn what_is_no_pointer() {
        for text in ["t", "/~", "/~2", "#/t"] {
            assert_eq!(Pointer::new(text), None, "{text}");
        }
    }
}
