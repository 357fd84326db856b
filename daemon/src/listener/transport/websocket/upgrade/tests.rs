use super::*;

/// What a browser sends, with `change` made to it.
fn request(change: impl Fn(String) -> String) -> String {
    change(
        "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1:8083\r\nUpgrade: websocket\r\n\
         Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\nSec-WebSocket-Version: 13\r\n\
         Origin: http://127.0.0.1:3000\r\n\r\n"
            .to_owned(),
    )
}

fn refused(change: impl Fn(String) -> String) -> Refused {
    answer(request(change).as_bytes(), &[]).unwrap_err()
}

#[test]
fn a_browser_is_answered_as_the_rfc_shows() {
    let response = answer(request(|same| same).as_bytes(), &[]).unwrap();
    assert!(response.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{response}");
    // RFC 6455, section 1.3.
    assert!(
        response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{response}"
    );
    assert!(response.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\n"));
}

#[test]
fn what_is_no_request_for_a_websocket_is_told_why() {
    assert_eq!(refused(|r| r.replace("GET", "POST")), Refused::NotWebSocket);
    assert_eq!(refused(|r| r.replace("HTTP/1.1", "HTTP/1.0")), Refused::NotWebSocket);
    assert_eq!(refused(|r| r.replace("Upgrade: websocket\r\n", "")), Refused::NotWebSocket);
    assert_eq!(refused(|r| r.replace("keep-alive, Upgrade", "close")), Refused::NotWebSocket);
    assert_eq!(refused(|r| r.replace("Version: 13", "Version: 8")), Refused::NotWebSocket);
    assert_eq!(refused(|r| r.replace("mqttv3.1, mqtt", "chat")), Refused::Subprotocol);
    assert_eq!(refused(|r| r.replace("\r\n\r\n", "\r\nno header\r\n\r\n")), Refused::NotHttp);
    let many = "X: y\r\n".repeat(MAX_HEADERS);
    assert_eq!(refused(|r| r.replace("Host:", &format!("{many}Host:"))), Refused::TooLarge);
    for change in [
        ("Host: 127.0.0.1:8083\r\n", ""),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
        ("dGhlIHNhbXBsZSBub25jZQ==", "not base64!"),
        ("Host:", "Host: other\r\nHost:"),
    ] {
        let why = refused(|r| r.replace(change.0, change.1));
        assert!(matches!(why, Refused::Malformed(_)), "{change:?}: {why}");
    }
}

#[test]
fn a_page_of_somebody_else_may_not_connect() {
    let may = |origin, host, origins: &[&str]| {
        let origins: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
        may_connect(origin, host, &origins)
    };
    assert!(may("http://127.0.0.1:3000", "127.0.0.1:8083", &[]));
    assert!(may("https://[fd00::7]", "[fd00::7]:8083", &[]));
    assert!(may("http://localhost:3000", "LOCALHOST:8083", &[]));
    assert!(may("http://localhost:3000", "127.0.0.1:8083", &[]));
    assert!(!may("http://192.0.2.1:3000", "127.0.0.1:8083", &[]));
    // Another place; a name that its owner can lead to this machine; a page that hides where it is from.
    assert!(!may("https://example.com", "127.0.0.1:8083", &[]));
    assert!(!may("http://127.0.0.1.example.com", "127.0.0.1:8083", &[]));
    assert!(!may("http://example.com:8083", "example.com:8083", &[]));
    assert!(!may("null", "127.0.0.1:8083", &[]));
    assert!(may("https://scada.example.com", "edge:8083", &["https://scada.example.com"]));
    assert!(!may("http://scada.example.com", "edge:8083", &["https://scada.example.com"]));
    assert!(may("null", "edge:8083", &["*"]));
    let why = answer(request(|r| r.replace("http://127.0.0.1", "http://evil")).as_bytes(), &[]);
    assert_eq!(why, Err(Refused::Origin("http://evil:3000".into())));
    let none = request(|r| r.replace("Origin: http://127.0.0.1:3000\r\n", ""));
    assert!(answer(none.as_bytes(), &[]).is_ok(), "a client that is no browser sends none");
}

#[tokio::test]
async fn a_request_may_come_in_pieces_and_with_more_behind_it() {
    let (mut client, mut server) = tokio::io::duplex(7);
    let mut sent = request(|same| same).into_bytes();
    sent.extend_from_slice(b"early");
    let client = async {
        client.write_all(&sent).await.unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            client.read_buf(&mut response).await.unwrap();
        }
        client
    };
    let (upgraded, mut client) = tokio::join!(upgrade(&mut server, &[]), client);
    let mut early = upgraded.unwrap().unwrap();
    // What did not come in the same read comes in the next.
    client.shutdown().await.unwrap();
    server.read_to_end(&mut early).await.unwrap();
    assert_eq!(early, b"early");
}

#[tokio::test]
async fn a_request_without_end_is_bounded_and_mqtt_is_recognized() {
    let read = async |bytes: Vec<u8>| {
        let (mut client, mut server) = tokio::io::duplex(64 * 1024);
        client.write_all(&bytes).await.unwrap();
        upgrade(&mut server, &[]).await.unwrap()
    };
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(MAX_REQUEST));
    assert_eq!(read(endless.into_bytes()).await, Err(Refused::TooLarge));
    assert_eq!(read(vec![0x10, 12]).await, Err(Refused::NotHttp));
}
