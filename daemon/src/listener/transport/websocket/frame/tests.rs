use proptest::prelude::*;

use super::*;

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0xa2, 0x33, 0xc4];
    let mut bytes = Vec::new();
    write(first & 0x0f, payload, &mut bytes);
    let header = bytes.len() - payload.len();
    bytes[0] = first;
    bytes[1] |= MASKED;
    bytes.splice(header..header, mask);
    for (at, byte) in bytes[header + 4..].iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    bytes
}

fn decode(bytes: &[u8]) -> Result<Vec<u8>, Violation> {
    let mut bytes = bytes.to_vec();
    let kept = Decoder::new().decode(&mut bytes)?;
    bytes.truncate(kept);
    Ok(bytes)
}

#[test]
fn payloads_come_out_in_order_whatever_lies_between_them() {
    let mut decoder = Decoder::new();
    let mut bytes = [
        frame(FIN | BINARY, b"one"),
        frame(BINARY, b"two "),
        frame(FIN | PING, b"are you there?"),
        frame(CONTINUATION, b""),
        frame(FIN | CONTINUATION, &[b'x'; 70_000]),
        frame(FIN | PONG, b""),
        frame(FIN | BINARY, &[b'y'; 200]),
    ]
    .concat();
    let kept = decoder.decode(&mut bytes).unwrap();
    let expected = [b"onetwo ".to_vec(), vec![b'x'; 70_000], vec![b'y'; 200]].concat();
    assert!(bytes[..kept] == expected);
    assert_eq!(decoder.ping.unwrap().bytes(), b"are you there?");
    assert!(decoder.close.is_none());
}

#[test]
fn nothing_is_read_after_a_close() {
    let mut decoder = Decoder::new();
    let mut bytes = [
        frame(FIN | BINARY, b"last"),
        frame(FIN | CLOSE, &1000u16.to_be_bytes()),
        frame(FIN | BINARY, b"more"),
    ]
    .concat();
    assert_eq!(decoder.decode(&mut bytes), Ok(4));
    assert_eq!(decoder.close.unwrap().bytes(), 1000u16.to_be_bytes());
}

#[test]
fn what_breaks_the_rules_is_told_with_its_code() {
    let code = |bytes: Vec<u8>| decode(&bytes).unwrap_err().code;
    assert_eq!(code(frame(FIN | TEXT, b"hello")), 1003);
    assert_eq!(code(frame(TEXT, b"")), 1003);
    assert_eq!(code(frame(FIN | 0x40 | BINARY, b"")), 1002);
    assert_eq!(code(frame(FIN | 3, b"")), 1002);
    assert_eq!(code(frame(FIN | 11, b"")), 1002);
    assert_eq!(code(frame(FIN | CONTINUATION, b"")), 1002);
    assert_eq!(code([frame(BINARY, b""), frame(FIN | BINARY, b"")].concat()), 1002);
    assert_eq!(code(frame(PING, b"")), 1002);
    assert_eq!(code(frame(FIN | CLOSE, b"x")), 1002);
    assert_eq!(code(frame(FIN | PING, &[0; 126])), 1002);
    // No mask; lengths that could be shorter, and one beyond all.
    assert_eq!(code(vec![FIN | BINARY, 1, b'x']), 1002);
    assert_eq!(code(vec![FIN | BINARY, MASKED | 126, 0, 125, 0, 0, 0, 0]), 1002);
    assert_eq!(
        code(vec![FIN | BINARY, MASKED | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]),
        1002
    );
    assert_eq!(code([&[FIN | BINARY, MASKED | 127][..], &[0xff; 12]].concat()), 1002);
}

#[test]
fn the_newest_ping_is_the_one_to_answer() {
    let mut decoder = Decoder::new();
    let mut bytes = [frame(FIN | PING, b"first"), frame(FIN | PING, b"2")].concat();
    assert_eq!(decoder.decode(&mut bytes), Ok(0));
    let mut pong = Vec::new();
    write_pong(&decoder.ping.take().unwrap(), &mut pong);
    assert_eq!(pong, [FIN | PONG, 1, b'2']);
}

proptest! {
    #[test]
    fn it_does_not_matter_where_the_reads_end(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
        cuts in prop::collection::vec(1usize..400, 1..20),
    ) {
        let bytes: Vec<u8> =
            payloads.iter().flat_map(|payload| frame(FIN | BINARY, payload)).collect();
        let mut decoder = Decoder::new();
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            let mut now = now.to_vec();
            let kept = decoder.decode(&mut now).unwrap();
            found.extend_from_slice(&now[..kept]);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(found, payloads.concat());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
        let mut decoder = Decoder::new();
        let (mut first, mut second) = (bytes.clone(), bytes.get(cut..).unwrap_or_default().to_vec());
        if decoder.decode(&mut first).is_ok() {
            let _ = decoder.decode(&mut second);
        }
    }
}
