//! An acknowledgement means disk; what happens while the disk hangs, fails, or is full.

use std::sync::Arc;

use tidegate_config::Limits;

use super::broker::{Broker, connect, connect_with, publish, text};
use super::disk::Sync;

#[tokio::test]
async fn no_acknowledgement_leaves_before_the_fdatasync() {
    let broker = Broker::start().await;
    let mut four = broker.client_4("four").await;
    let mut five = broker.client_5("five").await;
    let mut watcher = broker.client_4("watcher").await;
    watcher.subscribe(4, "#", 0).await;
    broker.disk.set(Sync::Hangs);
    four.send(&publish(4, 2, 1, "a", b"x")).await;
    five.send(&publish(5, 4, 2, "a", b"x")).await;
    five.send(&publish(5, 12, 2, "a", b"x")).await;
    // The connections live, the subscribers see nothing that is not on disk.
    four.expect_quiet().await;
    five.expect_quiet().await;
    watcher.expect_quiet().await;
    assert_eq!(broker.log.committed(), 0);
    broker.disk.set(Sync::Works);
    assert_eq!(four.packet().await, [0x40, 2, 0, 1]);
    assert_eq!(five.packet().await, [0x50, 2, 0, 2]);
    assert_eq!(watcher.packet().await, publish(4, 0, 0, "a", b"x"));
    broker.stop().await;
}

#[tokio::test]
async fn an_event_that_could_not_be_written_is_never_acknowledged() {
    let broker = Broker::start().await;
    let mut four = broker.client_4("four").await;
    let mut five = broker.client_5("five").await;
    broker.disk.set(Sync::Fails);
    // Behind the first failure the log takes nothing; 3.1.1 waits, MQTT 5 is told.
    assert_eq!(five.ask(&publish(5, 4, 7, "a", b"x")).await, [0x50, 3, 0, 7, 0x80]);
    assert_eq!(five.ask(&publish(5, 2, 8, "a", b"x")).await, [0x40, 3, 0, 8, 0x80]);
    four.send(&publish(4, 2, 1, "a", b"x")).await;
    broker.disk.set(Sync::Works);
    assert_eq!(four.packet().await, [0x40, 2, 0, 1]);
    assert_eq!(five.ask(&publish(5, 4, 7, "a", b"x")).await, [0x50, 2, 0, 7]);
    assert_eq!((broker.log.committed(), broker.metrics.acks.get()), (2, 2));
    assert_eq!(broker.metrics.refused.get(), 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_3_1_1_client_whose_event_was_not_written_must_send_it_again() {
    let broker = Broker::start().await;
    let mut client = broker.client_4("c").await;
    broker.disk.set(Sync::Hangs);
    client.send(&publish(4, 2, 1, "a", b"x")).await;
    client.expect_quiet().await;
    broker.disk.set(Sync::Fails);
    assert!(client.packet().await.is_empty());
    broker.disk.set(Sync::Works);
    broker.stop().await;
}

#[tokio::test]
async fn the_keep_alive_of_a_client_that_is_not_read_does_not_count() {
    let broker = Broker::start().await;
    broker.disk.set(Sync::Fails);
    let mut five = broker.client_5("five").await;
    five.ask(&publish(5, 2, 1, "a", b"x")).await;
    let mut client = broker.dial().await;
    let with_keep_alive = |id| {
        let mut connect = connect(4, id);
        connect[11] = 1;
        connect
    };
    client.ask(&with_keep_alive("c")).await;
    client.send(&publish(4, 2, 1, "a", b"x")).await;
    // Another client with the same keep-alive and nothing to say shows that the time has passed.
    let mut silent = broker.dial().await;
    silent.ask(&with_keep_alive("silent")).await;
    assert!(silent.packet().await.is_empty());
    assert_eq!(broker.metrics.timed_out.get(), 1);
    broker.disk.set(Sync::Works);
    assert_eq!(client.packet().await, [0x40, 2, 0, 1]);
    broker.stop().await;
}

#[tokio::test]
async fn the_drain_acknowledges_what_is_under_way_and_sends_no_wills() {
    let broker = Broker::start().await;
    let rest = [vec![0], text("wills/x"), text("gone")].concat();
    let mut client = broker.dial().await;
    client.ask(&connect_with(5, "x", 0x06, &[], &rest)).await;
    broker.disk.set(Sync::Hangs);
    client.send(&publish(5, 2, 1, "a", b"x")).await;
    client.expect_quiet().await;
    let (log, disk) = (Arc::clone(&broker.log), broker.disk.0.clone());
    let answers = async {
        disk.set(Sync::Works);
        (client.packet().await, client.packet().await)
    };
    let (_dir, answers) = tokio::join!(broker.stop(), answers);
    assert_eq!(answers, (vec![0x40, 2, 0, 1], vec![0xe0, 1, 0x8b]));
    assert_eq!(log.committed(), 1);
}

#[tokio::test]
async fn a_full_log_tells_an_mqtt_5_client_and_holds_back_a_3_1_1_client() {
    let broker = Broker::with(Limits::default(), 512 << 10).await;
    let mut five = broker.client_5("five").await;
    let payload = vec![b'x'; 60_000];
    let mut refused = None;
    for id in 1..=20 {
        let ack = five.ask(&publish(5, 2, id, "a", &payload)).await;
        if ack.len() > 4 {
            refused = Some(ack);
            break;
        }
    }
    let refused = refused.expect("a log of 512 KiB takes 20 times 60,000 bytes");
    assert_eq!((refused[0], refused[4]), (0x40, 0x97));

    let mut four = broker.client_4("four").await;
    four.send(&publish(4, 2, 1, "a", &payload)).await;
    // The one is held back without delaying the other.
    let again = five.ask(&publish(5, 4, 99, "a", &payload)).await;
    assert_eq!(again, [0x50, 3, 0, 99, 0x97]);
    broker.log.release(broker.log.committed() + 1);
    assert_eq!(four.packet().await, [0x40, 2, 0, 1]);
    assert_eq!(five.ask(&publish(5, 2, 100, "a", b"x")).await, [0x40, 2, 0, 100]);
    broker.stop().await;
}

#[tokio::test]
async fn a_slow_disk_is_no_full_log() {
    let broker = Broker::start().await;
    broker.disk.set(Sync::Hangs);
    // More than may wait for the disk, which is 1 MiB; MQTT 5 has the patience of 3.1.1.
    let payload = vec![b'x'; 60_000];
    let mut clients = Vec::new();
    for version in [4, 5] {
        for number in 0..12 {
            let id = format!("{version}-{number}");
            let mut client = match version {
                4 => broker.client_4(&id).await,
                _ => broker.client_5(&id).await,
            };
            client.send(&publish(version, 2, 1, "a", &payload)).await;
            clients.push(client);
        }
    }
    // A client that falls silent shows that the time has passed after which a full log is answered.
    let mut silent = broker.dial().await;
    let mut with_keep_alive = connect(4, "silent");
    with_keep_alive[11] = 1;
    silent.ask(&with_keep_alive).await;
    assert!(silent.packet().await.is_empty());
    broker.disk.set(Sync::Works);
    for client in &mut clients {
        assert_eq!(client.packet().await, [0x40, 2, 0, 1]);
    }
    assert_eq!((broker.log.committed(), broker.metrics.refused.get()), (24, 0));
    broker.stop().await;
}
