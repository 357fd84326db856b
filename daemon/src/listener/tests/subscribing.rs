//! What subscribers are promised.

use tidegate_config::{ByteSize, Limits};

use super::broker::{Broker, connect_with, packet, publish, publish_with, subscribe, text};

const RETAIN: u8 = 1;
const QOS_1: u8 = 2;

#[tokio::test]
async fn a_delivery_has_the_lower_qos_of_publisher_and_subscription() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    let mut zero = broker.client_4("zero").await;
    let mut two = broker.client_4("two").await;
    assert_eq!(zero.subscribe(4, "a/+", 0).await, 0);
    assert_eq!(two.subscribe(4, "#", 2).await, 2);
    publisher.ask(&publish(4, QOS_1, 5, "a/b", b"x")).await;
    assert_eq!(zero.packet().await, publish(4, 0, 0, "a/b", b"x"));
    assert_eq!(two.packet().await, publish(4, QOS_1, 1, "a/b", b"x"));
    publisher.ask(&publish(4, 4, 6, "b", b"y")).await;
    assert_eq!(two.packet().await, publish(4, 4, 2, "b", b"y"));
    assert_eq!(two.ask(&[0x50, 2, 0, 2]).await, [0x62, 2, 0, 2]);
    two.send(&[0x70, 2, 0, 2]).await;
    zero.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn overlapping_subscriptions_deliver_once_with_all_identifiers() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("c").await;
    for (id, filter, options) in [(7, "a/#", 0), (9, "a/b", 1)] {
        let body = [&[0, id, 2, 0x0b, id][..], &text(filter), &[options]].concat();
        assert_eq!(client.ask(&packet(0x82, &body)).await, [0x90, 4, 0, id, 0, options]);
    }
    client.send(&publish(5, QOS_1, 1, "a/b", b"x")).await;
    let mut delivered = client.packet().await;
    if delivered[0] == 0x40 {
        delivered = client.packet().await;
    } else {
        assert_eq!(client.packet().await, [0x40, 2, 0, 1]);
    }
    let expected = publish_with(5, QOS_1, 1, "a/b", &[0x0b, 7, 0x0b, 9], b"x");
    let turned = publish_with(5, QOS_1, 1, "a/b", &[0x0b, 9, 0x0b, 7], b"x");
    assert!(delivered == expected || delivered == turned, "{delivered:?}");
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn subscription_options_count() {
    let broker = Broker::start().await;
    let mut other = broker.client_5("other").await;
    let mut client = broker.client_5("c").await;
    // No local; retain as published.
    assert_eq!(client.subscribe(5, "a", 1 << 2 | 1 << 3).await, 0);
    assert_eq!(client.ask(&publish(5, QOS_1, 1, "a", b"own")).await, [0x40, 2, 0, 1]);
    other.ask(&publish(5, QOS_1 | RETAIN, 1, "a", b"x")).await;
    assert_eq!(client.packet().await, publish(5, RETAIN, 0, "a", b"x"));
    // Without: the flag says "from before", which this is not.
    assert_eq!(client.subscribe(5, "a", 2 << 4).await, 0);
    other.ask(&publish(5, QOS_1 | RETAIN, 1, "a", b"y")).await;
    assert_eq!(client.packet().await, publish(5, 0, 0, "a", b"y"));
    broker.stop().await;
}

#[tokio::test]
async fn retained_messages_outlive_the_daemon() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_5("p").await;
    let properties = [0x03, 0, 1, b't'];
    publisher.ask(&publish_with(5, QOS_1 | RETAIN, 1, "a/b", &properties, b"last")).await;
    publisher.ask(&publish(5, QOS_1 | RETAIN, 1, "a/gone", b"x")).await;
    publisher.ask(&publish(5, QOS_1 | RETAIN, 1, "a/gone", b"")).await;
    publisher.ask(&publish(5, QOS_1 | RETAIN, 1, "a/kept", b"x")).await;
    // An empty payload that is not to be retained removes nothing.
    publisher.ask(&publish(5, QOS_1, 1, "a/kept", b"")).await;
    let broker = broker.restart().await;
    let mut client = broker.client_5("c").await;
    client.subscribe(5, "a/+", 0).await;
    assert_eq!(client.packet().await, publish_with(5, RETAIN, 0, "a/b", &properties, b"last"));
    assert_eq!(client.packet().await, publish(5, RETAIN, 0, "a/kept", b"x"));
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn retained_messages_come_as_the_retain_handling_says() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("c").await;
    client.ask(&publish(5, QOS_1 | RETAIN, 1, "a", b"x")).await;
    let message = publish(5, RETAIN, 0, "a", b"x");
    // 2: never, 1: for a new subscription, 0: each time.
    client.subscribe(5, "a", 2 << 4).await;
    client.expect_quiet().await;
    client.subscribe(5, "a", 1 << 4).await;
    client.expect_quiet().await;
    client.subscribe(5, "+", 1 << 4).await;
    assert_eq!(client.packet().await, message);
    client.subscribe(5, "a", 0).await;
    assert_eq!(client.packet().await, message);
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn one_retained_message_too_many_is_an_event_all_the_same() {
    let broker = Broker::with(Limits { max_retained: 1, ..Limits::default() }, 64 << 20).await;
    let mut client = broker.client_4("c").await;
    client.ask(&publish(4, QOS_1 | RETAIN, 1, "a", b"x")).await;
    client.ask(&publish(4, QOS_1 | RETAIN, 1, "b", b"x")).await;
    client.ask(&publish(4, QOS_1 | RETAIN, 1, "a", b"y")).await;
    client.subscribe(4, "#", 0).await;
    assert_eq!(client.packet().await, publish(4, RETAIN, 0, "a", b"y"));
    client.expect_quiet().await;
    assert_eq!(broker.bus_metrics.retained_refused.get(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn an_unsubscribed_client_gets_nothing_more() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("c").await;
    client.subscribe(5, "a", 0).await;
    let both = [&[0, 3, 0][..], &text("a"), &text("b")].concat();
    assert_eq!(client.ask(&packet(0xa2, &both)).await, [0xb0, 5, 0, 3, 0, 0, 0x11]);
    assert_eq!(client.ask(&publish(5, QOS_1, 1, "a", b"x")).await, [0x40, 2, 0, 1]);
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_filter_that_cannot_be_is_refused_alone() {
    let limits = Limits { max_subscriptions: 2, max_topic_levels: 3, ..Limits::default() };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut five = broker.client_5("five").await;
    for (filter, code) in
        [("a/#/b", 0x8f), ("a/b/c/d", 0x8f), ("a", 0), ("b", 0), ("a", 0), ("c", 0x97)]
    {
        assert_eq!(five.subscribe(5, filter, 0).await, code, "{filter}");
    }
    let mut four = broker.client_4("four").await;
    assert_eq!(four.subscribe(4, "a/#/b", 0).await, 0x80);
    broker.stop().await;
}

#[tokio::test]
async fn no_more_is_in_flight_than_the_client_takes() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    let mut client = broker.dial().await;
    client.ask(&connect_with(5, "c", 2, &[0x21, 0, 1], &[])).await;
    client.subscribe(5, "#", 1).await;
    for id in 1..=3 {
        publisher.ask(&publish(4, QOS_1, id, "a", b"x")).await;
    }
    for id in 1..=3 {
        assert_eq!(client.packet().await, publish(5, QOS_1, id, "a", b"x"));
        client.expect_quiet().await;
        client.send(&[0x40, 2, 0, id as u8]).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_packet_too_large_for_the_client_is_left_out() {
    let broker = Broker::start().await;
    let mut publisher = broker.client_4("p").await;
    let mut client = broker.dial().await;
    client.ask(&connect_with(5, "c", 2, &[0x27, 0, 0, 0, 50], &[])).await;
    client.subscribe(5, "#", 1).await;
    publisher.ask(&publish(4, QOS_1, 1, "a", &[b'x'; 60])).await;
    publisher.ask(&publish(4, QOS_1, 1, "a", b"small")).await;
    let delivered = client.packet().await;
    assert!(delivered.ends_with(b"small"), "{delivered:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_message_expires() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("c").await;
    let expiry = |seconds: u8| [0x02, 0, 0, 0, seconds];
    client.ask(&publish_with(5, QOS_1 | RETAIN, 1, "dead", &expiry(0), b"x")).await;
    client.ask(&publish_with(5, QOS_1 | RETAIN, 1, "live", &expiry(200), b"x")).await;
    client.subscribe(5, "#", 0).await;
    let delivered = client.packet().await;
    let left = delivered[delivered.len() - 2];
    assert_eq!(delivered, publish_with(5, RETAIN, 0, "live", &expiry(left), b"x"));
    assert!((150..=200).contains(&left));
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_slow_subscriber_gets_every_qos_1_event_from_the_log_in_order() {
    let limits = Limits { max_queued: ByteSize(4 << 10), ..Limits::default() };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut slow = broker.dial().await;
    // It takes one at a time.
    slow.ask(&connect_with(5, "slow", 2, &[0x21, 0, 1], &[])).await;
    slow.send(&subscribe(5, 1, "#", 1)).await;
    slow.packet().await;
    let mut quick = broker.client_4("quick").await;
    quick.subscribe(4, "#", 1).await;
    let mut publisher = broker.client_4("p").await;
    let payload = |n: u16| [&n.to_be_bytes()[..], &[b'x'; 200]].concat();
    for round in 0..3 {
        for n in 1..=200_u16 {
            let [high, low] = n.to_be_bytes();
            let ack = publisher.ask(&publish(4, QOS_1, n, "a", &payload(round * 200 + n))).await;
            assert_eq!(ack, [0x40, 2, high, low]);
            assert!(quick.packet().await.ends_with(&payload(round * 200 + n)));
            quick.send(&[0x40, 2, high, low]).await;
        }
        // Once it has caught up, it follows the live queue again, and falls behind again.
        for n in 1..=200_u16 {
            let delivered = slow.packet().await;
            assert!(delivered.ends_with(&payload(round * 200 + n)), "{round} {n}");
            let id = 4 + usize::from(delivered[1] > 0x7f);
            slow.send(&[0x40, 2, delivered[id + 1], delivered[id + 2]]).await;
        }
    }
    assert!(broker.bus_metrics.lagged.get() >= 3);
    assert_eq!(broker.bus_metrics.dropped.get(), 0);
    slow.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn each_filter_of_a_subscribe_counts_like_a_packet_of_its_own() {
    let broker = Broker::start().await;
    let mut client = broker.client_4("c").await;
    client.ask(&publish(4, QOS_1 | RETAIN, 1, "a/b", b"x")).await;
    // Two that match the retained message, one that cannot be, one that matches nothing.
    let filters = [("a/+", 0), ("#/a", 0), ("a/b", 1), ("c", 2)];
    let mut body = vec![0, 3];
    for (filter, qos) in filters {
        body.extend([text(filter), vec![qos]].concat());
    }
    assert_eq!(client.ask(&packet(0x82, &body)).await, [0x90, 6, 0, 3, 0, 0x80, 1, 2]);
    assert_eq!(client.packet().await, publish(4, RETAIN, 0, "a/b", b"x"));
    assert_eq!(client.packet().await, publish(4, QOS_1 | RETAIN, 1, "a/b", b"x"));
    client.expect_quiet().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_filter_named_thousands_of_times_is_one_subscription() {
    const TIMES: usize = 20_000;
    let broker = Broker::with(Limits { max_subscriptions: 3, ..Limits::default() }, 64 << 20).await;
    let mut client = broker.client_5("c").await;
    let named = [text("a"), vec![0]].concat().repeat(TIMES);
    let body = [&[0, 3, 2, 0x0b, 7][..], &named].concat();
    let suback = client.ask(&packet(0x82, &body)).await;
    assert!(suback.ends_with(&vec![0; TIMES]) && suback.len() < TIMES + 10);
    // As many different ones: as many as are allowed.
    let mut body = vec![0, 4, 0];
    for n in 0..TIMES {
        body.extend([text(&format!("b/{n}")), vec![0]].concat());
    }
    let suback = client.ask(&packet(0x82, &body)).await;
    let refused = [&[0, 0][..], &vec![0x97; TIMES - 2]].concat();
    assert!(suback.ends_with(&refused));
    assert_eq!(broker.bus_metrics.subscriptions.get(), 3);
    // At QoS 0: an acknowledgement might come before the event or behind it.
    client.send(&publish(5, 0, 0, "a", b"x")).await;
    assert_eq!(client.packet().await, publish_with(5, 0, 0, "a", &[0x0b, 7], b"x"));
    let body = [&[0, 5, 0][..], &text("a").repeat(TIMES)].concat();
    let unsuback = client.ask(&packet(0xa2, &body)).await;
    assert!(unsuback.ends_with(&[&[0][..], &vec![0x11; TIMES - 1]].concat()));
    broker.stop().await;
}

#[tokio::test]
async fn what_was_sent_before_an_unsubscribe_is_completed() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("c").await;
    client.subscribe(5, "a", 2).await;
    let mut publisher = broker.client_4("p").await;
    publisher.ask(&publish(4, 4, 1, "a", b"x")).await;
    assert_eq!(client.packet().await, publish(5, 4, 1, "a", b"x"));
    let body = [&[0, 3, 0][..], &text("a")].concat();
    assert_eq!(client.ask(&packet(0xa2, &body)).await, [0xb0, 4, 0, 3, 0, 0]);
    assert_eq!(client.ask(&[0x50, 2, 0, 1]).await, [0x62, 2, 0, 1]);
    client.send(&[0x70, 2, 0, 1]).await;
    client.expect_quiet().await;
    broker.stop().await;
}
