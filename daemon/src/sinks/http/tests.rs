use std::collections::BTreeMap;

use tidegate_config::Span;

use super::*;

fn config(url: &str) -> Http {
    Http {
        url: url.into(),
        mode: Mode::Batch,
        compression: Compression::None,
        timeout: Span::seconds(5),
        bearer_token_file: None,
        headers: BTreeMap::new(),
    }
}

async fn retried(url: &str, timeout: Span) -> super::super::Failure {
    let sink = HttpSink::new(&Http { timeout, ..config(url) }, 4).unwrap();
    let message = sink.prepare(Bytes::from_static(b"[]")).await;
    match sink.send(&message).await {
        Outcome::Retry(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bad_setting_is_named() {
    let error = |config: &Http| HttpSink::new(config, 4).unwrap_err().to_string();
    assert_eq!(error(&config("bus/in")), "url \"bus/in\": relative URL without a base");
    assert_eq!(error(&config("ftp://bus")), "url \"ftp://bus\": expected http:// or https://");
    let mut bad = config("http://localhost");
    bad.headers.insert("x-key".into(), "a\nb".into());
    assert_eq!(
        error(&bad),
        "headers: \"x-key\" has a name or value that an HTTP request cannot carry"
    );
}

#[test]
fn a_token_is_read_from_the_first_line_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let with_token = Http {
        bearer_token_file: Some(file.clone()),
        ..config("http://u:pass@localhost/in?key=k")
    };
    let missing = HttpSink::new(&with_token, 4).unwrap_err().to_string();
    assert!(missing.starts_with(&format!("bearer-token-file {}: ", file.display())), "{missing}");
    std::fs::write(&file, "\nsecond").unwrap();
    assert!(HttpSink::new(&with_token, 4).unwrap_err().to_string().contains("first line is empty"));
    std::fs::write(&file, "s3cret \nsecond\n").unwrap();
    let sink = HttpSink::new(&with_token, 4).unwrap();
    assert_eq!(sink.token().unwrap().unwrap(), "Bearer s3cret");
    let shown = format!("{sink:?} {:?} {}", sink.token(), sink.address());
    assert!(
        !shown.contains("s3cret") && !shown.contains("pass") && !shown.contains("key=k"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_refused_connection_is_named_as_that() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let failure = retried(&format!("http://{address}/in"), Span::seconds(5)).await;
    assert_eq!(failure.reason, "refused");
    assert!(failure.message.starts_with(&format!("http://{address}/in: ")), "{}", failure.message);
    assert!(failure.message.contains("Connection refused"), "{}", failure.message);
}

#[tokio::test]
async fn a_silent_receiver_is_a_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let failure = retried(&format!("http://{address}/"), Span::milliseconds(50)).await;
    assert_eq!(failure.reason, "timeout", "{}", failure.message);
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_named_as_that() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("http://{address}/");
    let (failure, accepted) = tokio::join!(retried(&url, Span::seconds(5)), async {
        drop(listener.accept().await.unwrap());
    });
    let () = accepted;
    assert_eq!(failure.reason, "broken-off", "{}", failure.message);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_dns() {
    // A label of more than 63 characters is refused before any server is asked.
    let url = format!("http://{}.invalid/", "x".repeat(64));
    let failure = retried(&url, Span::seconds(5)).await;
    assert_eq!(failure.reason, "dns", "{}", failure.message);
}

#[tokio::test]
async fn a_receiver_that_does_not_speak_tls_is_tls() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("https://{address}/");
    let (failure, ()) = tokio::join!(retried(&url, Span::seconds(5)), async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 1024];
        let _ = stream.read(&mut hello).await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    assert_eq!(failure.reason, "tls", "{}", failure.message);
}
