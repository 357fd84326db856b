//! How fast a client may be, and how much is kept for one that is away.

use std::time::{Duration, Instant};

use tidegate_tests::gateway::Gateway;
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::packet::{self, CONNACK, CONNECT, PUBACK, PUBLISH, SUBACK, Version};
use tidegate_tests::wait::{LATER, SOON, eventually, nine_of_ten};
use tidegate_tests::wire::Wire;

/// Publishes `count` events flat out beside a neighbour who keeps to the limit. Answers how long that took.
fn flat_out(limit: &str, payload: usize, count: u64) -> Duration {
    let gateway = Gateway::start(&format!("[limits]\n{limit}\n"));
    let one = Shape { connections: 1, payload, ..Shape::default() };
    let mut greedy = Fleet::connect(gateway.mqtt(), &one).unwrap();
    let mut modest = Wire::client(gateway.mqtt(), Version::V5, "modest");
    let greedy = std::thread::spawn(move || {
        let begun = Instant::now();
        let report = greedy.run(Run::messages(count, LATER));
        assert_eq!((report.broken, report.refused, report.acknowledged), (None, 0, count));
        begun.elapsed()
    });
    let mut waits = Vec::new();
    while !greedy.is_finished() {
        let begun = Instant::now();
        modest.send(&packet::publish(Version::V5, 1, b"modest", 1, b"1"));
        assert_eq!(modest.answer().map(|(first, _)| first), Some(PUBACK));
        waits.push(begun.elapsed());
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert!(nine_of_ten(waits.clone()) < Duration::from_millis(500), "{waits:?}");
    assert!(gateway.metric("tidegate_clients_paced_total") > 0.0);
    greedy.join().unwrap()
}

#[test]
fn a_client_beyond_its_events_a_second_is_made_to_wait_and_nobody_else() {
    // A second's burst, and then 200 a second.
    let took = flat_out("max-events-per-second = 200", 100, 1000);
    assert!(took > Duration::from_secs(3) && took < SOON, "{took:?}");
}

#[test]
fn a_client_beyond_its_bytes_a_second_is_made_to_wait_and_nobody_else() {
    let took = flat_out("max-bytes-per-second = \"64KiB\"", 1000, 300);
    assert!(took > Duration::from_millis(2500) && took < SOON, "{took:?}");
}

#[test]
fn what_a_session_misses_beyond_its_backlog_is_counted_and_told_with_its_name() {
    let mut gateway = Gateway::start(
        "[limits]\nmax-session-backlog = \"128KiB\"\nmax-packet-size = \"32KiB\"\n\
         [log]\nmax-size = \"4MiB\"\nsegment-size = \"128KiB\"\ncommit.max-bytes = \"32KiB\"\n",
    );
    let broker = gateway.mqtt();
    let come = || {
        let mut wire = Wire::open(broker);
        let body = [&packet::text("MQTT")[..], &[4, 0, 0, 60], &packet::text("sleeper")];
        wire.send(&packet::packet(CONNECT, &body.concat()));
        (wire.answer().filter(|(first, _)| *first == CONNACK).unwrap().1[0] == 1, wire)
    };
    let (_, mut sleeper) = come();
    sleeper.send(&packet::subscribe(Version::V4, 1, "plant/#", 1));
    assert_eq!(sleeper.answer().map(|(first, _)| first), Some(SUBACK));
    drop(sleeper);
    // Five times the log: nobody is held up by a session.
    let shape = Shape { connections: 1, payload: 1000, ..Shape::default() };
    let mut fleet = Fleet::connect(broker, &shape).unwrap();
    let report = fleet.run(Run::messages(20_000, LATER));
    assert_eq!((report.broken, report.acknowledged), (None, 20_000));
    eventually("the log is freed", SOON, || {
        gateway.status()["log"]["bytes"].as_u64().is_some_and(|bytes| bytes < 1 << 20)
    });
    let (present, mut sleeper) = come();
    assert!(present);
    let (first, body) = sleeper.answer().unwrap();
    assert_eq!(first & 0xf0, PUBLISH);
    let text = String::from_utf8_lossy(&body).into_owned();
    let seq = text.split("\"seq\":").nth(1).and_then(|rest| rest.split(',').next());
    let seq: u64 = seq.unwrap().trim().parse().unwrap();
    assert!(seq > 15_000, "what is left begins with {seq}");
    assert_eq!(gateway.metric("tidegate_deliveries_lost_total") as u64, seq);
    gateway.says(&["a slow subscriber missed events", "client=\"sleeper\""]);
}
