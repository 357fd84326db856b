//! The upstream goes away and comes back.

use tidegate_tests::gateway::Gateway;
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::tally::Tally;
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

const RATE: u64 = 5_000;
const QUOTA_EXCEEDED: u8 = 0x97;

#[test]
fn an_outage_refuses_nothing_and_drains_without_gap_or_duplicate() {
    let mut receiver = Receiver::start();
    let mut gateway = Gateway::start(&receiver.sink());
    let fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    let load = fleet.start(Run::time(LATER * 2).at_rate(RATE));
    eventually("events upstream", SOON, || receiver.stored() > RATE / 2);

    receiver.stop();
    eventually("the lag grows", LATER, || gateway.lag("lag-events") > 3 * RATE);
    receiver.restart();
    eventually("the backlog drains while the load goes on", LATER, || {
        gateway.lag("lag-events") < RATE / 2
    });

    let (fleet, report) = load.stop();
    assert_eq!((report.broken, report.refused), (None, 0));
    assert_eq!(report.acknowledged, report.sent);
    let tally = Tally::is_complete(&receiver, &fleet);
    assert_eq!((tally.events(), receiver.missing()), (report.sent, 0));
    eventually("no lag is left", SOON, || gateway.lag("lag-events") == 0);
    gateway.stop();
}

#[test]
fn a_gateway_that_starts_without_its_upstream_takes_events() {
    let mut receiver = Receiver::start();
    receiver.stop();
    let gateway = Gateway::start(&receiver.sink());
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    let report = fleet.run(Run::messages(5_000, LATER));
    assert_eq!(report.acknowledged, 5_000);
    receiver.restart();
    let tally = Tally::is_complete(&receiver, &fleet);
    assert_eq!(tally.events(), 5_000);
}

/// Small enough to be full soon; events stay until the receiver has them.
const SMALL_LOG: &str = r#"
[limits]
max-packet-size = "16KiB"

[log]
max-size = "4MiB"
segment-size = "256KiB"
commit.max-bytes = "64KiB"

"#;

#[test]
fn a_full_log_holds_a_publisher_back_until_there_is_room() {
    let mut receiver = Receiver::start();
    let mut gateway = Gateway::start(&format!("{SMALL_LOG}{}", receiver.sink()));
    receiver.stop();
    let fleet = Fleet::connect(gateway.mqtt(), &Shape { connections: 3, ..Shape::default() });
    let load = fleet.unwrap().start(Run::messages(60_000, LATER * 2));
    // 4 MiB hold less than 21,000 payloads of 200 bytes.
    load.stands_still(1_000, LATER);
    assert!(load.answered() < 21_000, "{} acknowledged", load.answered());

    // MQTT 5 is told why. A smaller event may find a place where a larger block does not.
    let mut wire = Wire::client(gateway.mqtt(), Version::V5, "told");
    let refused = (1..=1_000).find(|id| {
        wire.send(&publish(Version::V5, 1, b"a", *id, &[b'x'; 1000]));
        matches!(wire.answer(), Some((PUBACK, body)) if body.get(2) == Some(&QUOTA_EXCEEDED))
    });
    let stored_of_wire = u64::from(refused.expect("a refusal") - 1);
    assert!(!load.is_finished(), "nobody was thrown out");

    receiver.restart();
    let (fleet, report) = load.join();
    assert_eq!((report.broken, report.acknowledged), (None, 60_000));
    eventually("everything upstream", LATER, || receiver.stored() >= 60_000 + stored_of_wire);
    let tally = Tally::is_complete(&receiver, &fleet);
    assert_eq!((tally.events(), receiver.missing()), (60_000 + stored_of_wire, 0));
    wire.send(&publish(Version::V5, 1, b"a", 2_000, b"x"));
    let answer = wire.answer();
    assert!(
        matches!(&answer, Some((PUBACK, body)) if body.get(2).is_none_or(|reason| *reason < 0x80)),
        "{answer:02x?}"
    );
    gateway.stop();
}
