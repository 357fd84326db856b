//! How long a commit takes while old segments are removed, and whether that stays so.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tidegate::log::{Engine as Beneath, Log};
use tidegate_event::Lsn;
use tidegate_tests::load::Histogram;
use tidegate_tests::table::{Goal, Table, figure};

use crate::Plan;
use crate::engine::Engine;
use crate::log::{self, Ours};
use crate::payload::{self, Event, Events};
use crate::raw::Append;

const GROUP: usize = 128;
const SIZE: usize = 200;
/// Bytes of a file.
const SEGMENT: u64 = 8 << 20;
/// Files that are kept.
const KEPT: usize = 8;
/// The two take turns, each with so many bytes of events.
const TURN: u64 = 16 << 20;

/// Commits in turns of the log and of raw files.
pub(crate) fn measure(plan: &Plan, table: &mut Table) {
    println!("\n{} bytes of events each, groups of {GROUP}, {SIZE} bytes", plan.churn);
    let dir = tempfile::Builder::new().prefix("tidegate-").tempdir_in(&plan.disk).expect("a dir");
    let mut events = Events::new(SIZE);
    let mut builder = payload::builder();
    payload::block(&mut builder, events.group(GROUP));
    let bytes = builder.len();
    let mut turns: [Vec<Histogram>; 2] = Default::default();
    thread::scope(|scope| {
        let (unlink, unlinked) = channel();
        scope.spawn(|| remove(unlinked));
        let mut raw = Files::begin(dir.path(), bytes, unlink);
        let log = log::open(Beneath::Log, log::options(&dir.path().join("log"), bytes));
        let (release, released) = channel();
        let removing = Arc::clone(&log);
        scope.spawn(move || free(&removing, released));
        let mut ours = Released { appender: Ours::new(Arc::clone(&log)), log, release };
        for _ in 0..plan.churn / TURN {
            turns[0].push(turn(&mut raw, &mut events));
            turns[1].push(turn(&mut ours, &mut events));
        }
    });
    add(&turns, table);
}

fn turn(engine: &mut impl Engine, events: &mut Events) -> Histogram {
    let mut histogram = Histogram::new();
    for _ in 0..TURN / (GROUP * SIZE) as u64 {
        let group = events.group(GROUP);
        let begin = Instant::now();
        engine.commit(group);
        engine.finish();
        histogram.record(begin.elapsed());
    }
    histogram
}

fn add(turns: &[Vec<Histogram>; 2], table: &mut Table) {
    let all = |turns: &[Histogram]| {
        let mut all = Histogram::new();
        turns.iter().for_each(|turn| all.add(turn));
        all
    };
    let [raw, ours] = [all(&turns[0]), all(&turns[1])];
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |percent| [&raw, &ours].map(|one| micros(one.percentile(percent)));
    for (percent, goal) in [(50.0, Goal::None), (99.0, Goal::AtMost(1.2)), (99.9, Goal::None)] {
        let [raw, ours] = at(percent);
        let beside = format!("{} µs; raw file {} µs", figure(ours), figure(raw));
        table.row(format!("commit p{percent}: log ÷ raw file"), (ours / raw, "×"), beside, goal);
    }
    let drift = |turns: &[Histogram]| {
        let quarter = turns.len().div_ceil(4);
        let first = all(&turns[..quarter]).percentile(50.0);
        let last = all(&turns[turns.len() - quarter..]).percentile(50.0);
        micros(last) / micros(first)
    };
    let [raw, ours] = [drift(&turns[0]), drift(&turns[1])];
    let beside = format!("median of the last quarter ÷ first; raw files {}", figure(raw));
    table.row("commit drift", (ours, "×"), beside, Goal::AtMost(1.1));
}

/// Raw files as large as a segment; the oldest is removed.
struct Files {
    dir: PathBuf,
    bytes: usize,
    file: Append,
    written: u64,
    number: usize,
    paths: VecDeque<PathBuf>,
    unlink: Sender<PathBuf>,
}

impl Files {
    fn begin(dir: &Path, bytes: usize, unlink: Sender<PathBuf>) -> Self {
        let mut files = Self {
            dir: dir.into(),
            bytes,
            file: Append::create(dir, bytes),
            written: 0,
            number: 0,
            paths: VecDeque::new(),
            unlink,
        };
        files.next();
        files
    }

    fn next(&mut self) {
        let dir = self.dir.join(self.number.to_string());
        fs::create_dir(&dir).expect("a directory");
        self.file = Append::create(&dir, self.bytes);
        (self.number, self.written) = (self.number + 1, 0);
        self.paths.push_back(dir);
        if self.paths.len() > KEPT
            && let Some(oldest) = self.paths.pop_front()
        {
            self.unlink.send(oldest).expect("a thread that removes");
        }
    }
}

impl Engine for Files {
    fn commit(&mut self, group: &[Event]) {
        if self.written + self.bytes as u64 > SEGMENT {
            self.next();
        }
        self.file.commit(group);
        self.written += self.bytes as u64;
    }
}

fn remove(unlinked: Receiver<PathBuf>) {
    for dir in unlinked {
        fs::remove_dir_all(&dir).expect("a removal");
        if let Some(parent) = dir.parent() {
            File::open(parent).and_then(|dir| dir.sync_all()).expect("a sync");
        }
    }
}

/// The log, of which the oldest segments are released.
struct Released {
    appender: Ours,
    log: Arc<Log>,
    release: Sender<Lsn>,
}

impl Engine for Released {
    fn commit(&mut self, group: &[Event]) {
        self.appender.commit(group);
        let usage = self.log.usage();
        if usage.segments > KEPT {
            let before = self.log.newest_within(SEGMENT * (KEPT as u64 - 1));
            self.release.send(before).expect("a thread that releases");
        }
    }

    fn finish(&mut self) {
        self.appender.finish();
    }
}

fn free(log: &Log, released: Receiver<Lsn>) {
    for before in released {
        log.release(before);
    }
}
