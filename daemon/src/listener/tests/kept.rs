//! Sessions that are to be on disk, on a disk that hangs or fails.

use super::broker::{Broker, Client, connect_with, subscribe, until};
use super::disk::Sync;

const FOR_A_MINUTE: [u8; 5] = [0x11, 0, 0, 0, 60];

/// A CONNECT that goes on with a session, or begins one.
fn hello() -> Vec<u8> {
    connect_with(5, "c", 0, &FOR_A_MINUTE, &[])
}

/// Connected; whether there was a session.
async fn connected(broker: &Broker) -> (Client, bool) {
    let mut client = broker.dial().await;
    let connack = client.ask(&hello()).await;
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    (client, connack[2] == 1)
}

#[tokio::test]
async fn what_says_that_a_session_is_kept_waits_for_a_disk_that_hangs() {
    let broker = Broker::start().await;
    let mut other = broker.client_5("other").await;
    broker.disk.set(Sync::Hangs);
    let mut client = broker.dial().await;
    client.send(&hello()).await;
    until(|| broker.metrics.sessions.get() == 1).await;
    other.expect_quiet().await;
    assert_eq!(broker.metrics.connects.get(), 1, "only the other one is let in");
    broker.disk.set(Sync::Works);
    let connack = client.packet().await;
    assert_eq!((connack[0], connack[3]), (0x20, 0));

    broker.disk.set(Sync::Hangs);
    client.send(&subscribe(5, 7, "a", 1)).await;
    client.expect_quiet().await;
    broker.disk.set(Sync::Works);
    assert_eq!(client.packet().await, [0x90, 4, 0, 7, 0, 1]);
    broker.stop().await;
}

#[tokio::test]
async fn a_session_that_a_failing_disk_does_not_take_is_refused_and_leaves_nothing() {
    let broker = Broker::start().await;
    broker.disk.set(Sync::Fails);
    let mut client = broker.dial().await;
    let connack = client.ask(&hello()).await;
    assert_eq!((connack[0], connack[3]), (0x20, 0x88));
    until(|| broker.metrics.sessions.get() == 0).await;
    // One that ends with its connection needs no disk.
    let mut clean = broker.client_5("clean").await;
    clean.expect_quiet().await;
    broker.disk.set(Sync::Works);
    let mut refused = 0;
    let present = loop {
        let mut client = broker.dial().await;
        let connack = client.ask(&hello()).await;
        match connack[3] {
            0 => break connack[2] == 1,
            reason => assert_eq!(reason, 0x88, "the log tries again by and by"),
        }
        refused += 1;
        assert!(refused < 10_000);
    };
    assert!(!present);
    broker.stop().await;
}

#[tokio::test]
async fn a_subscription_that_a_failing_disk_does_not_take_ends_the_connection() {
    let broker = Broker::start().await;
    let (mut client, present) = connected(&broker).await;
    assert!(!present);
    broker.disk.set(Sync::Fails);
    let answer = client.ask(&subscribe(5, 7, "a", 1)).await;
    assert_eq!(answer, [0xe0, 1, 0x80], "and no SUBACK");
    broker.disk.set(Sync::Works);
    broker.stop().await;
}
