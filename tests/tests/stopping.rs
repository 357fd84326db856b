//! Stopping: in order, within the time that a service manager gives, or at once.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::wait::{SOON, eventually};
use tidegate_tests::wire::Wire;

/// `TimeoutStopSec` of the systemd unit.
const PATIENCE: Duration = Duration::from_secs(20);
/// It was ended before it could end in order.
const EX_TEMPFAIL: i32 = 75;
/// A sink that takes the connection and does not answer keeps the drain busy for a while.
const SINK: &str = "[[sink]]\nname = \"cloud\"\ntype = \"http\"\nurl = ";

#[test]
fn a_second_signal_ends_it_at_once() {
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("\"http://{}/\"\nbatch.max-age = \"0s\"\n", deaf.local_addr().unwrap());
    let mut gateway = Gateway::start(&format!("{SINK}{url}"));
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
    wire.send(&publish(Version::V4, 1, b"a", 1, b"waits"));
    assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
    let mqtt = gateway.mqtt();
    gateway.process().signal(Signal::TERM);
    eventually("the drain has begun", SOON, || std::net::TcpStream::connect(mqtt).is_err());
    assert!(gateway.process().is_running());
    let begun = Instant::now();
    gateway.process().signal(Signal::TERM);
    assert_eq!(gateway.process().wait(SOON).code(), Some(EX_TEMPFAIL));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    gateway.restart();
    assert_eq!(gateway.status()["log"]["last-lsn"], 1);
}

#[test]
fn a_disk_that_hangs_does_not_keep_it_from_ending() {
    let hang = "inject=fdatasync:delay_enter=25s:when=10+";
    let mut gateway = Gateway::start_with_strace("", &["-e", "trace=fdatasync", "-e", hang]);
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
    // So long no disk takes that only is busy.
    wire.set_patience(Duration::from_secs(4));
    let hangs = (1..100).any(|id| {
        wire.send(&publish(Version::V4, 1, b"a", id, b"payload"));
        wire.try_answer().is_err()
    });
    assert!(hangs);
    gateway.process().signal(Signal::TERM);
    // Its last words; the tracer keeps its body until the delay is over.
    eventually("it has ended", PATIENCE, || gateway.process().stderr().contains("does not answer"));
}
