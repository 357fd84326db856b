//! kill -9, again and again, under load: nothing that was acknowledged is missing upstream, nothing
//! is there twice.

use std::time::Duration;

use tidegate_tests::gateway::Gateway;
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::tally::Tally;
use tidegate_tests::wait::{LATER, SOON, eventually};

/// How often, unless KILLS says otherwise.
const KILLS: u64 = 50;
/// Events a second: enough for commits and batches to be under way at any moment.
const RATE: u64 = 5_000;

fn kills() -> u64 {
    std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS)
}

#[test]
fn fifty_kills_of_the_gateway_lose_and_double_nothing() {
    let receiver = Receiver::start();
    let mut gateway = Gateway::start(&receiver.sink());
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    for kill in 0..kills() {
        let load = fleet.start(Run::time(LATER).at_rate(RATE));
        let moment = load.answered() + 1 + fastrand::u64(..RATE / 2);
        eventually("acknowledgements", SOON, || load.answered() >= moment);
        gateway.kill9();
        let report;
        (fleet, report) = load.join();
        assert!(report.broken.is_some() && report.acknowledged > 0, "kill {kill}: {report:?}");
        gateway.restart();
        fleet.reconnect(gateway.mqtt()).unwrap();
    }
    let tally = Tally::is_complete(&receiver, &fleet);
    assert_eq!(receiver.missing(), 0);
    gateway.stop();
    println!("{} acknowledged, {} stored upstream", fleet.acknowledged(), tally.events());
}

#[test]
fn kills_of_the_receiver_lose_and_double_nothing() {
    let mut receiver = Receiver::start();
    let mut gateway = Gateway::start(&receiver.sink());
    let fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    let load = fleet.start(Run::time(LATER * 2).at_rate(RATE));
    for _ in 0..(kills() / 5).max(3) {
        let moment = receiver.stored() + 1 + fastrand::u64(..RATE / 2);
        eventually("events at the receiver", LATER, || receiver.stored() >= moment);
        receiver.kill9();
        receiver.restart();
    }
    let (fleet, report) = load.stop();
    assert_eq!((report.broken, report.sent), (None, report.acknowledged));
    Tally::is_complete(&receiver, &fleet);
    assert_eq!(receiver.missing(), 0);
    gateway.stop();
}

#[test]
fn a_kill_while_the_upstream_is_away_keeps_the_backlog() {
    let mut receiver = Receiver::start();
    let mut gateway = Gateway::start(&receiver.sink());
    receiver.stop();
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    fleet.run(Run::messages(20_000, LATER));
    // Whatever the daemon saves about its sink is on disk by then.
    eventually("the backlog is old", SOON, || gateway.lag("lag-seconds") >= 4);
    gateway.kill9();
    gateway.restart();
    receiver.restart();
    let tally = Tally::is_complete(&receiver, &fleet);
    assert_eq!((tally.events(), receiver.missing()), (20_000, 0));
}

#[test]
fn a_stop_in_order_hands_over_what_it_has() {
    let receiver = Receiver::start();
    let mut gateway = Gateway::start(&receiver.sink());
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    fleet.run(Run::time(Duration::from_millis(500)).at_rate(RATE));
    gateway.stop();
    assert_eq!(receiver.stored(), fleet.acknowledged());
}
