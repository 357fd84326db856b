//! How events travel in a request (CloudEvents HTTP binding 1.0.2, section 3), by its headers.

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use tidegate_event::cloudevents::{BATCH, STRUCTURED};
use tidegate_event::percent;

/// What every header of an event in binary mode begins with.
const PREFIX: &str = "ce-";

/// The content mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A JSON array of events.
    Batch,
    /// One event, a JSON object.
    Structured,
    /// One event, its attributes in the headers.
    Binary,
}

/// Why a body cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content encoding is not one that is understood here: gzip")]
pub(crate) struct UnknownEncoding;

impl UnknownEncoding {
    /// What that is answered with.
    pub(crate) const STATUS: StatusCode = StatusCode::UNSUPPORTED_MEDIA_TYPE;
}

/// The content mode, if it is one of CloudEvents.
pub(crate) fn mode(headers: &HeaderMap) -> Option<Mode> {
    let media = media_type(headers);
    if media.eq_ignore_ascii_case(BATCH) {
        Some(Mode::Batch)
    } else if media.eq_ignore_ascii_case(STRUCTURED) {
        Some(Mode::Structured)
    } else if headers.contains_key("ce-specversion") {
        Some(Mode::Binary)
    } else {
        None
    }
}

/// The content type without its parameters; empty where there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    text.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

/// Whether the body is compressed.
pub(crate) fn is_gzip(headers: &HeaderMap) -> Result<bool, UnknownEncoding> {
    match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None => Ok(false),
        Some(encoding) if encoding.eq_ignore_ascii_case(b"identity") => Ok(false),
        Some(encoding) if encoding.eq_ignore_ascii_case(b"gzip") => Ok(true),
        Some(_) => Err(UnknownEncoding),
    }
}

/// The attributes of an event in binary mode, in no order: each name and value, or the header that
/// cannot be read (section 3.1.3).
pub(crate) fn attributes(
    headers: &HeaderMap,
) -> impl Iterator<Item = Result<(&str, String), String>> {
    headers.iter().filter_map(|(name, value)| {
        let attribute = name.as_str().strip_prefix(PREFIX)?;
        // A header that would pass for the data or its type is not an attribute.
        if ["data", "data_base64", "datacontenttype"].contains(&attribute) {
            return Some(Err(name.to_string()));
        }
        let text = value.to_str().ok().and_then(percent::decode);
        Some(text.map(|text| (attribute, text.into_owned())).ok_or_else(|| name.to_string()))
    })
}
