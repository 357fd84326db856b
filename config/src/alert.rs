//! `[[alert]]`: a rule over the events.

use std::fmt;
use std::str::FromStr;

use toml::de::DeValue;

use crate::grammar;
use crate::problem::Unfit;
use crate::reader::{FromValue, Names, Section};
use crate::value::{Choice, Span, TopicFilter};

/// `[[alert]]`: a threshold with hysteresis.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Names the alert; one level of a topic, 1 to 64 characters, not `loss`.
    pub name: String,
    /// Which topics it watches.
    pub topic: TopicFilter,
    /// Where the number stands in the payload, a JSON pointer (RFC 6901). Default `""`: the payload
    /// is the number.
    pub value: String,
    /// When it is raised, e.g. `"> 90"`.
    pub raise: Condition,
    /// When it is cleared, on the other side of `raise`. Default: when `raise` no longer holds.
    pub clear: Option<Condition>,
    /// How long `raise` must hold before it is raised. 0 s to 7 d; default 0 s.
    pub hold: Span,
    /// Default `"warning"`.
    pub severity: Severity,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Severity {
    /// `"info"`: to be known.
    Info,
    /// `"warning"`: to be looked at.
    #[default]
    Warning,
    /// `"critical"`: to be acted on.
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

impl Choice for Severity {
    const WORDS: &'static [(&'static str, Self)] =
        &[("info", Self::Info), ("warning", Self::Warning), ("critical", Self::Critical)];
}

impl Alert {
    /// Reads one alert; `names` holds those of the alerts before it.
    pub(crate) fn read(section: &Section<'_>, names: &mut Names) -> Option<Self> {
        let name: Option<String> = section.require("name", "\"overheating\"");
        if let Some(name) = &name {
            section.check("name", grammar::check_level(name));
            section.check("name", names.take(name));
            if name == "loss" {
                let why = "is not for a rule: alerts/loss/LANE says what the log has lost";
                section.refuse("name", Unfit::because(why).so("expected another name"));
            }
        }
        let topic = section.require("topic", "\"plant/+/temperature\"");
        let value: String = section.or("value", String::new());
        section.check("value", grammar::check_pointer(&value));
        let raise: Option<Condition> = section.require("raise", "\"> 90\"");
        let clear: Option<Condition> = section.get("clear");
        if let (Some(raise), Some(clear)) = (raise, clear) {
            section.check("clear", clear.check_beside(raise));
        }
        let hold =
            section.bounded("for", Span::default(), Span::seconds(0)..=Span::seconds(7 * 86_400));
        let severity = section.or("severity", Severity::default());
        Some(Self { name: name?, topic: topic?, value, raise: raise?, clear, hold, severity })
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
    /// As `clear` of an alert with this `raise`: the two look in opposite directions, and no value
    /// fits both.
    fn check_beside(self, raise: Self) -> Result<(), Unfit> {
        let upwards = raise.comparison.is_upwards();
        let sign = if upwards { '<' } else { '>' };
        if self.comparison.is_upwards() == upwards {
            return Err(Unfit::because(format!(
                "looks in the same direction as raise = \"{raise}\""
            ))
            .so(format!("expected \"{sign} NUMBER\"")));
        }
        let apart = if upwards {
            self.threshold < raise.threshold
        } else {
            self.threshold > raise.threshold
        };
        let touch = self.threshold == raise.threshold;
        let both_at_it = self.holds(self.threshold) && raise.holds(self.threshold);
        if apart || touch && !both_at_it {
            return Ok(());
        }
        let (or, threshold) = (if upwards { "less" } else { "more" }, raise.threshold);
        Err(Unfit::because(format!("overlaps raise = \"{raise}\": between them both would hold"))
            .so(format!("expected \"{sign} {threshold}\" or {or}")))
    }

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

impl FromStr for Condition {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let expected =
            || Unfit::expected("a comparison with a number, such as \"> 90\" or \"<= 4.5\"");
        let text = text.trim();
        let signed = Comparison::SIGNS.into_iter();
        let (comparison, number) = signed
            .filter_map(|(sign, comparison)| Some((comparison, text.strip_prefix(sign)?)))
            .next()
            .ok_or_else(expected)?;
        let threshold: f64 = number.trim().parse().map_err(|_| expected())?;
        if threshold.is_finite() { Ok(Self { comparison, threshold }) } else { Err(expected()) }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = Comparison::SIGNS.iter().find(|(_, comparison)| *comparison == self.comparison);
        write!(f, "{} {}", sign.map_or("", |(sign, _)| sign), self.threshold)
    }
}

impl Comparison {
    /// The longer signs first, so that the first that fits is meant.
    const SIGNS: [(&'static str, Self); 4] =
        [(">=", Self::AtLeast), ("<=", Self::AtMost), (">", Self::Above), ("<", Self::Below)];

    fn is_upwards(self) -> bool {
        matches!(self, Self::Above | Self::AtLeast)
    }
}

impl FromValue for Condition {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        value.as_str().unwrap_or_default().parse()
    }
}
