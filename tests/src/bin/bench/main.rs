//! The benchmark: the built gateway beside Debian's mosquitto, driven by the same client in the same
//! run, and the disk beneath both. Every figure is the median of alternating rounds, and stands
//! beside its goal.
//!
//! `cargo run --release -p tidegate-tests --bin bench [-- --quick] [--dir DIR] [PART...]`
//!
//! Without a part, all of them.
//!
//! 10 connections, window 100, payloads of 200 bytes of JSON, QoS 1. The data lies in
//! `target/bench` unless `--dir` names another disk.

mod acks;
mod broker;
mod connections;
mod disk;
mod fanout;
mod flow;
mod rumqttd;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use tidegate_tests::site::target_dir;
use tidegate_tests::table::Table;

/// Measures, and adds its rows.
type Part = fn(&Plan, &mut Table);

/// What can be measured, in this order.
const PARTS: [(&str, Part); 9] = [
    ("flat-out", acks::flat_out),
    ("latency", acks::at_a_rate),
    ("fan-out-1", |plan, table| fanout::fan_out(plan, 1, table)),
    ("fan-out-10", |plan, table| fanout::fan_out(plan, 10, table)),
    ("tls", connections::encrypted),
    ("many", connections::many),
    ("idle", flow::idle),
    ("end-to-end", flow::end_to_end),
    ("drain", flow::drain),
];

/// How much is measured.
#[derive(Debug, Clone)]
struct Plan {
    /// Where the brokers and the probes keep their data.
    dir: PathBuf,
    /// Of everything that is compared.
    rounds: usize,
    /// One round flat out, after a warm-up of a quarter of it.
    flat_out: Duration,
    /// One round at a rate.
    paced: Duration,
    /// Events of one round from the publisher to the receiver's store.
    end_to_end: u64,
    /// Events that wait in a small and in a large backlog.
    backlogs: [u64; 2],
}

impl Plan {
    fn full(dir: PathBuf) -> Self {
        Self {
            dir,
            rounds: 5,
            flat_out: Duration::from_secs(4),
            paced: Duration::from_secs(10),
            end_to_end: 1_000_000,
            backlogs: [500_000, 2_000_000],
        }
    }

    fn quick(dir: PathBuf) -> Self {
        Self {
            dir,
            rounds: 3,
            flat_out: Duration::from_secs(2),
            paced: Duration::from_secs(3),
            end_to_end: 300_000,
            backlogs: [100_000, 400_000],
        }
    }
}

fn main() -> ExitCode {
    let mut quick = false;
    let mut wanted = Vec::new();
    let mut dir = target_dir().join("bench");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), &mut arguments) {
            ("--quick", _) => quick = true,
            (rumqttd::ARGUMENT, rest) => {
                return rest.next().map_or_else(usage, |port| rumqttd::serve(&port));
            }
            ("--dir", rest) => match rest.next() {
                Some(given) => dir = given.into(),
                None => return usage(),
            },
            (part, _) if PARTS.iter().any(|(name, _)| *name == part) => wanted.push(argument),
            _ => return usage(),
        }
    }
    if let Err(error) = std::fs::create_dir_all(&dir) {
        eprintln!("bench: {}: {error}", dir.display());
        return ExitCode::FAILURE;
    }
    if !build() {
        return ExitCode::FAILURE;
    }
    let plan = if quick { Plan::quick(dir) } else { Plan::full(dir) };
    let begin = Instant::now();
    println!(
        "10 connections, window 100, 200 bytes of JSON, QoS 1; {} rounds; data in {}; {} processors",
        plan.rounds,
        plan.dir.display(),
        std::thread::available_parallelism().map_or(0, usize::from),
    );
    let mut table = Table::new();
    for (name, measure) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|part| part == name) {
            measure(&plan, &mut table);
        }
    }
    println!("\n{table}\nmeasured in {:.0} s", begin.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    let parts: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    eprintln!("usage: bench [--quick] [--dir DIR] [{}]...", parts.join("|"));
    ExitCode::from(64)
}

/// What is measured is what the source says now.
fn build() -> bool {
    if std::env::var_os("TIDEGATE_BIN").is_some() {
        return true;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "--package", "tidegate", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .status();
    match status {
        Ok(status) if status.success() => true,
        Ok(status) => {
            eprintln!("bench: the gateway does not build: {status}");
            false
        }
        Err(error) => {
            eprintln!("bench: cannot run cargo: {error}");
            false
        }
    }
}
