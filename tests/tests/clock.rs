//! A clock that is not set: what a board without a clock battery has after a power cut.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tidegate_tests::clients::mosquitto_pub;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::receiver::Receiver;
use tidegate_tests::site::Site;
use tidegate_tests::wait::{LATER, eventually};

const RUN: [&str; 3] = ["run", "--config", "tidegate.toml"];
const UNSET: &str = "@1970-01-01 00:10:00";
const SET: &str = "+0";

/// `tidegate run` with a wall clock that the file `clock` says; its other clocks are the machine's.
fn with_clock(site: &Site) -> Command {
    let clock = site.write("clock", UNSET);
    let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|library| Path::new(library).exists());
    // Not in the environment of what changes the user first: that would own the library's semaphore,
    // which goes when the gateway is stopped in order.
    let mut command = site.ordinary("env");
    command
        .arg(format!("LD_PRELOAD={}", library.expect("Debian's package libfaketime")))
        .arg(format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()))
        .args(["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"])
        .arg(site.binary())
        .args(RUN);
    command
}

fn publish(gateway: &Gateway, payload: &str) {
    mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", "a", "-m", payload]);
}

/// The events, once there are `count`.
fn events(receiver: &Receiver, count: u64) -> Vec<Value> {
    eventually("the events are upstream", LATER, || receiver.stored() == count);
    receiver.events()
}

/// Seconds since 1970, as `date` has them.
fn seconds(time: &Value) -> i64 {
    let output = Command::new("date").args(["-d", time.as_str().unwrap(), "+%s"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[test]
fn an_event_that_is_taken_with_an_unset_clock_says_so_and_later_ones_have_the_time() {
    let receiver = Receiver::start();
    let mut gateway = Gateway::start_by(&receiver.sink(), with_clock);
    publish(&gateway, "1");
    let first = events(&receiver, 1).remove(0);
    let event = &first;
    assert!(event["time"].as_str().unwrap().starts_with("1970-01-01T00:10:"), "{first}");
    assert_eq!(event["timequality"], "since-boot");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().replace('-', "");
    assert_eq!(event["bootid"], &boot[..16]);
    assert!(event["bootnanos"].as_str().unwrap().parse::<u64>().unwrap() > 0);

    gateway.site().write("clock", SET);
    publish(&gateway, "2");
    let second = events(&receiver, 2).remove(1);
    assert!((seconds(&second["time"]) - now()).abs() < 60, "{second}");
    assert!(second.get("timequality").is_none(), "{second}");
    gateway.stop();
}

#[test]
fn what_waits_until_the_clock_is_set_gets_the_right_time_also_over_a_restart() {
    let mut receiver = Receiver::start();
    receiver.kill9();
    let mut gateway = Gateway::start_by(&receiver.sink(), with_clock);
    publish(&gateway, "1");
    let published = now();
    eventually("it waits", LATER, || gateway.lag("lag-events") == 1);
    gateway.stop();
    // On the machine's own clock, which is set.
    gateway.restart();
    receiver.restart();
    let event = events(&receiver, 1).remove(0);
    assert!((seconds(&event["time"]) - published).abs() < 20, "{event}");
    assert!(event.get("timequality").is_none(), "{event}");
}
