//! `[[alert]]`: a rule over the events.

use serde::Deserialize;

use crate::value::{Span, TopicFilter};

/// `[[alert]]`: a threshold with hysteresis.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Alert {
    /// Names the alert; one level of a topic.
    pub name: String,
    /// Which topics it watches.
    pub topic: TopicFilter,
    /// Where the number stands in the payload, a JSON pointer (RFC 6901). Default `""`: the payload
    /// is the number.
    #[serde(default)]
    pub value: String,
    /// When it is raised, e.g. `"> 90"`.
    pub raise: Condition,
    /// When it is cleared. Default: when `raise` no longer holds.
    #[serde(default)]
    pub clear: Option<Condition>,
    /// How long `raise` must hold before it is raised. Default 0 s.
    #[serde(default, rename = "for")]
    pub hold: Span,
    /// Default `"warning"`.
    #[serde(default)]
    pub severity: Severity,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// To be known.
    Info,
    /// To be looked at.
    #[default]
    Warning,
    /// To be acted on.
    Critical,
}

impl Severity {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A comparison with a number: `"> 90"`, `">= 90"`, `"< 85"`, `"<= 85"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// How to compare.
    pub comparison: Comparison,
    /// With what; finite.
    pub threshold: f64,
}

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
}

impl Condition {
    /// Whether it holds for `value`.
    pub fn holds(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Above => value > self.threshold,
            Comparison::AtLeast => value >= self.threshold,
            Comparison::Below => value < self.threshold,
            Comparison::AtMost => value <= self.threshold,
        }
    }
}

impl std::str::FromStr for Condition {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str =
            "expected a comparison with a number, such as \"> 90\" or \"<= 4.5\"";
        let text = text.trim();
        let (comparison, number) = [
            (">=", Comparison::AtLeast),
            ("<=", Comparison::AtMost),
            (">", Comparison::Above),
            ("<", Comparison::Below),
        ]
        .into_iter()
        .find_map(|(sign, comparison)| Some((comparison, text.strip_prefix(sign)?)))
        .ok_or(EXPECTED)?;
        let threshold: f64 = number.trim().parse().map_err(|_| EXPECTED)?;
        if threshold.is_finite() { Ok(Self { comparison, threshold }) } else { Err(EXPECTED) }
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
