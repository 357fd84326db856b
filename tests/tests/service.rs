//! As a service: what the gateway says to the service manager, and what it is handed by it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidegate_tests::clients::mosquitto_pub;
use tidegate_tests::gateway::{Gateway, config};
use tidegate_tests::manager::Manager;
use tidegate_tests::packet::{Version, publish};
use tidegate_tests::process::Process;
use tidegate_tests::site::{Site, free_port};
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

const RUN: [&str; 3] = ["run", "--config", "tidegate.toml"];
/// The watchdog's interval in these tests.
const INTERVAL: Duration = Duration::from_secs(2);
const INTERVAL_USEC: &str = "2000000";

#[test]
fn it_says_when_it_is_ready_reloads_and_stops() {
    let manager = Manager::new();
    let mut gateway = Gateway::start_by("", |site| {
        let mut command = site.tidegate(RUN);
        manager.invite(&mut command);
        command
    });
    let ready = manager.hear("READY=1", SOON);
    assert!(ready[1].starts_with("STATUS=0 events"), "{ready:?}");
    mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", "a", "-m", "1"]);
    manager.hear("STATUS=1 event on disk since the first; no sink; 0 alerts open", SOON);

    gateway.process().signal(Signal::HUP);
    let reloading = manager.hear("RELOADING=1", SOON);
    assert!(reloading[1].starts_with("MONOTONIC_USEC="), "{reloading:?}");
    manager.hear("READY=1", SOON);

    gateway.stop();
    manager.hear("STOPPING=1", SOON);
    assert_eq!(manager.heard(), None, "nothing follows");
}

#[test]
fn it_pings_the_watchdog_while_a_sink_is_away_and_its_backlog_waits() {
    let manager = Manager::new();
    let port = free_port();
    let sink = format!(
        "[[sink]]\nname = \"cloud\"\ntype = \"http\"\nurl = \"http://127.0.0.1:{port}/\"\n"
    );
    let gateway = Gateway::start_by(&sink, |site| watched(&manager, site.tidegate(RUN)));
    mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", "a", "-m", "1"]);
    let begin = Instant::now();
    while begin.elapsed() < 3 * INTERVAL {
        manager.hear("WATCHDOG=1", INTERVAL);
    }
    assert_eq!(gateway.lag("lag-events"), 1);
}

#[test]
fn a_disk_that_hangs_stops_the_pings() {
    let manager = Manager::new();
    // The writer's first syncs are quick; then one does not return.
    let hang = "fdatasync:delay_enter=15s:when=20+";
    let mut gateway = Gateway::start_by("", |site| {
        let mut command = watched(&manager, site.ordinary("strace"));
        command.args(["-D", "-f", "-o", "trace", "-e", "trace=fdatasync", "-e"]);
        command.arg(format!("inject={hang}")).arg("--").arg(site.binary()).args(RUN);
        command
    });
    manager.hear("WATCHDOG=1", LATER);
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
    // So long no disk takes that only is busy.
    wire.set_patience(Duration::from_secs(4));
    let answered = (1..100).take_while(|id| {
        wire.send(&publish(Version::V4, 1, b"a", *id, b"1"));
        matches!(wire.try_answer(), Ok(Some(_)))
    });
    assert!(answered.count() < 30, "the disk hangs");
    // Pings that were sent before it stood still for half an interval.
    let begin = Instant::now();
    let mut last = begin;
    eventually("no ping for an interval", LATER, || {
        if manager.heard().is_some_and(|lines| lines == ["WATCHDOG=1"]) {
            last = Instant::now();
        }
        last.elapsed() > INTERVAL
    });
    assert!(last - begin < 2 * INTERVAL, "{:?}", last - begin);
    let stderr = gateway.process().stderr();
    assert!(stderr.contains("the log's writer stands still"), "{stderr}");
    gateway.kill9();
}

#[test]
fn a_socket_that_was_bound_before_it_started_is_served() {
    let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let gateway = Gateway::start_by("", |site| {
        use_address(site, address);
        activated(site, &[format!("mqtt={address}")])
    });
    assert_eq!(gateway.mqtt(), address);
    mosquitto_pub(address, &["-q", "1", "-t", "a", "-m", "1"]);
    assert_eq!(gateway.status()["received"], 1);
}

#[test]
fn a_socket_that_nobody_wants_is_named() {
    let (mqtt, other) = (free_port(), free_port());
    let site = Site::new();
    site.write("tidegate.toml", &config(&site, ""));
    use_address(&site, ([127, 0, 0, 1], mqtt).into());
    let command = activated(&site, &[format!("other=127.0.0.1:{other}")]);
    let mut process = Process::start("refused", command, site.path());
    assert_eq!(process.wait(SOON).code(), Some(78));
    let stderr = process.stderr();
    let named = stderr.contains("\"other\"") && stderr.contains(&format!("127.0.0.1:{other}"));
    assert!(named && stderr.lines().count() == 1, "{stderr}");
}

/// `command` with the watchdog of `manager` on.
fn watched(manager: &Manager, mut command: Command) -> Command {
    manager.invite(&mut command);
    command.env("WATCHDOG_USEC", INTERVAL_USEC);
    command
}

/// Makes `address` the config's listener.
fn use_address(site: &Site, address: SocketAddr) {
    let text = config(site, "").replacen("127.0.0.1:0", &address.to_string(), 1);
    site.write("tidegate.toml", &text);
}

/// `tidegate run` with `sockets`, each `NAME=HOST:PORT`, bound beforehand.
fn activated(site: &Site, sockets: &[String]) -> Command {
    let script = include_str!("../python/activate.py");
    let script = site.write("activate.py", script);
    let mut command = site.ordinary("/usr/bin/python3");
    command.arg(script).args(sockets).arg("--").arg(site.binary()).args(RUN);
    command
}
