//! What a publisher that speaks CloudEvents says itself (MQTT binding 1.0.2, section 3).

use std::borrow::Cow;

use super::parse::check::is_rfc3339;
use super::parse::{CloudEvent, parse_one};
use super::{CORE, STRUCTURED};
use crate::record::{EventRef, Properties, Property};

/// The core attributes that the publisher gave.
#[derive(Debug, Clone)]
pub(super) struct Own<'a> {
    pub(super) id: Cow<'a, str>,
    pub(super) source: Cow<'a, str>,
    pub(super) kind: Cow<'a, str>,
    pub(super) subject: Option<Cow<'a, str>>,
    pub(super) time: Option<Cow<'a, str>>,
    pub(super) schema: Option<Cow<'a, str>>,
    pub(super) content_type: Option<Cow<'a, str>>,
    /// In structured mode the payload, read.
    pub(super) structured: Option<CloudEvent<'a>>,
}

impl<'a> Own<'a> {
    /// `None` where the event is no CloudEvent, or claims to be one and is not valid.
    pub(super) fn of(event: &EventRef<'a>) -> Option<Self> {
        Self::said(event.properties, event.payload)
    }

    /// The same, of an event's properties and payload.
    pub(super) fn said(properties: Properties<'a>, payload: &'a [u8]) -> Option<Self> {
        if properties.is_empty() {
            return None;
        }
        let mut core: [Option<&'a str>; CORE.len()] = [None; CORE.len()];
        for property in properties.iter() {
            match property {
                Property::ContentType(text)
                    if media_type(text).eq_ignore_ascii_case(STRUCTURED) =>
                {
                    return parse_one(payload).ok().map(Self::structured);
                }
                Property::User(name, value) => {
                    if let Some(slot) = CORE.iter().position(|core| *core == name) {
                        core[slot].get_or_insert(value);
                    }
                }
                _ => {}
            }
        }
        Self::binary(core)
    }

    fn structured(event: CloudEvent<'a>) -> Self {
        Self {
            id: event.id.clone(),
            source: event.source.clone(),
            kind: event.kind.clone(),
            subject: event.subject.clone(),
            time: event.time.clone(),
            schema: event.schema.clone(),
            content_type: event.content_type.clone(),
            structured: Some(event),
        }
    }

    /// Section 3.1; `values` are those of [`CORE`]. What is optional and not valid is not taken over.
    fn binary(values: [Option<&'a str>; CORE.len()]) -> Option<Self> {
        let present = |value: Option<&'a str>| value.filter(|v| !v.is_empty()).map(Cow::Borrowed);
        let [version, id, source, kind, subject, time, schema, content_type] = values;
        (version == Some("1.0")).then_some(())?;
        Some(Self {
            id: present(id)?,
            source: present(source)?,
            kind: present(kind)?,
            subject: present(subject),
            time: present(time).filter(|time| is_rfc3339(time)),
            schema: present(schema),
            content_type: present(content_type),
            structured: None,
        })
    }

    /// Whether `value` is what was taken over as the core attribute `name`, in binary mode.
    pub(super) fn says(&self, name: &str, value: &str) -> bool {
        let own = match name {
            _ if self.structured.is_some() => return false,
            "specversion" => return value == "1.0",
            "id" => Some(&self.id),
            "source" => Some(&self.source),
            "type" => Some(&self.kind),
            "subject" => self.subject.as_ref(),
            "time" => self.time.as_ref(),
            "dataschema" => self.schema.as_ref(),
            _ => self.content_type.as_ref(),
        };
        own.is_some_and(|own| own == value)
    }
}

pub(super) fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}
