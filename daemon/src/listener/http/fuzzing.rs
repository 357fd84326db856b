//! Any bytes, as a request with events.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tidegate_event::cloudevents::Encoder;
use tidegate_event::{Block, BlockBuilder, Epoch, EventId, Lane, Received, record, topic};

use super::draft;
use crate::gate::Dedup;

/// The topic in the path ends with the first line; header lines follow, an empty one, and the body.
pub(crate) fn posts(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (path, rest) = (&bytes[..end], &bytes[end + 1..]);
    let Ok(path) = std::str::from_utf8(path) else { return };
    let mut lines = [httparse::EMPTY_HEADER; 32];
    let Ok(httparse::Status::Complete((end, lines))) = httparse::parse_headers(rest, &mut lines)
    else {
        return;
    };
    let mut headers = HeaderMap::new();
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value)) {
            headers.append(name, value);
        }
    }
    post(&headers, &rest[end..], Some(path).filter(|path| !path.is_empty()));
}

/// What is taken in reads back as it was, and can be sent on.
fn post(headers: &HeaderMap, body: &[u8], path: Option<&str>) {
    let received = Received::Synced { unix_micros: 1_700_000_000_000_000 };
    let posted = match draft::read(headers, body, path, &Dedup::new(&Default::default())) {
        Ok(posted) => posted,
        Err(problem) => {
            assert!(problem.answer().status().is_client_error());
            return;
        }
    };
    let mut block = BlockBuilder::new("sensor", received);
    let mut drafts = Vec::new();
    for event in &posted {
        let draft = event.draft(false);
        // The gate's part.
        if topic::check_name(draft.topic).is_ok() {
            block.push(&draft);
            drafts.push(draft);
        }
    }
    let encoder = Encoder::new("edge", Vec::new(), "event".to_owned(), Some(1));
    let first = EventId { epoch: Epoch(1), lane: Lane(0), lsn: 1 };
    let stored = block.finish().to_vec();
    assert!(record::blocks(&stored).all(|block| matches!(block, Ok(Block::Events(_)))));
    let mut events = record::events(&stored, first);
    for draft in drafts {
        let Some(Ok(event)) = events.next() else { unreachable!("an event does not read back") };
        assert_eq!((event.topic, event.payload), (draft.topic, draft.payload));
        assert_eq!(event.properties, draft.properties);
        assert!(draft.properties.is_empty() || event.properties.iter().count() > 0);
        let mut json = Vec::new();
        encoder.write_json(&event, &mut json);
        let sent = tidegate_event::cloudevents::parse::parse_one(&json);
        assert!(sent.is_ok(), "{:?}: {}", sent.err(), String::from_utf8_lossy(&json));
    }
    assert!(events.next().is_none());
}
