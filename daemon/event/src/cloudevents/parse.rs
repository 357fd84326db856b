//! A CloudEvent as it arrives in JSON: parsed and checked in one pass, borrowed from the body
//! (CloudEvents 1.0.2 with its JSON event format, clauses in brackets).

pub(super) mod check;
mod members;

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::json::is_json;
use crate::id::EventId;

use members::Members;

/// A valid CloudEvent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudEvent<'a> {
    /// The whole JSON object as it arrived.
    pub raw: &'a str,
    /// Not empty.
    pub id: Cow<'a, str>,
    /// Not empty.
    pub source: Cow<'a, str>,
    /// The attribute `type`; not empty.
    pub kind: Cow<'a, str>,
    /// Not empty.
    pub subject: Option<Cow<'a, str>>,
    /// As in RFC 3339.
    pub time: Option<Cow<'a, str>>,
    /// The attribute `datacontenttype`; not empty.
    pub content_type: Option<Cow<'a, str>>,
    /// The attribute `dataschema`; not empty.
    pub schema: Option<Cow<'a, str>>,
    /// The extension attribute [`LOG_ID`](super::LOG_ID).
    pub log_id: Option<Cow<'a, str>>,
    /// What it says.
    pub data: Data<'a>,
}

/// What an event says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Data<'a> {
    /// Nothing.
    #[default]
    None,
    /// JSON text.
    Json(&'a str),
    /// The data as Base64, with its padding.
    Base64(Cow<'a, str>),
}

/// Why a request's body is not what it says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
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
pub struct Problem {
    /// The attribute, where it is one.
    pub attribute: Option<String>,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.attribute {
            Some(attribute) => write!(f, "attribute {attribute:?} {}", self.reason),
            None => f.write_str(self.reason),
        }
    }
}

impl<'a> CloudEvent<'a> {
    /// The event's place in its gateway's log, where the id or [`LOG_ID`](super::LOG_ID) says so.
    pub fn place(&self) -> Option<EventId> {
        match &self.log_id {
            Some(log_id) => log_id.parse().ok(),
            None if self.gateway().is_some() => self.id.parse().ok(),
            None => None,
        }
    }

    /// The gateway that made the event, from its source `/gateway/<gateway>/…`.
    pub fn gateway(&self) -> Option<&str> {
        let rest = self.source.strip_prefix("/gateway/")?;
        rest.split_once('/').map(|(gateway, _)| gateway)
    }

    /// Its data as bytes, as a transport carries it that keeps attributes apart [JSON format 3.1].
    pub fn payload(&self) -> Cow<'a, [u8]> {
        match &self.data {
            Data::None => Cow::default(),
            // The parser has seen that it is Base64.
            Data::Base64(text) => BASE64.decode(&**text).unwrap_or_default().into(),
            Data::Json(json) if self.content_type.as_deref().is_none_or(is_json) => {
                json.as_bytes().into()
            }
            // A string stands for data of another format.
            Data::Json(json) => match serde_json::from_str::<String>(json) {
                Ok(text) => text.into_bytes().into(),
                Err(_) => json.as_bytes().into(),
            },
        }
    }

    /// Its extension attributes in order: name, JSON text, and value as text [3.2]. [`LOG_ID`](super::LOG_ID)
    /// is one of them.
    pub fn extensions(&self) -> impl Iterator<Item = (Cow<'a, str>, &'a str, Cow<'a, str>)> {
        let core =
            |name: &str| super::CORE.contains(&name) || ["data", "data_base64"].contains(&name);
        let extensions = members::pairs(self.raw).into_iter().filter(move |(name, _)| !core(name));
        extensions.map(|(name, json)| (name, json, members::text(json)))
    }
}

/// One structured event.
///
/// # Errors
/// What is wrong with it first.
pub fn parse_one(body: &[u8]) -> Result<CloudEvent<'_>, ParseError> {
    let text = utf8(body)?;
    let mut rest = text;
    let event = take(&mut rest, 0)?;
    end(rest, text)?;
    Ok(event)
}

/// The events of a batch, at most `max`.
///
/// # Errors
/// What is wrong with the first of them that is.
pub fn parse_batch(body: &[u8], max: usize) -> Result<Vec<CloudEvent<'_>>, ParseError> {
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
fn take<'a>(rest: &mut &'a str, index: usize) -> Result<CloudEvent<'a>, ParseError> {
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

#[cfg(test)]
mod tests;
