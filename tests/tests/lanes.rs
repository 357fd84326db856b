//! Lanes that are full: what happens to their events, and that it happens to no others.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tidegate_tests::clients::{Subscriber, VERSIONS, mosquitto_pub};
use tidegate_tests::curl::{Answer, curl};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::process::Process;
use tidegate_tests::receiver::Receiver;
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

const QUOTA_EXCEEDED: u8 = 0x97;
const TELEMETRY: &[u8] = b"plant/boiler-7/telemetry/t";

/// A lane for telemetry that is full soon, in a log that has room.
fn small_lane(when_full: &str) -> String {
    format!(
        r#"
[[listener]]
type = "http"
bind = "127.0.0.1:0"

[limits]
max-packet-size = "16KiB"
max-body-size = "64KiB"

[log]
max-size = "16MiB"
segment-size = "256KiB"
commit.max-bytes = "64KiB"

[[lane]]
name = "telemetry"
topics = ["plant/+/telemetry/#"]
max-size = "512KiB"
when-full = "{when_full}"

[[alert]]
name = "hot"
topic = "plant/+/temperature"
raise = "> 90"

"#
    )
}

/// A gateway whose upstream is away, and where it takes HTTP.
fn start(when_full: &str) -> (Receiver, Gateway, SocketAddr) {
    let mut receiver = Receiver::start();
    let mut gateway = Gateway::start(&format!("{}{}", small_lane(when_full), receiver.sink()));
    let http = gateway.listener("http");
    receiver.stop();
    (receiver, gateway, http)
}

/// The reason of a PUBACK.
fn reason(answer: Option<(u8, Vec<u8>)>) -> u8 {
    match answer {
        Some((PUBACK, body)) => body.get(2).copied().unwrap_or(0),
        other => panic!("no PUBACK: {other:02x?}"),
    }
}

/// Publishes telemetry until it is refused; how many events were taken.
fn fill(gateway: &Gateway) -> u64 {
    let mut wire = Wire::client(gateway.mqtt(), Version::V5, "filler");
    let refused = (1..=1_000).find(|id| {
        wire.send(&publish(Version::V5, 1, TELEMETRY, *id, &[b'x'; 4_000]));
        reason(wire.answer()) == QUOTA_EXCEEDED
    });
    u64::from(refused.expect("a refusal") - 1)
}

fn post(http: SocketAddr, topic: &str) -> Answer {
    curl("http", http, &format!("/v1/topics/{topic}"), &["-d", "{\"value\": 1}"])
}

fn lane(gateway: &Gateway, name: &str) -> Value {
    let status = gateway.status();
    let lanes = status["log"]["lanes"].as_array().cloned().unwrap_or_default();
    lanes.into_iter().find(|lane| lane["name"] == name).unwrap_or_else(|| panic!("{status}"))
}

#[test]
fn a_full_lane_refuses_its_own_events_and_no_others() {
    let (mut receiver, mut gateway, http) = start("reject");
    let taken = fill(&gateway);

    // One read brings all of them.
    let mut wire = Wire::client(gateway.mqtt(), Version::V5, "mixed");
    let payload = [b'x'; 4_000];
    let packets = [
        publish(Version::V5, 1, b"alerts/by-hand/boiler-7", 1, b"hot"),
        publish(Version::V5, 1, TELEMETRY, 2, &payload),
        publish(Version::V5, 1, b"plant/boiler-7/setpoint", 3, b"70"),
        publish(Version::V5, 0, TELEMETRY, 0, &payload),
        publish(Version::V5, 1, TELEMETRY, 4, &payload),
        publish(Version::V5, 1, b"alerts/by-hand/boiler-7", 5, b"cold"),
    ];
    wire.send(&packets.concat());
    let reasons: Vec<u8> = (0..5).map(|_| reason(wire.answer())).collect();
    assert_eq!(reasons, [0, QUOTA_EXCEEDED, 0, QUOTA_EXCEEDED, 0]);

    let refused = post(http, "plant/boiler-7/telemetry/t");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert!(refused.json()["detail"].as_str().unwrap().contains("\"telemetry\""), "{refused:?}");
    assert_eq!(post(http, "alerts/by-hand/boiler-7").status, 202);
    // A service of the gateway's own.
    let alerts = Subscriber::start(gateway.site(), gateway.mqtt(), &["-t", "alerts/hot/#"]);
    for version in VERSIONS {
        mosquitto_pub(
            gateway.mqtt(),
            &["-V", version, "-q", "1", "-i", version, "-t", "plant/x/temperature", "-m", "91"],
        );
    }
    eventually("the alerts are raised", SOON, || alerts.messages().len() == 2);

    let telemetry = lane(&gateway, "telemetry");
    assert_eq!((&telemetry["events"], &telemetry["full"]), (&json!(taken), &json!(true)));
    assert_eq!(telemetry["refused"], 5, "{telemetry}");
    assert_eq!(gateway.metric_where("tidegate_lane_refused_total", "telemetry"), 5.0);
    assert_eq!(gateway.metric("tidegate_publishes_dropped_total"), 1.0);
    let problems = gateway.status()["problems"].to_string();
    assert!(problems.contains("lane \\\"telemetry\\\" is full"), "{problems}");

    receiver.restart();
    eventually("all that was taken is upstream", LATER, || gateway.lag("lag-events") == 0);
    eventually("the lane has room", LATER, || {
        wire.send(&publish(Version::V5, 1, TELEMETRY, 6, &payload));
        reason(wire.answer()) == 0
    });
    assert_eq!(receiver.missing(), 0);
    gateway.stop();
}

#[test]
fn a_3_1_1_client_waits_for_its_lane_and_others_do_not() {
    let (mut receiver, mut gateway, _) = start("reject");
    fill(&gateway);
    let large = "x".repeat(8_000);
    let arguments = ["-V", "mqttv311", "-q", "1", "-d", "-i", "waits", "-m", &large];
    let topic = std::str::from_utf8(TELEMETRY).unwrap();
    let mut command = gateway.site().ordinary("mosquitto_pub");
    let (host, port) = (gateway.mqtt().ip().to_string(), gateway.mqtt().port().to_string());
    command.args(["-h", &host, "-p", &port]).args(arguments).args(["-t", topic]);
    let mut waits = Process::start("waits", command, gateway.site().path());
    let mut pings = Wire::client(gateway.mqtt(), Version::V4, "pings");
    pings.send(&publish(Version::V4, 1, TELEMETRY, 1, large.as_bytes()));
    pings.send(&[0xc0, 0]);
    assert_eq!(pings.answer(), Some((0xd0, Vec::new())), "a ping is answered meanwhile");

    // Nobody else waits; QoS 0 is dropped.
    for (qos, topic) in [("1", "alerts/by-hand/x"), ("2", "plant/x/setpoint"), ("0", topic)] {
        let arguments = ["-V", "mqttv311", "-q", qos, "-t", topic, "-m", "1"];
        mosquitto_pub(gateway.mqtt(), &arguments);
    }
    eventually("the QoS 0 event is counted", SOON, || {
        gateway.metric("tidegate_publishes_dropped_total") >= 1.0
    });
    assert!(waits.is_running());

    receiver.restart();
    assert!(waits.wait(LATER).success());
    assert_eq!(reason(pings.answer()), 0);
    eventually("everything is upstream", LATER, || gateway.lag("lag-events") == 0);
    let mut waited = 0;
    receiver.each_event(|event| {
        waited += u64::from(event["source"] == "/gateway/edge-01/device/waits");
    });
    assert_eq!((waited, receiver.missing()), (1, 0));
    gateway.stop();
}

#[test]
fn a_batch_with_an_event_of_a_full_lane_is_refused_as_a_whole() {
    let (_receiver, gateway, http) = start("reject");
    fill(&gateway);
    let event = |id: &str, subject: &str| {
        json!({
            "specversion": "1.0", "id": id, "source": "/press/3", "type": "pressed",
            "subject": subject, "data": 1
        })
    };
    let last = gateway.status()["log"]["last-lsn"].clone();
    let post = |events: Value| {
        let header = "content-type: application/cloudevents-batch+json";
        curl("http", http, "/v1/events", &["-H", header, "--data-binary", &events.to_string()])
    };
    let telemetry = "plant/boiler-7/telemetry/t";
    let refused = post(json!([event("1", "alerts/by-hand/x"), event("2", telemetry)]));
    assert_eq!((refused.status, &refused.json()["index"]), (503, &json!(1)));
    assert_eq!(gateway.status()["log"]["last-lsn"], last);
    // It was not taken for a copy of what was refused.
    let taken = post(json!([event("1", "alerts/by-hand/x")]));
    assert_eq!((taken.status, taken.json()), (202, json!({"stored": 1, "duplicates": 0})));
}

#[test]
fn a_full_lane_that_drops_what_is_new_acknowledges_it_and_says_so() {
    const EVENTS: u16 = 400;
    let (mut receiver, mut gateway, http) = start("drop-newest");
    for version in [Version::V4, Version::V5] {
        let mut wire = Wire::client(gateway.mqtt(), version, "publisher");
        for id in 1..=EVENTS / 2 {
            wire.send(&publish(version, 1, TELEMETRY, id, &[b'x'; 4_000]));
            assert_eq!(reason(wire.answer()), 0);
        }
    }
    let answer = post(http, "plant/boiler-7/telemetry/t");
    assert_eq!(
        (answer.status, answer.json()),
        (202, json!({"stored": 0, "duplicates": 0, "dropped": 1}))
    );
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let topic = std::str::from_utf8(TELEMETRY).unwrap();
            mosquitto_pub(
                gateway.mqtt(),
                &["-V", version, "-q", qos, "-t", topic, "-m", &"x".repeat(4_000)],
            );
        }
    }
    let telemetry = || lane(&gateway, "telemetry");
    let all = u64::from(EVENTS) + 1 + 6;
    eventually("everything is counted", SOON, || {
        telemetry()["events"].as_u64().unwrap() + telemetry()["dropped"].as_u64().unwrap() == all
    });
    let dropped = telemetry()["dropped"].as_u64().unwrap();
    assert!((250..350).contains(&dropped), "{dropped}");
    assert_eq!(gateway.metric_where("tidegate_lane_dropped_total", "telemetry"), dropped as f64);
    assert!(gateway.status()["log"]["lost-events"].as_u64().unwrap() >= dropped);
    assert_eq!(gateway.metric("tidegate_publishes_refused_total"), 0.0);

    receiver.restart();
    eventually("what was kept is upstream", LATER, || gateway.lag("lag-events") == 0);
    let mut arrived = 0;
    receiver.each_event(|event| {
        arrived += u64::from(event["subject"] == "plant/boiler-7/telemetry/t");
    });
    assert_eq!(arrived + dropped, all);
    gateway.stop();
}

#[test]
fn a_full_lane_that_drops_its_oldest_refuses_nobody_and_keeps_the_newest() {
    const EVENTS: u16 = 600;
    let (mut receiver, mut gateway, http) = start("drop-oldest");
    let mut wire = Wire::client(gateway.mqtt(), Version::V5, "publisher");
    for id in 1..=EVENTS {
        let payload = format!("{{\"number\":{id},\"pad\":\"{}\"}}", "x".repeat(4_000));
        wire.send(&publish(Version::V5, 1, TELEMETRY, id, payload.as_bytes()));
        assert_eq!(reason(wire.answer()), 0);
    }
    for version in VERSIONS {
        let topic = format!("alerts/by-hand/{version}");
        mosquitto_pub(gateway.mqtt(), &["-V", version, "-q", "1", "-t", &topic, "-m", "hot"]);
    }
    assert_eq!(post(http, "plant/boiler-7/telemetry/t").status, 202);
    let telemetry = lane(&gateway, "telemetry");
    assert!(telemetry["bytes"].as_u64() <= telemetry["max-bytes"].as_u64(), "{telemetry}");
    assert_eq!(gateway.metric("tidegate_publishes_refused_total"), 0.0);
    assert_eq!(gateway.status()["problems"], json!([]));

    receiver.restart();
    eventually("what was kept is upstream", LATER, || gateway.lag("lag-events") == 0);
    let (mut numbers, mut alerts) = (Vec::new(), 0);
    receiver.each_event(|event| {
        numbers.extend(event["data"]["number"].as_u64());
        alerts += u64::from(event["subject"].as_str().unwrap().starts_with("alerts/by-hand/"));
    });
    let dropped = lane(&gateway, "telemetry")["dropped"].as_u64().unwrap();
    assert_eq!((numbers.last(), alerts), (Some(&u64::from(EVENTS)), 2));
    assert!(numbers.is_sorted() && dropped > 300, "{dropped} dropped; {numbers:?}");
    // What the sink had in hand when it was dropped arrives all the same.
    assert!(numbers.len() as u64 + dropped >= u64::from(EVENTS), "{dropped} dropped; {numbers:?}");
    gateway.stop();
}
