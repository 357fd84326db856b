//! Acknowledgements: how many a second, and how soon.

use std::time::Duration;

use tidegate_tests::load::{Fleet, Report, Run, Shape};
use tidegate_tests::table::{Goal, Table, figure, median, range};

use crate::Plan;
use crate::broker::{Broker, Kind, order};
use crate::disk;

/// Events a second at which latency is compared.
const RATE: u64 = 10_000;

/// Flat out: durable acknowledgements beside mosquitto's volatile ones.
pub(crate) fn flat_out(plan: &Plan, table: &mut Table) {
    println!("\nacknowledgements, flat out");
    let [mut durable, mut volatile, mut client] = [const { Vec::new() }; 3];
    let [mut cpu, mut written] = [const { Vec::new() }; 2];
    for round in 0..plan.rounds {
        for kind in order(round) {
            let mut broker = Broker::start(kind, &plan.dir);
            let mut fleet = connect(&broker);
            let warm_up = fleet.run(Run::time(plan.flat_out / 4));
            whole(&warm_up);
            let used = broker.process().cpu();
            let bytes = broker.process().bytes_written();
            let report = fleet.run(Run::time(plan.flat_out));
            whole(&report);
            let used = (broker.process().cpu() - used).as_secs_f64();
            let bytes = (broker.process().bytes_written() - bytes) as f64;
            client.push(report.cpu.as_secs_f64() / report.elapsed.as_secs_f64());
            let millions = report.acknowledged as f64 / 1e6;
            match kind {
                Kind::Mosquitto | Kind::Rumqttd => volatile.push(report.rate()),
                Kind::Tidegate => {
                    durable.push(report.rate());
                    cpu.push(used / millions);
                    written.push(bytes / (millions * 1e6 * 200.0));
                }
            }
        }
    }
    let (mine, theirs) = (median(&durable), median(&volatile));
    table.row("durable acks", (mine, "/s"), range(&durable), Goal::None);
    table.row("mosquitto, volatile acks", (theirs, "/s"), range(&volatile), Goal::None);
    table.row("durable ÷ volatile", (mine / theirs, "×"), "", Goal::AtLeast(1.0));
    let share = 100.0 * median(&client);
    table.row(
        "the client, of one processor",
        (share, "%"),
        "one thread; 100 % would be its limit",
        Goal::None,
    );
    table.row("gateway CPU, acks only", (median(&cpu), "s/M"), "", Goal::None);
    table.row("bytes to disk ÷ payload", (median(&written), "×"), "", Goal::None);
}

/// At a rate that leaves everything time: what an acknowledgement waits for is the disk.
pub(crate) fn at_a_rate(plan: &Plan, table: &mut Table) {
    println!("\nlatency at {} events/s", figure(RATE as f64));
    let mut gateway = Vec::new();
    let mut peer = Vec::new();
    let [mut appended, mut in_place] = [const { Vec::new() }; 2];
    for round in 0..plan.rounds {
        appended.push(disk::probe(&plan.dir, disk::Write::Append, plan.paced / 4));
        in_place.push(disk::probe(&plan.dir, disk::Write::InPlace, plan.paced / 4));
        for kind in order(round) {
            let broker = Broker::start(kind, &plan.dir);
            let mut fleet = connect(&broker);
            whole(&fleet.run(Run::time(plan.paced / 10).at_rate(RATE)));
            let report = fleet.run(Run::time(plan.paced).at_rate(RATE));
            whole(&report);
            let held = report.sent as f64 / plan.paced.as_secs_f64() / RATE as f64;
            if held < 0.98 {
                println!("  {kind:?} was held back to {:.0} % of the rate", 100.0 * held);
            }
            let both = (report.latency.percentile(50.0), report.latency.percentile(99.0));
            match kind {
                Kind::Mosquitto | Kind::Rumqttd => peer.push(both),
                Kind::Tidegate => gateway.push(both),
            }
        }
    }
    let p50 = |pairs: &[(Duration, Duration)]| median(&millis(pairs.iter().map(|pair| pair.0)));
    let p99s = |pairs: &[(Duration, Duration)]| millis(pairs.iter().map(|pair| pair.1));
    let p99 = |pairs: &[(Duration, Duration)]| median(&p99s(pairs));
    let probed = |pairs: &[_]| format!("p50 {}, p99 {} ms", figure(p50(pairs)), figure(p99(pairs)));
    let disk = p99(&appended).min(p99(&in_place));
    table.row(
        "ack p50",
        (p50(&gateway), "ms"),
        format!("mosquitto, volatile: {}", probed(&peer)),
        Goal::None,
    );
    table.row("ack p99", (p99(&gateway), "ms"), range(&p99s(&gateway)), Goal::None);
    table.row(
        "the disk's fdatasync p99",
        (disk, "ms"),
        format!("appending: {}; in place: {}", probed(&appended), probed(&in_place)),
        Goal::None,
    );
    table.row("ack p99 − fdatasync p99", (p99(&gateway) - disk, "ms"), "", Goal::AtMost(2.0));
}

fn millis(durations: impl Iterator<Item = Duration>) -> Vec<f64> {
    durations.map(|duration| duration.as_secs_f64() * 1e3).collect()
}

fn connect(broker: &Broker) -> Fleet {
    match Fleet::connect(broker.address(), &Shape::default()) {
        Ok(fleet) => fleet,
        Err(error) => panic!("cannot connect to {:?}: {error}", broker.address()),
    }
}

/// A figure from a broken run would be none.
fn whole(report: &Report) {
    if let Some(why) = &report.broken {
        panic!("a connection broke: {why}");
    }
}
