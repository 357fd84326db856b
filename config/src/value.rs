//! Values with a unit or a grammar of their own.

use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;
use tidegate_event::Filter;

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

    /// As an index.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A length of time: `"250ms"`, `"30s"`, `"5m"`, `"12h"`, `"7d"`.
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

/// Splits `"30s"` into 30 and `s`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

impl std::str::FromStr for ByteSize {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str =
            "expected a whole number and a unit (B, KiB, MiB, GiB, KB, MB, GB), such as \"512MiB\"";
        let (number, unit) = number_and_unit(text).ok_or(EXPECTED)?;
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "KB" | "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return Err(EXPECTED),
        };
        number.checked_mul(factor).map(Self).ok_or("is larger than any disk")
    }
}

impl std::str::FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str =
            "expected a whole number and a unit (ms, s, m, h, d), such as \"30s\"";
        let (number, unit) = number_and_unit(text).ok_or(EXPECTED)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(EXPECTED),
        };
        let total = number.checked_mul(milliseconds).filter(|n| *n <= 3_155_760_000_000);
        total.map(|n| Self(Duration::from_millis(n))).ok_or("is longer than a hundred years")
    }
}

macro_rules! deserialize_from_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|why| D::Error::custom(format_args!("{text:?}: {why}")))
            }
        }
    )*};
}

deserialize_from_text!(ByteSize, Span);

impl<'de> Deserialize<'de> for TopicFilter {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Filter::new(&text)
            .map(Self)
            .map_err(|why| D::Error::custom(format_args!("the topic filter {text:?} {why}")))
    }
}
