//! A log with a small and with a large backlog, and a small one on sled, opened and read to its end by a process
//! of its own: how long that takes, and how much memory.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::log::{Chunk, Engine as Beneath, Log, Read};
use tidegate_tests::table::{Goal, Table, figure, median, range};

use crate::Plan;
use crate::engine::Engine;
use crate::log::{self, Ours};
use crate::payload::Events;
use crate::process;

/// Makes this program the process that opens the log in the directory that follows.
pub(crate) const ARGUMENT: &str = "--open-backlog";

/// About as much as a frame holds: it is not the writing that is measured.
const GROUP: usize = 4096;
const SIZE: usize = 200;
/// Bytes of a frame, as by default.
const MAX_BYTES: usize = 1 << 20;
/// What a forwarder reads at once.
const CHUNK: usize = 256 << 10;
const MIB: f64 = 1024.0 * 1024.0;

/// A small and a large backlog, and unless other engines are left out, the small one on sled.
pub(crate) fn measure(plan: &Plan, table: &mut Table) {
    let [small, large] = plan.backlogs;
    let on_sled = (!plan.is_bare).then_some((Beneath::Sled, small));
    for (engine, payload) in
        [(Beneath::Log, small), (Beneath::Log, large)].into_iter().chain(on_sled)
    {
        let on = if engine == Beneath::Sled { " on sled" } else { "" };
        let size = format!("{} GB{on}", figure(payload as f64 / 1e9));
        println!("\na backlog of {size}");
        let parent = &plan.disk;
        let dir = tempfile::Builder::new().prefix("tidegate-").tempdir_in(parent).expect("a dir");
        fill(engine, dir.path(), payload);
        let runs: Vec<Report> = (0..plan.rounds).map(|_| open(dir.path())).collect();
        let of = |pick: fn(&Report) -> f64| runs.iter().map(pick).collect::<Vec<f64>>();
        let goal = |goal| if payload == large { goal } else { Goal::None };
        for (what, values, unit, bound) in [
            ("open", of(|run| run.open * 1e3), "ms", Goal::AtMost(50.0)),
            ("memory, opened", of(|run| run.opened / MIB), "MiB", Goal::AtMost(8.0)),
            ("memory, most while read", of(|run| run.peak / MIB), "MiB", Goal::AtMost(8.0)),
            ("read", of(|run| run.events / run.read), "/s", Goal::AtLeast(2_000_000.0)),
        ] {
            let what = format!("backlog of {size}: {what}");
            table.row(what, (median(&values), unit), range(&values), goal(bound));
        }
    }
}

fn fill(engine: Beneath, dir: &Path, payload: u64) {
    let mut events = Events::new(SIZE);
    let mut ours = Ours::new(log::open(engine, log::options(dir, MAX_BYTES)));
    let begin = Instant::now();
    for _ in 0..payload / (GROUP * SIZE) as u64 {
        ours.commit(events.group(GROUP));
    }
    ours.finish();
    let rate = payload as f64 / begin.elapsed().as_secs_f64() / 1e6;
    println!("  written at {} MB/s", figure(rate));
}

/// Seconds, bytes, events.
#[derive(Debug)]
struct Report {
    open: f64,
    opened: f64,
    peak: f64,
    events: f64,
    read: f64,
}

fn open(dir: &Path) -> Report {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).arg(ARGUMENT).arg(dir).output().expect("a process");
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> =
        text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [open, opened, peak, events, read] = numbers[..] else {
        panic!("{}: {text}{}", dir.display(), String::from_utf8_lossy(&output.stderr));
    };
    Report { open, opened, peak, events, read }
}

/// What the process does that opens it.
pub(crate) fn read(dir: &Path) -> ExitCode {
    let before = process::memory();
    let begin = Instant::now();
    let log = log::open(Beneath::Log, log::options(dir, MAX_BYTES));
    let open = begin.elapsed();
    let opened = process::memory().saturating_sub(before);
    process::reset_peak_memory();
    let (events, time) = drain(&log);
    let peak = process::peak_memory().saturating_sub(before);
    println!("{} {opened} {peak} {events} {}", open.as_secs_f64(), time.as_secs_f64());
    ExitCode::SUCCESS
}

/// Reads all of it: how many events, and how long that takes.
pub(crate) fn drain(log: &Arc<Log>) -> (u64, Duration) {
    let begin = Instant::now();
    let mut reader = log.reader(1);
    let mut chunk = Chunk::default();
    let (mut events, mut bytes) = (0, 0);
    loop {
        match reader.read(&mut chunk, CHUNK).expect("a read") {
            Read::Frames => {}
            Read::Tail => break,
            Read::Lost(lsns) => panic!("{lsns:?} are lost"),
        }
        for event in chunk.frames().flat_map(|frame| frame.events()) {
            events += 1;
            bytes += event.expect("an event").payload.len();
        }
    }
    assert_eq!(events, log.committed(), "{bytes} bytes");
    (events, begin.elapsed())
}
