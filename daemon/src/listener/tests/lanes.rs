//! Clients whose events are in a lane that is full, and others.

use std::sync::Arc;

use tidegate_config::Limits;
use tidegate_event::{Filter, Lane};

use super::broker::{Broker, connect_with, publish, publish_with, text, until};
use crate::log::{Admission, FileSystem, LaneOptions, Log, Options, Rule, WhenFull};

const PINGREQ: [u8; 2] = [0xc0, 0];
const PINGRESP: [u8; 2] = [0xd0, 0];
const QUOTA_EXCEEDED: u8 = 0x97;
/// Of the small lane.
const LANE: Lane = Lane(1);
static LARGE: [u8; 60_000] = [b'x'; 60_000];

/// A log with room, in which a lane for `t/#` has little.
async fn broker(when_full: WhenFull) -> Broker {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let small = LaneOptions {
        name: "small".to_owned(),
        topics: vec![Filter::new("t/#").unwrap()],
        max_size: Some(256 << 10),
        rule: Rule { when_full, ..Rule::default() },
    };
    let options = Options {
        dir: dir.path().join("log"),
        lanes: vec![small],
        max_size: 16 << 20,
        ..Options::default()
    };
    let (log, _) = Log::open(Arc::new(FileSystem), options).unwrap();
    Broker::over(log, dir, Limits::default())
}

/// The same, full.
async fn full(when_full: WhenFull) -> Broker {
    let broker = broker(when_full).await;
    let mut filler = broker.client_5("filler").await;
    for id in 1..=100 {
        if broker.log.admission(LANE) != Admission::Takes {
            assert!(filler.ask(&[0xe0, 0]).await.is_empty());
            return broker;
        }
        assert_eq!(filler.ask(&publish(5, 2, id, "t/fill", &[b'x'; 5_000])).await.len(), 4);
    }
    panic!("a lane of 256 KiB takes 100 times 5,000 bytes");
}

/// Packet id and reason of a PUBACK.
fn puback(packet: &[u8]) -> (u8, u8) {
    assert_eq!((packet[0], packet[2]), (0x40, 0), "{packet:02x?}");
    (packet[3], packet.get(4).copied().unwrap_or(0))
}

#[tokio::test]
async fn of_one_read_a_full_lane_refuses_what_is_its_own() {
    let broker = full(WhenFull::Reject).await;
    let before = broker.log.committed();
    let mut client = broker.client_5("c").await;
    let packets = [
        publish(5, 2, 1, "a", b"x"),
        publish(5, 2, 2, "t/1", b"x"),
        publish(5, 0, 0, "t/1", b"x"),
        publish(5, 4, 3, "t/1", b"x"),
        publish(5, 2, 4, "a", b"x"),
    ];
    client.send(&packets.concat()).await;
    assert_eq!(puback(&client.packet().await), (1, 0));
    assert_eq!(puback(&client.packet().await), (2, QUOTA_EXCEEDED));
    assert_eq!(client.packet().await[..5], [0x50, 3, 0, 3, QUOTA_EXCEEDED]);
    assert_eq!(puback(&client.packet().await), (4, 0));
    assert_eq!(broker.log.committed(), before + 2);
    assert_eq!((broker.metrics.refused.get(), broker.metrics.dropped.get()), (2, 1));
    assert_eq!(broker.log.lane_usage(LANE).refused, 3);
    // The id of what was refused is free.
    broker.log.release(before + 3);
    assert_eq!(client.ask(&publish(5, 4, 3, "t/1", b"x")).await, [0x50, 2, 0, 3]);
    assert_eq!(client.ask(&[0x62, 2, 0, 3]).await, [0x70, 2, 0, 3]);
    broker.stop().await;
}

#[tokio::test]
async fn what_is_too_large_for_its_lane_takes_nobody_along() {
    let broker = broker(WhenFull::Reject).await;
    let mut client = broker.client_5("c").await;
    for id in 1..=4 {
        assert_eq!(puback(&client.ask(&publish(5, 2, id, "t/1", &LARGE)).await), (id as u8, 0));
    }
    // It has room for a small one, and does not call itself full.
    assert_eq!(broker.log.admission(LANE), Admission::Takes);
    let packets = [
        publish(5, 2, 5, "a", b"x"),
        publish(5, 0, 0, "t/1", &LARGE),
        publish(5, 2, 6, "t/1", &LARGE),
        publish(5, 2, 7, "a", b"x"),
    ];
    client.send(&packets.concat()).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(puback(&client.packet().await));
    }
    assert_eq!(answers, [(5, 0), (6, QUOTA_EXCEEDED), (7, 0)]);
    assert_eq!(broker.log.committed(), 4 + 2);
    assert_eq!((broker.metrics.refused.get(), broker.metrics.dropped.get()), (1, 1));
    broker.stop().await;
}

#[tokio::test]
async fn a_3_1_1_client_waits_for_its_lane_and_is_heard_meanwhile() {
    for (flags, answer) in [(2, 0x40), (4, 0x50)] {
        let broker = full(WhenFull::Reject).await;
        let before = broker.log.committed();
        let mut client = broker.client_4("c").await;
        let packets = [
            publish(4, 2, 1, "a", b"x"),
            publish(4, 0, 0, "t/1", b"lost"),
            publish(4, flags, 2, "t/1", b"x"),
            PINGREQ.to_vec(),
            publish(4, flags, 3, "t/1", b"x"),
        ];
        client.send(&packets.concat()).await;
        // What came before it does not wait.
        let mut first = [client.packet().await, client.packet().await];
        first.sort();
        assert_eq!(first, [vec![0x40, 2, 0, 1], PINGRESP.to_vec()]);
        assert_eq!(broker.log.committed(), before + 1);
        let mut other = broker.client_4("other").await;
        assert_eq!(other.ask(&publish(4, 2, 1, "a", b"x")).await, [0x40, 2, 0, 1]);
        client.expect_quiet().await;

        broker.log.release(broker.log.committed() + 1);
        for id in [2, 3] {
            assert_eq!(client.packet().await, [answer, 2, 0, id]);
        }
        assert_eq!(broker.log.committed(), before + 2 + 2, "each is stored once");
        assert_eq!((broker.metrics.refused.get(), broker.metrics.dropped.get()), (0, 1));
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_goes_while_its_lane_is_full_leaves_its_will_only() {
    let broker = full(WhenFull::Reject).await;
    let before = broker.log.committed();
    let mut client = broker.dial().await;
    let will = [text("wills/c"), text("gone")].concat();
    assert_eq!(client.ask(&connect_with(4, "c", 0x06, &[], &will)).await, [0x20, 2, 0, 0]);
    client.send(&[publish(4, 2, 1, "t/1", b"x"), PINGREQ.to_vec()].concat()).await;
    assert_eq!(client.packet().await, PINGRESP);
    drop(client);
    until(|| broker.log.committed() == before + 1).await;
    until(|| broker.metrics.connections.get() == 0).await;
    assert_eq!((broker.metrics.refused.get(), broker.log.lane_usage(LANE).refused), (1, 1));

    let mut client = broker.dial().await;
    let will = [text("t/will"), text("gone")].concat();
    assert_eq!(client.ask(&connect_with(4, "c", 0x06, &[], &will)).await, [0x20, 2, 0, 0]);
    drop(client);
    until(|| broker.metrics.wills_lost.get() == 1).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_lane_that_drops_what_is_new_acknowledges_it() {
    let broker = full(WhenFull::DropNewest).await;
    let before = broker.log.committed();
    let (kept, dropped) = (broker.log.lane_usage(LANE).events, broker.log.lane_usage(LANE).dropped);
    let mut four = broker.client_4("four").await;
    let mut five = broker.client_5("five").await;
    assert_eq!(four.ask(&publish(4, 2, 1, "t/1", b"x")).await, [0x40, 2, 0, 1]);
    assert_eq!(four.ask(&publish(4, 4, 2, "t/1", b"x")).await, [0x50, 2, 0, 2]);
    assert_eq!(four.ask(&[0x62, 2, 0, 2]).await, [0x70, 2, 0, 2]);
    assert_eq!(puback(&five.ask(&publish(5, 2, 1, "t/1", b"x")).await), (1, 0));
    assert_eq!(puback(&five.ask(&publish(5, 2, 2, "a", b"x")).await), (2, 0));
    assert_eq!(broker.log.committed(), before + 4, "each has its number");
    broker.log.enter_gone();
    let usage = broker.log.lane_usage(LANE);
    assert_eq!((usage.events, usage.dropped, usage.refused), (kept, dropped + 3, 0));
    let losses = broker.log.losses();
    let [loss] = &losses[..] else { panic!("{losses:?}") };
    assert_eq!((loss.lane, loss.lsns.clone(), loss.count), (LANE, before + 1..=before + 3, 3));
    broker.stop().await;
}

#[tokio::test]
async fn a_copy_of_an_event_that_was_dropped_may_find_room() {
    let broker = full(WhenFull::DropNewest).await;
    let mut client = broker.client_5("c").await;
    let mut properties = Vec::new();
    for (name, value) in
        [("specversion", "1.0"), ("type", "pressed"), ("source", "/press"), ("id", "a")]
    {
        properties.push(0x26);
        properties.extend([text(name), text(value)].concat());
    }
    let event = |id| publish_with(5, 2, id, "t/1", &properties, b"{}");
    assert_eq!(puback(&client.ask(&event(1)).await), (1, 0));
    broker.log.release(broker.log.committed() + 1);
    until(|| broker.log.admission(LANE) == Admission::Takes).await;
    let events = broker.log.lane_usage(LANE).events;
    assert_eq!(puback(&client.ask(&event(2)).await), (2, 0));
    assert_eq!(broker.log.lane_usage(LANE).events, events + 1);
    let before = broker.log.committed();
    assert_eq!(puback(&client.ask(&event(3)).await), (3, 0));
    assert_eq!(broker.log.committed(), before);
    broker.stop().await;
}
