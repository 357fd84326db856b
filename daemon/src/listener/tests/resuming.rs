//! What a client finds when it is back, and what it must not find.

use super::broker::{Broker, Client, connect, connect_with, publish, publish_with};
use super::disk::Sync;

const QOS_1: u8 = 2;
const QOS_2: u8 = 4;
const DUP: u8 = 8;
/// Session expiry interval: 60 seconds.
const MINUTE: [u8; 5] = [0x11, 0, 0, 0, 60];

/// A client whose session lasts a minute, and that takes so many deliveries at once.
async fn come_back(broker: &Broker, receive_maximum: u8) -> Client {
    let mut client = broker.dial().await;
    let properties = [&MINUTE[..], &[0x21, 0, receive_maximum]].concat();
    let connack = client.ask(&connect_with(5, "c", 0, &properties, &[])).await;
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:?}");
    client
}

#[tokio::test]
async fn the_end_of_an_older_exchange_makes_no_room_in_the_window() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    let mut client = come_back(&broker, 9).await;
    client.subscribe(5, "#", 2).await;
    for id in 1..=2 {
        publisher.ask(&publish(4, QOS_2, id, "t", &[id as u8])).await;
        assert_eq!(client.packet().await, publish(5, QOS_2, id, "t", &[id as u8]));
    }
    assert_eq!(client.ask(&[0x50, 2, 0, 1]).await, [0x62, 2, 0, 1]);
    drop(client);
    let mut client = come_back(&broker, 1).await;
    assert_eq!(client.packet().await, [0x62, 2, 0, 1]);
    assert_eq!(client.packet().await, publish(5, QOS_2 | DUP, 2, "t", &[2]));
    publisher.ask(&publish(4, QOS_1, 3, "t", &[3])).await;
    client.send(&[0x70, 2, 0, 1]).await;
    client.expect_quiet().await;
    assert_eq!(client.ask(&[0x50, 2, 0, 2]).await, [0x62, 2, 0, 2]);
    assert_eq!(client.ask(&[0x70, 2, 0, 2]).await, publish(5, QOS_1, 3, "t", &[3]));
    broker.stop().await;
}

#[tokio::test]
async fn what_is_not_sent_again_takes_no_room_in_the_window() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_5("p").await;
    let mut client = come_back(&broker, 1).await;
    client.subscribe(5, "#", 1).await;
    publisher.ask(&publish_with(5, QOS_1, 1, "t", &[0x02, 0, 0, 0, 1], b"short")).await;
    client.packet().await;
    drop(client);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let mut client = come_back(&broker, 1).await;
    publisher.ask(&publish(5, QOS_1, 2, "t", b"next")).await;
    assert_eq!(client.packet().await, publish(5, QOS_1, 2, "t", b"next"));
    broker.stop().await;
}

#[tokio::test]
async fn an_old_session_is_gone_for_good_before_a_clean_one_is_confirmed() {
    let broker = Broker::start().await;
    drop(come_back(&broker, 9).await);
    broker.disk.set(Sync::Fails);
    let mut client = broker.dial().await;
    assert_eq!(client.ask(&connect(4, "c")).await, [0x20, 2, 0, 3]);
    broker.disk.set(Sync::Works);
    broker.stop().await;
}
