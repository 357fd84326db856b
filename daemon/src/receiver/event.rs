//! A CloudEvent as it arrives: parsed and checked in one pass, borrowed from the request's body
//! (CloudEvents 1.0.2 with its JSON event format, clauses in brackets).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tidegate_event::EventId;
use tidegate_event::cloudevents::LOG_ID;

/// A valid CloudEvent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event<'a> {
    /// The whole JSON object as it arrived.
    pub(super) raw: &'a str,
    pub(super) id: Cow<'a, str>,
    pub(super) source: Cow<'a, str>,
    pub(super) kind: Cow<'a, str>,
    pub(super) subject: Option<Cow<'a, str>>,
    pub(super) time: Option<Cow<'a, str>>,
    /// The extension attribute [`LOG_ID`].
    pub(super) log_id: Option<Cow<'a, str>>,
    pub(super) data: Data<'a>,
}

/// What an event says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Data<'a> {
    #[default]
    None,
    /// JSON text.
    Json(&'a str),
    /// Base64.
    Binary(Cow<'a, str>),
}

/// Why a request's body is not what it says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseError {
    /// Not JSON, or not UTF-8.
    #[error("the body is not valid JSON: {0}")]
    NotJson(String),
    /// A batch is a JSON array [JSON format 4.1].
    #[error("a batch is a JSON array of events, this body begins with something else")]
    NotABatch,
    /// More events than one request may have.
    #[error("more than {0} events in one request, send smaller batches")]
    TooMany(usize),
    /// One of the events is not a CloudEvent.
    #[error("event {index}: {problem}")]
    Invalid {
        /// Which, counted from 0.
        index: usize,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// What is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The attribute, where it is one.
    pub(super) attribute: Option<String>,
    /// What is wrong with it.
    pub(super) reason: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.attribute {
            Some(attribute) => write!(f, "attribute {attribute:?} {}", self.reason),
            None => f.write_str(self.reason),
        }
    }
}

impl Event<'_> {
    /// The event's place in its gateway's log, where the id or [`LOG_ID`] says so.
    pub(super) fn place(&self) -> Option<EventId> {
        match &self.log_id {
            Some(log_id) => log_id.parse().ok(),
            None if self.gateway().is_some() => self.id.parse().ok(),
            None => None,
        }
    }

    /// The gateway that made the event, from its source `/gateway/<gateway>/…`.
    pub(super) fn gateway(&self) -> Option<&str> {
        let rest = self.source.strip_prefix("/gateway/")?;
        rest.split_once('/').map(|(gateway, _)| gateway)
    }
}

/// One structured event.
pub(super) fn parse_one(body: &[u8]) -> Result<Event<'_>, ParseError> {
    let text = utf8(body)?;
    let mut rest = text;
    let event = take(&mut rest, 0)?;
    end(rest, text)?;
    Ok(event)
}

/// The events of a batch, at most `max`.
pub(super) fn parse_batch(body: &[u8], max: usize) -> Result<Vec<Event<'_>>, ParseError> {
    let text = utf8(body)?;
    let mut rest = skip_space(text).strip_prefix('[').ok_or(ParseError::NotABatch)?;
    // A guess that holds for the gateway's events, so that the vector seldom grows.
    let mut events = Vec::with_capacity((text.len() / 256).min(max));
    rest = skip_space(rest);
    if let Some(rest) = rest.strip_prefix(']') {
        end(rest, text)?;
        return Ok(events);
    }
    loop {
        if events.len() == max {
            return Err(ParseError::TooMany(max));
        }
        events.push(take(&mut rest, events.len())?);
        rest = skip_space(rest);
        if let Some(after) = rest.strip_prefix(',') {
            rest = after;
        } else if let Some(after) = rest.strip_prefix(']') {
            end(after, text)?;
            return Ok(events);
        } else {
            return Err(unexpected(rest, text, "expected `,` or `]`"));
        }
    }
}

fn utf8(body: &[u8]) -> Result<&str, ParseError> {
    std::str::from_utf8(body).map_err(|error| ParseError::NotJson(error.to_string()))
}

fn skip_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
}

fn end(rest: &str, text: &str) -> Result<(), ParseError> {
    match skip_space(rest) {
        "" => Ok(()),
        rest => Err(unexpected(rest, text, "expected the end")),
    }
}

fn unexpected(rest: &str, text: &str, expected: &str) -> ParseError {
    ParseError::NotJson(format!("{expected} at byte {}", text.len() - rest.len()))
}

/// Takes the event that `rest` begins with.
fn take<'a>(rest: &mut &'a str, index: usize) -> Result<Event<'a>, ParseError> {
    let text = skip_space(rest);
    let invalid = |problem| ParseError::Invalid { index, problem };
    if !text.starts_with('{') {
        let reason = "is not a JSON object";
        return Err(invalid(Problem { attribute: None, reason }));
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Members<'a>>();
    let members = match values.next() {
        Some(Ok(members)) => members,
        Some(Err(error)) => return Err(ParseError::NotJson(format!("event {index}: {error}"))),
        None => return Err(ParseError::NotJson(format!("event {index}: nothing there"))),
    };
    let (raw, after) = text.split_at(values.byte_offset());
    *rest = after;
    members.into_event(raw).map_err(invalid)
}

/// The members of the JSON object while it is read.
#[derive(Default)]
struct Members<'a> {
    specversion: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    datacontenttype: Option<Cow<'a, str>>,
    dataschema: Option<Cow<'a, str>>,
    log_id: Option<Cow<'a, str>>,
    data: Option<&'a str>,
    data_base64: Option<Cow<'a, str>>,
    problem: Option<Problem>,
}

/// An attribute's value [JSON format 2.2].
enum Value<'a> {
    /// The same as if it were not there [JSON format 2.3].
    Null,
    Text(Cow<'a, str>),
    /// A boolean, or an integer of 32 bits.
    Plain,
    /// What no attribute may be.
    Other,
}

impl<'a> Members<'a> {
    fn problem(&mut self, attribute: &str, reason: &'static str) {
        self.problem
            .get_or_insert_with(|| Problem { attribute: Some(attribute.to_owned()), reason });
    }

    fn attribute(&mut self, name: &str, value: Value<'a>) {
        let slot = match name {
            "specversion" => &mut self.specversion,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.kind,
            "subject" => &mut self.subject,
            "time" => &mut self.time,
            "datacontenttype" => &mut self.datacontenttype,
            "dataschema" => &mut self.dataschema,
            "data_base64" => &mut self.data_base64,
            LOG_ID => &mut self.log_id,
            _ => return self.extension(name, &value),
        };
        match value {
            Value::Null => {}
            Value::Text(text) if slot.is_none() => *slot = Some(text),
            Value::Text(_) => self.problem(name, "occurs twice"),
            Value::Plain | Value::Other => self.problem(name, "must be a string"),
        }
    }

    fn extension(&mut self, name: &str, value: &Value<'_>) {
        if !is_attribute_name(name) {
            self.problem(name, "has a name of other characters than a-z and 0-9 [3.1]");
        }
        if matches!(value, Value::Other) {
            self.problem(name, "must be a string, a boolean or an integer of 32 bits [3.2]");
        }
    }

    fn into_event(mut self, raw: &'a str) -> Result<Event<'a>, Problem> {
        match self.specversion.as_deref() {
            Some("1.0") => {}
            Some(_) => self.problem("specversion", "must be \"1.0\" [3.3.1]"),
            None => self.problem("specversion", "is missing [3.3.1]"),
        }
        if self.time.as_deref().is_some_and(|time| !is_rfc3339(time)) {
            self.problem("time", "is not a time as in RFC 3339 [3.3.2]");
        }
        if self.data.is_some() && self.data_base64.is_some() {
            self.problem("data_base64", "stands beside data, only one may [JSON format 3.1]");
        }
        if self.data_base64.as_deref().is_some_and(|text| !is_base64(text)) {
            self.problem("data_base64", "is not Base64 [JSON format 3.1]");
        }
        let optional = [
            ("subject", &self.subject),
            ("datacontenttype", &self.datacontenttype),
            ("dataschema", &self.dataschema),
        ];
        let empty = optional.into_iter().find(|(_, value)| value.as_deref() == Some(""));
        if let Some((name, _)) = empty {
            self.problem(name, "is empty [3.3.2]");
        }
        let required = [("id", &self.id), ("source", &self.source), ("type", &self.kind)];
        let missing = required.into_iter().find_map(|(name, value)| match value.as_deref() {
            None => Some((name, "is missing [3.3.1]")),
            Some("") => Some((name, "is empty [3.3.1]")),
            Some(_) => None,
        });
        if let Some((name, reason)) = missing {
            self.problem(name, reason);
        }
        match (self.problem, self.id, self.source, self.kind) {
            (None, Some(id), Some(source), Some(kind)) => Ok(Event {
                raw,
                id,
                source,
                kind,
                subject: self.subject,
                time: self.time,
                log_id: self.log_id,
                data: match (self.data, self.data_base64) {
                    (Some(json), _) => Data::Json(json),
                    (None, Some(base64)) => Data::Binary(base64),
                    (None, None) => Data::None,
                },
            }),
            (Some(problem), ..) => Err(problem),
            _ => Err(Problem { attribute: None, reason: "lacks a required attribute [3.3.1]" }),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(Text(name)) = map.next_key()? {
                    if name == "data" {
                        let data: &RawValue = map.next_value()?;
                        if members.data.replace(data.get()).is_some() {
                            members.problem("data", "occurs twice");
                        }
                    } else {
                        members.attribute(&name, map.next_value()?);
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A string, borrowed unless it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an attribute's value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Value::Plain)
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(i32::try_from(number).map_or(Value::Other, |_| Value::Plain))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(i32::try_from(number).map_or(Value::Other, |_| Value::Plain))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Value::Other)
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Value::Null)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// [3.1]: lower-case letters and digits. (That names should not be longer than 20 is advice.)
pub(super) fn is_attribute_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// `2026-11-21T08:30:00.25Z`, `…+01:00` (RFC 3339 section 5.6, a leap second included).
fn is_rfc3339(text: &str) -> bool {
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
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    text.len() % 4 == 0
        && text.len() - digits.len() <= 2
        && digits.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

#[cfg(test)]
mod tests;
