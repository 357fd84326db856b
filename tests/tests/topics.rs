//! A million topics: what grows with their number is bounded, and neighbours notice nothing.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_tests::gateway::{Gateway, config};
use tidegate_tests::packet::{self, PUBACK, Version};
use tidegate_tests::site::Site;
use tidegate_tests::wait::{LATER, eventually, nine_of_ten};
use tidegate_tests::wire::Wire;

const TOPICS: u32 = 1_000_000;
const MIB: u64 = 1 << 20;

/// PUBLISH with QoS 1 and RETAIN, each to a topic of its own, and a device of its own.
fn publishes(from: u32, to: u32) -> Vec<u8> {
    let each = (from..to).map(|n| {
        let id = (n % 65_535) as u16 + 1;
        let mut packet =
            packet::publish(Version::V4, 1, format!("plant/{n}/t").as_bytes(), id, b"99");
        packet[0] |= 1;
        packet
    });
    each.collect::<Vec<_>>().concat()
}

#[test]
fn a_million_topics_take_no_more_memory_than_the_bounds_say() {
    let site = Site::new();
    let config = config(
        &site,
        "[limits]\nmax-retained = 5000\nmax-alert-devices = 1000\n\
         [[alert]]\nname = \"hot\"\ntopic = \"plant/+/t\"\nraise = \"> 90\"\n",
    );
    site.write("tidegate.toml", &config.replace("[gateway]\n", "[gateway]\ndevice-level = 2\n"));
    let mut gateway = Gateway::start_under(site, "env", &[]);
    let broker = gateway.mqtt();
    let mut watcher = Wire::client(broker, Version::V4, "watcher");
    watcher.send(&packet::subscribe(Version::V4, 1, "neighbour", 0));
    watcher.answer();
    let mut neighbour = Wire::client(broker, Version::V4, "neighbour");

    let (mut sender, _) = Wire::client(broker, Version::V4, "many").into_parts();
    let mut acknowledgements = sender.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let (mut left, mut buffer) = (4 * TOPICS as usize, vec![0; 1 << 16]);
        while left > 0 {
            let most = left.min(buffer.len());
            left -= acknowledgements.read(&mut buffer[..most]).unwrap().max(1);
        }
    });
    let writer = thread::spawn(move || {
        for from in (0..TOPICS).step_by(1000) {
            sender.write_all(&publishes(from, from + 1000)).unwrap();
        }
        sender
    });
    let mut waits = Vec::new();
    while !reader.is_finished() {
        let begun = Instant::now();
        neighbour.send(&packet::publish(Version::V4, 1, b"neighbour", 7, b"1"));
        assert_eq!(neighbour.answer().map(|(first, _)| first), Some(PUBACK));
        assert!(watcher.answer().is_some());
        waits.push(begun.elapsed());
        thread::park_timeout(Duration::from_millis(20));
    }
    reader.join().unwrap();
    drop(writer.join().unwrap());
    let (count, waited) = (waits.len(), nine_of_ten(waits));
    assert!(count > 10 && waited < Duration::from_secs(1), "{count} times, mostly {waited:?}");

    let ignored =
        || gateway.metric_where("tidegate_alerts_ignored_total", "too-many-devices") as u32;
    eventually("the alerts have seen all", LATER, || ignored() == TOPICS - 1000);
    assert_eq!(gateway.metric("tidegate_retained"), 5000.0);
    // Those of the alerts among them.
    let refused = || gateway.metric("tidegate_retained_refused_total") as u32;
    eventually("the retained messages have seen all", LATER, || refused() >= TOPICS - 5000);
    assert!(refused() < TOPICS - 3000, "{}", refused());
    let peak = gateway.process().peak_memory();
    eprintln!("peak {} MiB, the neighbour mostly {waited:?}", peak / MIB);
    assert!(peak < 96 * MIB, "{peak}");
}
