//! Sessions that outlast their connections, and the daemon.

use std::time::Duration;

use tidegate_config::{Limits, Span};

use super::broker::{Broker, Client, connect_with, packet, publish, publish_with, text};

const RETAIN: u8 = 1;
const QOS_1: u8 = 2;
const QOS_2: u8 = 4;
const DUP: u8 = 8;
/// Session expiry interval: 60 seconds.
const MINUTE: [u8; 5] = [0x11, 0, 0, 0, 60];

/// CONNECT of an MQTT 3.1.1 client with clean session 0; whether its session was present.
async fn come_back(broker: &Broker, id: &str) -> (Client, bool) {
    let mut client = broker.dial().await;
    let connack = client.ask(&connect_with(4, id, 0, &[], &[])).await;
    assert_eq!((&connack[..2], connack[3]), (&[0x20, 2][..], 0), "{connack:?}");
    (client, connack[2] == 1)
}

/// CONNECT of an MQTT 5 client: session present, and the reason code.
async fn connect_5(broker: &Broker, id: &str, flags: u8, properties: &[u8]) -> (Client, u8, u8) {
    let mut client = broker.dial().await;
    let connack = client.ask(&connect_with(5, id, flags, properties, &[])).await;
    (client, connack[2], connack[3])
}

/// CONNECT of an MQTT 5 client with a session of a minute, and a will on `gone` with this delay.
async fn with_will(broker: &Broker, id: &str, delay: u8, flags: u8) -> Client {
    let rest = [&[5, 0x18, 0, 0, 0, delay][..], &text("gone"), &text("x")].concat();
    let mut client = broker.dial().await;
    let connack = client.ask(&connect_with(5, id, flags | 4 | 8, &MINUTE, &rest)).await;
    assert_eq!(connack[3], 0, "{connack:?}");
    client
}

#[tokio::test]
async fn what_came_while_the_client_was_away_comes_in_order() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    let (mut client, present) = come_back(&broker, "c").await;
    assert!(!present);
    client.subscribe(4, "a/#", 2).await;
    client.ask(&[0xe0, 0]).await;
    publisher.send(&publish(4, 0, 0, "a/0", b"lost")).await;
    publisher.ask(&publish(4, QOS_1, 1, "a/1", b"one")).await;
    publisher.ask(&publish(4, QOS_1, 1, "b", b"not wanted")).await;
    publisher.ask(&publish(4, QOS_2, 2, "a/2", b"two")).await;
    let (mut client, present) = come_back(&broker, "c").await;
    assert!(present);
    assert_eq!(client.packet().await, publish(4, QOS_1, 1, "a/1", b"one"));
    assert_eq!(client.packet().await, publish(4, QOS_2, 2, "a/2", b"two"));
    publisher.ask(&publish(4, QOS_1, 1, "a/3", b"live")).await;
    assert_eq!(client.packet().await, publish(4, QOS_1, 3, "a/3", b"live"));
    client.expect_quiet().await;
    broker.stop().await;
}

/// A client that takes deliveries and answers them differently, and goes away in between; the daemon
/// restarts as often as it says.
async fn handshakes_go_on(restarts: bool) {
    let mut broker = Broker::start().await;
    let (mut client, _) = come_back(&broker, "c").await;
    client.subscribe(4, "#", 2).await;
    for (qos, id) in [(QOS_1, 1), (QOS_2, 2), (QOS_1, 3), (QOS_2, 4)] {
        let mut publisher = broker.client_4("p").await;
        publisher.ask(&publish(4, qos, id, "t", &[id as u8])).await;
        assert_eq!(client.packet().await, publish(4, qos, id, "t", &[id as u8]));
    }
    // 1 is done, 2 is half done, 3 and 4 are not.
    client.send(&[0x40, 2, 0, 1]).await;
    assert_eq!(client.ask(&[0x50, 2, 0, 2]).await, [0x62, 2, 0, 2]);
    for _ in 0..2 {
        drop(client);
        if restarts {
            broker = broker.restart().await;
        }
        let present;
        (client, present) = come_back(&broker, "c").await;
        assert!(present);
        assert_eq!(client.packet().await, [0x62, 2, 0, 2]);
        assert_eq!(client.packet().await, publish(4, QOS_1 | DUP, 3, "t", &[3]));
        assert_eq!(client.packet().await, publish(4, QOS_2 | DUP, 4, "t", &[4]));
        client.expect_quiet().await;
    }
    client.send(&[0x70, 2, 0, 2]).await;
    client.send(&[0x40, 2, 0, 3]).await;
    assert_eq!(client.ask(&[0x50, 2, 0, 4]).await, [0x62, 2, 0, 4]);
    client.send(&[0x70, 2, 0, 4]).await;
    client.expect_quiet().await;
    drop(client);
    if restarts {
        broker = broker.restart().await;
    }
    let (mut client, present) = come_back(&broker, "c").await;
    assert!(present);
    client.expect_quiet().await;
    let mut publisher = broker.client_4("p").await;
    publisher.ask(&publish(4, QOS_1, 1, "t", b"on")).await;
    assert_eq!(client.packet().await, publish(4, QOS_1, 5, "t", b"on"));
    broker.stop().await;
}

#[tokio::test]
async fn handshakes_go_on_where_they_were_after_a_reconnect() {
    handshakes_go_on(false).await;
}

#[tokio::test]
async fn handshakes_go_on_where_they_were_after_a_restart() {
    handshakes_go_on(true).await;
}

#[tokio::test]
async fn a_qos_2_publish_that_comes_again_is_stored_once() {
    let mut broker = Broker::start().await;
    let (mut client, _) = come_back(&broker, "c").await;
    let message = |dup| publish(4, QOS_2 | dup, 7, "t", b"once");
    assert_eq!(client.ask(&message(0)).await, [0x50, 2, 0, 7]);
    for restarts in [false, true] {
        drop(client);
        if restarts {
            broker = broker.restart().await;
        }
        (client, _) = come_back(&broker, "c").await;
        assert_eq!(client.ask(&message(DUP)).await, [0x50, 2, 0, 7]);
        assert_eq!(broker.log.committed(), 1);
    }
    assert_eq!(client.ask(&[0x62, 2, 0, 7]).await, [0x70, 2, 0, 7]);
    let mut broker = broker.restart().await;
    for (committed, restarts) in [(2, false), (3, true)] {
        if restarts {
            broker = broker.restart().await;
        }
        (client, _) = come_back(&broker, "c").await;
        // The id is free: this is a new event.
        assert_eq!(client.ask(&message(0)).await, [0x50, 2, 0, 7]);
        assert_eq!(broker.log.committed(), committed);
        assert_eq!(client.ask(&[0x62, 2, 0, 7]).await, [0x70, 2, 0, 7]);
    }
    broker.stop().await;
}

#[tokio::test]
async fn subscribing_and_unsubscribing_outlive_the_daemon() {
    let broker = Broker::start().await;
    let (mut client, _, _) = connect_5(&broker, "c", 0, &MINUTE).await;
    client.subscribe(5, "a", 1).await;
    client.subscribe(5, "b", 1).await;
    let unsubscribe = [&[0, 3, 0][..], &text("a")].concat();
    assert_eq!(client.ask(&packet(0xa2, &unsubscribe)).await, [0xb0, 4, 0, 3, 0, 0]);
    let broker = broker.restart().await;
    let mut publisher = broker.client_4("p").await;
    publisher.ask(&publish(4, QOS_1, 1, "a", b"x")).await;
    publisher.ask(&publish(4, QOS_1, 1, "b", b"y")).await;
    let (mut client, present, _) = connect_5(&broker, "c", 0, &MINUTE).await;
    assert_eq!(present, 1);
    assert_eq!(client.packet().await, publish(5, QOS_1, 1, "b", b"y"));
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_clean_start_leaves_nothing_of_the_old_session() {
    let broker = Broker::start().await;
    let (mut client, _) = come_back(&broker, "c").await;
    client.subscribe(4, "#", 1).await;
    drop(client);
    let mut client = broker.client_4("c").await;
    client.ask(&publish(4, QOS_1, 1, "a", b"x")).await;
    client.expect_quiet().await;
    drop(client);
    let (_, present) = come_back(&broker, "c").await;
    assert!(!present);
    let broker = broker.restart().await;
    let (client, present) = come_back(&broker, "c").await;
    assert!(present, "the new one is kept");
    drop(client);
    broker.client_4("c").await;
    let broker = broker.restart().await;
    assert!(!come_back(&broker, "c").await.1);
    broker.stop().await;
}

#[tokio::test]
async fn disconnect_changes_how_long_the_session_is_kept() {
    let broker = Broker::start().await;
    let disconnect = |expiry: u8| [0xe0, 7, 0, 5, 0x11, 0, 0, 0, expiry];
    let (mut client, _, _) = connect_5(&broker, "c", 0, &MINUTE).await;
    assert!(client.ask(&disconnect(0)).await.is_empty());
    let (mut client, present, _) = connect_5(&broker, "c", 0, &[0x11, 0, 0, 0, 1]).await;
    assert_eq!(present, 0, "it ended with the connection");
    assert!(client.ask(&disconnect(60)).await.is_empty());
    // Resumed first; that this one asks for none counts at its end.
    let (mut client, present, _) = connect_5(&broker, "c", 0, &[]).await;
    assert_eq!(present, 1);
    assert_eq!(client.ask(&disconnect(60)).await, [0xe0, 1, 0x82]);
    drop(client);
    let (_, present, _) = connect_5(&broker, "c", 0, &[]).await;
    assert_eq!(present, 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_session_expires() {
    let broker = Broker::start().await;
    let (mut client, _, _) = connect_5(&broker, "c", 0, &[0x11, 0, 0, 0, 1]).await;
    client.ask(&[0xe0, 0]).await;
    assert_eq!(broker.metrics.sessions.get(), 1);
    while broker.metrics.sessions_expired.get() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(broker.metrics.sessions.get(), 0);
    let (_, present, _) = connect_5(&broker, "c", 0, &MINUTE).await;
    assert_eq!(present, 0);
    broker.stop().await;
}

#[tokio::test]
async fn the_bounds_of_sessions_are_kept_and_told() {
    let limits =
        Limits { max_sessions: 1, max_session_expiry: Span::seconds(9), ..Limits::default() };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut client = broker.dial().await;
    let connack = client.ask(&connect_with(5, "c", 0, &MINUTE, &[])).await;
    assert!(connack.windows(5).any(|window| window == [0x11, 0, 0, 0, 9]), "{connack:?}");
    assert_eq!(connect_5(&broker, "d", 0, &MINUTE).await.2, 0x97);
    let mut four = broker.dial().await;
    assert_eq!(four.ask(&connect_with(4, "e", 0, &[], &[])).await, [0x20, 2, 0, 3]);
    assert_eq!(broker.metrics.sessions_refused.get(), 2);
    broker.client_4("clean").await;
    assert_eq!(connect_5(&broker, "c", 0, &MINUTE).await.1, 1, "its own does not count again");
    broker.stop().await;
}

#[tokio::test]
async fn the_newer_connection_takes_the_session_over() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    let (mut old, _, _) = connect_5(&broker, "c", 0, &MINUTE).await;
    old.subscribe(5, "#", 1).await;
    publisher.ask(&publish(4, QOS_1, 1, "a", b"x")).await;
    assert_eq!(old.packet().await, publish(5, QOS_1, 1, "a", b"x"));
    let (mut new, present, _) = connect_5(&broker, "c", 0, &MINUTE).await;
    assert_eq!(present, 1);
    assert_eq!(old.packet().await, [0xe0, 1, 0x8e]);
    assert_eq!(new.packet().await, publish(5, QOS_1 | DUP, 1, "a", b"x"));
    new.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_will_waits_for_its_delay_and_not_for_a_client_that_is_back() {
    let broker = Broker::start().await;
    let mut watcher = broker.client_5("w").await;
    watcher.subscribe(5, "#", 1).await;
    let gone = |id| publish(5, QOS_1, id, "gone", b"x");
    drop(with_will(&broker, "c", 60, 0).await);
    let client = with_will(&broker, "c", 1, 0).await;
    watcher.expect_quiet().await;
    drop(client);
    let since = std::time::Instant::now();
    assert_eq!(watcher.packet().await, gone(1));
    assert!(since.elapsed() >= Duration::from_millis(900));
    // A clean start ends the session, and so the delay.
    drop(with_will(&broker, "c", 60, 0).await);
    broker.client_5("c").await;
    assert_eq!(watcher.packet().await, gone(2));
    broker.stop().await;
}

#[tokio::test]
async fn a_will_and_the_time_of_a_session_go_on_across_a_restart() {
    let broker = Broker::start().await;
    let (mut watcher, _, _) = connect_5(&broker, "w", 0, &MINUTE).await;
    watcher.subscribe(5, "#", 1).await;
    // Away: it would get the will before the restart, were that late.
    drop(watcher);
    let (mut short, _, _) = connect_5(&broker, "short", 0, &[0x11, 0, 0, 0, 3]).await;
    short.ask(&[0xe0, 0]).await;
    let mut client = with_will(&broker, "c", 1, 0).await;
    client.ask(&[0xe0, 1, 4]).await;
    let broker = broker.restart().await;
    let (mut watcher, _, _) = connect_5(&broker, "w", 0, &MINUTE).await;
    assert_eq!(watcher.packet().await, publish(5, QOS_1, 1, "gone", b"x"));
    while broker.metrics.sessions_expired.get() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(connect_5(&broker, "short", 0, &MINUTE).await.1, 0);
    broker.stop().await;
}

#[tokio::test]
async fn retained_messages_that_were_not_sent_or_not_acknowledged_come_again() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    for (id, topic) in [(1, "a"), (2, "b"), (3, "c")] {
        publisher.ask(&publish(4, QOS_1 | RETAIN, id, topic, topic.as_bytes())).await;
    }
    let one_at_a_time = [&MINUTE[..], &[0x21, 0, 1]].concat();
    let (mut client, _, _) = connect_5(&broker, "c", 0, &one_at_a_time).await;
    client.subscribe(5, "#", 1).await;
    let message =
        |flags, id, topic: &str| publish(5, QOS_1 | RETAIN | flags, id, topic, topic.as_bytes());
    assert_eq!(client.packet().await, message(0, 1, "a"));
    let broker = broker.restart().await;
    let (mut client, present, _) = connect_5(&broker, "c", 0, &MINUTE).await;
    assert_eq!(present, 1);
    assert_eq!(client.packet().await, message(DUP, 1, "a"));
    assert_eq!(client.packet().await, message(0, 2, "b"));
    assert_eq!(client.packet().await, message(0, 3, "c"));
    for id in 1..=3 {
        client.send(&[0x40, 2, 0, id]).await;
    }
    client.expect_quiet().await;
    drop(client);
    let (mut client, ..) = connect_5(&broker, "c", 0, &MINUTE).await;
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_is_sent_again_stays_within_the_receive_maximum() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    let (mut client, _, _) = connect_5(&broker, "c", 0, &MINUTE).await;
    client.subscribe(5, "#", 1).await;
    for id in 1..=3 {
        publisher.ask(&publish(4, QOS_1, id, "t", &[id as u8])).await;
        client.packet().await;
    }
    drop(client);
    publisher.ask(&publish(4, QOS_1, 4, "t", &[4])).await;
    let one_at_a_time = [&MINUTE[..], &[0x21, 0, 1]].concat();
    let (mut client, ..) = connect_5(&broker, "c", 0, &one_at_a_time).await;
    for id in 1..=4 {
        let dup = if id < 4 { DUP } else { 0 };
        assert_eq!(client.packet().await, publish(5, QOS_1 | dup, id, "t", &[id as u8]));
        client.expect_quiet().await;
        client.send(&[0x40, 2, 0, id as u8]).await;
    }
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_message_whose_time_is_over_when_the_client_is_back_does_not_come() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_5("p").await;
    let (mut client, _, _) = connect_5(&broker, "c", 0, &MINUTE).await;
    client.subscribe(5, "#", 2).await;
    drop(client);
    let expiry = |seconds: u8| [0x02, 0, 0, 0, seconds];
    for (id, seconds) in [(1, 1), (2, 100)] {
        publisher.ask(&publish_with(5, QOS_2, id, "t", &expiry(seconds), b"x")).await;
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (mut client, ..) = connect_5(&broker, "c", 0, &MINUTE).await;
    let delivered = client.packet().await;
    let left = delivered[delivered.len() - 2];
    assert_eq!(delivered, publish_with(5, QOS_2, 1, "t", &expiry(left), b"x"));
    assert!((90..100).contains(&left));
    client.expect_quiet().await;
    broker.stop().await;
}
