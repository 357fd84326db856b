//! From the publisher to the receiver's store: at rest, at full speed, and after an outage.

use std::time::{Duration, Instant};

use tidegate_tests::gateway::Gateway;
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::site::Site;
use tidegate_tests::table::{Goal, Table, figure, median, range};
use tidegate_tests::wait::{LATER, eventually};

use crate::Plan;
use crate::broker::ROOMY;

const MIB: f64 = 1024.0 * 1024.0;
const PAYLOAD: f64 = 200.0;
/// The longest that one measurement may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A gateway that leads to `receiver`. Batches as by default, but for their age: it would only add
/// itself to the end.
fn gateway(plan: &Plan, receiver: &Receiver) -> Gateway {
    Gateway::start_at(Site::below(&plan.dir), &format!("{ROOMY}\n{}", receiver.sink()))
}

fn connect(gateway: &Gateway) -> Fleet {
    match Fleet::connect(gateway.mqtt(), &Shape::default()) {
        Ok(fleet) => fleet,
        Err(error) => panic!("cannot connect: {error}"),
    }
}

/// Memory when nothing happens.
pub(crate) fn idle(plan: &Plan, table: &mut Table) {
    println!("\nat rest");
    let receiver = Receiver::start_at(Site::below(&plan.dir));
    let mut gateway = gateway(plan, &receiver);
    gateway.await_ready();
    let fleet = connect(&gateway);
    let memory = gateway.process().memory() as f64 / MIB;
    table.row(
        "idle memory",
        (memory, "MiB"),
        "VmRSS, one sink, ten connections",
        Goal::AtMost(20.0),
    );
    drop(fleet);
}

/// Publish, and wait until the receiver has stored everything.
pub(crate) fn end_to_end(plan: &Plan, table: &mut Table) {
    println!("\nend to end, {} events", figure(plan.end_to_end as f64));
    let [mut rates, mut cpu, mut upstream, mut written] = [const { Vec::new() }; 4];
    for _ in 0..plan.rounds.min(3) {
        let mut receiver = Receiver::start_at(Site::below(&plan.dir));
        let mut gateway = gateway(plan, &receiver);
        let mut fleet = connect(&gateway);
        let begin = Instant::now();
        let report = fleet.run(Run::messages(plan.end_to_end, LIMIT));
        assert_eq!(report.acknowledged, plan.end_to_end, "{:?}", report.broken);
        stored(&receiver, plan.end_to_end);
        rates.push(plan.end_to_end as f64 / begin.elapsed().as_secs_f64());
        let millions = plan.end_to_end as f64 / 1e6;
        cpu.push(gateway.process().cpu().as_secs_f64() / millions);
        upstream.push(receiver.process().cpu().as_secs_f64() / millions);
        written.push(gateway.process().bytes_written() as f64 / (millions * 1e6 * PAYLOAD));
    }
    table.row("end to end", (median(&rates), "/s"), range(&rates), Goal::AtLeast(100_000.0));
    table.row("gateway CPU", (median(&cpu), "s/M"), range(&cpu), Goal::None);
    table.row("receiver CPU", (median(&upstream), "s/M"), range(&upstream), Goal::None);
    table.row(
        "gateway bytes to disk ÷ payload",
        (median(&written), "×"),
        range(&written),
        Goal::None,
    );
}

/// An outage, and its end.
pub(crate) fn drain(plan: &Plan, table: &mut Table) {
    let mut peaks = Vec::new();
    for backlog in plan.backlogs {
        println!("\ndraining {} events", figure(backlog as f64));
        let mut receiver = Receiver::start_at(Site::below(&plan.dir));
        let mut gateway = gateway(plan, &receiver);
        receiver.stop();
        let mut fleet = connect(&gateway);
        let report = fleet.run(Run::messages(backlog, LIMIT));
        assert_eq!(report.acknowledged, backlog, "{:?}", report.broken);
        let before = gateway.process().memory() as f64 / MIB;
        gateway.process().reset_peak_memory();
        let cpu = gateway.process().cpu();
        receiver.restart();
        eventually("the first event after the outage", LATER, || receiver.stored() > 0);
        let (begin, first) = (Instant::now(), receiver.stored());
        stored(&receiver, backlog);
        let rate = (backlog - first) as f64 / begin.elapsed().as_secs_f64();
        let peak = gateway.process().peak_memory() as f64 / MIB;
        let cpu = (gateway.process().cpu() - cpu).as_secs_f64() / (backlog as f64 / 1e6);
        let beside = format!("gateway {} CPU s/M, {} MiB before", figure(cpu), figure(before));
        let what = format!("drain of {}", figure(backlog as f64));
        table.row(what, (rate, "/s"), beside, Goal::AtLeast(200_000.0));
        peaks.push(peak);
    }
    if let [small, large] = peaks[..] {
        let beside = format!("{} MiB with the small backlog", figure(small));
        table.row("peak memory, large backlog", (large, "MiB"), beside, Goal::None);
        table.row("large ÷ small backlog", (large / small, "×"), "memory", Goal::AtMost(1.25));
    }
}

fn stored(receiver: &Receiver, count: u64) {
    eventually("everything at the receiver", LIMIT, || receiver.stored() >= count);
}
