//! An alert is raised at the edge, seen there and upstream, and cleared; a crash between does not
//! change that.

use serde_json::Value;
use tidegate_tests::clients::{Subscriber, mosquitto_pub};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{self, PUBACK, Version};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::wait::{SOON, eventually, wait_for};
use tidegate_tests::wire::Wire;

const OVERHEATING: &str = r#"
[[alert]]
name = "overheating"
topic = "plant/+/temperature"
value = "/celsius"
raise = "> 90"
clear = "< 85"
severity = "critical"
"#;

const TOPIC: &str = "plant/boiler-7/temperature";

fn payload(celsius: f64) -> String {
    format!("{{\"celsius\":{celsius}}}")
}

fn publish(gateway: &Gateway, celsius: f64) {
    let payload = payload(celsius);
    mosquitto_pub(gateway.mqtt(), &["-q", "1", "-i", "boiler-7", "-t", TOPIC, "-m", &payload]);
}

/// The states of the alert in the order in which they went upstream.
fn upstream(receiver: &Receiver) -> Vec<String> {
    let is_alert = |event: &&Value| event["subject"] == "alerts/overheating/boiler-7";
    let state = |event: &Value| event["data"]["state"].as_str().unwrap_or_default().to_owned();
    receiver.events().iter().filter(is_alert).map(state).collect()
}

fn watcher(gateway: &Gateway) -> Subscriber {
    Subscriber::start(gateway.site(), gateway.mqtt(), &["-q", "1", "-t", "alerts/#"])
}

/// The states that `watcher` has seen, with `retained` before those that were.
fn seen(watcher: &Subscriber) -> Vec<String> {
    let messages = watcher.messages();
    let state = |message: &String| {
        let payload = &message[message.find('{').expect("JSON")..];
        let value: Value = serde_json::from_str(payload).expect("JSON");
        let state = value["state"].as_str().expect("a state").to_owned();
        if message.starts_with("retained") { format!("retained {state}") } else { state }
    };
    messages.iter().map(state).collect()
}

#[track_caller]
fn sees(watcher: &Subscriber, states: &[&str]) {
    eventually(&format!("{states:?}"), SOON, || seen(watcher).len() >= states.len());
    assert_eq!(seen(watcher), states);
}

#[test]
fn overheating_is_raised_and_cleared_with_hysteresis_through_a_crash() {
    let receiver = Receiver::start();
    let mut gateway = Gateway::start(&format!("{}{OVERHEATING}", receiver.sink()));
    let first = watcher(&gateway);
    for celsius in [20.0, 89.0, 95.5, 97.0, 88.0] {
        publish(&gateway, celsius);
    }
    sees(&first, &["raised"]);
    sees(&watcher(&gateway), &["retained raised"]);

    gateway.kill9();
    gateway.restart();
    let second = watcher(&gateway);
    sees(&second, &["retained raised"]);
    // It is raised already; it is not said twice.
    publish(&gateway, 99.0);
    publish(&gateway, 84.0);
    sees(&second, &["retained raised", "cleared"]);
    publish(&gateway, 91.0);
    sees(&second, &["retained raised", "cleared", "raised"]);

    let states = wait_for("three changes upstream", SOON, || {
        Some(upstream(&receiver)).filter(|states| states.len() >= 3)
    });
    assert_eq!(states, ["raised", "cleared", "raised"]);
    gateway.stop();
}

#[test]
fn an_alert_works_without_the_upstream_and_is_told_when_it_is_back() {
    let mut receiver = Receiver::start();
    let gateway = Gateway::start(&format!("{}{OVERHEATING}", receiver.sink()));
    receiver.stop();
    let watcher = watcher(&gateway);
    publish(&gateway, 120.0);
    sees(&watcher, &["raised"]);
    receiver.restart();
    eventually("the alert upstream", SOON, || upstream(&receiver) == ["raised"]);
}

#[test]
fn an_alert_that_must_hold_is_not_raised_by_a_moment() {
    let mut gateway = Gateway::start(&format!("{OVERHEATING}for = \"700ms\"\n"));
    let watcher = watcher(&gateway);
    // In one write: a moment, however busy the machine is.
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "boiler-7");
    let packets = [(1, 95.0), (2, 80.0), (3, 95.0)].map(|(id, celsius)| {
        packet::publish(Version::V4, 1, TOPIC.as_bytes(), id, payload(celsius).as_bytes())
    });
    wire.send(&packets.concat());
    for _ in &packets {
        assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
    }
    drop(wire);
    sees(&watcher, &["raised"]);
    publish(&gateway, 80.0);
    sees(&watcher, &["raised", "cleared"]);
    gateway.stop();
}
