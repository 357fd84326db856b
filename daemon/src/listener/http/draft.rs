//! From a request's body to events as the log takes them.

use std::borrow::Cow;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use tidegate_event::cloudevents::parse::{CloudEvent, parse_batch, parse_one};
use tidegate_event::record::Properties;
use tidegate_event::{Draft, Property, Qos};

use super::problem::Problem;
use crate::gate::{Dedup, Key};
use crate::http::media::{self, Mode};

/// What no MQTT string may exceed: the event goes on to subscribers (`[MQTT-1.5.4]`).
const MAX_TEXT: usize = u16::MAX as usize;
/// What curl and browsers say about a body when nobody told them.
const UNSAID: &str = "application/x-www-form-urlencoded";
/// Headers that travel along with a raw body (W3C Trace Context).
const TRACE: [&str; 2] = ["traceparent", "tracestate"];

/// One event of a request.
#[derive(Debug)]
pub(super) struct Posted<'b> {
    topic: Cow<'b, str>,
    properties: Vec<u8>,
    payload: Cow<'b, [u8]>,
    /// Of a CloudEvent.
    pub(super) key: Option<Key>,
}

impl Posted<'_> {
    pub(super) fn draft(&self, retain: bool) -> Draft<'_> {
        Draft {
            topic: &self.topic,
            qos: Qos::AtLeastOnce,
            retain,
            properties: Properties::new(&self.properties),
            payload: &self.payload,
        }
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Bytes, as `limits.max-packet-size` counts them.
    pub(super) fn size(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }
}

/// Takes a body apart. `topic` is the one in the path; without it the events must be CloudEvents and
/// their subjects name the topics.
pub(super) fn read<'b>(
    headers: &HeaderMap,
    body: &'b [u8],
    topic: Option<&'b str>,
    dedup: &Dedup,
) -> Result<Vec<Posted<'b>>, Problem> {
    let structured = |(index, event): (usize, CloudEvent<'b>)| {
        let payload = event.payload();
        let content_type = event.content_type.clone();
        posted(&event, content_type.as_deref(), payload, topic, dedup)
            .map_err(|problem| problem.at(index))
    };
    match (media::mode(headers), topic) {
        (Some(Mode::Batch), _) => {
            // The body's size bounds their number.
            let events = parse_batch(body, usize::MAX)?;
            events.into_iter().enumerate().map(structured).collect()
        }
        (Some(Mode::Structured), _) => Ok(vec![structured((0, parse_one(body)?))?]),
        (Some(Mode::Binary), _) => binary(headers, body, topic, dedup).map(|event| vec![event]),
        (None, Some(topic)) => raw(headers, body, topic).map(|event| vec![event]),
        (None, None) => Err(Problem::new(
            axum::http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "this address takes CloudEvents: application/cloudevents+json, \
             application/cloudevents-batch+json, or ce- headers; POST other bodies to \
             /v1/topics/{topic}",
        )),
    }
}

fn raw<'b>(headers: &HeaderMap, body: &'b [u8], topic: &'b str) -> Result<Posted<'b>, Problem> {
    let mut properties = Vec::new();
    if let Some(content_type) = content_type(headers)?
        && media::media_type(headers) != UNSAID
    {
        Property::ContentType(content_type).write(&mut properties);
    }
    for name in TRACE {
        if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) {
            user(name, value, &mut properties)?;
        }
    }
    Ok(Posted { topic: topic.into(), properties, payload: body.into(), key: None })
}

/// HTTP binding 1.0.2, section 3.1.
fn binary<'b>(
    headers: &HeaderMap,
    body: &'b [u8],
    topic: Option<&'b str>,
    dedup: &Dedup,
) -> Result<Posted<'b>, Problem> {
    let mut attributes = serde_json::Map::new();
    for attribute in media::attributes(headers) {
        let (name, value) = attribute
            .map_err(|header| Problem::bad(format!("the header {header} cannot be read")))?;
        attributes.insert(name.to_owned(), value.into());
    }
    let json = serde_json::to_vec(&attributes).unwrap_or_default();
    // One set of rules for both ways to write an attribute.
    let event = parse_one(&json)?;
    let content_type = content_type(headers)?;
    let posted = posted(&event, content_type, body.into(), topic, dedup)?;
    let topic = Cow::Owned(posted.topic.into_owned());
    Ok(Posted { topic, properties: posted.properties, payload: body.into(), key: posted.key })
}

/// A CloudEvent as it lies in the log: as one over MQTT in binary mode (MQTT binding 1.0.2, section
/// 3.1).
fn posted<'b>(
    event: &CloudEvent<'b>,
    content_type: Option<&str>,
    payload: Cow<'b, [u8]>,
    topic: Option<&'b str>,
    dedup: &Dedup,
) -> Result<Posted<'b>, Problem> {
    let topic = match (topic, &event.subject) {
        (Some(topic), _) => topic.into(),
        (None, Some(subject)) => subject.clone(),
        (None, None) => {
            return Err(Problem::bad(
                "the attribute \"subject\" is missing, which names the topic; or POST to \
                 /v1/topics/{topic}",
            ));
        }
    };
    let mut properties = Vec::new();
    if let Some(content_type) = content_type {
        fits("datacontenttype", content_type)?;
        Property::ContentType(content_type).write(&mut properties);
    }
    user("specversion", "1.0", &mut properties)?;
    user("id", &event.id, &mut properties)?;
    user("source", &event.source, &mut properties)?;
    user("type", &event.kind, &mut properties)?;
    let optional =
        [("subject", &event.subject), ("time", &event.time), ("dataschema", &event.schema)];
    for (name, value) in optional {
        if let Some(value) = value {
            user(name, value, &mut properties)?;
        }
    }
    for (name, _, value) in event.extensions() {
        user(&name, &value, &mut properties)?;
    }
    let key = Some(dedup.key(&event.source, &event.id));
    Ok(Posted { topic, properties, payload, key })
}

fn user(name: &str, value: &str, properties: &mut Vec<u8>) -> Result<(), Problem> {
    fits(name, name)?;
    fits(name, value)?;
    Property::User(name, value).write(properties);
    Ok(())
}

/// Whether `text`, of the attribute `name`, is an MQTT string.
fn fits(name: &str, text: &str) -> Result<(), Problem> {
    let shown: String = name.chars().take(40).collect();
    if text.len() > MAX_TEXT {
        return Err(Problem::bad(format!(
            "the attribute {shown:?} is longer than {MAX_TEXT} bytes"
        )));
    }
    if text.contains('\0') {
        return Err(Problem::bad(format!("the attribute {shown:?} holds a null character")));
    }
    Ok(())
}

fn content_type(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let text =
        value.to_str().map_err(|_| Problem::bad("the header content-type cannot be read"))?;
    fits("content-type", text)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}
