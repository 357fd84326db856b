//! Bad input costs the connection it comes over, and nobody else.

use std::time::Duration;

use tidegate_tests::gateway::Gateway;
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::packet::{
    CONNACK, CONNECT, DISCONNECT, PUBACK, Version, connect, packet, publish, subscribe, text,
};
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;
const TOPIC_NAME_INVALID: u8 = 0x90;
const PACKET_TOO_LARGE: u8 = 0x95;

/// Sends `bytes` after a CONNECT; asserts that the connection ends, in MQTT 5 with one of `reasons`.
#[track_caller]
fn costs_the_connection(gateway: &Gateway, bytes: impl Fn(Version) -> Vec<u8>, reasons: &[u8]) {
    for version in [Version::V4, Version::V5] {
        let mut wire = Wire::client(gateway.mqtt(), version, "bad");
        wire.send(&bytes(version));
        let answers = wire.answers_to_the_end();
        match version {
            Version::V4 => assert_eq!(answers, [], "3.1.1 has no DISCONNECT from the server"),
            Version::V5 => {
                let Some((DISCONNECT, body)) = answers.last() else {
                    panic!("no DISCONNECT: {answers:02x?}");
                };
                assert!(body.first().is_some_and(|reason| reasons.contains(reason)), "{body:02x?}");
            }
        }
    }
}

#[test]
fn a_packet_that_breaks_the_rules_ends_its_connection_with_the_reason() {
    let gateway = Gateway::start("[limits]\nmax-packet-size = \"64KiB\"\n");
    let malformed = [MALFORMED, PROTOCOL_ERROR];
    // A packet type that does not exist, flags that must not be set, a length that does not end.
    costs_the_connection(&gateway, |_| vec![0x00, 0x00], &malformed);
    costs_the_connection(&gateway, |_| vec![0x42, 0x02, 0x00, 0x01], &malformed);
    costs_the_connection(&gateway, |_| vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01], &malformed);
    // QoS 3; a QoS 1 publish with packet id 0; a topic longer than its packet.
    costs_the_connection(&gateway, |_| packet(0x36, &[0, 1, b'a', 0, 1]), &malformed);
    costs_the_connection(&gateway, |v| publish(v, 1, b"a", 0, b"x"), &malformed);
    costs_the_connection(&gateway, |_| packet(0x30, &[0, 9, b'a']), &malformed);
    // A second CONNECT; a SUBSCRIBE to nothing.
    costs_the_connection(&gateway, |v| connect(v, "bad"), &[PROTOCOL_ERROR]);
    costs_the_connection(
        &gateway,
        |v| packet(0x82, if v == Version::V5 { &[0, 1, 0] } else { &[0, 1] }),
        &malformed,
    );
}

#[test]
fn a_topic_that_is_none_ends_its_connection_with_the_reason() {
    let gateway = Gateway::start("");
    let bad = [MALFORMED, TOPIC_NAME_INVALID];
    costs_the_connection(&gateway, |v| publish(v, 0, b"a/\xff\xfe", 0, b"x"), &bad);
    costs_the_connection(&gateway, |v| publish(v, 0, b"a/\0", 0, b"x"), &bad);
    let invalid = [TOPIC_NAME_INVALID];
    costs_the_connection(&gateway, |v| publish(v, 0, b"a/+/b", 0, b"x"), &invalid);
    costs_the_connection(&gateway, |v| publish(v, 0, b"a/#", 0, b"x"), &invalid);
}

#[test]
fn an_oversized_packet_ends_its_connection_before_it_is_read() {
    let gateway = Gateway::start("[limits]\nmax-packet-size = \"64KiB\"\n");
    // Only its head: the length is enough.
    let head = vec![0x30, 0x80, 0x80, 0x10, 0x00, 0x01, b'a'];
    costs_the_connection(&gateway, |_| head.clone(), &[PACKET_TOO_LARGE]);
}

#[test]
fn what_is_not_mqtt_is_let_go() {
    let gateway = Gateway::start("");
    let noise: Vec<u8> = (0..4096).map(|_| fastrand::u8(..)).collect();
    let first_words = [
        b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(),
        noise,
        // CONNECT of a protocol that does not exist, and of a version that does not.
        packet(CONNECT, &[text("MQIsdp"), vec![3, 2, 0, 60], text("x")].concat()),
        packet(CONNECT, &[text("MQTT"), vec![9, 2, 0, 60], text("x")].concat()),
        // A PUBLISH, a SUBSCRIBE before CONNECT.
        publish(Version::V4, 1, b"a", 1, b"x"),
        subscribe(Version::V5, 1, "a", 0),
    ];
    for words in first_words {
        let mut wire = Wire::open(gateway.mqtt());
        wire.send(&words);
        wire.finish();
        let answers = wire.answers_to_the_end();
        let welcome = answers.iter().any(|(first, body)| *first == CONNACK && body[1] == 0);
        assert!(!welcome, "{words:02x?}: {answers:02x?}");
    }
}

#[test]
fn a_connect_that_never_comes_is_not_waited_for() {
    let gateway = Gateway::start("[limits]\nconnect-timeout = \"300ms\"\n");
    let mut silent = Wire::open(gateway.mqtt());
    let mut slow = Wire::open(gateway.mqtt());
    slow.send(&connect(Version::V5, "slow")[..5]);
    assert_eq!(silent.answers_to_the_end(), []);
    slow.answers_to_the_end();
}

#[test]
fn a_neighbour_notices_nothing_of_bad_input_and_memory_stays_bounded() {
    let mut gateway = Gateway::start("");
    let fleet = Fleet::connect(gateway.mqtt(), &Shape { connections: 2, ..Shape::default() });
    let load = fleet.unwrap().start(Run::time(LATER).at_rate(500));
    let truncated = publish(Version::V5, 1, b"plant/a", 1, &[b'x'; 200_000]);
    let endless = packet(0x82, &[7; 100_000]);
    eventually("the load", SOON, || load.answered() > 100);
    let before = gateway.process().memory();
    for round in 0..200 {
        // Half of a large packet, and goodbye; then one that makes no sense.
        let mut wire = Wire::client(gateway.mqtt(), Version::V5, &format!("bad-{round}"));
        wire.send(&truncated[..100_000]);
        drop(wire);
        let mut wire = Wire::client(gateway.mqtt(), Version::V4, &format!("worse-{round}"));
        wire.send(&endless);
        wire.answers_to_the_end();
    }
    let grown = gateway.process().memory().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "{} KiB more", grown / 1024);
    let (_, report) = load.stop();
    assert_eq!((report.broken, report.sent), (None, report.acknowledged));
}

#[test]
fn ten_thousand_connections_are_bounded_and_a_neighbour_notices_nothing() {
    const CLIENTS: usize = 10_000;
    const BOUND: u64 = 1000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if limit.is_some_and(|limit| limit < CLIENTS as u64 + 500) {
        eprintln!("skipped: {limit:?} open files are allowed here, ten thousand are needed");
        return;
    }
    let mut gateway = Gateway::start(&format!(
        "[limits]\nmax-connections = {BOUND}\nmax-connections-per-address = {BOUND}\n"
    ));
    let fleet = Fleet::connect(gateway.mqtt(), &Shape { connections: 2, ..Shape::default() });
    let load = fleet.unwrap().start(Run::time(LATER * 2).at_rate(500));
    eventually("the load", SOON, || load.answered() > 100);
    let before = gateway.process().memory();

    let mut crowd: Vec<Wire> = Vec::with_capacity(CLIENTS);
    for n in 0..CLIENTS {
        if let Ok(mut wire) = Wire::try_open(gateway.mqtt()) {
            wire.send(&connect(Version::V5, &format!("crowd-{n}")));
            crowd.push(wire);
        }
    }
    let mut let_in: u64 = 0;
    for wire in &mut crowd {
        wire.set_patience(Duration::from_secs(20));
        if let Some((CONNACK, body)) = wire.answer() {
            let_in += u64::from(body[1] == 0);
        }
    }
    assert_eq!(let_in, BOUND - 2, "the neighbours have two places");
    let grown = gateway.process().memory().saturating_sub(before);
    assert!(grown < 48 * 1024 * 1024, "{} KiB more", grown / 1024);

    drop(crowd);
    eventually("a place is free again", SOON, || {
        let Ok(mut wire) = Wire::try_open(gateway.mqtt()) else { return false };
        wire.send(&connect(Version::V4, "late"));
        matches!(wire.try_answer(), Ok(Some((CONNACK, _))))
    });
    let (_, report) = load.stop();
    assert_eq!((report.broken, report.sent), (None, report.acknowledged));
    assert!(report.latency.max() < Duration::from_secs(5), "{:?}", report.latency.max());
}

#[test]
fn a_client_that_never_reads_is_not_buffered_for() {
    let mut gateway = Gateway::start("");
    let mut deaf = Wire::client(gateway.mqtt(), Version::V4, "deaf");
    deaf.send(&subscribe(Version::V4, 1, "#", 0));
    deaf.answer();
    let before = gateway.process().memory();
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape { payload: 2000, ..Shape::default() });
    let report = fleet.as_mut().unwrap().run(Run::messages(50_000, LATER));
    assert_eq!((report.broken, report.acknowledged), (None, 50_000));
    let grown = gateway.process().memory().saturating_sub(before);
    assert!(grown < 48 * 1024 * 1024, "{} KiB more", grown / 1024);
}

#[test]
fn a_publish_is_answered_with_its_own_packet_id() {
    let gateway = Gateway::start("");
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "ids");
    for id in [1, 0x0102, u16::MAX] {
        wire.send(&publish(Version::V4, 1, b"a", id, b"x"));
        assert_eq!(wire.answer(), Some((PUBACK, id.to_be_bytes().to_vec())));
    }
}
