//! What clients make the gateway hold in memory, in all (`limits.max-memory`).

use std::net::SocketAddr;
use std::time::Duration;

use tidegate_tests::gateway::Gateway;
use tidegate_tests::load::{Audience, Fleet, Run, Shape};
use tidegate_tests::packet::{self, CONNACK, DISCONNECT, SUBACK, Version};
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

const MIB: u64 = 1 << 20;
/// The daemon's own: a debug build under load, with what malloc keeps.
const OWN: u64 = 56 * MIB;
const QUOTA_EXCEEDED: u8 = 0x97;

fn with_memory(mib: u64) -> Gateway {
    Gateway::start(&format!(
        "[limits]\nmax-memory = \"{mib}MiB\"\nmax-body-memory = \"1MiB\"\n\
         max-connections-per-address = 10000\nmax-connecting = 10000\nsend-timeout = \"1h\"\n"
    ))
}

fn held(gateway: &Gateway) -> f64 {
    gateway.metric("tidegate_memory_bytes")
}

/// A client that subscribes to the load, and then reads nothing.
fn deaf(broker: SocketAddr, n: usize) -> Wire {
    let mut wire = Wire::client(broker, Version::V5, &format!("deaf-{n}"));
    wire.take_little();
    let qos = if n.is_multiple_of(2) { 0 } else { 1 };
    wire.send(&packet::subscribe(Version::V5, 1, "plant/#", qos));
    assert_eq!(wire.answer().map(|(first, _)| first), Some(SUBACK));
    wire
}

#[test]
fn a_thousand_subscribers_that_never_read_take_no_more_than_the_bound() {
    let mut gateway = with_memory(64);
    let broker = gateway.mqtt();
    let deaf: Vec<Wire> = (0..1000).map(|n| deaf(broker, n)).collect();
    let neighbour = Audience::connect(broker, 1);
    let shape = Shape { connections: 2, window: 20, payload: 2000, ..Shape::default() };
    let mut fleet = Fleet::connect(broker, &shape).unwrap();
    // Many times what all of them may hold together, were each given what max-queued says. The neighbour has
    // each before the next: however busy the machine is, no more waits for it than anybody may have.
    for message in 1..=400 {
        let report = fleet.run(Run::messages(1, LATER));
        assert_eq!((report.broken, report.acknowledged), (None, 1));
        eventually("the neighbour has it", SOON, || neighbour.delivered() == message);
    }
    let (held, peak) = (held(&gateway), gateway.process().peak_memory());
    assert!(held <= (64 * MIB) as f64, "{held}");
    assert!(peak < OWN + 64 * MIB, "{peak}");
    assert!(gateway.metric("tidegate_deliveries_dropped_total") > 10_000.0);
    assert!(gateway.metric("tidegate_subscribers_lagged_total") >= 400.0);
    drop(deaf);
    eventually("what they held is given back", SOON, || {
        gateway.metric_where("tidegate_memory_bytes", "deliveries") < MIB as f64
    });
    neighbour.leave().unwrap();
}

#[test]
fn without_memory_new_connections_are_told_so_and_others_go_on() {
    let mut gateway = with_memory(8);
    let broker = gateway.mqtt();
    let mut fleet = Fleet::connect(broker, &Shape { connections: 2, ..Shape::default() }).unwrap();
    let mut clients = Vec::new();
    let refusal = loop {
        let mut wire = Wire::open(broker);
        wire.send(&packet::connect(Version::V5, &format!("client-{}", clients.len())));
        match wire.answer() {
            Some((CONNACK, body)) if body[1] == 0 => clients.push(wire),
            other => break other,
        }
        assert!(clients.len() < 1000, "8 MiB are not for so many");
    };
    assert_eq!(refusal.map(|(first, body)| (first, body[1])), Some((CONNACK, QUOTA_EXCEEDED)));
    gateway.says(&["CONNECT of client", "refused", "limits.max-memory"]);
    let mut old = Wire::open(broker);
    old.send(&packet::connect(Version::V4, "old"));
    assert_eq!(old.answer(), Some((CONNACK, vec![0, 3])));
    assert!(clients.len() > 300, "only {}", clients.len());
    assert!(gateway.metric_where("tidegate_memory_refused_total", "connections") >= 2.0);
    let report = fleet.run(Run::messages(1000, LATER));
    assert_eq!((report.broken, report.acknowledged), (None, 1000));
    assert!(gateway.process().peak_memory() < OWN + 8 * MIB);
    clients.truncate(clients.len() - 20);
    eventually("there is room again", SOON, || {
        let mut wire = Wire::open(broker);
        wire.send(&packet::connect(Version::V5, "late"));
        matches!(wire.answer(), Some((CONNACK, body)) if body[1] == 0)
    });
}

#[test]
fn packets_that_are_never_finished_take_no_more_than_their_share() {
    let mut gateway = with_memory(8);
    let broker = gateway.mqtt();
    let mut fleet = Fleet::connect(broker, &Shape { connections: 2, ..Shape::default() }).unwrap();
    let begun = &packet::publish(Version::V5, 1, b"a", 1, &[0; 250_000])[..200_000];
    let mut clients: Vec<Wire> =
        (0..60).map(|n| Wire::client(broker, Version::V5, &format!("half-{n}"))).collect();
    clients.iter_mut().for_each(|client| client.send(begun));
    let refused = || gateway.metric_where("tidegate_memory_refused_total", "buffers");
    eventually("most of them are refused", SOON, || refused() >= 40.0);
    clients.iter_mut().for_each(|client| client.set_patience(Duration::from_millis(10)));
    let mut told = 0;
    eventually("they are told why", SOON, || {
        clients.retain_mut(|client| {
            let Ok(Some((first, body))) = client.try_answer() else { return true };
            told += usize::from((first, body.first()) == (DISCONNECT, Some(&QUOTA_EXCEEDED)));
            false
        });
        told >= 40
    });
    let report = fleet.run(Run::messages(1000, LATER));
    assert_eq!((report.broken, report.acknowledged), (None, 1000));
    let peak = gateway.process().peak_memory();
    assert!(peak < OWN + 8 * MIB, "{peak}");
}

#[test]
fn subscriptions_without_end_are_refused_and_end_with_their_clients() {
    let mut gateway = with_memory(8);
    let broker = gateway.mqtt();
    let mut fleet = Fleet::connect(broker, &Shape { connections: 2, ..Shape::default() }).unwrap();
    let filter = "x/".repeat(15) + &"y".repeat(900);
    let mut clients = Vec::new();
    let mut refused = 0;
    for n in 0..20 {
        let mut wire = Wire::client(broker, Version::V5, &format!("many-{n}"));
        for id in 1..=100 {
            let filter = format!("{n}/{id}/{filter}");
            wire.send(&packet::subscribe(Version::V5, id, &filter, 1));
            let (first, body) = wire.answer().unwrap();
            assert_eq!(first, SUBACK);
            match body.last() {
                Some(&QUOTA_EXCEEDED) => refused += 1,
                granted => assert_eq!(granted, Some(&1)),
            }
        }
        clients.push(wire);
    }
    assert!((1000..2000).contains(&refused), "{refused} of 2000");
    let report = fleet.run(Run::messages(1000, LATER));
    assert_eq!((report.broken, report.acknowledged), (None, 1000));
    let peak = gateway.process().peak_memory();
    assert!(peak < OWN + 8 * MIB, "{peak}");
    drop(clients);
    eventually("their room is free again", SOON, || {
        gateway.metric_where("tidegate_memory_bytes", "subscriptions") == 0.0
    });
}
