//! Sentences of MQTT that no other test is about.

use std::time::Duration;

use super::broker::{
    Broker, Client, connect, connect_with, packet, publish, publish_with, subscribe, text,
};

const RETAIN: u8 = 1;
const QOS_1: u8 = 2;
const QOS_2: u8 = 4;
const DUP: u8 = 8;
/// Session expiry interval: 60 seconds.
const MINUTE: [u8; 5] = [0x11, 0, 0, 0, 60];
/// Message expiry interval: 1 second.
const A_SECOND: [u8; 5] = [0x02, 0, 0, 0, 1];

/// An MQTT 5 client whose session lasts a minute.
async fn kept(broker: &Broker) -> Client {
    let mut client = broker.dial().await;
    let connack = client.ask(&connect_with(5, "c", 0, &MINUTE, &[])).await;
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:?}");
    client
}

#[tokio::test]
async fn a_will_is_retained_if_it_says_so() {
    let broker = Broker::start().await;
    let mut watcher = broker.client_4("watcher").await;
    watcher.subscribe(4, "#", 0).await;
    // With everything that a CONNECT may hold, in its order.
    for (version, id, flags) in [(4, "a", 0xe6), (4, "b", 0xc6), (5, "c", 0xe6), (5, "d", 0xc6)] {
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        let login = [text("user"), text("password")].concat();
        let rest = [properties, &text(id), &text("gone"), &login].concat();
        let mut client = broker.dial().await;
        assert_eq!(client.ask(&connect_with(version, id, flags, &[], &rest)).await[0], 0x20);
        drop(client);
        assert_eq!(watcher.packet().await, publish(4, 0, 0, id, b"gone"));
        // Once: the next connection has none.
        drop(broker.client_4(id).await);
    }
    let mut late = broker.client_4("late").await;
    late.subscribe(4, "#", 0).await;
    for id in ["a", "c"] {
        assert_eq!(late.packet().await, publish(4, RETAIN, 0, id, b"gone"));
    }
    late.expect_quiet().await;
    watcher.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn client_ids_of_letters_and_digits_are_let_in_and_empty_ones_are_not_shared() {
    let broker = Broker::start().await;
    for version in [4, 5] {
        for id in ["0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ", "x"] {
            let connack = broker.dial().await.ask(&connect(version, id)).await;
            assert_eq!((connack[0], &connack[2..4]), (0x20, &[0, 0][..]), "{id}");
        }
        let (mut one, mut two) = (broker.dial().await, broker.dial().await);
        for client in [&mut one, &mut two] {
            assert_eq!(client.ask(&connect(version, "")).await[2..4], [0, 0]);
        }
        one.expect_quiet().await;
        two.expect_quiet().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_connack_says_nothing_that_was_not_asked_for() {
    let broker = Broker::start().await;
    // Request response information 0, request problem information 0.
    let mut client = broker.dial().await;
    let connack = client.ask(&connect_with(5, "c", 2, &[0x19, 0, 0x17, 0], &[])).await;
    let mut rest = &connack[5..];
    assert_eq!(usize::from(connack[4]), rest.len());
    while let [property, more @ ..] = rest {
        let length = match property {
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x21 | 0x22 => 2,
            0x11 | 0x27 => 4,
            other => panic!("property {other:#x}"),
        };
        rest = &more[length..];
    }
    // Nor does a refusal give its reason in words.
    assert_eq!(client.ask(&publish(5, QOS_1, 1, "$SYS/x", b"")).await, [0x40, 3, 0, 1, 0x90]);
    broker.stop().await;
}

#[tokio::test]
async fn dup_tells_of_one_hop_only_and_an_acknowledged_id_is_new() {
    let broker = Broker::start().await;
    for version in [4, 5] {
        let mut client = match version {
            4 => broker.client_4("c").await,
            _ => broker.client_5("c").await,
        };
        let mut watcher = broker.client_4("watcher").await;
        watcher.subscribe(4, "#", 1).await;
        for (id, dup) in [(1, DUP), (2, 0), (3, DUP)] {
            let event = publish(version, QOS_1 | dup, 7, "t", b"x");
            assert_eq!(client.ask(&event).await, [0x40, 2, 0, 7]);
            assert_eq!(watcher.packet().await, publish(4, QOS_1, id, "t", b"x"));
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_is_retained_is_what_was_last_retained() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    let mut watcher = broker.client_4("w").await;
    watcher.subscribe(4, "#", 0).await;
    for (flags, payload) in [(QOS_1 | RETAIN, "one"), (RETAIN, "two"), (QOS_1, "three")] {
        publisher.send(&publish(4, flags, 1, "t", payload.as_bytes())).await;
        assert_eq!(watcher.packet().await, publish(4, 0, 0, "t", payload.as_bytes()));
    }
    let mut late = broker.client_4("late").await;
    late.subscribe(4, "#", 2).await;
    assert_eq!(late.packet().await, publish(4, RETAIN, 0, "t", b"two"));
    // One without a payload goes to those who are there, and is not kept.
    publisher.send(&publish(4, RETAIN, 0, "t", b"")).await;
    assert_eq!(watcher.packet().await, publish(4, 0, 0, "t", b""));
    let mut later = broker.client_4("later").await;
    later.subscribe(4, "#", 2).await;
    later.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_subscription_is_replaced_and_ended_by_its_very_filter() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    let mut client = broker.client_4("c").await;
    for (filter, qos) in [("a/+", 2), ("a/#", 0), ("a/+", 1)] {
        assert_eq!(client.subscribe(4, filter, qos).await, qos);
    }
    let filters = [text("a/b"), text("A/+"), text("a/"), text("#")].concat();
    let unsubscribe = packet(0xa2, &[&[0, 3][..], &filters].concat());
    assert_eq!(client.ask(&unsubscribe).await, [0xb0, 2, 0, 3]);
    // The highest QoS of those that match, and one copy.
    publisher.ask(&publish(4, QOS_2, 1, "a/b", b"x")).await;
    assert_eq!(client.packet().await, publish(4, QOS_1, 1, "a/b", b"x"));
    let unsubscribe = packet(0xa2, &[&[0, 4][..], &text("a/+"), &text("a/#")].concat());
    assert_eq!(client.ask(&unsubscribe).await, [0xb0, 2, 0, 4]);
    publisher.ask(&publish(4, QOS_1, 2, "a/b", b"x")).await;
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn text_is_neither_normalised_nor_stripped() {
    let broker = Broker::start().await;
    let mut client = broker.client_4("c").await;
    for filter in ["caf\u{e9}", "\u{feff}bom", "/"] {
        client.subscribe(4, filter, 0).await;
    }
    for (topic, comes) in [
        ("cafe\u{301}", false),
        ("caf\u{e9}", true),
        ("bom", false),
        ("\u{feff}bom", true),
        ("//", false),
        ("/", true),
    ] {
        client.send(&publish(4, 0, 0, topic, b"x")).await;
        if comes {
            assert_eq!(client.packet().await, publish(4, 0, 0, topic, b"x"));
        } else {
            client.ask(&publish(4, QOS_1, 1, "other", b"")).await;
            client.expect_quiet().await;
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn every_property_goes_on_unchanged_and_in_its_order() {
    let broker = Broker::start().await;
    let user = |name, value| [&[0x26][..], &text(name), &text(value)].concat();
    // In the order in which ours are written; of the user's own the order is theirs.
    let properties = [
        &[0x01, 1, 0x03][..],
        &text("text/plain"),
        &[0x08],
        &text("answers/1"),
        &[0x09, 0, 3, 0, 0xff, 1],
        &user("b", "1"),
        &user("a", ""),
        &user("b", "0"),
    ]
    .concat();
    let mut live = broker.client_5("live").await;
    live.subscribe(5, "#", 0).await;
    // A will has them too.
    let rest = [&[properties.len() as u8][..], &properties, &text("will"), b"\0\x01x"].concat();
    let mut dying = broker.dial().await;
    dying.ask(&connect_with(5, "dying", 0x26, &[], &rest)).await;
    drop(dying);
    let event = publish_with(5, QOS_1 | RETAIN, 1, "t", &properties, b"x");
    broker.client_5("p").await.ask(&event).await;
    let delivered = [live.packet().await, live.packet().await];
    for topic in ["will", "t"] {
        let expected = publish_with(5, 0, 0, topic, &properties, b"x");
        assert!(delivered.contains(&expected), "{topic}: {delivered:02x?}");
    }
    let broker = broker.restart().await;
    let mut late = broker.client_5("late").await;
    late.subscribe(5, "t", 0).await;
    assert_eq!(late.packet().await, publish_with(5, RETAIN, 0, "t", &properties, b"x"));
    broker.stop().await;
}

#[tokio::test]
async fn acknowledgements_of_every_sort_come_in_order() {
    let broker = Broker::start().await;
    let mut client = kept(&broker).await;
    let burst: Vec<u8> = (1..=60)
        .flat_map(|id| publish(5, if id % 3 == 0 { QOS_1 } else { QOS_2 }, id, "t", b"x"))
        .collect();
    client.send(&burst).await;
    for id in 1..=60 {
        let kind = if id % 3 == 0 { 0x40 } else { 0x50 };
        assert_eq!(client.packet().await, [kind, 2, 0, id]);
    }
    let mut receiver = broker.client_5("r").await;
    receiver.send(&subscribe(5, 1, "q", 2)).await;
    receiver.packet().await;
    for id in 1..=20 {
        let mut publisher = broker.client_4("p").await;
        publisher.ask(&publish(4, QOS_2, id, "q", b"x")).await;
        assert_eq!(receiver.packet().await, publish(5, QOS_2, id, "q", b"x"));
    }
    let order = (1..=20).map(|n| n * 7 % 20 + 1);
    receiver.send(&order.clone().flat_map(|id| [0x50, 2, 0, id]).collect::<Vec<_>>()).await;
    for id in order {
        assert_eq!(receiver.packet().await, [0x62, 2, 0, id]);
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_refused_delivery_is_over() {
    let broker = Broker::start().await;
    let mut client = kept(&broker).await;
    client.subscribe(5, "#", 2).await;
    let mut publisher = broker.client_4("p").await;
    for (qos, id, refusal) in [(QOS_1, 1, 0x40), (QOS_2, 2, 0x50)] {
        publisher.ask(&publish(4, qos, id, "t", b"x")).await;
        assert_eq!(client.packet().await, publish(5, qos, id, "t", b"x"));
        client.send(&[refusal, 3, 0, id as u8, 0x80]).await;
    }
    client.expect_quiet().await;
    drop(client);
    kept(&broker).await.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn an_exchange_of_qos_2_is_finished_though_the_message_has_expired() {
    let broker = Broker::start().await;
    let mut client = kept(&broker).await;
    client.subscribe(5, "t", 2).await;
    let mut publisher = broker.client_5("p").await;
    let message = |dup| publish_with(5, QOS_2 | dup, 7, "t", &A_SECOND, b"x");
    assert_eq!(publisher.ask(&message(0)).await, [0x50, 2, 0, 7]);
    assert!(client.packet().await.ends_with(b"x"));
    drop(client);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(publisher.ask(&message(DUP)).await, [0x50, 2, 0, 7]);
    assert_eq!(publisher.ask(&[0x62, 2, 0, 7]).await, [0x70, 2, 0, 7]);
    assert_eq!(broker.log.committed(), 1);
    let mut client = kept(&broker).await;
    let again = client.packet().await;
    assert_eq!((again[0], again[again.len() - 1]), (0x30 | QOS_2 | DUP, b'x'), "{again:?}");
    assert_eq!(client.ask(&[0x50, 2, 0, 1]).await, [0x62, 2, 0, 1]);
    client.send(&[0x70, 2, 0, 1]).await;
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn the_older_connection_of_a_3_1_1_client_is_closed() {
    let broker = Broker::start().await;
    let mut old = broker.client_4("c").await;
    let mut new = broker.client_4("c").await;
    assert!(old.packet().await.is_empty());
    new.expect_quiet().await;
    broker.stop().await;
}
