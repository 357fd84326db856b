//! What a client does wrong costs it the connection, and nobody else anything.

use std::time::Duration;

use tidegate_config::{ByteSize, Limits, Span};

use super::broker::{
    Broker, connect, connect_with, packet, publish, publish_with, subscribe, text,
};

/// What ends a connection, and with which reason code in MQTT 5.
fn bad_packets() -> Vec<(&'static str, Vec<u8>, u8)> {
    let no_topic = packet(0x32, &[0, 9, b'a', 0, 1, 0]);
    let bad_utf8 = packet(0x32, &[0, 2, 0xc3, 0x28, 0, 1, 0, b'x']);
    let overlong = packet(0x30, &[0, 2, 0xc0, 0x80, 0]);
    let surrogate = packet(0x30, &[0, 3, 0xed, 0xa0, 0x80, 0]);
    let twice = [0x02, 0, 0, 0, 1, 0x02, 0, 0, 0, 1];
    let user = [0x26, 0, 1, b'k', 0, 1, 0xff];
    let filters = [&[0, 1, 0][..], &text("a"), &[0], &text("b")].concat();
    vec![
        ("not MQTT at all", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 0x81),
        ("packet type 0", vec![0x00, 0], 0x81),
        ("AUTH", vec![0xf0, 0], 0x82),
        ("AUTH with wrong flags", vec![0xf1, 0], 0x82),
        ("CONNACK", vec![0x20, 2, 0, 0], 0x82),
        ("PINGRESP", vec![0xd0, 0], 0x82),
        ("length of five bytes", vec![0x30, 0xff, 0xff, 0xff, 0xff, 1], 0x81),
        ("length beyond the limit", vec![0x30, 0xff, 0xff, 0x7f], 0x95),
        ("topic longer than the packet", no_topic, 0x81),
        ("bad UTF-8", bad_utf8, 0x81),
        ("overlong UTF-8", overlong, 0x81),
        ("surrogate", surrogate, 0x81),
        ("null character", publish(5, 2, 1, "a\0b", b""), 0x81),
        ("wildcard +", publish(5, 2, 1, "a/+", b""), 0x90),
        ("wildcard #", publish(5, 0, 0, "#", b""), 0x90),
        ("no topic", publish(5, 0, 0, "", b""), 0x82),
        ("QoS 3", publish(5, 6, 1, "a", b""), 0x81),
        ("DUP with QoS 0", publish(5, 8, 0, "a", b""), 0x81),
        ("packet id 0", publish(5, 2, 0, "a", b""), 0x81),
        ("no property length", packet(0x30, &text("a")), 0x81),
        ("properties beyond the packet", packet(0x30, &[0, 1, b'a', 9, 1]), 0x81),
        ("unknown property", publish_with(5, 0, 0, "a", &[0x77, 0], b""), 0x81),
        ("property of another packet", publish_with(5, 0, 0, "a", &[0x21, 0, 1], b""), 0x81),
        ("property twice", publish_with(5, 0, 0, "a", &twice, b""), 0x82),
        ("cut property", publish_with(5, 0, 0, "a", &[0x02, 0], b""), 0x81),
        ("payload format 2", publish_with(5, 0, 0, "a", &[0x01, 2], b""), 0x82),
        ("topic alias 0", publish_with(5, 0, 0, "a", &[0x23, 0, 0], b""), 0x94),
        ("topic alias too high", publish_with(5, 0, 0, "a", &[0x23, 0, 33], b""), 0x94),
        ("topic alias for nothing", publish_with(5, 0, 0, "", &[0x23, 0, 1], b""), 0x82),
        ("length of more bytes than it needs", vec![0xc0, 0x80, 0], 0x81),
        ("property length of more bytes", packet(0x30, &[0, 1, b'a', 0x80, 0]), 0x81),
        ("PUBACK with another's reason", packet(0x40, &[0, 1, 0x92]), 0x82),
        ("PUBREL with another's reason", packet(0x62, &[0, 1, 0x10]), 0x82),
        ("DISCONNECT with another's reason", packet(0xe0, &[0x8e]), 0x82),
        ("bad UTF-8 in a user property", publish_with(5, 0, 0, "a", &user, b""), 0x81),
        ("bad UTF-8 in a content type", publish_with(5, 0, 0, "a", &[3, 0, 1, 0xff], b""), 0x81),
        ("bad UTF-8 in a response topic", publish_with(5, 0, 0, "a", &[8, 0, 1, 0xff], b""), 0x81),
        ("subscription identifier", publish_with(5, 0, 0, "a", &[0x0b, 1], b""), 0x81),
        ("wildcard response topic", publish_with(5, 0, 0, "a", &[8, 0, 1, b'#'], b""), 0x82),
        ("second CONNECT", connect(5, "again"), 0x82),
        ("PUBACK without an id", packet(0x40, &[0]), 0x81),
        ("PUBACK with id 0", packet(0x40, &[0, 0]), 0x81),
        ("PUBREL with wrong flags", vec![0x60, 2, 0, 1], 0x81),
        ("PUBCOMP with bytes left over", vec![0x70, 5, 0, 1, 0, 0, 9], 0x81),
        ("SUBSCRIBE with wrong flags", packet(0x80, &[0, 1, 0, 0, 1, b'a', 0]), 0x81),
        ("SUBSCRIBE without a filter", packet(0x82, &[0, 1, 0]), 0x82),
        ("SUBSCRIBE with id 0", subscribe(5, 0, "a", 0), 0x81),
        ("SUBSCRIBE for QoS 3", subscribe(5, 1, "a", 3), 0x81),
        ("retain handling 3", subscribe(5, 1, "a", 0x30), 0x82),
        ("reserved subscription options", subscribe(5, 1, "a", 0x40), 0x81),
        ("subscription identifier 0", packet(0x82, &[0, 1, 2, 0x0b, 0, 0, 1, b'a', 0]), 0x82),
        ("SUBSCRIBE with cut options", packet(0x82, &filters), 0x81),
        ("bad UTF-8 in a filter", packet(0x82, &[0, 1, 0, 0, 1, 0xff, 0]), 0x81),
        ("null character in a filter", subscribe(5, 1, "a\0", 0), 0x81),
        ("UNSUBSCRIBE with wrong flags", packet(0xa0, &[0, 1, 0, 0, 1, b'a']), 0x81),
        ("UNSUBSCRIBE with id 0", packet(0xa2, &[0, 0, 0, 0, 1, b'a']), 0x81),
        ("bad UTF-8 to unsubscribe", packet(0xa2, &[0, 1, 0, 0, 1, 0xff]), 0x81),
        ("UNSUBSCRIBE without a filter", packet(0xa2, &[0, 1, 0]), 0x82),
        ("PINGREQ with wrong flags", vec![0xc1, 0], 0x81),
        ("DISCONNECT with wrong flags", vec![0xe1, 0], 0x81),
        ("PINGREQ with content", vec![0xc0, 1, 0], 0x81),
        ("DISCONNECT with bytes left over", vec![0xe0, 3, 0, 0, 0], 0x81),
    ]
}

#[tokio::test]
async fn a_bad_packet_ends_its_connection_with_the_reason() {
    let broker = Broker::start().await;
    let mut bystander = broker.client_5("bystander").await;
    for (what, bytes, reason) in bad_packets() {
        let mut client = broker.client_5("bad").await;
        client.try_send(&bytes).await;
        assert_eq!(client.packet().await, [0xe0, 1, reason], "{what}");
        assert!(client.packet().await.is_empty(), "{what}");
    }
    bystander.expect_quiet().await;
    assert_eq!(broker.log.committed(), 0);
    assert_eq!(broker.metrics.malformed.get(), bad_packets().len() as u64);
    broker.stop().await;
}

#[tokio::test]
async fn a_3_1_1_client_is_told_nothing() {
    let broker = Broker::start().await;
    for bytes in [
        vec![0x00, 0],
        connect(4, "again"),
        publish(4, 2, 1, "a/+", b""),
        publish(4, 0, 0, "a/#", b""),
        publish(4, 2, 0, "a", b""),
        publish(4, 0, 0, "", b""),
        publish(4, 0, 0, "a\0", b""),
        publish(4, 6, 1, "a", b""),
        publish(4, 8, 0, "a", b""),
        packet(0x30, &[0, 1, 0xff]),
        packet(0x30, &[0, 2, 0xc0, 0x80]),
        packet(0x30, &[0, 3, 0xed, 0xa0, 0x80]),
        vec![0x40, 4, 0, 1, 0, 0],
        vec![0x60, 2, 0, 1],
        subscribe(4, 1, "a", 3),
        subscribe(4, 1, "a", 4),
        subscribe(4, 0, "a", 0),
        packet(0x80, &[0, 1, 0, 1, b'a', 0]),
        packet(0x82, &[0, 1]),
        packet(0x82, &[0, 1, 0, 1, 0xff, 0]),
        packet(0xa0, &[0, 1, 0, 1, b'a']),
        packet(0xa2, &[0, 0, 0, 1, b'a']),
        packet(0xa2, &[0, 1]),
        packet(0xa2, &[0, 1, 0, 1, 0xff]),
        vec![0xc1, 0],
        vec![0xe1, 0],
        vec![0xe0, 1, 0],
    ] {
        let mut client = broker.client_4("bad").await;
        client.try_send(&bytes).await;
        assert!(client.packet().await.is_empty(), "{bytes:02x?}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_came_before_a_bad_packet_is_stored() {
    let broker = Broker::start().await;
    let mut committed = broker.log.watch();
    let mut client = broker.client_4("c").await;
    client.try_send(&[publish(4, 2, 1, "a", b"x"), vec![0, 0]].concat()).await;
    committed.wait_for(|last| *last == 1).await.unwrap();
    broker.stop().await;
}

/// A first packet that lets nobody in, and the answer.
fn bad_connects() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let refused_5 = |reason| vec![0x20, 3, 0, reason, 0];
    let mut flags = connect(5, "c");
    flags[9] |= 1;
    let mut longer = connect(5, "c");
    longer[1] += 1;
    longer.push(0);
    let old = packet(0x10, &[&text("MQIsdp")[..], &[3, 2, 0, 0], &text("c")].concat());
    let other = packet(0x10, &[&text("HTTP")[..], &[5, 2, 0, 0], &text("c")].concat());
    let will = [vec![0], text("a/#"), text("x")].concat();
    let too_long = "x".repeat(257);
    let bad = [0, 1, 0xff];
    // A client id that is no text.
    let nobody = |level: u8| {
        let properties: &[u8] = if level == 5 { &[0] } else { &[] };
        packet(0x10, &[&text("MQTT")[..], &[level, 2, 0, 0], properties, &bad].concat())
    };
    let mut typed = connect(5, "c");
    typed[0] |= 1;
    let mut flags_4 = connect(4, "c");
    flags_4[9] |= 1;
    let dark_will = [&bad[..], &text("x")].concat();
    let dark_will_5 = [&[0][..], &dark_will].concat();
    vec![
        ("PUBLISH before CONNECT", publish(4, 0, 0, "a", b"x"), vec![]),
        ("not MQTT at all", b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![]),
        ("TLS", vec![0x16, 3, 1, 2, 0], vec![]),
        ("protocol MQTT 3.1", old, vec![0x20, 2, 0, 1]),
        ("another protocol", other, vec![]),
        ("protocol level 6", connect(6, "c"), refused_5(0x84)),
        ("protocol level 3", connect(3, "c"), vec![0x20, 2, 0, 1]),
        ("bridge of MQTT 3.1", connect(0x83, "c"), vec![0x20, 2, 0, 1]),
        ("bridge of MQTT 5", connect(0x85, "c"), vec![0x20, 2, 0, 1]),
        ("reserved flag", flags, refused_5(0x81)),
        ("bytes left over", longer, refused_5(0x81)),
        ("will flags without a will", connect_with(5, "c", 0x22, &[], &[]), refused_5(0x81)),
        ("will QoS 3", connect_with(5, "c", 0x1e, &[], &will), refused_5(0x81)),
        ("will topic with a wildcard", connect_with(5, "c", 6, &[], &will), refused_5(0x90)),
        ("will cut off", connect_with(5, "c", 6, &[], &[0, 0]), refused_5(0x81)),
        ("receive maximum 0", connect_with(5, "c", 2, &[0x21, 0, 0], &[]), refused_5(0x82)),
        ("packet size 0", connect_with(5, "c", 2, &[0x27, 0, 0, 0, 0], &[]), refused_5(0x82)),
        ("property twice", connect_with(5, "c", 2, &[0x17, 1, 0x17, 1], &[]), refused_5(0x82)),
        (
            "authentication method",
            connect_with(5, "c", 2, &[0x15, 0, 1, b'k'], &[]),
            refused_5(0x8c),
        ),
        ("authentication data", connect_with(5, "c", 2, &[0x16, 0, 1, b'k'], &[]), refused_5(0x82)),
        ("password without a user", connect_with(4, "c", 0x42, &[], &text("x")), vec![]),
        ("null character in the id", connect(5, "a\0"), refused_5(0x81)),
        ("client id too long", connect_with(5, &too_long, 2, &[], &[]), refused_5(0x85)),
        ("client id too long", connect_with(4, &too_long, 2, &[], &[]), vec![0x20, 2, 0, 2]),
        ("client id that is no text", nobody(5), refused_5(0x81)),
        ("client id that is no text", nobody(4), vec![]),
        ("wrong flags of the packet", typed, vec![]),
        ("reserved flag", flags_4, vec![]),
        ("will QoS without a will", connect_with(5, "c", 0x0a, &[], &[]), refused_5(0x81)),
        ("will QoS without a will", connect_with(4, "c", 0x0a, &[], &[]), vec![]),
        ("will retain without a will", connect_with(4, "c", 0x22, &[], &[]), vec![]),
        ("will QoS 3", connect_with(4, "c", 0x1e, &[], &[text("a"), text("x")].concat()), vec![]),
        ("will topic that is no text", connect_with(5, "c", 6, &[], &dark_will_5), refused_5(0x81)),
        ("will topic that is no text", connect_with(4, "c", 6, &[], &dark_will), vec![]),
        (
            "will without its flag",
            connect_with(4, "c", 2, &[], &[text("a"), text("x")].concat()),
            vec![],
        ),
        ("user name that is no text", connect_with(5, "c", 0x82, &[], &bad), refused_5(0x81)),
        ("user name that is no text", connect_with(4, "c", 0x82, &[], &bad), vec![]),
        ("no user name", connect_with(5, "c", 0x82, &[], &[]), refused_5(0x81)),
        ("no user name", connect_with(4, "c", 0x82, &[], &[]), vec![]),
        ("user name without its flag", connect_with(5, "c", 2, &[], &text("u")), refused_5(0x81)),
        ("user name without its flag", connect_with(4, "c", 2, &[], &text("u")), vec![]),
        ("no password", connect_with(5, "c", 0xc2, &[], &text("u")), refused_5(0x81)),
        ("no password", connect_with(4, "c", 0xc2, &[], &text("u")), vec![]),
        ("no client id, session kept", connect_with(4, "", 0, &[], &[]), vec![0x20, 2, 0, 2]),
    ]
}

#[tokio::test]
async fn a_bad_connect_is_answered_as_far_as_the_client_understands() {
    let broker = Broker::start().await;
    for (what, bytes, answer) in bad_connects() {
        let mut client = broker.dial().await;
        // What is behind a CONNECT that is refused is not looked at.
        let behind = publish(4, 2, 1, "a", b"x");
        client.try_send(&[bytes, behind].concat()).await;
        assert_eq!(client.packet().await, answer, "{what}");
        assert!(client.packet().await.is_empty(), "{what}");
    }
    assert_eq!((broker.metrics.connects.get(), broker.log.committed()), (0, 0));
    broker.stop().await;
}

#[tokio::test]
async fn a_cut_packet_is_waited_for_and_costs_nothing() {
    let broker = Broker::start().await;
    let mut client = broker.client_5("c").await;
    let whole = publish(5, 2, 7, "a/b", &[b'x'; 3000]);
    for byte in &whole[..6] {
        client.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    client.send(&whole[6..]).await;
    assert_eq!(client.packet().await, [0x40, 2, 0, 7]);
    client.send(&whole[..10]).await;
    drop(client);
    broker.client_5("d").await.expect_quiet().await;
    assert_eq!(broker.log.committed(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn a_packet_as_large_as_allowed_passes_and_one_byte_more_does_not() {
    let limits = Limits { max_packet_size: ByteSize(100_000), ..Limits::default() };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut client = broker.client_5("c").await;
    let overhead = publish(5, 2, 1, "a", &[0; 90_000]).len() - 90_000;
    let largest = vec![b'x'; 100_000 - overhead];
    assert_eq!(client.ask(&publish(5, 2, 1, "a", &largest)).await, [0x40, 2, 0, 1]);
    client.try_send(&publish(5, 2, 2, "a", &[largest, vec![b'x']].concat())).await;
    assert_eq!(client.packet().await, [0xe0, 1, 0x95]);
    broker.stop().await;
}

#[tokio::test]
async fn more_than_the_receive_maximum_breaks_the_protocol() {
    let broker = Broker::with(Limits { max_inflight: 2, ..Limits::default() }, 64 << 20).await;
    let mut client = broker.client_5("c").await;
    for id in 1..=2 {
        assert_eq!(client.ask(&publish(5, 4, id, "a", b"x")).await, [0x50, 2, 0, id as u8]);
    }
    assert_eq!(client.ask(&publish(5, 4, 3, "a", b"x")).await, [0xe0, 1, 0x93]);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_never_connects_is_let_go() {
    let limits = Limits { connect_timeout: Span::milliseconds(50), ..Limits::default() };
    let broker = Broker::with(limits, 64 << 20).await;
    let mut client = broker.dial().await;
    client.send(&connect(5, "c")[..5]).await;
    assert!(client.packet().await.is_empty());
    assert_eq!(broker.metrics.timed_out.get(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn a_silent_client_is_let_go_after_one_and_a_half_keep_alives() {
    let broker = Broker::start().await;
    let mut client = broker.dial().await;
    let mut connect = connect(5, "c");
    connect[11] = 1;
    let begun = tokio::time::Instant::now();
    client.ask(&connect).await;
    assert_eq!(client.packet().await, [0xe0, 1, 0x8d]);
    assert!(begun.elapsed() >= Duration::from_millis(1490));
    broker.stop().await;
}

#[tokio::test]
async fn random_bytes_hurt_nobody() {
    let broker = Broker::start().await;
    let mut bystander = broker.client_4("bystander").await;
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..200 {
        let mut client = broker.client_5("noise").await;
        let mut noise: Vec<u8> = (0..64).map(|_| random.u8(..)).collect();
        // Every packet type comes up, with a length that fits.
        noise[0] = random.u8(1..15) << 4 | if round % 2 == 0 { 2 } else { 0 };
        noise[1] = 62;
        client.try_send(&noise).await;
        client.try_send(&[0, 0]).await;
        while !client.packet().await.is_empty() {}
    }
    bystander.expect_quiet().await;
    broker.stop().await;
}
