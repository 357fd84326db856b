//! Any bytes, as the request for a WebSocket and as its frames.

use super::frame::{Decoder, Violation};
use super::upgrade::answer;

/// The first byte says what the others are, and in what pieces they come.
pub(crate) fn websocket(bytes: &[u8]) {
    match bytes.split_first() {
        None => {}
        Some((0, request)) => upgrade(request),
        Some((piece, bytes)) => frames(bytes, usize::from(*piece)),
    }
}

fn upgrade(request: &[u8]) {
    for origins in [&[][..], &["*".to_owned()][..]] {
        let response = answer(request, origins).unwrap_or_else(|refused| refused.response());
        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut parsed = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(end)) = parsed.parse(response.as_bytes()) else {
            unreachable!("not a response: {response:?}");
        };
        let body = response.len() - end;
        let length = parsed.headers.iter().find(|header| header.name == "Content-Length");
        // What the client sent must not become a line of ours.
        match length {
            Some(length) => assert_eq!(length.value, body.to_string().as_bytes()),
            None => assert_eq!((parsed.code, body), (Some(101), 0)),
        }
        assert!(parsed.headers.len() <= 5, "{response:?}");
    }
}

/// It makes no difference how the frames are cut.
fn frames(bytes: &[u8], piece: usize) {
    let (whole, cut) = (decode(bytes, bytes.len().max(1)), decode(bytes, piece));
    assert_eq!(whole.violation, cut.violation);
    assert!(cut.payload.starts_with(&whole.payload) && cut.payload.len() <= bytes.len());
    if whole.violation.is_none() {
        assert_eq!((whole.payload, whole.ping, whole.close), (cut.payload, cut.ping, cut.close));
    }
}

#[derive(Default)]
struct Decoded {
    payload: Vec<u8>,
    ping: Option<Vec<u8>>,
    close: Option<Vec<u8>>,
    violation: Option<Violation>,
}

fn decode(bytes: &[u8], piece: usize) -> Decoded {
    let mut decoder = Decoder::new();
    let mut decoded = Decoded::default();
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        match decoder.decode(&mut piece) {
            Ok(kept) => decoded.payload.extend_from_slice(&piece[..kept]),
            Err(violation) => {
                decoded.violation = Some(violation);
                break;
            }
        }
    }
    decoded.ping = decoder.ping.map(|ping| ping.bytes().to_vec());
    decoded.close = decoder.close.map(|close| close.bytes().to_vec());
    decoded
}
