//! The pieces of an event's JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::IgnoredAny;

use super::own::media_type;

/// How a payload is written as `data`.
pub(super) enum Payload<'a> {
    Json(&'a str),
    Text(&'a str),
    Binary(&'a [u8]),
}

impl<'a> Payload<'a> {
    /// What `payload` is, by its content type; without one, by a look at it.
    pub(super) fn of(payload: &'a [u8], content_type: Option<&str>) -> Self {
        let Ok(text) = std::str::from_utf8(payload) else {
            return Self::Binary(payload);
        };
        let (json, plain) = match content_type {
            None => (true, false),
            Some(content_type) => (is_json(content_type), is_text(content_type)),
        };
        if json && serde_json::from_str::<IgnoredAny>(text).is_ok() {
            Self::Json(text)
        } else if plain {
            Self::Text(text)
        } else {
            Self::Binary(payload)
        }
    }

    /// The content type of a payload that came without one.
    pub(super) fn sniffed_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json",
            Self::Text(_) => "text/plain",
            Self::Binary(_) => "application/octet-stream",
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Json(text) => {
                out.extend_from_slice(b",\"data\":");
                out.extend_from_slice(text.as_bytes());
            }
            Self::Text(text) => write_member("data", text, out),
            Self::Binary([]) => {}
            Self::Binary(bytes) => {
                out.extend_from_slice(b",\"data_base64\":\"");
                let start = out.len();
                out.resize(start + bytes.len().div_ceil(3) * 4, 0);
                // The slice is exactly as long as the encoding.
                let _ = BASE64.encode_slice(bytes, &mut out[start..]);
                out.push(b'"');
            }
        }
    }
}

/// Whether `content_type` declares JSON (CloudEvents JSON format 3.1).
pub(super) fn is_json(content_type: &str) -> bool {
    let media = media_type(content_type).to_ascii_lowercase();
    media.ends_with("/json") || media.ends_with("+json")
}

fn is_text(content_type: &str) -> bool {
    let media = media_type(content_type).to_ascii_lowercase();
    media.starts_with("text/") || media.ends_with("/xml") || media.ends_with("+xml")
}

/// Appends `,"name":"value"`.
pub(super) fn write_member(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    write_escaped(name, out);
    out.extend_from_slice(b"\":\"");
    write_escaped(value, out);
    out.push(b'"');
}

/// Appends `,"name":json`.
pub(super) fn write_raw_member(name: &str, json: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    write_escaped(name, out);
    out.extend_from_slice(b"\":");
    out.extend_from_slice(json.as_bytes());
}

/// Appends `text` as the inside of a JSON string.
pub(super) fn write_escaped(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.extend_from_slice(text.as_bytes());
    } else if let Ok(quoted) = serde_json::to_vec(text) {
        out.extend_from_slice(&quoted[1..quoted.len() - 1]);
    }
}
