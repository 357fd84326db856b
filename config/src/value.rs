//! Values with a unit or a grammar of their own.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tidegate_event::Filter;
use toml::de::DeValue;

use crate::credential;
use crate::problem::Unfit;
use crate::reader::FromValue;

/// A number of bytes: `"512KiB"`, `"8MiB"`, `"1GiB"`, `"100MB"`, `"17B"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` × 1024.
    pub const fn kib(n: u64) -> Self {
        Self(n * 1024)
    }

    /// `n` × 1024².
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }

    /// `n` × 1024³.
    pub const fn gib(n: u64) -> Self {
        Self(n * 1024 * 1024 * 1024)
    }

    /// As an index.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A length of time: `"250ms"`, `"30s"`, `"5m"`, `"12h"`, `"7d"`; at most a hundred years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span(pub Duration);

impl Span {
    /// `n` seconds.
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// `n` milliseconds.
    pub const fn milliseconds(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }
}

/// An MQTT topic filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFilter(pub Filter);

/// Bytes by unit, the largest first.
const SIZES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Milliseconds by unit, the largest first.
const TIMES: [(&str, u64); 6] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// A hundred years, in milliseconds.
const MAX_TIME: u64 = 36_525 * 86_400_000;

/// Multiplies `"30s"` out; none if it is not a number and one of the units, or an overflow inside.
fn multiply(text: &str, units: &[(&str, u64)]) -> Option<Option<u64>> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    if number.is_empty() {
        return None;
    }
    Some(number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)))
}

/// Writes `amount` with the largest unit that leaves no remainder.
fn write_with_unit(
    f: &mut fmt::Formatter<'_>,
    amount: u64,
    units: &[(&str, u64)],
    smallest: &str,
) -> fmt::Result {
    let whole = |(_, factor): &&(&str, u64)| amount >= *factor && amount.is_multiple_of(*factor);
    match units.iter().find(whole) {
        Some((unit, factor)) => write!(f, "{}{unit}", amount / factor),
        None => write!(f, "{amount}{smallest}"),
    }
}

impl FromStr for ByteSize {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match multiply(text, &SIZES) {
            Some(Some(bytes)) => Ok(Self(bytes)),
            Some(None) => Err(Unfit::because("is larger than any disk")),
            None => Err(Unfit::expected(
                "a whole number and a unit (B, KiB, MiB, GiB, TiB, KB, MB, GB, TB), such as \"512MiB\"",
            )),
        }
    }
}

impl FromStr for Span {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match multiply(text, &TIMES) {
            Some(Some(milliseconds)) if milliseconds <= MAX_TIME => {
                Ok(Self(Duration::from_millis(milliseconds)))
            }
            Some(_) => Err(Unfit::because("is longer than a hundred years")),
            None => {
                Err(Unfit::expected("a whole number and a unit (ms, s, m, h, d), such as \"30s\""))
            }
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_with_unit(f, self.0, &SIZES, "B")
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        write_with_unit(f, milliseconds, &TIMES, "s")
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text, or what was expected of it.
fn text<'v>(value: &'v DeValue<'_>, expected: &str) -> Result<&'v str, Unfit> {
    value.as_str().ok_or_else(|| Unfit::expected(expected))
}

impl FromValue for String {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        text(value, "a text in quotes").map(str::to_owned)
    }
}

impl FromValue for PathBuf {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        match text(value, "a path in quotes")? {
            "" => Err(Unfit::because("is empty").so("expected a path")),
            path if path.contains('\0') => Err(Unfit::because("contains the null character")),
            path => match path.strip_prefix(credential::PREFIX) {
                Some(name) => credential::path(name, credential::directory().as_deref()),
                None => Ok(path.into()),
            },
        }
    }
}

impl FromValue for Vec<String> {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        const EXPECTED: &str = "a list of texts in quotes";
        let list = value.as_array().ok_or_else(|| Unfit::expected(EXPECTED))?;
        list.iter().map(|entry| text(entry.get_ref(), EXPECTED).map(str::to_owned)).collect()
    }
}

impl FromValue for bool {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        value.as_bool().ok_or_else(|| Unfit::expected("true or false"))
    }
}

impl FromValue for u64 {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        value
            .as_integer()
            .and_then(|number| Self::from_str_radix(number.as_str(), number.radix()).ok())
            .ok_or_else(|| Unfit::expected("a whole number, without quotes"))
    }
}

impl FromValue for usize {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        let number = u64::from_value(value)?;
        Self::try_from(number).map_err(|_| Unfit::because("is too large"))
    }
}

impl FromValue for u16 {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        let number = u64::from_value(value)?;
        Self::try_from(number)
            .map_err(|_| Unfit::because("is too large").so("expected 65535 at most"))
    }
}

impl FromValue for u8 {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        let number = u64::from_value(value)?;
        Self::try_from(number).map_err(|_| Unfit::because("is too large"))
    }
}

impl FromValue for SocketAddr {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        const EXPECTED: &str =
            "an IP address and a port, such as \"127.0.0.1:1883\" or \"[::1]:1883\"";
        text(value, EXPECTED)?.parse().map_err(|_| Unfit::expected(EXPECTED))
    }
}

impl FromValue for ByteSize {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        text(value, "a size with its unit, in quotes, such as \"512MiB\"")?.parse()
    }
}

impl FromValue for Span {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        text(value, "a length of time with its unit, in quotes, such as \"30s\"")?.parse()
    }
}

impl FromValue for TopicFilter {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        let text = text(value, "a topic filter in quotes, such as \"plant/+/temperature\"")?;
        Filter::new(text).map(Self).map_err(|why| Unfit::because(why.to_string()))
    }
}

impl FromValue for Vec<TopicFilter> {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        const EXPECTED: &str = "a list of topic filters, such as [\"plant/#\", \"alerts/#\"]";
        let list = value.as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| Unfit::expected(EXPECTED))?;
        let filters = list.iter().map(|entry| {
            let text = entry.get_ref().as_str().ok_or_else(|| Unfit::expected(EXPECTED))?;
            Filter::new(text)
                .map(TopicFilter)
                .map_err(|why| Unfit::because(format!("holds {text:?}, which {why}")))
        });
        filters.collect()
    }
}

/// A value that is one of a few words.
pub(crate) trait Choice: Copy + 'static {
    /// The words and what each means.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Choice> FromValue for T {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        let found = value.as_str().and_then(|word| T::WORDS.iter().find(|(name, _)| *name == word));
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<&str> = T::WORDS.iter().map(|(name, _)| *name).collect();
            Unfit::expected(crate::suggest::one_of(&words))
        })
    }
}
