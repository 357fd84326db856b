//! A sink that has fallen behind: the newest events first, or the lanes of the highest priority, and kill -9
//! in the middle of it.

use std::time::Instant;

use serde_json::Value;
use tidegate_tests::gateway::{Gateway, config};
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::tally::Tally;
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

const BACKLOG: u64 = 20_000;
/// Events a second of a backlog: it lasts longer than the kills do, on a slow machine too.
const RATE: u64 = 500;
/// Events in flight: four batches.
const FLYING: u64 = 4 * 200;
/// What one kill may repeat: batches in flight, and what was delivered since the cursor was last on disk.
const REPEATED: u64 = FLYING + 4 * RATE;
const KILLS: u64 = 3;

/// Publishes one event of `device`, and waits until it is acknowledged.
fn publish_one(gateway: &Gateway, topic: &str, device: &str) {
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, device);
    wire.send(&publish(Version::V4, 1, topic.as_bytes(), 1, b"{\"newest\":true}"));
    assert!(matches!(wire.answer(), Some((PUBACK, _))));
}

/// Events at the receiver of this device.
fn of(receiver: &Receiver, device: &str) -> usize {
    let end = format!("/device/{device}");
    let mut count = 0;
    receiver.each_event(|event| {
        count += usize::from(event["source"].as_str().is_some_and(|source| source.ends_with(&end)));
    });
    count
}

/// Events that came to the receiver before the first of this device.
fn went_before(receiver: &Receiver, device: &str) -> u64 {
    let end = format!("/device/{device}");
    let (mut count, mut found) = (0, false);
    receiver.each_event(|event| {
        found |= event["source"].as_str().is_some_and(|source| source.ends_with(&end));
        count += u64::from(!found);
    });
    count
}

/// The streams of the only sink.
fn streams(gateway: &Gateway) -> Vec<Value> {
    let status = gateway.status();
    status["sinks"][0]["streams"].as_array().cloned().unwrap_or_default()
}

fn backlog(gateway: &Gateway) -> u64 {
    let streams = streams(gateway);
    let backlog = streams.iter().filter(|stream| stream["backlog"] == true);
    backlog.filter_map(|stream| stream["lag-events"].as_u64()).max().unwrap_or_default()
}

#[test]
fn after_an_outage_the_newest_events_go_first_and_kills_lose_nothing_of_the_backlog() {
    let mut receiver = Receiver::start();
    let sink = format!("{}drain = \"live-first\"\nbatch.max-events = 200\n", receiver.sink());
    let mut gateway = Gateway::start(&format!("{sink}rate.backlog-events = {RATE}\n"));
    receiver.stop();
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    fleet.run(Run::messages(BACKLOG, LATER));
    // 5 s, and twice the age of a batch.
    eventually("the sink is behind", LATER, || gateway.lag("lag-seconds") >= 6);
    receiver.restart();
    let back = Instant::now();
    eventually("there is a backlog", SOON, || backlog(&gateway) > 0);
    publish_one(&gateway, "newest", "newest-0");
    eventually("the newest event is upstream", SOON, || of(&receiver, "newest-0") == 1);
    assert!(backlog(&gateway) > 0, "it did not wait for the backlog");

    for kill in 1..=KILLS {
        let so_far = backlog(&gateway);
        // Two seconds: the state has reached its file by then, else the backlog begins anew, in order.
        eventually("it follows", SOON, || backlog(&gateway) + 2 * RATE <= so_far);
        let before = backlog(&gateway);
        assert!(before > 0, "kill {kill}: the backlog is sent already");
        gateway.kill9();
        gateway.restart();
        let device = format!("newest-{kill}");
        publish_one(&gateway, "newest", &device);
        eventually("the newest event is upstream", SOON, || of(&receiver, &device) == 1);
        let after = backlog(&gateway);
        assert!(after > 0 && after <= before + REPEATED, "kill {kill}: {before} before, {after}");
    }

    let sent = BACKLOG - backlog(&gateway);
    // Beside what was in flight, and a second's allowance at each start.
    let took = back.elapsed().as_secs() + 1;
    assert!(sent <= FLYING + (KILLS + 1 + took) * RATE, "{sent} events in {took} s");

    // The rest of it as fast as it goes.
    gateway.stop();
    gateway.site().write("tidegate.toml", &config(gateway.site(), &sink));
    gateway.restart();
    let all = BACKLOG + KILLS + 1;
    eventually("everything is upstream", LATER, || receiver.stored() >= all);
    let tally = Tally::of(&receiver);
    assert_eq!((tally.events(), tally.missing(&fleet), tally.twice()), (all, 0, 0));
    assert_eq!(receiver.missing(), 0);
    let repeated = receiver.count("duplicates");
    assert!(repeated <= KILLS * REPEATED, "{repeated} events came twice");

    let (mut historical, mut newest) = (0, 0);
    receiver.each_event(|event| {
        let is_historical = event["historical"] == true;
        historical += u64::from(is_historical);
        newest += u64::from(!is_historical && event["subject"] == "newest");
    });
    assert!((BACKLOG - FLYING..=BACKLOG).contains(&historical), "{historical}");
    assert_eq!(newest, KILLS + 1);
    eventually("one stream is left", SOON, || streams(&gateway).is_empty());
    assert_eq!(gateway.metric("tidegate_sink_stream_lag_events"), 0.0);
    gateway.stop();
}

#[test]
fn alerts_overtake_a_backlog_and_each_device_stays_in_order() {
    let mut receiver = Receiver::start();
    // In small batches: the one that finds the bus is not called back.
    let sink = format!("{}batch.max-events = 100\n", receiver.sink());
    let mut gateway = Gateway::start(&format!("{sink}rate.max-events = {RATE}\n"));
    receiver.stop();
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    fleet.run(Run::messages(BACKLOG, LATER));
    publish_one(&gateway, "alerts/overheating/boiler-7", "alarm-0");
    // Behind by more than 7 s, whenever that is looked at.
    eventually("the sink is behind", LATER, || gateway.lag("lag-seconds") >= 10);
    receiver.restart();
    eventually("the alert is upstream", SOON, || of(&receiver, "alarm-0") == 1);
    let before = went_before(&receiver, "alarm-0");
    assert!(before < BACKLOG / 2, "{before} events went before it");
    let priorities: Vec<_> =
        streams(&gateway).iter().map(|stream| stream["priority"].clone()).collect();
    assert_eq!(priorities, [9, 0]);

    gateway.kill9();
    gateway.restart();
    publish_one(&gateway, "alerts/overheating/boiler-7", "alarm-1");
    eventually("the next one too", SOON, || of(&receiver, "alarm-1") == 1);
    // The rest as fast as it goes.
    gateway.stop();
    gateway.site().write("tidegate.toml", &config(gateway.site(), &sink));
    gateway.restart();
    let tally = Tally::is_complete(&receiver, &fleet);
    assert!(went_before(&receiver, "alarm-1") < BACKLOG, "the backlog went before it");
    assert_eq!((tally.events(), receiver.missing()), (BACKLOG + 2, 0));
    eventually("one stream is left", SOON, || streams(&gateway).is_empty());
    gateway.stop();
}
