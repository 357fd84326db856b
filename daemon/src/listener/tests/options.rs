//! What MQTT 5 clients may choose, and what bridges do.

use std::time::Duration;

use tidegate_config::{Limits, Span};
use tokio::time::timeout;

use super::broker::{
    Broker, connect, connect_with, packet, publish, publish_with, subscribe, text,
};

const RETAIN: u8 = 1;
const QOS_1: u8 = 2;

fn alias(number: u8) -> [u8; 3] {
    [0x23, 0, number]
}

#[tokio::test]
async fn an_alias_stands_for_the_topic_that_it_was_last_sent_with() {
    let broker = Broker::start().await;
    let mut watcher = broker.client_4("watcher").await;
    watcher.subscribe(4, "#", 0).await;
    let mut client = broker.client_5("c").await;
    for (topic, number, stands_for) in [
        ("a", 1, "a"),
        ("", 1, "a"),
        ("b", 32, "b"),
        ("", 1, "a"),
        ("c", 1, "c"),
        ("", 1, "c"),
        ("", 32, "b"),
    ] {
        let event = publish_with(5, QOS_1, 1, topic, &alias(number), b"x");
        assert_eq!(client.ask(&event).await, [0x40, 2, 0, 1]);
        assert_eq!(watcher.packet().await, publish(4, 0, 0, stands_for, b"x"));
    }
    // It ends with the connection.
    let mut again = broker.client_5("c").await;
    assert_eq!(again.ask(&publish_with(5, 0, 0, "", &alias(1), b"x")).await, [0xe0, 1, 0x82]);
    broker.stop().await;
}

#[tokio::test]
async fn the_first_topics_sent_to_a_client_get_as_many_aliases_as_it_takes() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    let mut client = broker.dial().await;
    client.ask(&connect_with(5, "c", 2, &[0x22, 0, 1], &[])).await;
    client.subscribe(5, "#", 0).await;
    let mut other = broker.client_5("takes none").await;
    other.subscribe(5, "#", 0).await;
    for (topic, sent, properties) in [
        ("a/b", "a/b", &alias(1)[..]),
        ("a/b", "", &alias(1)),
        ("c", "c", &[]),
        ("a/b", "", &alias(1)),
    ] {
        publisher.ask(&publish(4, QOS_1, 1, topic, b"x")).await;
        assert_eq!(client.packet().await, publish_with(5, 0, 0, sent, properties, b"x"));
        assert_eq!(other.packet().await, publish(5, 0, 0, topic, b"x"));
    }
    broker.stop().await;
}

#[tokio::test]
async fn an_alias_never_makes_a_packet_too_large_for_the_client() {
    let broker = Broker::start().await;
    let mut client = broker.dial().await;
    let most = [&[0x22, 0, 9, 0x27, 0, 0, 0, 60][..]].concat();
    client.ask(&connect_with(5, "c", 2, &most, &[])).await;
    client.subscribe(5, "#", 0).await;
    let payload = [b'x'; 60 - 6];
    let exact = publish(5, 0, 0, "a", &payload);
    assert_eq!(exact.len(), 60);
    let mut publisher = broker.client_4("p").await;
    publisher.ask(&publish(4, QOS_1, 1, "a", &payload)).await;
    assert_eq!(client.packet().await, exact);
    broker.stop().await;
}

#[tokio::test]
async fn the_server_s_keep_alive_counts_where_it_is_shorter() {
    let limits = Limits { max_keep_alive: Span::seconds(1), ..Limits::default() };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut none = broker.dial().await;
    let connack = none.ask(&connect(5, "none")).await;
    assert!(connack.windows(3).any(|window| window == [0x13, 0, 1]), "{connack:?}");
    let mut longer = broker.dial().await;
    let mut hello = connect(5, "longer");
    hello[11] = 100;
    let connack = longer.ask(&hello).await;
    assert!(connack.windows(3).any(|window| window == [0x13, 0, 1]), "{connack:?}");
    // 3.1.1 cannot be told.
    let mut four = broker.client_4("four").await;
    assert_eq!(none.packet().await, [0xe0, 1, 0x8d]);
    assert_eq!(longer.packet().await, [0xe0, 1, 0x8d]);
    four.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_keep_alive_within_the_limit_is_the_client_s_own() {
    let limits = Limits { max_keep_alive: Span::seconds(60), ..Limits::default() };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut client = broker.dial().await;
    let mut hello = connect(5, "c");
    hello[11] = 60;
    let connack = client.ask(&hello).await;
    // Behind the length and the flags.
    assert!(!connack[5..].windows(2).any(|window| window == [0x13, 0]), "{connack:?}");
    broker.stop().await;
}

#[tokio::test]
async fn bytes_that_never_become_a_packet_are_no_sign_of_life() {
    let broker = Broker::start().await;
    let mut client = broker.dial().await;
    let mut hello = connect(5, "c");
    hello[11] = 1;
    client.ask(&hello).await;
    let beginning = &publish(5, 0, 0, "a", &[b'x'; 900])[..600];
    let mut last = None;
    for byte in beginning {
        client.try_send(&[*byte]).await;
        last = timeout(Duration::from_millis(5), client.packet()).await.ok();
        if last.is_some() {
            break;
        }
    }
    assert_eq!(last, Some(vec![0xe0, 1, 0x8d]));
    broker.stop().await;
}

#[tokio::test]
async fn a_gateway_that_retains_nothing_says_so() {
    let broker = Broker::with(Limits { max_retained: 0, ..Limits::default() }, 64 << 20).await;
    let mut client = broker.dial().await;
    let connack = client.ask(&connect(5, "c")).await;
    assert!(connack.windows(2).any(|window| window == [0x25, 0]), "{connack:?}");
    assert_eq!(client.ask(&publish(5, RETAIN, 0, "a", b"x")).await, [0xe0, 1, 0x9a]);
    let will = [vec![0], text("a"), text("x")].concat();
    let mut client = broker.dial().await;
    let connack = client.ask(&connect_with(5, "c", 0x26, &[], &will)).await;
    assert_eq!(connack, [0x20, 3, 0, 0x9a, 0]);
    let mut four = broker.client_4("four").await;
    assert_eq!(four.ask(&publish(4, QOS_1 | RETAIN, 1, "a", b"x")).await, [0x40, 2, 0, 1]);
    broker.stop().await;
}

#[tokio::test]
async fn a_password_may_be_any_bytes() {
    let broker = Broker::start().await;
    let login = [text("user"), vec![0, 3, 0xff, 0, 0x80]].concat();
    let mut client = broker.dial().await;
    let connack = client.ask(&connect_with(4, "c", 0xc2, &[], &login)).await;
    assert_eq!(connack[..3], [0x20, 2, 0]);
    broker.stop().await;
}

#[tokio::test]
async fn no_answer_is_larger_than_the_client_takes() {
    let broker = Broker::start().await;
    let mut client = broker.dial().await;
    // Not even a CONNACK.
    client.send(&connect_with(5, "c", 2, &[0x27, 0, 0, 0, 10], &[])).await;
    assert!(client.packet().await.is_empty());
    for (head, filter) in [(0x82, [text("a"), vec![0]].concat()), (0xa2, text("a"))] {
        let mut client = broker.dial().await;
        client.ask(&connect_with(5, "c", 2, &[0x27, 0, 0, 0, 50], &[])).await;
        let body = |count| [&[0, 1, 0][..], &filter.repeat(count)].concat();
        assert_eq!(client.ask(&packet(head, &body(45))).await.len(), 50);
        assert_eq!(client.ask(&packet(head, &body(46))).await, [0xe0, 1, 0x95]);
    }
    broker.stop().await;
}

#[tokio::test]
async fn other_topics_that_begin_with_a_dollar_are_like_any() {
    let broker = Broker::start().await;
    let mut client = broker.client_4("c").await;
    client.subscribe(4, "+/+", 0).await;
    assert_eq!(client.ask(&publish(4, QOS_1, 1, "$TopicA/B", b"x")).await, [0x40, 2, 0, 1]);
    client.expect_quiet().await;
    client.subscribe(4, "$TopicA/#", 0).await;
    client.send(&publish(4, 0, 0, "$TopicA/B", b"x")).await;
    assert_eq!(client.packet().await, publish(4, 0, 0, "$TopicA/B", b"x"));
    broker.stop().await;
}

#[tokio::test]
async fn a_bridge_gets_what_others_publish_as_it_was_published() {
    let broker = Broker::start().await;
    let mut bridge = broker.dial().await;
    // As mosquitto's: it says on a topic of its own whether it is connected.
    let state = "$SYS/broker/connection/edge.plant/state";
    let rest = [text(state), text("0")].concat();
    let hello = connect_with(0x84, "edge.plant", 0x2e, &[], &rest);
    assert_eq!(bridge.ask(&hello).await, [0x20, 2, 0, 0]);
    assert_eq!(bridge.ask(&publish(4, QOS_1 | RETAIN, 1, state, b"1")).await, [0x40, 2, 0, 1]);
    assert_eq!(bridge.ask(&subscribe(4, 2, "#", 0)).await, [0x90, 3, 0, 2, 0]);
    assert_eq!(bridge.ask(&publish(4, QOS_1, 3, "a", b"own")).await, [0x40, 2, 0, 3]);
    let mut other = broker.client_4("other").await;
    other.ask(&publish(4, QOS_1 | RETAIN, 1, "a", b"x")).await;
    assert_eq!(bridge.packet().await, publish(4, RETAIN, 0, "a", b"x"));
    other.subscribe(4, "$SYS/broker/connection/+/state", 0).await;
    assert_eq!(other.packet().await, publish(4, RETAIN, 0, state, b"1"));
    drop(bridge);
    assert_eq!(other.packet().await, publish(4, 0, 0, state, b"0"));
    broker.stop().await;
}
