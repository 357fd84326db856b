//! The members of an event's JSON object, read in one pass and checked.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::check::{is_attribute_name, is_base64, is_rfc3339};
use super::{CloudEvent, Data, Problem};
use crate::cloudevents::LOG_ID;

/// The members of the JSON object while it is read.
#[derive(Default)]
pub(super) struct Members<'a> {
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

    pub(super) fn into_event(mut self, raw: &'a str) -> Result<CloudEvent<'a>, Problem> {
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
            (None, Some(id), Some(source), Some(kind)) => Ok(CloudEvent {
                raw,
                id,
                source,
                kind,
                subject: self.subject,
                time: self.time,
                content_type: self.datacontenttype,
                schema: self.dataschema,
                log_id: self.log_id,
                data: match (self.data, self.data_base64) {
                    (Some(json), _) => Data::Json(json),
                    (None, Some(base64)) => Data::Base64(base64),
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

            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                // Some write integers as `7.0`.
                Ok(integer(number).map_or(Value::Other, |_| Value::Plain))
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

/// The members of the JSON object `raw`, null left out. It was read before: there is nothing wrong
/// with it.
pub(super) fn pairs(raw: &str) -> Vec<(Cow<'_, str>, &str)> {
    serde_json::from_str(raw).map(|Pairs(pairs)| pairs).unwrap_or_default()
}

/// An attribute's JSON value as text [3.2].
pub(super) fn text(json: &str) -> Cow<'_, str> {
    if json.starts_with('"') {
        return serde_json::from_str(json).map(|Text(text)| text).unwrap_or_default();
    }
    // `7.0` and `7e0` are written as 7, too; true and false are no numbers.
    match json.parse().ok().and_then(integer) {
        Some(number) => number.to_string().into(),
        None => json.into(),
    }
}

fn integer(number: f64) -> Option<i32> {
    let is_one = number.fract() == 0.0 && number.abs() <= f64::from(i32::MAX);
    is_one.then_some(number as i32)
}

#[derive(Default)]
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    if value.get() != "null" {
                        pairs.push((name, value.get()));
                    }
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
