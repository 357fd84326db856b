use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;

/// Masked with zeroes: the payload as it is.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    bytes.extend_from_slice(payload);
    bytes
}

fn pair(size: usize) -> (DuplexStream, WebSocket<DuplexStream>) {
    let (client, server) = duplex(size);
    (client, WebSocket::new(server, Vec::new()))
}

#[tokio::test]
async fn what_was_read_with_the_request_comes_first() {
    let (mut client, server) = duplex(1024);
    let early = masked(0x82, b"early");
    let (now, later) = early.split_at(8);
    let mut server = WebSocket::new(server, now.to_vec());
    client.write_all(later).await.unwrap();
    client.write_all(&masked(0x82, b" late")).await.unwrap();
    let mut read = [0; 10];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"early late");
}

#[tokio::test]
async fn a_ping_is_answered_between_messages_and_is_no_data() {
    let (mut client, mut server) = pair(1024);
    client.write_all(&masked(0x89, b"hey")).await.unwrap();
    client.write_all(&masked(0x82, b"x")).await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    let mut pong = [0; 5];
    client.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"\x8a\x03hey");
}

#[tokio::test]
async fn a_client_that_pings_and_never_reads_costs_one_pong() {
    let (mut client, mut server) = pair(64);
    for _ in 0..10_000 {
        client.write_all(&masked(0x89, &[7; 50])).await.unwrap();
        let mut nothing = [0; 16];
        let read = timeout(Duration::ZERO, server.read(&mut nothing)).await;
        assert!(read.is_err(), "{read:?}");
    }
    assert!(server.output.capacity() <= SMALL, "{}", server.output.capacity());
}

#[tokio::test]
async fn large_output_goes_in_messages_and_leaves_no_buffer_behind() {
    let (mut client, mut server) = pair(1000);
    let sent = vec![b'z'; 40_000];
    let write = async {
        server.write_all(&sent).await.unwrap();
        server.flush().await.unwrap();
    };
    let read = async {
        let mut payload = Vec::new();
        while payload.len() < sent.len() {
            assert_eq!(client.read_u16().await.unwrap(), 0x82 << 8 | 126);
            let length = usize::from(client.read_u16().await.unwrap());
            let at = payload.len();
            payload.resize(at + length, 0);
            client.read_exact(&mut payload[at..]).await.unwrap();
        }
        payload
    };
    let ((), payload) = tokio::join!(write, read);
    assert!(payload == sent);
    assert!(server.output.capacity() <= SMALL, "{}", server.output.capacity());
}

#[tokio::test]
async fn a_close_is_the_end_and_is_answered() {
    let (mut client, mut server) = pair(1024);
    client.write_all(&masked(0x82, b"last")).await.unwrap();
    client.write_all(&masked(0x88, &1001u16.to_be_bytes())).await.unwrap();
    let mut all = Vec::new();
    server.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"last");
    server.shutdown().await.unwrap();
    assert!(server.write_all(b"more").await.is_err());
    let mut close = Vec::new();
    client.read_to_end(&mut close).await.unwrap();
    assert_eq!(close, [0x88, 2, 0x03, 0xe8]);
}

#[tokio::test]
async fn text_is_an_error_and_the_close_says_which() {
    let (mut client, mut server) = pair(1024);
    client.write_all(&masked(0x81, b"hello")).await.unwrap();
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.to_string(), "WebSocket: text frame; MQTT is binary");
    server.shutdown().await.unwrap();
    let mut close = Vec::new();
    client.read_to_end(&mut close).await.unwrap();
    assert_eq!(close, [0x88, 2, 0x03, 0xeb]);
}
