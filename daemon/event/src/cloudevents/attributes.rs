//! The attributes of an event: the publisher's own where it speaks CloudEvents, else ours.

use std::borrow::Cow;
use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::json::{Payload, write_member, write_raw_member};
use super::own::Own;
use super::parse::check::is_attribute_name;
use super::parse::{CloudEvent, Data};
use super::{CORE, Encoder, HISTORICAL, LOG_ID};
use crate::percent::encode_segment;
use crate::record::{EventRef, Property};
use crate::time::{Received, write_rfc3339};

/// Extension attributes that a publisher names: beyond these its properties stand together in
/// `mqttuserproperties`, so that no publisher fills the table of a receiver's headers.
pub const MAX_EXTENSIONS: usize = 64;
/// Where properties stand that cannot be attributes of their own: a JSON array of pairs.
const OTHERS: &str = "mqttuserproperties";
/// Attributes that a publisher which does not speak CloudEvents cannot set.
const OURS: [&str; 11] = [
    "data",
    LOG_ID,
    HISTORICAL,
    "timequality",
    "bootid",
    "bootnanos",
    "mqtttopic",
    "mqttretain",
    "mqttresponsetopic",
    "mqttcorrelationdata",
    "mqttexpiry",
];

/// The attributes of one event, and its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `id`, `source`, `type` first, then the optional and extension attributes. `specversion` and
    /// `datacontenttype` are not among them.
    pub named: Vec<Attribute<'a>>,
    /// `datacontenttype`.
    pub content_type: Cow<'a, str>,
    /// The data, as published.
    pub data: Cow<'a, [u8]>,
}

/// An attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Lower-case letters and digits (CloudEvents 1.0 section 3.1).
    pub name: Cow<'a, str>,
    /// Its value as text (section 3.2).
    pub value: Cow<'a, str>,
    /// Whether the value is a boolean or a number, which JSON writes without quotes.
    pub is_plain: bool,
}

impl Attribute<'_> {
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        match self.is_plain {
            true => write_raw_member(&self.name, &self.value, out),
            false => write_member(&self.name, &self.value, out),
        }
    }
}

/// Attributes while they are collected: each name once.
#[derive(Default)]
struct Named<'a> {
    list: Vec<Attribute<'a>>,
    taken: HashSet<Cow<'a, str>>,
    extensions: usize,
    others: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Named<'a> {
    fn put(&mut self, name: &'static str, value: impl Into<Cow<'a, str>>) {
        self.push(name.into(), value.into(), false);
    }

    fn put_some(&mut self, name: &'static str, value: Option<&Cow<'a, str>>) {
        if let Some(value) = value {
            self.put(name, value.clone());
        }
    }

    /// An attribute that the publisher named: `allowed` says whether as such.
    fn extension(&mut self, name: Cow<'a, str>, value: Cow<'a, str>, allowed: bool, plain: bool) {
        if allowed && self.extensions < MAX_EXTENSIONS && !self.taken.contains(&name) {
            self.extensions += 1;
            self.push(name, value, plain);
        } else {
            self.others.push((name, value));
        }
    }

    fn push(&mut self, name: Cow<'a, str>, value: Cow<'a, str>, is_plain: bool) {
        if self.taken.insert(name.clone()) {
            self.list.push(Attribute { name, value, is_plain });
        }
    }

    fn finish(mut self) -> Vec<Attribute<'a>> {
        if !self.others.is_empty() {
            let pairs = serde_json::to_string(&self.others).unwrap_or_default();
            self.put(OTHERS, pairs);
        }
        self.list
    }
}

impl Encoder {
    /// The event's attributes and data, for a transport that carries them apart (binary mode).
    pub fn attributes<'a>(&'a self, event: &EventRef<'a>) -> Attributes<'a> {
        let own = Own::of(event);
        let (named, content_type) = self.named(event, own.as_ref());
        let structured = own.as_ref().and_then(|own| own.structured.as_ref());
        let data = structured.map_or(event.payload.into(), CloudEvent::payload);
        let content_type = content_type.unwrap_or_else(|| match structured.map(|s| &s.data) {
            Some(Data::Json(_)) => "application/json".into(),
            Some(_) => "application/octet-stream".into(),
            None => Payload::of(event.payload, None).sniffed_type().into(),
        });
        Attributes { named, content_type, data }
    }

    /// Every attribute but `specversion`; `datacontenttype` apart, if the publisher gave one.
    pub(super) fn named<'a>(
        &'a self,
        event: &EventRef<'a>,
        own: Option<&Own<'a>>,
    ) -> (Vec<Attribute<'a>>, Option<Cow<'a, str>>) {
        let mut named = Named::default();
        match own {
            Some(own) => {
                named.put("id", own.id.clone());
                named.put("source", own.source.clone());
                named.put("type", own.kind.clone());
                named.put_some("subject", own.subject.as_ref());
                named.put_some("time", own.time.as_ref());
                named.put_some("dataschema", own.schema.as_ref());
                named.put(LOG_ID, event.id.to_string());
                if own.subject.as_ref().is_some_and(|subject| subject != event.topic) {
                    named.put("mqtttopic", event.topic);
                }
            }
            None => {
                named.put("id", event.id.to_string());
                let device = encode_segment(self.device(event));
                named.put("source", format!("{}{device}", self.source_prefix));
                named.put("type", self.event_type(event.topic));
            }
        }
        named.put("subject", event.topic);
        if own.is_none_or(|own| own.time.is_none()) {
            put_time(event.received, &mut named);
        }
        if event.retain {
            named.push("mqttretain".into(), "true".into(), true);
        }
        if self.historical {
            named.push(HISTORICAL.into(), "true".into(), true);
        }
        let content_type = put_mqtt(event, own, &mut named);
        if let Some(structured) = own.and_then(|own| own.structured.as_ref()) {
            for (name, json, value) in structured.extensions() {
                let allowed = may_name(&name, true);
                named.extension(name, value, allowed, !json.starts_with('"'));
            }
        }
        (named.finish(), content_type)
    }
}

fn put_time<'a>(received: Received, named: &mut Named<'a>) {
    let mut time = Vec::with_capacity(27);
    write_rfc3339(received.unix_micros(), &mut time);
    named.put("time", String::from_utf8(time).unwrap_or_default());
    if let Received::SinceBoot { boot, nanos, .. } = received {
        named.put("timequality", "since-boot");
        named.put("bootid", format!("{boot:016x}"));
        named.put("bootnanos", nanos.to_string());
    }
}

/// What travelled beside the payload. Answers the content type.
fn put_mqtt<'a>(
    event: &EventRef<'a>,
    own: Option<&Own<'a>>,
    named: &mut Named<'a>,
) -> Option<Cow<'a, str>> {
    let mut content_type = None;
    for property in event.properties.iter() {
        match property {
            Property::ContentType(text) => content_type = Some(text),
            Property::ResponseTopic(text) => named.put("mqttresponsetopic", text),
            Property::CorrelationData(data) => {
                named.put("mqttcorrelationdata", BASE64.encode(data));
            }
            Property::MessageExpiry(seconds) => named.put("mqttexpiry", seconds.to_string()),
            Property::PayloadFormat(_) | Property::PacketId(_) | Property::User(..) => {}
        }
    }
    for property in event.properties.iter() {
        if let Property::User(name, value) = property {
            let is_core = CORE.contains(&name);
            // In binary mode these are the event's own attributes, taken already.
            let is_own = is_core && own.is_some_and(|own| own.says(name, value));
            if !is_own {
                let allowed = !is_core && may_name(name, own.is_some());
                named.extension(name.into(), value.into(), allowed, false);
            }
        }
    }
    match own {
        Some(own) if own.structured.is_some() => own.content_type.clone(),
        own => content_type
            .filter(|text| !text.is_empty())
            .map(Cow::Borrowed)
            .or_else(|| own.and_then(|own| own.content_type.clone())),
    }
}

/// Whether a publisher's property may become the attribute `name` (CloudEvents 1.0 section 3.1, where
/// 20 characters are advice). Whoever speaks CloudEvents knows what it does.
fn may_name(name: &str, speaks_cloudevents: bool) -> bool {
    let longest = if speaks_cloudevents { 100 } else { 20 };
    is_attribute_name(name)
        && name.len() <= longest
        && ![LOG_ID, OTHERS, "data"].contains(&name)
        && (speaks_cloudevents || !OURS.contains(&name))
}
