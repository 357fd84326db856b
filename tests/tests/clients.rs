//! The clients that people have: each publishes and subscribes, in both versions of the protocol.

use std::process::Command;

use tidegate_tests::clients::{Subscriber, VERSIONS, mosquitto_pub, node, python};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::receiver::Receiver;
use tidegate_tests::wait::{SOON, eventually};

#[test]
fn mosquitto_clients_exchange_messages_at_every_qos() {
    let gateway = Gateway::start("");
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let topic = format!("plant/{version}/{qos}");
            let subscriber = Subscriber::start(
                gateway.site(),
                gateway.mqtt(),
                &["-V", version, "-q", qos, "-t", &topic],
            );
            mosquitto_pub(gateway.mqtt(), &["-V", version, "-q", qos, "-t", &topic, "-m", "21.5"]);
            subscriber.receives(&[&format!("{topic} 21.5")]);
        }
    }
}

#[test]
fn versions_of_the_protocol_understand_each_other() {
    let gateway = Gateway::start("");
    for (publisher, subscriber) in [("mqttv311", "mqttv5"), ("mqttv5", "mqttv311")] {
        let arguments = ["-V", subscriber, "-q", "2", "-t", "mixed"];
        let subscriber = Subscriber::start(gateway.site(), gateway.mqtt(), &arguments);
        mosquitto_pub(gateway.mqtt(), &["-V", publisher, "-q", "1", "-t", "mixed", "-m", "x"]);
        subscriber.receives(&["mixed x"]);
    }
}

#[test]
fn a_retained_message_greets_the_next_subscriber_until_it_is_cleared() {
    let mut gateway = Gateway::start("");
    let retain = ["-q", "1", "-r", "-t", "door/state"];
    mosquitto_pub(gateway.mqtt(), &[&retain[..], &["-m", "open"]].concat());
    mosquitto_pub(gateway.mqtt(), &[&retain[..], &["-m", "shut"]].concat());
    let subscribe = |gateway: &Gateway| {
        Subscriber::start(gateway.site(), gateway.mqtt(), &["-q", "1", "-t", "door/#"])
    };
    subscribe(&gateway).receives(&["retained door/state shut"]);

    gateway.kill9();
    gateway.restart();
    subscribe(&gateway).receives(&["retained door/state shut"]);

    mosquitto_pub(gateway.mqtt(), &[&retain[..], &["-n"]].concat());
    let late = subscribe(&gateway);
    mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", "door/bell", "-m", "ring"]);
    late.receives(&["door/bell ring"]);
}

#[test]
fn a_will_is_published_when_its_client_dies_and_only_then() {
    let gateway = Gateway::start("");
    let watcher = Subscriber::start(gateway.site(), gateway.mqtt(), &["-q", "1", "-t", "dead/+"]);
    for version in VERSIONS {
        let will = format!("dead/{version}");
        let arguments = [
            "-V",
            version,
            "-t",
            "unused",
            "--will-topic",
            &will,
            "--will-payload",
            "gone",
            "--will-qos",
            "1",
        ];
        let mut client = Subscriber::start(gateway.site(), gateway.mqtt(), &arguments);
        client.kill9();
    }
    let farewell = ["--will-topic", "dead/polite", "--will-payload", "gone", "-t", "x", "-m", "y"];
    mosquitto_pub(gateway.mqtt(), &farewell);
    eventually("two wills", SOON, || watcher.messages().len() >= 2);
    mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", "dead/end", "-m", "."]);
    eventually("the mark behind them", SOON, || watcher.messages().len() >= 3);
    let mut seen = watcher.messages();
    seen.sort();
    assert_eq!(seen, ["dead/end .", "dead/mqttv311 gone", "dead/mqttv5 gone"]);
}

#[test]
fn wildcards_match_what_the_specification_says() {
    let gateway = Gateway::start("");
    let subscribe = |filter: &str| {
        Subscriber::start(gateway.site(), gateway.mqtt(), &["-q", "1", "-t", filter])
    };
    let (plus, hash, all) = (subscribe("a/+/c"), subscribe("a/#"), subscribe("#"));
    for topic in ["a", "a/b", "a/b/c", "a/b/c/d", "b/a", "end"] {
        mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", topic, "-m", "."]);
    }
    all.receives(&["a .", "a/b .", "a/b/c .", "a/b/c/d .", "b/a .", "end ."]);
    hash.receives(&["a .", "a/b .", "a/b/c .", "a/b/c/d ."]);
    plus.receives(&["a/b/c ."]);
}

#[test]
fn what_is_published_arrives_upstream_as_a_cloudevent() {
    let receiver = Receiver::start();
    let gateway = Gateway::start(&receiver.sink());
    let arguments = ["-q", "1", "-i", "boiler-7", "-t", "plant/boiler/temperature"];
    mosquitto_pub(gateway.mqtt(), &[&arguments[..], &["-m", r#"{"celsius": 88.5}"#]].concat());
    mosquitto_pub(gateway.mqtt(), &[&arguments[..], &["-m", "not json"]].concat());
    eventually("both events upstream", SOON, || receiver.stored() == 2);
    let events = receiver.events();
    let event = &events[0];
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["source"], "/gateway/edge-01/device/boiler-7");
    assert_eq!(event["subject"], "plant/boiler/temperature");
    assert_eq!(event["type"], "tidegate.event");
    assert_eq!(event["data"]["celsius"], 88.5);
    assert!(event["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
    assert_ne!(event["id"], events[1]["id"]);
}

#[test]
fn paho_mqtt_works() {
    let gateway = Gateway::start("");
    let port = gateway.mqtt().port().to_string();
    python("paho_clients.py", &[&port]);
}

#[test]
fn mqtt_js_works() {
    let gateway = Gateway::start("");
    let url = format!("mqtt://{}", gateway.mqtt());
    node("mqtt-js-clients.mjs", &[&url]);
}

#[test]
fn a_client_needs_no_more_than_debian_brings() {
    // What the README shows, word for word but for the port.
    let gateway = Gateway::start("");
    let port = gateway.mqtt().port();
    let line = format!("mosquitto_pub -p {port} -q 1 -t plant/boiler-7/temperature -m 88.5");
    let status = Command::new("sh").args(["-c", &line]).status().unwrap();
    assert!(status.success());
}
