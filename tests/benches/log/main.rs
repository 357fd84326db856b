//! The log's benchmark: what a durable event costs in the log, beside raw files on the same disk and
//! beside other engines, in one run. Every figure is the median of alternating rounds, and stands
//! beside its goal.
//!
//! `cargo bench -p tidegate-tests --bench log [-- --quick] [--bare] [--only SIZExGROUP] [--dir DIR]
//! [--memory DIR] [PART...]`
//!
//! Without a part, all of them. `--bare` leaves other engines out, `--only 200x1024` other events and groups; one
//! that is not measured is refused, with those that are. The data lies in `target/bench` unless `--dir` names
//! another disk, and in `/dev/shm` (or `--memory`) where no disk is to be measured; it is removed in the end. The
//! full run needs 16 GB of disk for a while.

mod backlog;
mod churn;
mod compressed;
mod engine;
mod groups;
mod log;
mod others;
mod payload;
mod process;
mod raw;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tidegate_tests::site::target_dir;
use tidegate_tests::table::Table;

/// Measures, and adds its rows.
type Part = fn(&Plan, &mut Table);

/// What can be measured, in this order.
const PARTS: [(&str, Part); 5] = [
    ("disk", |plan, table| groups::measure(plan, groups::Place::Disk, table)),
    ("memory", |plan, table| groups::measure(plan, groups::Place::Memory, table)),
    ("compressed", compressed::measure),
    ("churn", churn::measure),
    ("backlog", backlog::measure),
];

/// How much is measured.
#[derive(Debug, Clone)]
struct Plan {
    /// On the disk to be measured.
    disk: PathBuf,
    /// Where there is no disk.
    memory: PathBuf,
    /// Bytes of an event, and events of a group, where no others are wanted.
    only: Option<(usize, usize)>,
    /// Whether the log is compared with raw files alone.
    is_bare: bool,
    /// Of everything that is compared.
    rounds: usize,
    /// One round of one engine.
    round: Duration,
    /// Bytes of events that are written and removed again.
    churn: u64,
    /// Bytes of events in a small and in a large backlog.
    backlogs: [u64; 2],
}

impl Plan {
    fn new(disk: PathBuf, memory: PathBuf, quick: bool) -> Self {
        let (rounds, millis, churn, backlogs) = if quick {
            (3, 300, 256 << 20, [100_000_000, 1_000_000_000])
        } else {
            (5, 1_000, 2 << 30, [1_000_000_000, 10_000_000_000])
        };
        let (only, is_bare) = (None, false);
        Self {
            disk,
            memory,
            only,
            is_bare,
            rounds,
            round: Duration::from_millis(millis),
            churn,
            backlogs,
        }
    }
}

/// `200x1024`, if that is measured.
fn size_and_group(given: &str) -> Option<(usize, usize)> {
    let (size, group) = given.split_once('x')?;
    let wanted = (size.parse().ok()?, group.parse().ok()?);
    groups::all().find(|it| *it == wanted)
}

fn main() -> ExitCode {
    let (mut quick, mut is_bare, mut only) = (false, false, None);
    let mut wanted = Vec::new();
    let mut disk = target_dir().join("bench");
    let mut memory = PathBuf::from("/dev/shm");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), &mut arguments) {
            // What cargo says to every benchmark.
            ("--bench", _) => {}
            ("--quick", _) => quick = true,
            ("--bare", _) => is_bare = true,
            ("--only", rest) => {
                let Some(given) = rest.next() else { return usage() };
                only = size_and_group(&given);
                if only.is_none() {
                    return not_measured(&given);
                }
            }
            (backlog::ARGUMENT, rest) => {
                return rest.next().map_or_else(usage, |dir| backlog::read(dir.as_ref()));
            }
            ("--dir", rest) => match rest.next() {
                Some(given) => disk = given.into(),
                None => return usage(),
            },
            ("--memory", rest) => match rest.next() {
                Some(given) => memory = given.into(),
                None => return usage(),
            },
            (part, _) if PARTS.iter().any(|(name, _)| *name == part) => wanted.push(argument),
            _ => return usage(),
        }
    }
    for dir in [&disk, &memory] {
        if let Err(error) = std::fs::create_dir_all(dir) {
            eprintln!("log: {}: {error}", dir.display());
            return ExitCode::FAILURE;
        }
    }
    let plan = Plan { only, is_bare, ..Plan::new(disk, memory, quick) };
    let begin = Instant::now();
    println!(
        "one appender, the next group filled while the one before is synced; {} rounds of {:?}; \
         disk {}, memory {}; {} processors",
        plan.rounds,
        plan.round,
        plan.disk.display(),
        plan.memory.display(),
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

fn not_measured(given: &str) -> ExitCode {
    let all: Vec<String> = groups::all().map(|(size, group)| format!("{size}x{group}")).collect();
    eprintln!("log: --only {given}: not measured, there are {}", all.join(", "));
    ExitCode::from(2)
}

fn usage() -> ExitCode {
    let parts: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    eprintln!(
        "usage: log [--quick] [--bare] [--only SIZExGROUP] [--dir DIR] [--memory DIR] [{}]...",
        parts.join("|")
    );
    ExitCode::from(64)
}
