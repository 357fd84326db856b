//! One random history.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_event::EventId;
use tidegate_event::record::{Item, write_control};

use super::super::super::beginning::{self, Identity, Said as Beginning};
use super::super::super::frame;
use super::super::super::scan::{Frames, Scan, Step};
use super::super::super::segment;
use super::super::super::storage::sim::Sim;
use super::super::*;
use super::promises::{
    Model, Opened, Policy, Promises, RETAINED, SESSIONS, SINKS, Said, Sent, Tally, later,
};
use crate::state::retention;

const STEPS: usize = 150;
/// What is said is about so many; where they are many, the last that is said of one may be old.
const KEYS: [u8; 2] = [6, 60];
/// Databases that a crash may leave.
const DATABASES: usize = 4;

/// A gateway, as far as its data directory knows.
pub(super) struct World {
    rng: fastrand::Rng,
    sim: Sim,
    promises: Arc<Mutex<Promises>>,
    opened: Option<Opened>,
    sinks: Vec<Reader>,
    /// Reads for the read models.
    models: Option<Reader>,
    retained: Model,
    sessions: Model,
    next_tag: u64,
    keys: u8,
    flips: bool,
    /// Events are rare, and control records are not.
    quiet: bool,
    /// There are none.
    is_still: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        // Epochs and salts too.
        fastrand::seed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let sim = Sim::new(rng.u64(..));
        let promises = Arc::new(Mutex::new(Promises::new(rng.u64(..), Policy::of(seed))));
        let watching = Arc::clone(&promises);
        sim.watch(Box::new(move |sim, call| lock(&watching).crash(sim, call)));
        let mut world = Self {
            sim,
            promises,
            opened: None,
            sinks: Vec::new(),
            models: None,
            retained: Model::new(),
            sessions: Model::new(),
            next_tag: 1,
            keys: KEYS[usize::from(seed % 7 >= 3)],
            flips: seed.is_multiple_of(4),
            quiet: seed % 3 == 2,
            is_still: seed % 9 == 8,
            rng,
        };
        world.reopen();
        world
    }

    fn promises(&self) -> MutexGuard<'_, Promises> {
        lock(&self.promises)
    }

    fn opened(&self) -> &Opened {
        self.opened.as_ref().unwrap()
    }

    /// Opens it again; also opening is crashed in.
    fn reopen(&mut self) {
        self.promises().settle();
        (self.sinks, self.models, self.opened) = (Vec::new(), None, None);
        self.sim.fail_syncs(0);
        self.sim.fail_dir_syncs(0);
        let policy = self.promises().policy;
        let mut promises = Promises::new(0, policy);
        std::mem::swap(&mut promises, &mut self.promises());
        for (_, sent) in std::mem::take(&mut promises.waiting) {
            promises.not_told(sent);
        }
        // It is busy itself: whoever watches meanwhile has a copy.
        *self.promises() = promises.copy();
        let (opened, found) = promises.look(&self.sim);
        promises.absorb(&opened, &found);
        promises.tally = self.promises().tally.clone();
        *self.promises() = promises;
        let cursors = opened.state.cursors();
        self.sinks = SINKS.map(|name| opened.log.reader(cursors.get(name).unwrap_or(1))).into();
        self.models = Some(opened.log.reader(opened.log.committed() + 1));
        (self.retained, self.sessions) = (found.retained, found.sessions);
        self.opened = Some(opened);
    }

    fn said(&mut self) -> Said {
        let said = Said { key: self.rng.u8(..self.keys), tag: self.next_tag };
        self.next_tag += 1;
        said
    }

    fn append(&mut self) {
        let said: Vec<Said> = (0..self.rng.usize(1..4)).map(|_| self.said()).collect();
        let (mut block, mut sent) = (block([]), Vec::new());
        for said in said {
            let lane = self.promises().lane(&said);
            let is_dropped = self.opened().log.admission(lane) == Admission::Drops;
            sent.push((said, is_dropped));
            if is_dropped {
                block.push_gone(lane, 1);
                continue;
            }
            let most = if self.promises().policy.drops() { 1200 } else { 500 };
            let payload = said.encode(self.rng.usize(..most));
            let (topic, qos, retain) = ("plant/boiler-7", Qos::AtLeastOnce, false);
            let properties = Properties::default();
            let draft = Draft { topic, qos, retain, properties, payload: &payload };
            block.push_in(lane, &draft);
        }
        match self.opened().log.append(&mut block) {
            Append::Accepted(commit) => {
                self.promises().waiting.push((commit, Sent::Events(sent)));
            }
            Append::Busy => self.make_room(),
            _ => {}
        }
    }

    fn append_control(&mut self) {
        let said = self.said();
        // It has its effect before it is appended.
        self.sessions.insert(said.key, said.tag);
        let mut blocks = Vec::new();
        let most = if self.is_still { 1400 } else { 200 };
        write_control(9, &said.encode(self.rng.usize(..most)), &mut blocks);
        let log = Arc::clone(&self.opened().log);
        match log.append_control(&blocks) {
            Append::Accepted(commit) => self.promises().waiting.push((commit, Sent::Control(said))),
            _ => self.promises().not_told(Sent::Control(said)),
        }
    }

    fn step(&mut self) -> bool {
        let worked = self.opened.as_mut().unwrap().writer.step(later());
        self.promises().settle();
        worked
    }

    /// A sink takes what follows; its cursor moves, now or with the next time.
    fn deliver(&mut self, sink: usize) {
        let mut chunk = Chunk::default();
        let most = self.rng.usize(..3000);
        match self.sinks[sink].read(&mut chunk, most).unwrap() {
            Read::Frames => {}
            Read::Lost(lost) => {
                let mut promises = self.promises();
                assert!(promises.damaged || promises.policy.drops(), "{lost:?} is gone");
                promises.delivered[sink] = promises.delivered[sink].max(*lost.end());
                promises.lost.push(lost);
            }
            Read::Tail => return,
        }
        let losses = self.opened().log.losses();
        for item in chunk.frames().flat_map(|frame| frame.items()) {
            let mut promises = self.promises();
            let last = match item.unwrap() {
                Item::Event(event) => {
                    let said = Said::decode(event.payload);
                    assert_eq!(promises.stored.get(&event.lsn()), Some(&said));
                    event.lsn()
                }
                Item::Gone { first, count, lane, .. } => {
                    let last = first + u64::from(count) - 1;
                    let from = first.max(promises.delivered[sink] + 1);
                    for (lsn, said) in promises.stored.range(from..=last.max(from)) {
                        let is_told = losses.iter().any(|loss| promises.is_lost(loss, *lsn, said));
                        // Or is about to be.
                        let is_known = is_told || self.sinks[sink].knows_gone(lane, &(*lsn..=*lsn));
                        assert!(is_known || *lsn > last, "{lsn} is gone, and in no entry");
                    }
                    last
                }
            };
            promises.delivered[sink] = promises.delivered[sink].max(last);
        }
        if self.rng.u8(..4) > 0 {
            let next = self.sinks[sink].position();
            let state = self.opened().state.clone();
            state.cursors().set(SINKS[sink], next).unwrap();
            self.saved();
        }
    }

    /// The read models take what follows.
    fn apply(&mut self) {
        let (mut chunk, reader) = (Chunk::default(), self.models.as_mut().unwrap());
        if reader.read(&mut chunk, 2000).unwrap() == Read::Frames {
            for event in chunk.frames().flat_map(|frame| frame.events()) {
                let said = Said::decode(event.unwrap().payload);
                self.retained.insert(said.key, said.tag);
            }
        }
    }

    /// The read models are saved.
    fn save(&mut self) {
        let (log, state) = (Arc::clone(&self.opened().log), self.opened().state.clone());
        let seen = self.models.as_ref().unwrap().position() - 1;
        let mark = log.control_mark();
        let changes = |model: &Model| {
            let changes =
                model.iter().map(|(key, tag)| (vec![*key], Some(tag.to_le_bytes().to_vec())));
            changes.collect::<Vec<_>>()
        };
        let retained = state.tree(RETAINED).unwrap();
        retained.apply(changes(&self.retained), seen.max(retained.applied())).unwrap();
        self.saved();
        let drops = self.promises().policy.drops();
        if self.rng.u8(..4) > if drops { 0 } else { 1 } {
            let sessions = state.tree(SESSIONS).unwrap();
            sessions.apply(changes(&self.sessions), log.committed()).unwrap();
            sessions.needs_control(mark);
            self.saved();
        }
    }

    /// The database has changed.
    fn saved(&self) {
        let snapshot = self.opened().state.snapshot().unwrap();
        let databases = &mut self.promises().databases;
        databases.push_back(snapshot);
        if databases.len() > DATABASES {
            databases.pop_front();
        }
    }

    /// What everybody has goes.
    fn free(&mut self) {
        let (log, state) = (Arc::clone(&self.opened().log), self.opened().state.clone());
        let cursors = SINKS.map(|name| state.cursors().get(name).unwrap_or_default());
        let before = cursors.into_iter().min().unwrap_or_default().min(log.committed() + 1);
        // On a disk that fails there is no checkpoint, and nothing is freed.
        drop(retention::free(&log, &state, || false, before, self.rng.bool()));
    }

    /// The oldest events of full lanes go, most often as soon as the read models have them.
    fn make_room(&mut self) {
        if self.rng.u8(..4) > 0 {
            // Now and then the read models are not told of the newest.
            if self.rng.u8(..3) > 0 {
                (0..20).for_each(|_| self.apply());
            }
            self.save();
        }
        let (log, state) = (Arc::clone(&self.opened().log), self.opened().state.clone());
        let cursors = SINKS.map(|name| state.cursors().get(name).unwrap_or_default());
        let needed = cursors.into_iter().min().unwrap_or_default();
        // On a disk that fails no room is made.
        drop(retention::make_room(&log, &state, || false, needed, None));
    }

    /// Flips a bit before the newest frame, which would look like a torn tail; or in another file.
    fn flip(&mut self) {
        self.promises().damaged = true;
        if self.rng.bool() {
            let files = self.sim.files();
            let others: Vec<PathBuf> =
                files.into_iter().filter(|path| path.extension().is_none()).collect();
            // What an entry of the ledger said is lost with it, which is counted, and has its own tests.
            let others: Vec<_> = others.into_iter().filter(|it| !it.ends_with("ledger")).collect();
            if let Some(path) = others.get(self.rng.usize(..others.len().max(1))) {
                if path.ends_with("ledger") {
                    self.promises().lost.clear();
                }
                let bytes = self.sim.content(path).len().max(1);
                self.sim.flip(path, self.rng.usize(..bytes), self.rng.u8(..8));
            }
            return;
        }
        let segments = self.opened().log.shared.table().0.clone();
        let segment = &segments[self.rng.usize(..segments.len())];
        let mut scan = Scan::whole(self.sim.open(&segment.path).unwrap(), &segment.header);
        let (mut frames, mut end) = (Frames::default(), scan.offset);
        while let Ok(Step::Frames) = scan.step_in(segment, &mut frames, 4096) {
            let last = frames.spans.last().map_or(0, |(_, header)| header.frame_len());
            end = scan.offset - last as u64;
        }
        let start = segment::HEADER_LEN as u64;
        if end > start + frame::HEADER_LEN as u64 {
            let byte = self.rng.u64(start..end) as usize;
            self.sim.flip(&segment.path, byte, self.rng.u8(..8));
        }
    }

    /// While nobody has it open, the oldest segment vanishes: what it was to hold is to be in the ledger.
    fn lose_oldest(&mut self) {
        self.sim.fail_reads(0);
        let EventId { epoch, lane, .. } = self.opened().log.id(1);
        let dir = self.promises().options.dir.clone();
        let disk: Arc<dyn Storage> = Arc::new(self.sim.clone());
        let names = self.sim.list(&dir).unwrap();
        let mut segments =
            names.iter().filter_map(|name| Some((segment::parse_name(name)?.0, name)));
        // Where bits were flipped in what says where the log begins, it looks like a release.
        let said = beginning::read(&disk, &dir, Identity { epoch, lane });
        let (Some((first, oldest)), Some((next, _)), Ok(Beginning::At { lsn, .. })) =
            (segments.next(), segments.next(), said)
        else {
            return;
        };
        self.sim.lose(&dir.join(oldest));
        let mut promises = self.promises();
        promises.damaged = true;
        promises.tally.vanished += 1;
        let first = first.max(lsn);
        if first < next {
            promises.lost.push(first..=next - 1);
        }
    }

    pub(super) fn run(mut self) -> Tally {
        let drops = self.promises().policy.drops();
        for _ in 0..STEPS {
            if drops && self.rng.u8(..3) == 0 {
                // So that its lanes are full most of the time.
                self.append();
                self.step();
            }
            match self.rng.u32(..200) {
                // Where the LSN stands still, old control records in files that are used again look like new ones.
                0..50 if self.quiet && self.is_still => self.append_control(),
                0..50 if !self.quiet || self.rng.u8(..8) == 0 => self.append(),
                0..70 => self.append_control(),
                70..120 => drop(self.step()),
                120..135 => self.deliver(0),
                135..148 => self.deliver(1),
                148..158 => self.apply(),
                158..166 => self.save(),
                166..174 => self.free(),
                174..176 => self.sim.fail_syncs(self.rng.u32(1..5)),
                176 => self.sim.fail_dir_syncs(1),
                177..180 => self.sim.leave_room(self.rng.usize(..4000)),
                180..184 => self.sim.leave_room(usize::MAX >> 1),
                184 => self.sim.fail_reads(1),
                185 if self.flips => self.flip(),
                191..195 => self.make_room(),
                195..197 => self.opened().log.enter_gone(),
                186..190 => {
                    if self.rng.bool() {
                        self.sim.kill()
                    } else {
                        self.sim.cut_power()
                    }
                    if self.flips && self.rng.u8(..4) == 0 {
                        self.lose_oldest();
                    }
                    self.reopen();
                }
                190 => {
                    self.opened().log.shared.queue.close();
                    while self.step() {}
                    self.sim.kill();
                    self.reopen();
                }
                _ => {}
            }
            let usage = self.opened().log.usage();
            let most = super::promises::BOUNDS.max_size + super::promises::BOUNDS.segment_size;
            assert!(usage.bytes <= most, "{usage:?}");
        }
        self.promises().tally.clone()
    }
}

fn lock(promises: &Mutex<Promises>) -> MutexGuard<'_, Promises> {
    promises.lock().unwrap_or_else(PoisonError::into_inner)
}
