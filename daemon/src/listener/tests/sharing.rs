//! Shared subscriptions.

use tidegate_config::{ByteSize, Limits};

use super::broker::{
    Broker, Client, connect_with, packet, publish, publish_with, subscribe, text, until,
};

const RETAIN: u8 = 1;
const QOS_1: u8 = 2;
const QOS_2: u8 = 4;
const DUP: u8 = 8;
const SHARED: &str = "$share/g/t/#";
/// Session expiry interval: 60 seconds.
const MINUTE: [u8; 5] = [0x11, 0, 0, 0, 60];

/// CONNECT of an MQTT 5 client with these flags and properties.
async fn connect_5(broker: &Broker, id: &str, flags: u8, properties: &[u8]) -> Client {
    let mut client = broker.dial().await;
    let connack = client.ask(&connect_with(5, id, flags, properties, &[])).await;
    assert_eq!(connack[3], 0, "{connack:?}");
    client
}

/// One whose session is kept for a minute.
async fn kept(broker: &Broker, id: &str) -> Client {
    connect_5(broker, id, 0, &MINUTE).await
}

fn puback(id: u16) -> Vec<u8> {
    [&[0x40, 2][..], &id.to_be_bytes()].concat()
}

/// The payload of the PUBLISH that comes next, and its packet id.
async fn take(client: &mut Client, flags: u8) -> (u8, u16) {
    let packet = client.packet().await;
    assert_eq!(packet[0], 0x30 | flags, "{packet:?}");
    let id = u16::from_be_bytes([packet[7], packet[8]]);
    (packet[packet.len() - 1], id)
}

/// Publishes `payload` on `t/x` and waits for the acknowledgement.
async fn publish_1(publisher: &mut Client, payload: u8) {
    let ack = publisher.ask(&publish(5, QOS_1, 1, "t/x", &[payload])).await;
    assert_eq!((ack[0], &ack[2..4]), (0x40, &[0, 1][..]));
}

async fn publish_2(publisher: &mut Client, payload: u8) {
    publisher.ask(&publish(5, QOS_2, 1, "t/x", &[payload])).await;
    publisher.ask(&[0x62, 2, 0, 1]).await;
}

#[tokio::test]
async fn each_event_goes_to_one_member_in_turn() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_5("p").await;
    let mut members = [broker.client_4("a").await, broker.client_5("b").await];
    assert_eq!(members[0].subscribe(4, SHARED, 1).await, 1);
    assert_eq!(members[1].subscribe(5, SHARED, 1).await, 1);
    members[0].expect_quiet().await;
    for payload in 0..10 {
        publish_1(&mut publisher, payload).await;
        let member = &mut members[usize::from(payload % 2)];
        let (got, id) = take(member, QOS_1).await;
        assert_eq!(got, payload);
        member.send(&puback(id)).await;
        // It is back in the row.
        member.expect_quiet().await;
    }
    assert_eq!(broker.bus_metrics.shared_subscriptions.get(), 2);
    assert_eq!(broker.bus_metrics.subscriptions.get(), 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_share_has_a_name_without_wildcards_and_a_filter_behind_it() {
    let broker = Broker::start().await;
    let mut five = broker.client_5("five").await;
    let mut four = broker.client_4("four").await;
    let bad = ["$share", "$share/", "$share/g", "$share/g/", "$share//t", "$share/+/t", "$share/#"];
    for filter in bad.into_iter().chain(["$share/a+/t", "$share/g/a#", "$share/g/t/#/x"]) {
        assert_eq!(five.subscribe(5, filter, 1).await, 0x8f, "{filter}");
        assert_eq!(four.subscribe(4, filter, 1).await, 0x80, "{filter}");
    }
    for filter in ["$share/g/t", "$share/g//", "$share/g/#", "$sharer"] {
        assert_eq!(five.subscribe(5, filter, 1).await, 1, "{filter}");
        assert_eq!(four.subscribe(4, filter, 1).await, 1, "{filter}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn no_local_on_a_shared_subscription_breaks_the_protocol() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("c").await;
    let answer = client.ask(&subscribe(5, 1, SHARED, 1 | 1 << 2)).await;
    assert_eq!((answer[0], answer[2]), (0xe0, 0x82));
    assert!(client.packet().await.is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn subscriptions_that_are_shared_count_against_the_limit() {
    let limits = Limits { max_subscriptions: 2, ..Limits::default() };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut client = broker.client_5("c").await;
    for (filter, says) in [("$share/g/a", 1), ("a", 1), ("$share/h/a", 0x97), ("$share/g/a", 1)] {
        assert_eq!(client.subscribe(5, filter, 1).await, says, "{filter}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_shared_subscription_has_its_own_copy_without_retained_messages() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_5("p").await;
    publisher.ask(&publish(5, QOS_1 | RETAIN, 1, "t/x", b"before")).await;
    let mut client = broker.client_5("c").await;
    for (id, filter, options) in [(7, SHARED, 0), (9, "t/x", 1 | 2 << 4)] {
        let body = [&[0, id, 2, 0x0b, id][..], &text(filter), &[options]].concat();
        assert_eq!(client.ask(&packet(0x82, &body)).await[5], options & 3);
    }
    client.expect_quiet().await;
    publisher.ask(&publish(5, QOS_2, 1, "t/x", b"now")).await;
    let mut got = [client.packet().await, client.packet().await];
    got.sort();
    // Each with the QoS that was granted for it.
    let shared = publish_with(5, 0, 0, "t/x", &[0x0b, 7], b"now");
    let own = publish_with(5, QOS_1, 1, "t/x", &[0x0b, 9], b"now");
    assert_eq!(got, [shared, own]);
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_member_whose_window_is_full_holds_nobody_up() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_5("p").await;
    // Receive maximum 1, and it acknowledges nothing.
    let mut stuck = connect_5(&broker, "stuck", 2, &[0x21, 0, 1]).await;
    let mut other = broker.client_5("other").await;
    stuck.subscribe(5, SHARED, 1).await;
    publish_1(&mut publisher, 0).await;
    assert_eq!(take(&mut stuck, QOS_1).await, (0, 1));
    other.subscribe(5, SHARED, 1).await;
    for payload in 1..50 {
        publish_1(&mut publisher, payload).await;
        let (got, id) = take(&mut other, QOS_1).await;
        assert_eq!(got, payload);
        other.send(&puback(id)).await;
    }
    stuck.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn qos_1_in_flight_to_a_session_that_ends_goes_to_another_member_and_qos_2_does_not() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_5("p").await;
    let mut gone = broker.client_5("gone").await;
    gone.subscribe(5, SHARED, 2).await;
    publish_1(&mut publisher, 1).await;
    publish_2(&mut publisher, 2).await;
    publish_1(&mut publisher, 3).await;
    assert_eq!(take(&mut gone, QOS_1).await, (1, 1));
    assert_eq!(take(&mut gone, QOS_2).await, (2, 2));
    assert_eq!(take(&mut gone, QOS_1).await, (3, 3));
    let mut other = broker.client_5("other").await;
    other.subscribe(5, SHARED, 2).await;
    // What is acknowledged, and what is refused, is done with (`[MQTT-4.8.2-6]`).
    gone.send(&[0x40, 3, 0, 1, 0x80]).await;
    gone.expect_quiet().await;
    other.expect_quiet().await;
    drop(gone);
    assert_eq!(take(&mut other, QOS_1).await, (3, 1));
    other.expect_quiet().await;
    assert_eq!(broker.bus_metrics.returned.get(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn what_is_in_flight_stays_with_a_session_until_that_ends() {
    for restarts in [false, true] {
        let mut broker = Broker::start().await;
        let mut publisher = broker.client_5("p").await;
        let mut member = kept(&broker, "member").await;
        let mut other = kept(&broker, "other").await;
        member.subscribe(5, SHARED, 2).await;
        publish_1(&mut publisher, 1).await;
        publish_2(&mut publisher, 2).await;
        assert_eq!(take(&mut member, QOS_1).await, (1, 1));
        assert_eq!(take(&mut member, QOS_2).await, (2, 2));
        other.subscribe(5, SHARED, 2).await;
        drop(member);
        other.expect_quiet().await;
        if restarts {
            drop(other);
            broker = broker.restart().await;
            other = kept(&broker, "other").await;
        }
        other.expect_quiet().await;
        let mut member = kept(&broker, "member").await;
        assert_eq!(take(&mut member, QOS_1 | DUP).await, (1, 1));
        assert_eq!(take(&mut member, QOS_2 | DUP).await, (2, 2));
        drop(member);
        // Clean start: the session ends.
        let _new = connect_5(&broker, "member", 2, &[]).await;
        assert_eq!(take(&mut other, QOS_1).await, (1, 1));
        other.send(&puback(1)).await;
        other.expect_quiet().await;
        broker.stop().await;
    }
}

#[tokio::test]
async fn while_all_are_away_qos_1_and_2_wait_for_who_is_back_first() {
    for restarts in [false, true] {
        let mut broker = Broker::start().await;
        let mut publisher = broker.client_5("p").await;
        for id in ["a", "b"] {
            let mut member = kept(&broker, id).await;
            member.subscribe(5, SHARED, 2).await;
            member.ask(&[0xe0, 0]).await;
        }
        publisher.send(&publish(5, 0, 0, "t/x", &[0])).await;
        publish_1(&mut publisher, 1).await;
        publish_2(&mut publisher, 2).await;
        drop(publisher);
        if restarts {
            broker = broker.restart().await;
        }
        let mut first = kept(&broker, "b").await;
        assert_eq!(take(&mut first, QOS_1).await, (1, 1));
        assert_eq!(take(&mut first, QOS_2).await, (2, 2));
        let mut second = kept(&broker, "a").await;
        second.expect_quiet().await;
        first.expect_quiet().await;
        // Live again.
        first.ask(&[0xe0, 0]).await;
        let mut publisher = broker.client_5("p").await;
        publisher.ask(&publish(5, QOS_1, 1, "t/x", &[3])).await;
        assert_eq!(take(&mut second, QOS_1).await, (3, 1));
        broker.stop().await;
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_not_sent_again_after_a_restart() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_5("p").await;
    let mut member = kept(&broker, "kept").await;
    // The other's session ends with the daemon, and with it what it did not acknowledge.
    let mut clean = broker.client_5("clean").await;
    member.subscribe(5, SHARED, 2).await;
    clean.subscribe(5, SHARED, 2).await;
    member.expect_quiet().await;
    let mut unacknowledged = Vec::new();
    for payload in 0..8 {
        publish_1(&mut publisher, payload).await;
        let member = if payload % 2 == 0 { &mut member } else { &mut clean };
        let (got, id) = take(member, QOS_1).await;
        assert_eq!(got, payload);
        if payload < 4 {
            member.send(&puback(id)).await;
        } else if payload % 2 == 1 {
            unacknowledged.push(payload);
        }
        member.expect_quiet().await;
    }
    // QoS 2 was begun with that one: nobody else gets it.
    publish_2(&mut publisher, 8).await;
    assert_eq!(take(&mut member, QOS_2).await.0, 8);
    publish_2(&mut publisher, 9).await;
    assert_eq!(take(&mut clean, QOS_2).await.0, 9);
    drop((member, clean, publisher));
    let broker = broker.restart().await;
    let mut member = kept(&broker, "kept").await;
    for payload in [4, 6] {
        assert_eq!(take(&mut member, QOS_1 | DUP).await.0, payload);
    }
    assert_eq!(take(&mut member, QOS_2 | DUP).await.0, 8);
    for payload in unacknowledged {
        assert_eq!(take(&mut member, QOS_1).await.0, payload);
    }
    member.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_slow_group_goes_on_from_the_log_and_every_event_comes_once() {
    let limits = Limits { max_queued: ByteSize::kib(4), ..Limits::default() };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut publisher = broker.client_5("p").await;
    let mut members = Vec::new();
    for id in ["a", "b", "c"] {
        // Receive maximum 3.
        let mut member = connect_5(&broker, id, 2, &[0x21, 0, 3]).await;
        member.subscribe(5, SHARED, 1).await;
        members.push(member);
    }
    const EVENTS: u16 = 600;
    for number in 0..EVENTS {
        let message = publish(5, QOS_1, 1, "t/x", &number.to_be_bytes());
        publisher.ask(&message).await;
    }
    until(|| broker.bus_metrics.lagged.get() > 0).await;
    let mut got = Vec::new();
    while got.len() < usize::from(EVENTS) {
        for member in &mut members {
            // Each answers what it has, up to the answer to a PINGREQ.
            member.send(&[0xc0, 0]).await;
            loop {
                let packet = member.packet().await;
                if packet == [0xd0, 0] {
                    break;
                }
                assert_eq!(packet[0], 0x32);
                got.push(u16::from_be_bytes([packet[packet.len() - 2], packet[packet.len() - 1]]));
                member.send(&puback(u16::from_be_bytes([packet[7], packet[8]]))).await;
            }
        }
    }
    got.sort_unstable();
    assert_eq!(got, (0..EVENTS).collect::<Vec<_>>());
    for member in &mut members {
        member.expect_quiet().await;
    }
    assert_eq!(broker.bus_metrics.dropped.get(), 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_group_ends_with_its_last_subscription() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_5("p").await;
    let mut member = kept(&broker, "member").await;
    member.subscribe(5, SHARED, 1).await;
    publish_1(&mut publisher, 1).await;
    assert_eq!(take(&mut member, QOS_1).await, (1, 1));
    let unsubscribe = packet(0xa2, &[&[0, 9, 0][..], &text(SHARED)].concat());
    assert_eq!(member.ask(&unsubscribe).await, [0xb0, 4, 0, 9, 0, 0]);
    assert_eq!(member.ask(&unsubscribe).await, [0xb0, 4, 0, 9, 0, 0x11]);
    publish_1(&mut publisher, 2).await;
    member.expect_quiet().await;
    assert_eq!(broker.bus_metrics.subscriptions.get(), 0);
    drop((member, publisher));
    let broker = broker.restart().await;
    let mut member = kept(&broker, "member").await;
    // `[MQTT-3.10.4-3]`: what was begun is completed.
    assert_eq!(take(&mut member, QOS_1 | DUP).await, (1, 1));
    member.subscribe(5, SHARED, 1).await;
    member.expect_quiet().await;
    broker.stop().await;
}
