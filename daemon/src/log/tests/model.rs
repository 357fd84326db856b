//! Random histories on the simulated disk, against a model in memory.
//!
//! Deterministic from a seed, which a failure names. `TIDEGATE_LOG_HISTORIES` asks for more
//! histories, `TIDEGATE_LOG_SEED` for one certain seed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use super::super::frame;
use super::super::scan::{Frames, Scan};
use super::super::storage::sim::Sim;
use super::super::writer::Writer;
use super::*;

const HISTORIES: u64 = 200;
const STEPS: usize = 400;

/// A log on a simulated disk, what was promised about it, and what was not.
struct World {
    rng: fastrand::Rng,
    sim: Sim,
    options: Options,
    open: Option<(Arc<Log>, Writer)>,
    reader: Option<Reader>,
    waiting: Vec<(Commit, Vec<u64>)>,
    /// LSN and tag of every event that was answered, or that was seen after a crash.
    stored: BTreeMap<Lsn, u64>,
    /// Tags of events whose fate nobody was told, or who were refused by a failed commit.
    unsure: BTreeSet<u64>,
    released: Lsn,
    next_tag: u64,
    id: Option<EventId>,
    /// Whether bits were flipped.
    damaged: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut options = options(Path::new("/"));
        options.max_size = 256 << 10;
        options.max_bytes = 1 << rng.u32(9..15);
        let mut world = Self {
            sim: Sim::new(rng.u64(..)),
            rng,
            options,
            open: None,
            reader: None,
            waiting: Vec::new(),
            stored: BTreeMap::new(),
            unsure: BTreeSet::new(),
            released: 1,
            next_tag: 1,
            id: None,
            damaged: false,
        };
        world.reopen();
        world
    }

    fn log(&self) -> &Arc<Log> {
        &self.open.as_ref().expect("open").0
    }

    /// Opens the log, which always works, and checks all of it.
    fn reopen(&mut self) {
        self.settle();
        (self.reader, self.open) = (None, None);
        self.unsure.extend(self.waiting.drain(..).flat_map(|(_, tags)| tags));
        // While opening it has a test of its own: the last frame, if nobody was answered, may vanish.
        self.sim.fail_syncs(0);
        let storage = Arc::new(self.sim.clone());
        let (log, writer, _) = Log::open_unstarted(storage, self.options.clone()).expect("opens");
        self.open = Some((Arc::new(log), writer));
        self.check_all();
        let id = self.log().id(1);
        if !self.stored.is_empty() {
            assert_eq!(*self.id.get_or_insert(id), id, "ids are stable");
        }
    }

    fn append(&mut self) {
        let count = self.rng.usize(1..6);
        let tags: Vec<u64> = (0..count as u64).map(|n| self.next_tag + n).collect();
        self.next_tag += count as u64;
        let payloads: Vec<Vec<u8>> = tags
            .iter()
            .map(|tag| {
                let mut payload = tag.to_le_bytes().to_vec();
                payload.resize(8 + self.rng.usize(..2500), *tag as u8);
                payload
            })
            .collect();
        let appended = self.log().append(&mut block(payloads.iter().map(Vec::as_slice)));
        if let Append::Accepted(commit) = appended {
            self.waiting.push((commit, tags));
        }
    }

    fn step(&mut self) -> bool {
        let later = Instant::now() + Duration::from_secs(3600);
        let worked = self.open.as_mut().expect("open").1.step(later);
        self.settle();
        worked
    }

    /// Takes the answers that are there.
    fn settle(&mut self) {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let waiting = std::mem::take(&mut self.waiting);
        for (mut commit, tags) in waiting {
            match Pin::new(&mut commit).poll(&mut context) {
                Poll::Pending => self.waiting.push((commit, tags)),
                Poll::Ready(Err(NotStored)) => self.unsure.extend(tags),
                Poll::Ready(Ok(lsns)) => {
                    assert_eq!(lsns.clone().count(), tags.len());
                    assert!(self.stored.keys().next_back().is_none_or(|last| last < lsns.start()));
                    self.stored.extend(lsns.zip(tags));
                }
            }
        }
    }

    fn release(&mut self) {
        let before = self.rng.u64(..=self.log().committed() + 1);
        self.released = self.released.max(before);
        self.log().release(before);
    }

    /// Flips a bit before the newest frame: one in it looks like a torn tail after a crash.
    fn flip(&mut self) {
        let segments = self.log().shared.table().0.clone();
        let segment = &segments[self.rng.usize(..segments.len())];
        let mut scan = Scan::new(self.sim.open(&segment.path).expect("opens"), &segment.header);
        let (mut frames, mut end) = (Frames::default(), scan.offset);
        while let Ok(super::super::scan::Step::Frames) = scan.step_in(segment, &mut frames, 4096) {
            let last = frames.spans.last().map_or(0, |(_, header)| header.frame_len());
            end = scan.offset - last as u64;
        }
        let start = super::super::segment::HEADER_LEN as u64;
        if end > start + frame::HEADER_LEN as u64 {
            let byte = self.rng.u64(start..end) as usize;
            self.sim.flip(&segment.path, byte, self.rng.u8(..8));
            self.damaged = true;
        }
    }

    /// What a reader sees is what was stored, in order; what it misses is in the ledger.
    fn check(&mut self, reader: &mut Reader) {
        let from = reader.position();
        let (events, _) = read(reader);
        let mut seen = BTreeMap::new();
        for (lsn, payload) in events {
            let tag = u64::from_le_bytes(payload[..8].try_into().expect("a tag"));
            assert!(payload[8..].iter().all(|byte| *byte == tag as u8));
            assert!(seen.last_key_value().is_none_or(|(last, _)| *last < lsn), "order");
            seen.insert(lsn, tag);
            match self.stored.get(&lsn) {
                Some(stored) => assert_eq!(*stored, tag, "LSN {lsn} means another event now"),
                None => {
                    assert!(self.unsure.remove(&tag), "LSN {lsn}: event {tag} was never appended");
                    self.stored.insert(lsn, tag);
                }
            }
        }
        let losses = self.log().losses();
        assert!(self.damaged || losses.is_empty(), "nothing was damaged: {losses:?}");
        for (lsn, tag) in self.stored.range(from.max(self.released)..) {
            let lost = losses.iter().any(|loss| loss.lsns.contains(lsn));
            assert!(seen.contains_key(lsn) || lost, "LSN {lsn}: event {tag} is lost in silence");
        }
    }

    fn check_all(&mut self) {
        let mut reader = self.log().reader(1);
        self.check(&mut reader);
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            match self.rng.u32(..200) {
                0..95 => self.append(),
                95..170 => {
                    self.step();
                }
                170..178 => self.release(),
                178..181 => self.sim.fail_syncs(self.rng.u32(1..5)),
                181..183 => self.sim.leave_room(self.rng.usize(..8000)),
                183..187 => self.sim.leave_room(usize::MAX >> 1),
                187 => self.flip(),
                188..192 => {
                    let mut reader =
                        self.reader.take().unwrap_or_else(|| self.log().reader(self.released));
                    self.check(&mut reader);
                    self.reader = Some(reader);
                }
                192..195 => {
                    // The power goes, or the process dies, in the middle of something.
                    self.sim.fuse(self.rng.u32(..12));
                    self.append();
                    while self.step() && self.rng.u32(..8) > 0 {}
                    self.release();
                    if self.rng.bool() {
                        self.sim.kill()
                    } else {
                        self.sim.cut_power()
                    }
                    self.reopen();
                }
                195 => {
                    self.log().shared.queue.close();
                    while self.step() {}
                    self.sim.kill();
                    self.reopen();
                }
                196 => {
                    self.sim.kill();
                    self.reopen();
                }
                197 => {
                    self.sim.cut_power();
                    self.reopen();
                }
                _ => {}
            }
            let usage = self.log().usage();
            assert!(usage.bytes <= self.options.max_size, "{usage:?}");
        }
        self.drains();
    }

    /// On a healthy disk a log that was full of whatever takes events again.
    fn drains(&mut self) {
        self.sim.cut_power();
        self.sim.fail_syncs(0);
        self.sim.leave_room(usize::MAX >> 1);
        self.reopen();
        self.log().release(Lsn::MAX);
        self.released = self.log().committed() + 1;
        let stored = self.stored.len();
        self.append();
        while self.step() {}
        assert!(self.stored.len() > stored);
        self.check_all();
    }
}

#[test]
fn no_history_loses_invents_or_reorders_an_event() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("TIDEGATE_LOG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TIDEGATE_LOG_HISTORIES").unwrap_or(HISTORIES),
    };
    for seed in seeds {
        let history = std::panic::AssertUnwindSafe(|| World::new(seed).run());
        if let Err(panic) = std::panic::catch_unwind(history) {
            println!("TIDEGATE_LOG_SEED={seed} repeats this");
            std::panic::resume_unwind(panic);
        }
    }
}
