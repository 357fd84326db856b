//! What is sent: the three content modes of the CloudEvents HTTP binding, section 3.
//!
//! In binary mode an event lies in a batch's body as it would lie in an HTTP message: header lines,
//! an empty line, the data.

use std::io::Write;

use bytes::Bytes;
use flate2::write::GzEncoder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tidegate_config::sink::{Compression, Mode};
use tidegate_event::cloudevents::{Attributes, BATCH, STRUCTURED};
use tidegate_event::percent;

/// From this size on a body is compressed beside the runtime's threads, not on one.
const COMPRESS_ASIDE: usize = 16 * 1024;
/// Bodies below this are sent as they are: gzip would not make them smaller.
const WORTH_COMPRESSING: usize = 256;

/// One request without its address.
#[derive(Debug, Clone)]
pub struct Message {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Message {
    pub(super) async fn new(mode: Mode, compression: Compression, body: Bytes) -> Self {
        let (mut headers, mut body) = match mode {
            Mode::Batch => (content_type(BATCH), body),
            Mode::Structured => (content_type(STRUCTURED), body),
            Mode::Binary => split_binary(&body),
        };
        if compression == Compression::Gzip
            && body.len() >= WORTH_COMPRESSING
            && let Some(compressed) = gzip(&body).await
        {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            body = compressed;
        }
        Self { headers, body }
    }

    /// Bytes of the body as they travel.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }
}

fn content_type(value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))])
}

/// `None` if it could not be done: then the body travels as it is.
async fn gzip(body: &Bytes) -> Option<Bytes> {
    fn compress(body: &[u8]) -> Option<Bytes> {
        let mut encoder =
            GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
        encoder.write_all(body).ok()?;
        encoder.finish().ok().map(Bytes::from)
    }
    if body.len() < COMPRESS_ASIDE {
        return compress(body);
    }
    let body = body.clone();
    tokio::task::spawn_blocking(move || compress(&body)).await.ok().flatten()
}

/// Appends an event in binary mode.
pub(super) fn write_binary(attributes: &Attributes<'_>, out: &mut Vec<u8>) {
    // RFC 9110 section 5.5; a value that no header can carry says nothing to the receiver either.
    let plain = attributes.content_type.bytes().all(|b| (0x20..0x7f).contains(&b));
    let content_type = if plain { &*attributes.content_type } else { "application/octet-stream" };
    out.extend_from_slice(b"content-type: ");
    out.extend_from_slice(content_type.as_bytes());
    out.extend_from_slice(b"\r\nce-specversion: 1.0\r\n");
    // CloudEvents HTTP binding 1.0.2, section 3.1.3.2: space, `"`, `%` and whatever is not printable
    // ASCII is escaped.
    let plain = |byte: u8| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'%');
    for attribute in &attributes.named {
        out.extend_from_slice(b"ce-");
        out.extend_from_slice(attribute.name.as_bytes());
        out.extend_from_slice(b": ");
        percent::encode(&attribute.value, plain, out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&attributes.data);
}

/// Takes apart what [`write_binary`] wrote.
fn split_binary(event: &Bytes) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let mut rest: &[u8] = event;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let (line, tail) = (&rest[..end], &rest[end + 2..]);
        rest = tail;
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.windows(2).position(|pair| pair == b": ") else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 2..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            // The encoder names far fewer attributes than a map of headers holds.
            let _ = headers.try_insert(name, value);
        }
    }
    (headers, event.slice(event.len() - rest.len()..))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tidegate_event::cloudevents::Attribute;

    use super::*;

    fn attributes<'a>(
        named: &[(&'a str, &'a str)],
        content_type: &'a str,
        data: &'a [u8],
    ) -> Attributes<'a> {
        Attributes {
            named: named.iter().map(|(name, value)| attribute(name, value)).collect(),
            content_type: content_type.into(),
            data: data.into(),
        }
    }

    fn attribute<'a>(name: &'a str, value: &'a str) -> Attribute<'a> {
        Attribute { name: name.into(), value: value.into(), is_plain: false }
    }

    async fn binary(attributes: &Attributes<'_>) -> Message {
        let mut out = Vec::new();
        write_binary(attributes, &mut out);
        Message::new(Mode::Binary, Compression::None, out.into()).await
    }

    // The example of section 3.1.3.2: "Euro € 😀" is `Euro%20%E2%82%AC%20%F0%9F%98%80`.
    #[tokio::test]
    async fn binary_mode_carries_attributes_as_escaped_headers_and_the_data_as_it_is() {
        let data = b"\r\n\r\n\x00 not: a header\r\n";
        let event = attributes(
            &[("id", "7"), ("subject", "Euro € 😀"), ("note", "5\"% up")],
            "text/plain",
            data,
        );
        let message = binary(&event).await;
        assert_eq!(message.headers["ce-specversion"], "1.0");
        assert_eq!(message.headers["ce-id"], "7");
        assert_eq!(message.headers["ce-subject"], "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(message.headers["ce-note"], "5%22%25%20up");
        assert_eq!(message.headers[CONTENT_TYPE], "text/plain");
        assert_eq!(&message.body[..], data);
    }

    #[tokio::test]
    async fn no_attribute_smuggles_a_header_in() {
        let event = attributes(&[("ok", "1\r\nce-evil: 1\r\n\r\n")], "a/b\r\nce-evil: 1", b"data");
        let message = binary(&event).await;
        let mut names: Vec<_> = message.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["ce-ok", "ce-specversion", "content-type"]);
        assert_eq!(message.headers[CONTENT_TYPE], "application/octet-stream");
        assert_eq!(&message.body[..], b"data");
    }

    #[tokio::test]
    async fn a_batch_and_a_structured_event_travel_under_their_content_type() {
        for (mode, expected) in [(Mode::Batch, BATCH), (Mode::Structured, STRUCTURED)] {
            let message = Message::new(mode, Compression::None, Bytes::from_static(b"[]")).await;
            assert_eq!(message.headers[CONTENT_TYPE], expected);
            assert_eq!((message.len(), message.headers.len()), (2, 1));
        }
    }

    #[tokio::test]
    async fn gzip_reads_back_and_says_so() {
        for size in [WORTH_COMPRESSING, COMPRESS_ASIDE, 100_000] {
            let body = Bytes::from(b"[{\"id\":1}]".repeat(size / 10 + 1));
            let message = Message::new(Mode::Batch, Compression::Gzip, body.clone()).await;
            assert_eq!(message.headers[CONTENT_ENCODING], "gzip");
            assert!(message.len() < body.len() / 2);
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&message.body[..]).read_to_end(&mut back).unwrap();
            assert_eq!(back, body);
        }
        let small = Message::new(Mode::Batch, Compression::Gzip, Bytes::from_static(b"[]")).await;
        assert!(!small.headers.contains_key(CONTENT_ENCODING));
    }
}
