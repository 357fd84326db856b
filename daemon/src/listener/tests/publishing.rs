//! What publishers are promised.

use tidegate_config::{ByteSize, Limits};
use tidegate_event::{EventRef, Qos};

use super::broker::{Broker, connect, connect_with, publish, publish_with, text};
use crate::log::{Chunk, Read};

/// Topic, payload and QoS of every event in the log.
fn stored(broker: &Broker) -> Vec<(String, Vec<u8>, Qos)> {
    let mut reader = broker.log.reader(1);
    let mut chunk = Chunk::default();
    let mut events = Vec::new();
    while reader.read(&mut chunk, 1 << 20).unwrap() == Read::Frames {
        for event in chunk.frames().flat_map(|frame| frame.events()) {
            let EventRef { topic, payload, qos, .. } = event.unwrap();
            events.push((topic.to_owned(), payload.to_vec(), qos));
        }
    }
    events
}

#[tokio::test]
async fn an_acknowledged_event_is_in_the_log() {
    let broker = Broker::start().await;
    let mut client = broker.client_4("sensor").await;
    assert_eq!(client.ask(&publish(4, 2, 7, "a", b"one")).await, [0x40, 2, 0, 7]);
    assert_eq!(stored(&broker), [("a".into(), b"one".to_vec(), Qos::AtLeastOnce)]);
    broker.stop().await;
}

#[tokio::test]
async fn many_events_in_one_write_are_acknowledged_in_order() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("sensor").await;
    let burst: Vec<u8> =
        (1..=500).flat_map(|id| publish(5, 2, id, "a/b", &id.to_be_bytes())).collect();
    client.send(&burst).await;
    for id in 1..=500_u16 {
        let [high, low] = id.to_be_bytes();
        assert_eq!(client.packet().await, [0x40, 2, high, low]);
    }
    let events = stored(&broker);
    assert!(
        events
            .iter()
            .map(|(_, payload, _)| payload)
            .eq(&(1..=500_u16).map(|id| id.to_be_bytes().to_vec()).collect::<Vec<_>>())
    );
    broker.stop().await;
}

#[tokio::test]
async fn more_events_than_may_be_in_flight_wait_in_the_socket() {
    let broker = Broker::with(Limits { max_inflight: 3, ..Limits::default() }, 64 << 20).await;
    let mut client = broker.client_4("sensor").await;
    let burst: Vec<u8> = (1..=50).flat_map(|id| publish(4, 2, id, "a", b"x")).collect();
    client.send(&burst).await;
    for id in 1..=50 {
        assert_eq!(client.packet().await, [0x40, 2, 0, id]);
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_qos_2_event_is_stored_once_however_often_it_comes() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("sensor").await;
    let twice = [publish(5, 4, 9, "a", b"x"), publish(5, 12, 9, "a", b"x")].concat();
    assert_eq!(client.ask(&twice).await, [0x50, 2, 0, 9]);
    assert_eq!(client.ask(&publish(5, 12, 9, "a", b"x")).await, [0x50, 2, 0, 9]);
    assert_eq!(client.ask(&[0x62, 2, 0, 9]).await, [0x70, 2, 0, 9]);
    assert_eq!(client.ask(&[0x62, 2, 0, 9]).await, [0x70, 3, 0, 9, 0x92]);
    assert_eq!(stored(&broker).len(), 1);
    assert_eq!(client.ask(&publish(5, 4, 9, "a", b"y")).await, [0x50, 2, 0, 9]);
    assert_eq!(stored(&broker).len(), 2);
    broker.stop().await;
}

#[tokio::test]
async fn qos_0_before_a_disconnect_is_stored_too() {
    let broker = Broker::start().await;
    let mut committed = broker.log.watch();
    let mut client = broker.dial().await;
    let all = [connect(4, "sensor"), publish(4, 0, 0, "a", b"x"), vec![0xe0, 0]].concat();
    assert_eq!(client.ask(&all).await, [0x20, 2, 0, 0]);
    assert!(client.packet().await.is_empty());
    committed.wait_for(|last| *last == 1).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn what_the_gate_denies_is_told_to_an_mqtt_5_client_in_turn() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("sensor").await;
    let burst = [
        publish(5, 2, 1, "a", b"x"),
        publish(5, 2, 2, "$SYS/x", b"x"),
        publish(5, 4, 3, &"a/".repeat(40), b"x"),
        publish(5, 2, 4, "a", b"x"),
    ];
    client.send(&burst.concat()).await;
    assert_eq!(client.packet().await, [0x40, 2, 0, 1]);
    assert_eq!(client.packet().await, [0x40, 3, 0, 2, 0x90]);
    assert_eq!(client.packet().await, [0x50, 3, 0, 3, 0x90]);
    assert_eq!(client.packet().await, [0x40, 2, 0, 4]);
    broker.stop().await;
}

#[tokio::test]
async fn what_the_gate_denies_costs_a_3_1_1_client_its_connection() {
    let broker = Broker::start().await;
    for (first, id) in [(2, 2), (4, 3)] {
        let mut client = broker.client_4("sensor").await;
        // QoS 0 promises nothing, and is dropped.
        client.send(&publish(4, 0, 0, "$SYS/x", b"x")).await;
        client.expect_quiet().await;
        assert!(client.ask(&publish(4, first, id, "$SYS/x", b"x")).await.is_empty());
    }
    assert_eq!(broker.log.committed(), 0);
    broker.stop().await;
}

#[tokio::test]
async fn topics_with_a_dollar_that_nobody_reserves_are_like_others_but_for_wildcards_in_front() {
    let broker = Broker::start().await;
    let mut client = broker.client_4("c").await;
    let mut named = broker.client_4("named").await;
    client.subscribe(4, "+/+", 2).await;
    named.subscribe(4, "$TopicA/+", 0).await;
    assert_eq!(client.ask(&publish(4, 2, 1, "$TopicA/B", b"x")).await, [0x40, 2, 0, 1]);
    assert_eq!(named.packet().await, publish(4, 0, 0, "$TopicA/B", b"x"));
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_newer_connection_takes_the_client_id_over() {
    let broker = Broker::start().await;
    let mut old = broker.client_5("pump").await;
    let mut new = broker.client_5("pump").await;
    assert_eq!(old.packet().await, [0xe0, 1, 0x8e]);
    assert!(old.packet().await.is_empty());
    new.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_will_is_published_unless_the_client_says_goodbye() {
    let broker = Broker::start().await;
    let mut watcher = broker.client_4("watcher").await;
    watcher.subscribe(4, "wills/#", 1).await;
    let will = |id: &str| {
        let rest = [text(&format!("wills/{id}")), text("gone")].concat();
        connect_with(4, id, 0x0e, &[], &rest)
    };
    for (id, goodbye) in [("polite", true), ("rude", false)] {
        let mut client = broker.dial().await;
        assert_eq!(client.ask(&will(id)).await, [0x20, 2, 0, 0]);
        if goodbye {
            assert!(client.ask(&[0xe0, 0]).await.is_empty());
        }
    }
    assert_eq!(watcher.packet().await, publish(4, 2, 1, "wills/rude", b"gone"));
    watcher.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn an_mqtt_5_client_may_ask_for_its_will_when_it_leaves() {
    let broker = Broker::start().await;
    let mut watcher = broker.client_5("watcher").await;
    watcher.subscribe(5, "wills/#", 0).await;
    // Will properties: content type; delay, which a session without expiry has no use for.
    let properties = [0x18, 0, 0, 0, 9, 0x03, 0, 1, b't'];
    let rest = [vec![9], properties.to_vec(), text("wills/x"), text("gone")].concat();
    let mut client = broker.dial().await;
    client.ask(&connect_with(5, "x", 0x06, &[], &rest)).await;
    assert!(client.ask(&[0xe0, 1, 4]).await.is_empty());
    let expected = publish_with(5, 0, 0, "wills/x", &[0x03, 0, 1, b't'], b"gone");
    assert_eq!(watcher.packet().await, expected);
    broker.stop().await;
}

#[tokio::test]
async fn an_mqtt_5_client_is_told_the_terms() {
    let limits =
        Limits { max_inflight: 0x102, max_packet_size: ByteSize(0x10203), ..Limits::default() };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut client = broker.dial().await;
    // It asks for a session that lasts, and has no name.
    let connack = client.ask(&connect_with(5, "", 0, &[0x11, 0, 0, 0, 60], &[])).await;
    assert_eq!(&connack[2..4], [0, 0], "no session is present");
    let has = |bytes: &[u8]| connack.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(&[0x11, 0, 0, 0, 60]), "session expiry interval");
    assert!(has(&[0x21, 1, 2]), "receive maximum");
    assert!(has(&[0x27, 0, 1, 2, 3]), "maximum packet size");
    assert!(has(&[0x22, 0, 32]), "topic alias maximum");
    assert!(has(&[0x2a, 1]), "shared subscriptions");
    assert!(has(&[&[0x12, 0, 21][..], b"auto-"].concat()), "assigned client id");
    broker.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let broker = Broker::with(Limits { max_connections: 1, ..Limits::default() }, 64 << 20).await;
    let mut first = broker.client_4("one").await;
    let mut second = broker.dial().await;
    second.try_send(&connect(4, "two")).await;
    assert!(second.packet().await.is_empty());
    assert_eq!(broker.metrics.refused_connections("max-connections"), 1);
    assert!(first.ask(&[0xe0, 0]).await.is_empty());
    broker.stop().await;
}
