//! All of them at once.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::thread;
use std::time::Instant;

use tidegate_event::Filter;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::super::*;
use super::seen::{Answered, OUTSIDE, Seen, Tally, check, figures, recount};

/// Nobody waits longer for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// Nobody looks less often whether something came.
const STALL: Duration = Duration::from_millis(20);
const APPENDERS: u64 = 3;
const DEFAULT: Lane = Lane(0);
pub(super) const NEWEST: Lane = Lane(3);
pub(super) const LANES: u8 = 4;
/// What an event's time is ahead of that of the one before, in microseconds.
const STEP: i64 = 10_000;

/// Says the seed of a round that fails.
pub(super) struct Announce(pub(super) u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("TIDEGATE_RACES_SEED={} begins with this", self.0);
        }
    }
}

pub(super) struct World {
    pub(super) log: Arc<Log>,
    options: Options,
    seed: u64,
    events: u64,
    sent: AtomicU64,
    /// The newest event's time.
    time: AtomicI64,
    /// What lies before it may go without an entry in the ledger: the sink has it, or it was released.
    pub(super) excused: AtomicU64,
    /// What the sink reads next.
    cursor: AtomicU64,
    /// Nothing more is appended,
    written: AtomicBool,
    /// nor read.
    read: AtomicBool,
}

/// Waits on a thread that is nobody's task.
struct Waits(Runtime);

impl Waits {
    fn new() -> Self {
        Self(Builder::new_current_thread().enable_time().build().unwrap())
    }

    /// `None` where nothing comes of it in that time.
    fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        self.0.block_on(async { timeout(limit, future).await.ok() })
    }
}

fn options(dir: &Path, random: &mut fastrand::Rng) -> Options {
    let lane = |name: &str, when_full, max_age| LaneOptions {
        name: name.into(),
        topics: vec![Filter::new(&format!("{name}/#")).unwrap()],
        max_size: Some(256 << 10),
        rule: Rule { max_age, when_full, ..Rule::default() },
    };
    let downsample = Downsample { interval: Duration::from_millis(200), keep: Keep::Last };
    let compression = match random.u8(..3) {
        0 => Compression::Lz4,
        _ => Compression::None,
    };
    Options {
        max_size: 1536 << 10,
        max_bytes: 1 << random.u32(11..15),
        max_ledger: 4 << 20,
        compression,
        lanes: vec![
            LaneOptions::default_lane(),
            lane("rolling", WhenFull::DropOldest, Some(Duration::from_secs(3))),
            lane("thinned", WhenFull::Downsample(downsample), None),
            lane("newest", WhenFull::DropNewest, None),
        ],
        ..super::super::options(dir)
    }
}

/// A round: so many events. Panics where a promise is broken.
pub(super) fn run(seed: u64, events: u64) -> Tally {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let options = options(dir.path(), &mut random);
    let is_sled = on_sled::is_meant();
    let (log, _) = open(&options);
    let world = World {
        log,
        options: options.clone(),
        seed,
        events,
        sent: AtomicU64::new(0),
        time: AtomicI64::new(0),
        excused: AtomicU64::new(1),
        cursor: AtomicU64::new(1),
        written: AtomicBool::new(false),
        read: AtomicBool::new(false),
    };
    let (mut answered, mut seen, mut looks) = (Answered::new(), Vec::new(), 0);
    thread::scope(|scope| {
        let world = &world;
        let appenders: Vec<_> =
            (0..APPENDERS).map(|number| scope.spawn(move || world.append(number))).collect();
        let names = ["sink", "fast", "crumbs", "restarting", "lagging"];
        let readers: Vec<_> =
            names.into_iter().map(|name| scope.spawn(move || world.read(name))).collect();
        let keepers = [scope.spawn(|| world.trim()), scope.spawn(|| world.release())];
        let outside = (!is_sled).then(|| scope.spawn(|| world.look()));
        for appender in appenders {
            answered.extend(world.joined(appender));
        }
        world.written.store(true, Ordering::Release);
        for reader in readers {
            seen.push(world.joined(reader));
        }
        world.read.store(true, Ordering::Release);
        keepers.into_iter().for_each(|keeper| world.joined(keeper));
        if let Some(outside) = outside {
            let more = world.joined(outside);
            looks = more.len() as u64;
            seen.extend(more);
        }
    });
    world.log.enter_gone();
    let mut tally = check(&world, &answered, &seen);
    tally.looks = looks;
    recount(&world.log);
    let before = figures(&world.log);
    Waits::new().within(LIMIT, world.log.close()).expect("it closes");
    drop(world);
    let (log, recovery) = open(&options);
    assert_eq!((recovery.quarantined, recovery.set_aside), (vec![], vec![]));
    recount(&log);
    assert_eq!(figures(&log), before);
    tally
}

impl World {
    fn random(&self, what: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed << 8 | what)
    }

    /// A panic in one ends the others.
    fn joined<T>(&self, thread: thread::ScopedJoinHandle<'_, T>) -> T {
        thread.join().unwrap_or_else(|panic| {
            self.sent.store(u64::MAX / 2, Ordering::Release);
            self.written.store(true, Ordering::Release);
            self.read.store(true, Ordering::Release);
            std::panic::resume_unwind(panic)
        })
    }

    fn append(&self, number: u64) -> Answered {
        let (waits, mut random) = (Waits::new(), self.random(number));
        let (mut answered, mut tag, mut waiting) = (Answered::new(), number << 40, Vec::new());
        while self.sent.load(Ordering::Acquire) < self.events {
            let (block, said) = self.block(&mut tag, &mut random);
            if !said.is_empty() {
                self.sent.fetch_add(said.len() as u64, Ordering::AcqRel);
                waiting.push((self.submit(block, &waits), said));
            }
            if random.u8(..50) == 0 {
                let control = control(b"a session");
                while !matches!(self.log.append_control(&control), Append::Accepted(_)) {
                    let room = waits.within(LIMIT, self.log.control_room(control.len()));
                    room.expect("there is room in the end");
                }
            }
            if waiting.len() > random.usize(..6) {
                for (commit, said) in waiting.drain(..) {
                    let lsns = waits.within(LIMIT, commit);
                    let lsns = lsns.expect("it is answered").expect("the disk is fine");
                    assert_eq!(lsns.clone().count(), said.len());
                    answered.extend(lsns.zip(said));
                }
            }
        }
        for (commit, said) in waiting {
            let lsns = waits.within(LIMIT, commit).expect("it is answered");
            answered.extend(lsns.expect("the disk is fine").zip(said));
        }
        answered
    }

    /// A block, and what stands in it.
    fn block(
        &self,
        tag: &mut u64,
        random: &mut fastrand::Rng,
    ) -> (BlockBuilder, Vec<(Lane, Option<u64>)>) {
        let unix_micros = self.time.fetch_add(STEP, Ordering::AcqRel);
        let mut block = BlockBuilder::new("boiler-7", Received::Synced { unix_micros });
        let mut said = Vec::new();
        for _ in 0..random.usize(1..8) {
            let lane = Lane(random.u8(..LANES));
            match self.log.admission(lane) {
                Admission::Refuses => continue,
                Admission::Drops => {
                    block.push_gone(lane, 1);
                    said.push((lane, None));
                }
                Admission::Takes => {
                    *tag += 1;
                    let mut payload = tag.to_le_bytes().to_vec();
                    payload.push(lane.0);
                    payload.resize(random.usize(9..900), *tag as u8);
                    let topic = ["a", "b", "c"][random.usize(..3)];
                    let (qos, retain) = (Qos::AtLeastOnce, false);
                    let properties = Properties::default();
                    let payload = &payload;
                    block.push_in(lane, &Draft { topic, qos, retain, properties, payload });
                    said.push((lane, Some(*tag)));
                }
            }
        }
        (block, said)
    }

    fn submit(&self, mut block: BlockBuilder, waits: &Waits) -> Commit {
        let begin = Instant::now();
        loop {
            match self.log.append(&mut block) {
                Append::Accepted(commit) => return commit,
                Append::Unavailable => panic!("the disk is fine"),
                Append::Busy | Append::Full => {
                    let room = waits.within(LIMIT, self.log.room_for(block.lanes()));
                    let usage: Vec<_> =
                        (0..LANES).map(|lane| self.log.lane_usage(Lane(lane))).collect();
                    let lanes = block.lanes();
                    assert!(room.is_some(), "waits for ever: {lanes:?} {usage:?}");
                    assert!(begin.elapsed() < LIMIT, "never fits: {lanes:?} {usage:?}");
                }
            }
        }
    }

    fn read(&self, name: &'static str) -> Seen {
        let (waits, mut random) = (Waits::new(), self.random(name.len() as u64 + 100));
        let mut seen = Seen::new(name, 1);
        let (mut reader, mut chunk) = (self.log.reader(1), Chunk::default());
        let mut watch = self.log.watch();
        let mut last = Instant::now();
        loop {
            let done = self.written.load(Ordering::Acquire);
            if matches!(name, "lagging" | "sink") && !done {
                // The sink is away now and then, as long as nobody is refused for that.
                let is_away = name == "lagging" || random.u8(..40) == 0;
                let most = if is_away { random.u64(..5000) } else { 0 };
                let takes = || name == "lagging" || self.log.admission(DEFAULT) == Admission::Takes;
                let behind = || self.log.committed() < seen.next + most && takes();
                while behind() && !self.written.load(Ordering::Acquire) {
                    waits.within(STALL, watch.changed());
                }
            }
            let bytes = match name {
                "crumbs" => 1,
                _ => random.usize(1..16_000),
            };
            let before = seen.next;
            let turns = if name == "lagging" { 40 } else { 1 };
            let mut is_tail = false;
            for _ in 0..turns {
                is_tail = seen.take(&mut reader, &mut chunk, bytes, self);
            }
            if name == "sink" {
                self.cursor.store(seen.next, Ordering::Release);
            }
            if name == "restarting" && random.u8(..4) == 0 {
                reader = self.log.reader(seen.next);
            }
            if seen.next > before {
                last = Instant::now();
            }
            assert!(last.elapsed() < LIMIT, "{name} waits for ever at {}", seen.next);
            if is_tail {
                if done && seen.next > self.log.committed() {
                    return seen;
                }
                waits.within(STALL, watch.changed());
            }
        }
    }

    /// Makes room in lanes, lets events expire, and says what lanes dropped that drop new ones.
    fn trim(&self) {
        let mut random = self.random(200);
        while !self.read.load(Ordering::Acquire) {
            let needed = self.cursor.load(Ordering::Acquire);
            self.excused.fetch_max(needed, Ordering::AcqRel);
            let covered = self.log.covered(self.log.committed(), self.log.control_mark(), needed);
            if self.log.is_pressed() || random.u8(..8) == 0 {
                self.log.trim(&covered).unwrap();
            }
            let now = self.time.load(Ordering::Acquire);
            if random.u8(..8) == 0 && self.log.has_expired(now) {
                self.log.expire(now, &covered).unwrap();
            }
            if random.u8(..4) == 0 {
                self.log.enter_gone();
            }
            if random.u8(..8) == 0 {
                self.log.set_room(random.u64(..200_000), Some(random.u64(300_000..1 << 20)));
            }
            if random.u8(..3) == 0 {
                self.log.set_room(0, None);
            }
            let most = self.options.max_size + 4 * self.options.segment_size;
            assert!(self.log.on_disk() <= most, "{:?}", self.log.usage());
            thread::yield_now();
        }
        self.log.set_room(0, None);
    }

    /// Releases what the sink has.
    fn release(&self) {
        let mut random = self.random(201);
        while !self.read.load(Ordering::Acquire) {
            let before = self.cursor.load(Ordering::Acquire);
            self.excused.fetch_max(before, Ordering::AcqRel);
            let mark = self.log.control_mark();
            let is_urgent = self.log.usage().bytes > self.options.max_size / 2;
            if is_urgent || random.u8(..30) == 0 {
                self.log.release_control(mark, before + 1);
                self.log.release(before);
            }
            thread::yield_now();
        }
    }

    /// Looks from outside, again and again.
    fn look(&self) -> Vec<Seen> {
        let mut random = self.random(202);
        let mut all = Vec::new();
        while !self.read.load(Ordering::Acquire) {
            let excused = self.excused.load(Ordering::Acquire);
            let mut view = View::open(&self.options).unwrap();
            assert_eq!(view.recovery().set_aside, Vec::<PathBuf>::new());
            let next = random.u64(excused.saturating_sub(2000)..=excused).max(1);
            let mut seen = Seen::new(OUTSIDE, next);
            let (mut reader, mut chunk) = (view.reader(next), Chunk::default());
            for _ in 0..random.usize(1..6) {
                while !seen.take(&mut reader, &mut chunk, 16_000, self) {}
                for index in 0..view.segments().len() {
                    let walked = view.walk(index, |walked| {
                        assert!(matches!(walked, Walked::Frame(_)), "{walked:?}");
                        std::ops::ControlFlow::Continue(())
                    });
                    let is_gone =
                        |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
                    walked
                        .or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })
                        .unwrap();
                }
                view.follow().unwrap();
            }
            all.push(seen);
        }
        all
    }
}
