//! CloudEvents that come twice over MQTT 5.

use super::broker::{Broker, Client, publish_with, until};
use super::disk::Sync;

/// A PUBLISH of the CloudEvent with this source and id, in binary mode.
fn event(flags: u8, packet_id: u16, source: &str, id: &str) -> Vec<u8> {
    let mut properties = Vec::new();
    for (name, value) in
        [("specversion", "1.0"), ("type", "pressed"), ("source", source), ("id", id)]
    {
        properties.push(0x26);
        for text in [name, value] {
            properties.extend((text.len() as u16).to_be_bytes());
            properties.extend(text.as_bytes());
        }
    }
    publish_with(5, flags, packet_id, "press/3", &properties, b"{}")
}

const QOS_1: u8 = 2;
const QOS_2: u8 = 4;

fn puback(id: u8) -> [u8; 4] {
    [0x40, 2, 0, id]
}

#[tokio::test]
async fn a_second_copy_is_acknowledged_and_not_stored() {
    let broker = Broker::start().await;
    let mut one = broker.client_5("one").await;
    let mut two = broker.client_5("two").await;
    assert_eq!(one.ask(&event(QOS_1, 1, "/press", "a")).await, puback(1));
    assert_eq!(one.ask(&event(QOS_1, 2, "/press", "a")).await, puback(2));
    assert_eq!(two.ask(&event(QOS_1, 3, "/press", "a")).await, puback(3));
    assert_eq!(two.ask(&event(QOS_2, 4, "/press", "a")).await, [0x50, 2, 0, 4]);
    assert_eq!(two.ask(&[0x62, 2, 0, 4]).await, [0x70, 2, 0, 4]);
    two.send(&event(0, 0, "/press", "a")).await;
    let json = br#"{"specversion":"1.0","type":"pressed","source":"/press","id":"a","data":1}"#;
    let content_type = [&[3, 0, 28][..], b"application/cloudevents+json"].concat();
    let structured = publish_with(5, QOS_1, 5, "press/3", &content_type, json);
    assert_eq!(two.ask(&structured).await, puback(5));
    assert_eq!(broker.log.committed(), 1);
    // Another source, another id.
    assert_eq!(two.ask(&event(QOS_1, 6, "/lathe", "a")).await, puback(6));
    assert_eq!(two.ask(&event(QOS_1, 7, "/press", "b")).await, puback(7));
    assert_eq!(broker.log.committed(), 3);
    broker.stop().await;
}

#[tokio::test]
async fn a_second_copy_waits_for_the_disk_too_and_neither_order_is_a_deadlock() {
    let broker = Broker::start().await;
    let mut one = broker.client_5("one").await;
    let mut two = broker.client_5("two").await;
    broker.disk.set(Sync::Hangs);
    one.send(&event(QOS_1, 1, "/press", "a")).await;
    one.expect_quiet().await;
    two.send(&event(QOS_1, 1, "/press", "b")).await;
    two.expect_quiet().await;
    for (client, id) in [(&mut one, "b"), (&mut two, "a")] {
        client.send(&event(QOS_1, 2, "/press", id)).await;
        client.expect_quiet().await;
        client.send(&event(QOS_1, 3, "/press", &format!("{id}{id}"))).await;
        client.expect_quiet().await;
    }
    // Each waits for an event of the other, which stands behind one that waits for this one's.
    one.send(&event(QOS_1, 4, "/press", "aa")).await;
    two.send(&event(QOS_1, 4, "/press", "bb")).await;
    one.expect_quiet().await;
    two.expect_quiet().await;
    assert_eq!(broker.log.committed(), 0);
    broker.disk.set(Sync::Works);
    for client in [&mut one, &mut two] {
        for id in 1..=4 {
            assert_eq!(client.packet().await, puback(id));
        }
    }
    assert_eq!(broker.log.committed(), 4);
    broker.stop().await;
}

async fn told(client: &mut Client, id: u8) {
    assert_eq!(client.packet().await, [0x40, 3, 0, id, 0x80]);
}

#[tokio::test]
async fn of_a_first_copy_that_is_not_stored_there_is_no_second() {
    let broker = Broker::start().await;
    let mut one = broker.client_5("one").await;
    let mut two = broker.client_5("two").await;
    broker.disk.set(Sync::Hangs);
    one.send(&event(QOS_1, 1, "/press", "a")).await;
    one.expect_quiet().await;
    one.send(&event(QOS_1, 2, "/press", "a")).await;
    one.expect_quiet().await;
    two.send(&event(QOS_1, 3, "/press", "a")).await;
    two.expect_quiet().await;
    broker.disk.set(Sync::Fails);
    told(&mut one, 1).await;
    told(&mut one, 2).await;
    told(&mut two, 3).await;
    broker.disk.set(Sync::Works);
    let mut answer = two.ask(&event(QOS_1, 4, "/press", "a")).await;
    while answer != puback(4) {
        assert_eq!(answer, [0x40, 3, 0, 4, 0x80], "the log tries again by and by");
        answer = two.ask(&event(QOS_1, 4, "/press", "a")).await;
    }
    assert_eq!(one.ask(&event(QOS_1, 5, "/press", "a")).await, puback(5));
    assert_eq!(broker.log.committed(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn what_a_client_that_has_gone_left_on_its_way_is_known_when_it_comes_again() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("c").await;
    broker.disk.set(Sync::Hangs);
    client.send(&event(QOS_1, 1, "/press", "a")).await;
    client.expect_quiet().await;
    drop(client);
    until(|| broker.metrics.connections.get() == 0).await;
    let mut client = broker.client_5("c").await;
    client.send(&event(QOS_1, 1, "/press", "a")).await;
    client.expect_quiet().await;
    broker.disk.set(Sync::Works);
    assert_eq!(client.packet().await, puback(1));
    assert_eq!(broker.log.committed(), 1);
    broker.stop().await;
}
