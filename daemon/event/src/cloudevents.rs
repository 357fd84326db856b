//! An event as a CloudEvent 1.0, encoded straight from the bytes in the log.
//!
//! | attribute | value |
//! |---|---|
//! | `id` | the place in the log ([`EventId`](crate::EventId)) |
//! | `source` | `/gateway/<gateway>/device/<device>` |
//! | `type` | by topic filter from the config, else its default |
//! | `subject` | the MQTT topic |
//! | `time` | when it was received; `timequality: "since-boot"` with `bootid` and `bootnanos` beside it while the clock is not set |
//! | `datacontenttype` | as the publisher said; else `application/json` if it is, else `application/octet-stream` |
//! | `data` | JSON as it is, text as a string, everything else as `data_base64` |
//!
//! What an MQTT 5 publisher sent along becomes extension attributes: a user property with a name
//! that CloudEvents allows keeps that name; the others stand together in `mqttuserproperties` (a JSON
//! array of pairs); `mqttresponsetopic`, `mqttcorrelationdata` (Base64), `mqttexpiry` (seconds) and
//! `mqttretain` carry the rest.
//!
//! A publisher that speaks CloudEvents over MQTT (MQTT binding 1.0.2) keeps its own `source`, `id`,
//! `type` and `time`: in binary mode as user properties, in structured mode in the payload. The
//! place in the log is then in the extension attribute `logid`.

use std::borrow::Cow;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use crate::record::{EventRef, Property};
use crate::time::{Received, write_rfc3339};
use crate::topic::Filter;

/// The extension attribute that holds an event's place in the log where `id` is the publisher's own.
pub const LOG_ID: &str = "logid";
/// The content type of a structured CloudEvent.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// The content type of a batch.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// What the encoding depends on beside the event.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// `/gateway/<gateway>/device/`
    source_prefix: String,
    types: Vec<(Filter, String)>,
    default_type: String,
    device_level: Option<usize>,
}

/// The attributes of one event, and its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// Name and value: `id`, `source`, `type` first, then the optional and extension attributes.
    /// `specversion` and `datacontenttype` are not among them.
    pub named: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// `datacontenttype`.
    pub content_type: Cow<'a, str>,
    /// The data, as published.
    pub data: &'a [u8],
}

/// How `data` is written into a JSON event.
enum Data<'a> {
    Json(&'a str),
    Text(&'a str),
    Binary(&'a [u8]),
}

impl Encoder {
    /// `gateway` is the gateway's id. The first of `types` whose filter matches gives the `type`.
    /// The device is the topic's level `device_level` (counted from 1) where set and present, else
    /// the event's origin.
    pub fn new(
        gateway: &str,
        types: Vec<(Filter, String)>,
        default_type: String,
        device_level: Option<usize>,
    ) -> Self {
        let source_prefix = format!("/gateway/{}/device/", encode_segment(gateway));
        Self { source_prefix, types, default_type, device_level }
    }

    /// The device that published the event.
    pub fn device<'a>(&self, event: &EventRef<'a>) -> &'a str {
        event.device(self.device_level)
    }

    fn event_type(&self, topic: &str) -> &str {
        self.types
            .iter()
            .find(|(filter, _)| filter.matches(topic))
            .map_or(&self.default_type, |(_, name)| name)
    }

    /// Appends the event as one JSON object (structured mode, CloudEvents JSON format 1.0.2).
    pub fn write_json(&self, event: &EventRef<'_>, out: &mut Vec<u8>) {
        if event.properties.is_empty() {
            self.write_plain_json(event, out);
            return;
        }
        if let Some(object) = structured(event) {
            let json = serde_json::to_vec(&object).unwrap_or_default();
            out.extend_from_slice(&json);
            return;
        }
        let attributes = self.attributes(event);
        out.extend_from_slice(b"{\"specversion\":\"1.0\"");
        for (name, value) in &attributes.named {
            if name == "mqttretain" {
                out.extend_from_slice(b",\"mqttretain\":true");
            } else {
                write_member(name, value, out);
            }
        }
        write_member("datacontenttype", &attributes.content_type, out);
        write_data(&classify(event.payload, Some(&attributes.content_type)), out);
        out.push(b'}');
    }

    /// The common case, without an allocation: a publisher that sent no properties.
    fn write_plain_json(&self, event: &EventRef<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":\"");
        write_id(event, out);
        out.extend_from_slice(b"\",\"source\":\"");
        write_escaped(&self.source_prefix, out);
        write_escaped(&encode_segment(self.device(event)), out);
        out.extend_from_slice(b"\",\"type\":\"");
        write_escaped(self.event_type(event.topic), out);
        out.extend_from_slice(b"\",\"subject\":\"");
        write_escaped(event.topic, out);
        out.extend_from_slice(b"\",\"time\":\"");
        write_rfc3339(event.received.unix_micros(), out);
        out.push(b'"');
        if let Received::SinceBoot { boot, nanos, .. } = event.received {
            write_member("timequality", "since-boot", out);
            write_member("bootid", &format!("{boot:016x}"), out);
            write_member("bootnanos", &nanos.to_string(), out);
        }
        if event.retain {
            out.extend_from_slice(b",\"mqttretain\":true");
        }
        let data = classify(event.payload, None);
        write_member("datacontenttype", sniffed_type(&data), out);
        write_data(&data, out);
        out.push(b'}');
    }

    /// The event's attributes and data, for a transport that carries them apart (binary mode).
    pub fn attributes<'a>(&'a self, event: &EventRef<'a>) -> Attributes<'a> {
        if let Some(object) = structured(event) {
            return structured_attributes(object, event);
        }
        let own = |wanted: &str| user_property(event, wanted);
        let speaks_cloudevents = speaks_cloudevents(event);
        let mut named: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        let mut put = |name: &'static str, value: Cow<'a, str>| named.push((name.into(), value));
        if speaks_cloudevents {
            for name in ["id", "source", "type", "subject", "time", "dataschema"] {
                if let Some(value) = own(name) {
                    put(name, value.into());
                }
            }
            put(LOG_ID, event.id.to_string().into());
        } else {
            put("id", event.id.to_string().into());
            let device = encode_segment(self.device(event));
            put("source", format!("{}{device}", self.source_prefix).into());
            put("type", self.event_type(event.topic).into());
        }
        if !speaks_cloudevents || own("subject").is_none() {
            put("subject", event.topic.into());
        }
        if !speaks_cloudevents || own("time").is_none() {
            let mut time = Vec::with_capacity(27);
            write_rfc3339(event.received.unix_micros(), &mut time);
            put("time", String::from_utf8(time).unwrap_or_default().into());
            if let Received::SinceBoot { boot, nanos, .. } = event.received {
                put("timequality", "since-boot".into());
                put("bootid", format!("{boot:016x}").into());
                put("bootnanos", nanos.to_string().into());
            }
        }
        if event.retain {
            put("mqttretain", "true".into());
        }
        let mut content_type = None;
        let mut others: Vec<(&str, &str)> = Vec::new();
        for property in event.properties.iter() {
            match property {
                Property::ContentType(text) => content_type = Some(text),
                Property::ResponseTopic(text) => {
                    named.push(("mqttresponsetopic".into(), text.into()))
                }
                Property::CorrelationData(data) => {
                    named.push(("mqttcorrelationdata".into(), BASE64.encode(data).into()));
                }
                Property::MessageExpiry(seconds) => {
                    named.push(("mqttexpiry".into(), seconds.to_string().into()));
                }
                Property::PayloadFormat(_) | Property::PacketId(_) => {}
                Property::User(name, value) => {
                    let core = [
                        "specversion",
                        "id",
                        "source",
                        "type",
                        "subject",
                        "time",
                        "dataschema",
                        "datacontenttype",
                    ];
                    if speaks_cloudevents && core.contains(&name) {
                        if name == "datacontenttype" {
                            content_type = content_type.or(Some(value));
                        }
                    } else if is_extension_name(name)
                        && !named.iter().any(|(taken, _)| taken == name)
                    {
                        named.push((name.into(), value.into()));
                    } else {
                        others.push((name, value));
                    }
                }
            }
        }
        if !others.is_empty() {
            let pairs = serde_json::to_string(&others).unwrap_or_default();
            named.push(("mqttuserproperties".into(), pairs.into()));
        }
        let content_type = content_type.filter(|text| !text.is_empty()).map_or_else(
            || Cow::Borrowed(sniffed_type(&classify(event.payload, None))),
            Cow::Borrowed,
        );
        Attributes { named, content_type, data: event.payload }
    }
}

/// The `source` that the publisher gave the event itself, where it speaks CloudEvents. Without one
/// the source is that of the [device](Encoder::device).
pub fn own_source<'a>(event: &EventRef<'a>) -> Option<Cow<'a, str>> {
    if event.properties.is_empty() {
        return None;
    }
    if let Some(mut object) = structured(event) {
        return match object.remove("source") {
            Some(Value::String(source)) => Some(source.into()),
            _ => None,
        };
    }
    speaks_cloudevents(event).then(|| user_property(event, "source").map(Cow::Borrowed)).flatten()
}

/// Whether the publisher made it a CloudEvent in binary mode (MQTT binding 1.0.2, section 3.1).
fn speaks_cloudevents(event: &EventRef<'_>) -> bool {
    let present = |name| user_property(event, name).is_some_and(|value| !value.is_empty());
    user_property(event, "specversion") == Some("1.0")
        && ["id", "source", "type"].into_iter().all(present)
}

fn user_property<'a>(event: &EventRef<'a>, wanted: &str) -> Option<&'a str> {
    event.properties.iter().find_map(|property| match property {
        Property::User(name, value) if name == wanted => Some(value),
        _ => None,
    })
}

/// The payload as a CloudEvent in structured mode, with the place in the log added, if it is one.
fn structured(event: &EventRef<'_>) -> Option<Map<String, Value>> {
    let says_so = event.properties.iter().any(|property| {
        matches!(property, Property::ContentType(text) if media_type(text).eq_ignore_ascii_case(STRUCTURED))
    });
    if !says_so {
        return None;
    }
    let mut object: Map<String, Value> = serde_json::from_slice(event.payload).ok()?;
    let present =
        |name: &str| object.get(name).and_then(Value::as_str).is_some_and(|v| !v.is_empty());
    let is_one = object.get("specversion").and_then(Value::as_str) == Some("1.0")
        && ["id", "source", "type"].into_iter().all(present);
    if !is_one {
        return None;
    }
    object.insert(LOG_ID.into(), event.id.to_string().into());
    object.entry("subject").or_insert_with(|| event.topic.into());
    Some(object)
}

/// A structured event taken apart for binary mode. Data that stands in the payload as JSON cannot be
/// borrowed as the publisher's bytes; the whole payload travels on as a structured event instead.
fn structured_attributes<'a>(object: Map<String, Value>, event: &EventRef<'a>) -> Attributes<'a> {
    let named = object
        .into_iter()
        .filter(|(name, _)| {
            !["specversion", "data", "data_base64", "datacontenttype"].contains(&name.as_str())
        })
        .map(|(name, value)| {
            let text = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            (Cow::Owned(name), Cow::Owned(text))
        })
        .collect();
    Attributes { named, content_type: STRUCTURED.into(), data: event.payload }
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// CloudEvents 1.0 section 3.1: lower-case letters and digits; 20 of them should be enough.
fn is_extension_name(name: &str) -> bool {
    const RESERVED: [&str; 14] = [
        "id",
        "source",
        "type",
        "specversion",
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
        "data",
        LOG_ID,
        "timequality",
        "bootid",
        "bootnanos",
        "mqttuserproperties",
    ];
    (1..=20).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && !RESERVED.contains(&name)
}

fn classify<'a>(payload: &'a [u8], content_type: Option<&str>) -> Data<'a> {
    let Ok(text) = std::str::from_utf8(payload) else {
        return Data::Binary(payload);
    };
    let (json, plain) = match content_type.map(media_type) {
        None => (true, false),
        Some(media) => {
            let media = media.to_ascii_lowercase();
            let json = media.ends_with("/json") || media.ends_with("+json");
            (json, media.starts_with("text/") || media.ends_with("/xml") || media.ends_with("+xml"))
        }
    };
    if json && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        Data::Json(text)
    } else if plain {
        Data::Text(text)
    } else {
        Data::Binary(payload)
    }
}

fn sniffed_type(data: &Data<'_>) -> &'static str {
    match data {
        Data::Json(_) => "application/json",
        Data::Text(_) => "text/plain",
        Data::Binary(_) => "application/octet-stream",
    }
}

fn write_data(data: &Data<'_>, out: &mut Vec<u8>) {
    match data {
        Data::Json(text) => {
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(text.as_bytes());
        }
        Data::Text(text) => write_member("data", text, out),
        Data::Binary([]) => {}
        Data::Binary(bytes) => {
            out.extend_from_slice(b",\"data_base64\":\"");
            let start = out.len();
            out.resize(start + bytes.len().div_ceil(3) * 4, 0);
            // The slice is exactly as long as the encoding.
            let _ = BASE64.encode_slice(bytes, &mut out[start..]);
            out.push(b'"');
        }
    }
}

fn write_member(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    write_escaped(name, out);
    out.extend_from_slice(b"\":\"");
    write_escaped(value, out);
    out.push(b'"');
}

fn write_id(event: &EventRef<'_>, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{}-{}-", event.id.epoch, event.id.lane);
    out.extend_from_slice(itoa::Buffer::new().format(event.id.lsn).as_bytes());
}

/// Appends `text` as the inside of a JSON string.
fn write_escaped(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.extend_from_slice(text.as_bytes());
    } else if let Ok(quoted) = serde_json::to_vec(text) {
        out.extend_from_slice(&quoted[1..quoted.len() - 1]);
    }
}

/// `text` as one segment of a URI path (RFC 3986 section 3.3): everything but `pchar` is escaped.
pub fn encode_segment(text: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b);
    if text.bytes().all(plain) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(byte as char);
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 0xf] {
                out.push(b"0123456789ABCDEF"[usize::from(nibble)] as char);
            }
        }
    }
    out.into()
}

#[cfg(test)]
mod tests;
