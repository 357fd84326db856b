//! Random histories on the simulated disk, against a model in memory.
//!
//! Deterministic from a seed, which a failure names. `TIDEGATE_LOG_HISTORIES` asks for more
//! histories, `TIDEGATE_LOG_SEED` for one certain seed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use tidegate_event::record::{Block, write_control};

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
    waiting: Vec<(Commit, Sent)>,
    /// LSN and tag of every event that was answered, or that was seen after a crash.
    stored: BTreeMap<Lsn, u64>,
    /// Tags of events whose fate nobody was told, or who were refused by a failed commit.
    unsure: BTreeSet<u64>,
    /// Control records by tag that were answered, or seen after a crash, with the LSN of the event
    /// that they lie before.
    control: BTreeMap<u64, Lsn>,
    unsure_control: BTreeSet<u64>,
    released: Lsn,
    /// Control records up to this tag are released, whatever the LSN.
    released_control: u64,
    next_tag: u64,
    id: Option<EventId>,
    /// Whether bits may be flipped, and were.
    flips: bool,
    damaged: bool,
}

/// What was handed to the log, by its tags.
enum Sent {
    Events(Vec<u64>),
    Control(u64),
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut options = options(Path::new("/"));
        options.max_size = 256 << 10;
        options.max_bytes = 1 << rng.u32(9..15);
        // Not in all of them: these payloads shrink to nothing, and a log has to become full.
        options.compression = match options.max_bytes {
            512 => Compression::Lz4,
            1024 => Compression::Deflate,
            _ => Compression::None,
        };
        let mut world = Self {
            sim: Sim::new(rng.u64(..)),
            rng,
            options,
            open: None,
            reader: None,
            waiting: Vec::new(),
            stored: BTreeMap::new(),
            unsure: BTreeSet::new(),
            control: BTreeMap::new(),
            unsure_control: BTreeSet::new(),
            released: 1,
            released_control: 0,
            next_tag: 1,
            id: None,
            flips: seed.is_multiple_of(2),
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
        for (_, sent) in std::mem::take(&mut self.waiting) {
            self.not_told(sent);
        }
        // While opening it has a test of its own: the last frame, if nobody was answered, may vanish.
        self.sim.fail_syncs(0);
        let storage = Arc::new(self.sim.clone());
        let (log, writer, _) = open_unstarted(storage, self.options.clone()).expect("opens");
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
            self.waiting.push((commit, Sent::Events(tags)));
        }
    }

    fn append_control(&mut self) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let mut body = tag.to_le_bytes().to_vec();
        body.resize(8 + self.rng.usize(..200), tag as u8);
        let mut blocks = Vec::new();
        write_control(tag as u8, &body, &mut blocks);
        if let Append::Accepted(commit) = self.log().append_control(&blocks) {
            self.waiting.push((commit, Sent::Control(tag)));
        }
    }

    /// Nobody knows what became of it.
    fn not_told(&mut self, sent: Sent) {
        match sent {
            Sent::Events(tags) => self.unsure.extend(tags),
            Sent::Control(tag) => drop(self.unsure_control.insert(tag)),
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
        for (mut commit, sent) in waiting {
            let answer = Pin::new(&mut commit).poll(&mut context);
            match (answer, sent) {
                (Poll::Pending, sent) => self.waiting.push((commit, sent)),
                (Poll::Ready(Err(NotStored)), sent) => self.not_told(sent),
                (Poll::Ready(Ok(lsns)), Sent::Control(tag)) => {
                    assert!(lsns.is_empty());
                    self.control.insert(tag, *lsns.start());
                }
                (Poll::Ready(Ok(lsns)), Sent::Events(tags)) => {
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
        if self.rng.u32(..8) == 0 {
            let next = self.log().committed() + 1;
            self.log().release_control(self.log().control_mark(), next);
            let last = self.control.last_key_value();
            self.released_control = last.map_or(0, |(tag, _)| *tag);
        }
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
        self.check_control();
    }

    /// Whoever has the event before which all is released sees every control record behind it that
    /// was answered, once, in order, between the events that it was answered between.
    fn check_control(&mut self) {
        let mut restore = self.log().restore(self.released);
        let mut chunk = Chunk::default();
        let mut seen = BTreeMap::new();
        loop {
            match restore.read(&mut chunk, 4096).unwrap() {
                Read::Tail => break,
                Read::Lost(_) => continue,
                Read::Frames => {}
            }
            for frame in chunk.frames() {
                let mut lsn = frame.first.lsn;
                for block in frame.blocks() {
                    match block.unwrap() {
                        Block::Events(events) => lsn += u64::from(events.count),
                        Block::Control { control, body } => {
                            assert!(frame.has_control);
                            let tag = u64::from_le_bytes(body[..8].try_into().expect("a tag"));
                            assert!(
                                control == tag as u8 && body[8..].iter().all(|b| *b == control)
                            );
                            let last = seen.last_key_value().map(|(tag, _)| *tag);
                            assert!(last < Some(tag), "order");
                            seen.insert(tag, lsn);
                        }
                    }
                }
            }
        }
        for (tag, lsn) in &seen {
            match self.control.get(tag) {
                Some(answered) => assert_eq!(answered, lsn, "control record {tag}"),
                None => assert!(self.unsure_control.remove(tag), "nobody wrote {tag}"),
            }
            self.control.insert(*tag, *lsn);
        }
        let quarantined = self.sim.list(Path::new("/log/quarantine")).unwrap_or_default();
        let damaged = self.damaged && !quarantined.is_empty();
        for (tag, lsn) in self.control.range(self.released_control + 1..) {
            let kept = *lsn <= self.released || seen.contains_key(tag);
            assert!(kept || damaged, "control record {tag} before {lsn} is lost in silence");
        }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            match self.rng.u32(..200) {
                0..75 => self.append(),
                75..95 => self.append_control(),
                95..170 => {
                    self.step();
                }
                170..178 => self.release(),
                178..181 => self.sim.fail_syncs(self.rng.u32(1..5)),
                181..183 => self.sim.leave_room(self.rng.usize(..8000)),
                183..187 => self.sim.leave_room(usize::MAX >> 1),
                187 if self.flips => self.flip(),
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
            let reserve = self.options.segment_size;
            assert!(usage.bytes <= self.options.max_size + reserve, "{usage:?}");
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
