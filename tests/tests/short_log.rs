//! A log that ends before what was read from it: a disk that lied about a flush, or damage while the
//! gateway was down.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::wait::{LATER, eventually};
use tidegate_tests::wire::Wire;

const EVENTS: u16 = 200;

/// Publishes `EVENTS` events, a commit each, and awaits their acknowledgements.
fn publish_all(gateway: &Gateway) {
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
    for id in 1..=EVENTS {
        wire.send(&publish(Version::V4, 1, b"a", id, b"payload"));
        assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
    }
}

fn newest_segment(gateway: &Gateway) -> PathBuf {
    let entries = fs::read_dir(gateway.data_dir().join("log")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().unwrap()
}

#[test]
fn new_events_reach_the_sink_although_the_log_lost_its_end() {
    let receiver = Receiver::start();
    let mut gateway = Gateway::start(&receiver.sink());
    publish_all(&gateway);
    let events = u64::from(EVENTS);
    eventually("all are upstream", LATER, || receiver.stored() == events);
    gateway.stop();

    let file = OpenOptions::new().write(true).open(newest_segment(&gateway)).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    gateway.restart();
    assert_eq!(gateway.status()["log"]["losses"], 1);
    // The cloud is told; that is an event too.
    eventually("the loss is told", LATER, || gateway.status()["log"]["last-lsn"] == events + 1);
    publish_all(&gateway);
    eventually("the new ones are upstream, too", LATER, || receiver.stored() == 2 * events + 1);
    assert_eq!((receiver.missing(), receiver.count("duplicates")), (0, 0));
    gateway.stop();
}
