//! Binary mode: attributes in `ce-` headers, the data as the body (CloudEvents HTTP binding 1.0.2
//! section 3.1). It is made a JSON event, and goes on as if it had come as one.

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::IgnoredAny;

use crate::http::media;

/// The event as JSON; else the header that cannot be read.
pub(super) fn to_json(headers: &HeaderMap, body: &[u8]) -> Result<Vec<u8>, String> {
    let mut json = Vec::with_capacity(body.len() + 512);
    json.push(b'{');
    for attribute in media::attributes(headers) {
        let (name, text) = attribute?;
        member(name, &text, &mut json);
    }
    let content_type = match headers.get(CONTENT_TYPE) {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_| CONTENT_TYPE.to_string())?),
    };
    if let Some(content_type) = content_type {
        member("datacontenttype", content_type, &mut json);
    }
    data(content_type, body, &mut json);
    json.push(b'}');
    Ok(json)
}

fn data(content_type: Option<&str>, body: &[u8], json: &mut Vec<u8>) {
    if body.is_empty() {
        return;
    }
    let media = content_type.unwrap_or("application/json").split(';').next().unwrap_or_default();
    let media = media.trim().to_ascii_lowercase();
    let text = std::str::from_utf8(body).ok();
    let says_json = media.ends_with("/json") || media.ends_with("+json");
    match text {
        Some(text) if says_json && serde_json::from_str::<IgnoredAny>(text).is_ok() => {
            separate(json);
            json.extend_from_slice(b"\"data\":");
            json.extend_from_slice(body);
        }
        Some(text) if media.starts_with("text/") => member("data", text, json),
        _ => member("data_base64", &BASE64.encode(body), json),
    }
}

fn member(name: &str, value: &str, json: &mut Vec<u8>) {
    separate(json);
    quote(name, json);
    json.push(b':');
    quote(value, json);
}

fn separate(json: &mut Vec<u8>) {
    if json.len() > 1 {
        json.push(b',');
    }
}

fn quote(text: &str, json: &mut Vec<u8>) {
    // Writing a string to a vector cannot fail.
    let _ = serde_json::to_writer(json, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn json(list: &[(&'static str, &'static str)], body: &[u8]) -> serde_json::Value {
        serde_json::from_slice(&to_json(&headers(list), body).unwrap()).unwrap()
    }

    #[test]
    fn headers_become_attributes() {
        let list = [
            ("ce-specversion", "1.0"),
            ("ce-id", "a%22b"),
            ("ce-subject", "Euro%20%E2%82%AC"),
            ("content-type", "application/json; charset=utf-8"),
            ("host", "here"),
        ];
        assert_eq!(
            json(&list, b"{\"t\":1}"),
            serde_json::json!({
                "specversion": "1.0",
                "id": "a\"b",
                "subject": "Euro €",
                "datacontenttype": "application/json; charset=utf-8",
                "data": {"t": 1}
            })
        );
    }

    #[test]
    fn the_data_keeps_its_bytes() {
        assert_eq!(json(&[("content-type", "text/plain")], b"on")["data"], "on");
        assert_eq!(json(&[("content-type", "image/png")], &[0, 255])["data_base64"], "AP8=");
        assert_eq!(json(&[("content-type", "application/json")], b"{")["data_base64"], "ew==");
        assert_eq!(
            json(&[("content-type", "text/plain")], b""),
            serde_json::json!({"datacontenttype": "text/plain"})
        );
    }

    #[test]
    fn a_header_that_cannot_be_read_is_named() {
        for bad in [("ce-id", "%zz"), ("ce-data", "1"), ("ce-data_base64", "AA==")] {
            assert_eq!(to_json(&headers(&[bad]), b""), Err(bad.0.to_owned()));
        }
    }
}
