//! An event as a CloudEvent 1.0, encoded straight from the bytes in the log.
//!
//! | attribute | value |
//! |---|---|
//! | `id` | the place in the log ([`EventId`](crate::EventId)) |
//! | `source` | `/gateway/<gateway>/device/<device>` |
//! | `type` | by topic filter from the config, else its default |
//! | `subject` | the MQTT topic |
//! | `time` | when it was received; `timequality: "since-boot"` with `bootid` and `bootnanos` beside it where the clock was not set; the forwarder corrects the time of events of this boot once it is |
//! | `datacontenttype` | as the publisher said; else `application/json` if it is, else `application/octet-stream` |
//! | `historical` | `true` for an event of a backlog that newer ones went ahead of; else not there |
//! | `data` | JSON as it is, text as a string, everything else as `data_base64` |
//!
//! What an MQTT 5 publisher sent along becomes extension attributes: a user property with a name
//! that CloudEvents allows keeps that name, up to [`MAX_EXTENSIONS`] of them; the others stand together in
//! `mqttuserproperties` (a JSON array of pairs); `mqttresponsetopic`, `mqttcorrelationdata` (Base64),
//! `mqttexpiry` (seconds) and `mqttretain` carry the rest.
//!
//! A publisher that speaks CloudEvents (MQTT binding 1.0.2, or over HTTP) keeps its own `source`, `id`,
//! `type`, `subject` and `time`: in binary mode as user properties, in structured mode in the payload,
//! whose `data` is written as it stands there, byte for byte. The place in the log is then in the
//! extension attribute `logid`, and a topic that is not the subject in `mqtttopic`. A structured
//! event that is not valid is data like any other.

mod attributes;
mod json;
mod own;
pub mod parse;

use std::borrow::Cow;
use std::io::Write;

use crate::percent::encode_segment;
use crate::record::{EventRef, Properties};
use crate::time::{Received, write_rfc3339};
use crate::topic::Filter;

pub use attributes::{Attribute, Attributes, MAX_EXTENSIONS};
use json::{Payload, write_escaped, write_member, write_raw_member};
use own::Own;
use parse::Data;

/// The attributes that CloudEvents itself defines; `specversion` first.
const CORE: [&str; 8] =
    ["specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype"];

/// The extension attribute that holds an event's place in the log where `id` is the publisher's own.
pub const LOG_ID: &str = "logid";
/// The extension attribute of an event that comes later than newer ones of its source: a boolean.
pub const HISTORICAL: &str = "historical";
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
    historical: bool,
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
        Self { source_prefix, types, default_type, device_level, historical: false }
    }

    /// One that says of every event that it is of a backlog ([`HISTORICAL`]).
    #[must_use]
    pub fn historical(mut self) -> Self {
        self.historical = true;
        self
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
        let own = Own::of(event);
        let (named, content_type) = self.named(event, own.as_ref());
        out.extend_from_slice(b"{\"specversion\":\"1.0\"");
        named.iter().for_each(|attribute| attribute.write_json(out));
        if let Some(structured) = own.and_then(|own| own.structured) {
            if let Some(content_type) = content_type {
                write_member("datacontenttype", &content_type, out);
            }
            match structured.data {
                Data::None => {}
                Data::Json(json) => write_raw_member("data", json, out),
                Data::Base64(text) => write_member("data_base64", &text, out),
            }
        } else {
            let payload = Payload::of(event.payload, content_type.as_deref());
            let content_type = content_type.unwrap_or_else(|| payload.sniffed_type().into());
            write_member("datacontenttype", &content_type, out);
            payload.write(out);
        }
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
        if self.historical {
            write_raw_member(HISTORICAL, "true", out);
        }
        let payload = Payload::of(event.payload, None);
        write_member("datacontenttype", payload.sniffed_type(), out);
        payload.write(out);
        out.push(b'}');
    }
}

/// The `source` that the publisher gave the event itself, where it speaks CloudEvents. Without one
/// the source is that of the [device](Encoder::device).
pub fn own_source<'a>(event: &EventRef<'a>) -> Option<Cow<'a, str>> {
    Own::of(event).map(|own| own.source)
}

/// `source` and `id`, where the publisher gave the event both itself.
pub fn own_identity<'a>(event: &EventRef<'a>) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
    Own::of(event).map(|own| (own.source, own.id))
}

/// The same, of properties and a payload that are not in the log yet.
pub fn identity<'a>(
    properties: Properties<'a>,
    payload: &'a [u8],
) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
    Own::said(properties, payload).map(|own| (own.source, own.id))
}

fn write_id(event: &EventRef<'_>, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{}-{}-", event.id.epoch, event.id.lane);
    out.extend_from_slice(itoa::Buffer::new().format(event.id.lsn).as_bytes());
}

#[cfg(test)]
mod tests;
