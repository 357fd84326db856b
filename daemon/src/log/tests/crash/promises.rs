//! What was promised, and how it is looked for after a crash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use tidegate_event::EventId;
use tidegate_event::record::Block;

use super::super::super::queue::Bounds;
use super::super::super::storage::sim::{Call, Sim};
use super::super::*;
use crate::state::State;
use crate::state::simulated::Snapshot;

/// The state's directory.
const STATE: &str = "/data/state";
/// The sinks.
pub(super) const SINKS: [&str; 2] = ["cloud", "archive"];
/// The read model of events alone.
pub(super) const RETAINED: &str = "retained";
/// The read model of control records, and of events.
pub(super) const SESSIONS: &str = "sessions";

/// Small, so that a history fills it.
pub(super) const BOUNDS: Bounds = Bounds {
    max_size: 40 << 10,
    segment_size: 6 << 10,
    max_bytes: 1536,
    max_delay: Duration::ZERO,
};

/// What is written to see whether anything can be.
const PROBE: Said = Said { key: u8::MAX, tag: u64::MAX };

pub(super) type Database = BTreeMap<String, Snapshot>;
/// A read model: by key, the last tag.
pub(super) type Model = BTreeMap<u8, u64>;

/// An event or a control record: which key it is about, and what tells it from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Said {
    pub(super) key: u8,
    pub(super) tag: u64,
}

impl Said {
    /// As a payload of at least nine bytes, which shows any other byte.
    pub(super) fn encode(self, len: usize) -> Vec<u8> {
        let mut bytes = self.tag.to_le_bytes().to_vec();
        bytes.push(self.key);
        bytes.resize(9 + len, self.tag as u8);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        let tag = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert!(bytes[9..].iter().all(|byte| *byte == tag as u8), "another one's bytes");
        Self { key: bytes[8], tag }
    }
}

/// What becomes of events in a full lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// One lane, which refuses.
    Reject,
    /// Two, which drop their oldest.
    DropOldest,
    /// Two, the first of which is thinned out before.
    Downsample,
    /// Two, the first of which drops its newest.
    DropNewest,
}

impl Policy {
    pub(super) fn of(seed: u64) -> Self {
        match seed % 5 {
            1 | 3 => Self::DropOldest,
            2 => Self::Downsample,
            4 => Self::DropNewest,
            _ => Self::Reject,
        }
    }

    pub(super) fn drops(self) -> bool {
        self != Self::Reject
    }

    fn lanes(self) -> Vec<LaneOptions> {
        let default = match self {
            Self::Reject => return Vec::new(),
            Self::DropOldest => WhenFull::DropOldest,
            Self::DropNewest => WhenFull::DropNewest,
            Self::Downsample => WhenFull::Downsample(Downsample {
                interval: Duration::from_secs(1),
                keep: Keep::Last,
            }),
        };
        let rule = |when_full| Rule { when_full, ..Rule::default() };
        let other = LaneOptions {
            name: "other".into(),
            max_size: Some(3 << 10),
            rule: rule(WhenFull::DropOldest),
            ..LaneOptions::default_lane()
        };
        // A few segments, so that room is made again and again.
        let max_size = Some(14 << 10);
        let default = LaneOptions { max_size, rule: rule(default), ..LaneOptions::default_lane() };
        vec![default, other]
    }
}

/// What was handed to the log.
#[derive(Debug)]
pub(super) enum Sent {
    /// Each with whether it was dropped, as its lane was full.
    Events(Vec<(Said, bool)>),
    Control(Said),
}

/// How many places, by what was about to happen, and in how many ways.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    points: BTreeMap<Call, u64>,
    crashes: u64,
    openings: u64,
    /// Oldest segments.
    pub(super) vanished: u64,
    /// Events, when they came.
    pub(super) dropped: u64,
}

impl Tally {
    pub(super) fn points(&self) -> u64 {
        self.points.values().sum()
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (call, points) in &other.points {
            *self.points.entry(*call).or_default() += points;
        }
        self.crashes += other.crashes;
        self.openings += other.openings;
        self.vanished += other.vanished;
        self.dropped += other.dropped;
    }
}

/// What was promised.
pub(super) struct Promises {
    pub(super) rng: fastrand::Rng,
    pub(super) options: Options,
    pub(super) policy: Policy,
    pub(super) waiting: Vec<(Commit, Sent)>,
    /// Every event that was answered, or that was seen after a crash.
    pub(super) stored: BTreeMap<Lsn, Said>,
    /// Those of them that were dropped when they came.
    pub(super) dropped: BTreeSet<Lsn>,
    /// Events whose fate nobody was told.
    unsure: BTreeSet<Said>,
    /// By key, the last control record that was answered, or seen in the log after a crash.
    control: Model,
    unsure_control: BTreeSet<Said>,
    /// The newest event that each sink took.
    pub(super) delivered: [Lsn; SINKS.len()],
    /// What sinks were told that they will not get: that it is in the ledger lasts.
    pub(super) lost: Vec<RangeInclusive<Lsn>>,
    /// What a crash may leave of the database, newest last.
    pub(super) databases: VecDeque<Database>,
    id: Option<EventId>,
    /// Whether bits were flipped.
    pub(super) damaged: bool,
    pub(super) tally: Tally,
}

/// All that was opened after a crash.
pub(super) struct Opened {
    pub(super) log: Arc<Log>,
    pub(super) writer: Writer,
    pub(super) state: State,
}

/// What is found then.
#[derive(Debug, Default)]
pub(super) struct Found {
    events: BTreeMap<Lsn, Said>,
    /// In the log, not in the state only.
    control: Model,
    pub(super) retained: Model,
    pub(super) sessions: Model,
}

impl Promises {
    pub(super) fn new(seed: u64, policy: Policy) -> Self {
        let options = Options {
            lanes: policy.lanes(),
            dir: "/data/log".into(),
            max_quarantine: 64 << 10,
            max_ledger: 4 << 10,
            ..Options::default()
        };
        Self {
            rng: fastrand::Rng::with_seed(seed),
            options,
            policy,
            waiting: Vec::new(),
            stored: BTreeMap::new(),
            dropped: BTreeSet::new(),
            unsure: BTreeSet::new(),
            control: Model::new(),
            unsure_control: BTreeSet::new(),
            delivered: [0; SINKS.len()],
            lost: Vec::new(),
            databases: [Database::new()].into(),
            id: None,
            damaged: false,
            tally: Tally::default(),
        }
    }

    /// The same promises, for who watches while these are in use.
    pub(super) fn copy(&self) -> Self {
        Self {
            rng: self.rng.clone(),
            options: self.options.clone(),
            policy: self.policy,
            waiting: Vec::new(),
            stored: self.stored.clone(),
            dropped: self.dropped.clone(),
            unsure: self.unsure.clone(),
            control: self.control.clone(),
            unsure_control: self.unsure_control.clone(),
            delivered: self.delivered,
            lost: self.lost.clone(),
            databases: self.databases.clone(),
            id: self.id,
            damaged: self.damaged,
            tally: self.tally.clone(),
        }
    }

    /// Takes the answers that are there.
    pub(super) fn settle(&mut self) {
        for (mut commit, sent) in std::mem::take(&mut self.waiting) {
            match (futures_now(Pin::new(&mut commit)), sent) {
                (Poll::Pending, sent) => self.waiting.push((commit, sent)),
                (Poll::Ready(Err(NotStored)), sent) => self.not_told(sent),
                (Poll::Ready(Ok(lsns)), Sent::Control(said)) => {
                    assert!(lsns.is_empty());
                    self.control.insert(said.key, said.tag);
                }
                (Poll::Ready(Ok(lsns)), Sent::Events(said)) => {
                    assert_eq!(lsns.clone().count(), said.len());
                    assert!(self.stored.keys().next_back().is_none_or(|last| last < lsns.start()));
                    for (lsn, (said, is_dropped)) in lsns.zip(said) {
                        self.stored.insert(lsn, said);
                        if is_dropped {
                            self.tally.dropped += 1;
                            self.dropped.insert(lsn);
                        }
                    }
                }
            }
        }
    }

    /// Which lane it is in.
    pub(super) fn lane(&self, said: &Said) -> Lane {
        Lane(u8::from(self.policy.drops() && said.key.is_multiple_of(3)))
    }

    /// Whether the entry says that the event is lost.
    pub(super) fn is_lost(&self, loss: &Loss, lsn: Lsn, said: &Said) -> bool {
        let on_purpose = [Reason::Dropped, Reason::Thinned].contains(&loss.reason);
        loss.lsns.contains(&lsn) && (!on_purpose || self.damaged || loss.lane == self.lane(said))
    }

    /// Whether it is all right that these stand in the ledger, where nothing was damaged.
    fn are_fine(&self, losses: &[Loss]) -> bool {
        let on_purpose = |loss: &Loss| [Reason::Dropped, Reason::Thinned].contains(&loss.reason);
        self.damaged || (self.policy.drops() || losses.is_empty()) && losses.iter().all(on_purpose)
    }

    pub(super) fn not_told(&mut self, sent: Sent) {
        match sent {
            Sent::Events(said) => self.unsure.extend(said.into_iter().map(|(said, _)| said)),
            Sent::Control(said) => drop(self.unsure_control.insert(said)),
        }
    }

    /// What the database may be after a crash; the last one, where only the process died.
    pub(super) fn database(&mut self) -> Database {
        match self.rng.usize(..8) {
            0 => Database::new(),
            _ => self.databases[self.rng.usize(..self.databases.len())].clone(),
        }
    }

    /// `call` is about to happen on `sim`: crashes on copies of it, and looks for what was promised.
    pub(super) fn crash(&mut self, sim: &Sim, call: Call) {
        self.settle();
        *self.tally.points.entry(call).or_default() += 1;
        for kill in [true, false, false] {
            let fork = sim.fork(self.rng.u64(..));
            if kill {
                fork.kill()
            } else {
                fork.cut_power()
            }
            self.tally.crashes += 1;
            fork.fail_syncs(0);
            fork.fail_dir_syncs(0);
            fork.leave_room(usize::MAX >> 1);
            let (mut second, mut probed) = (Found::default(), None);
            match self.rng.u8(..4) {
                // Again, while it opens.
                0 => {
                    let is_there = [&self.options.dir, Path::new(STATE)].map(|dir| fork.list(dir));
                    fork.fuse(self.rng.u32(..10));
                    // Without its directories it refuses.
                    if is_there.iter().all(Result::is_ok) {
                        drop(self.open(&fork));
                    }
                    self.crash_again(&fork);
                }
                // Again, after it was served.
                1 => {
                    let (opened, found) = self.look(&fork);
                    second = found;
                    probed = self.takes_events(opened, false);
                    self.crash_again(&fork);
                }
                _ => {}
            }
            let (opened, found) = self.look(&fork);
            let probed = probed.map(|lsn| (lsn, PROBE));
            for (lsn, said) in second.events.into_iter().chain(probed) {
                assert_eq!(found.events.get(&lsn), Some(&said), "it was there a moment ago");
            }
            self.takes_events(opened, true);
        }
    }

    fn crash_again(&mut self, sim: &Sim) {
        if self.rng.bool() { sim.kill() } else { sim.cut_power() }
    }

    /// Opens everything, which always works.
    pub(super) fn open(&mut self, sim: &Sim) -> Opened {
        self.tally.openings += 1;
        let storage: Arc<dyn Storage> = Arc::new(sim.clone());
        let mut claim = Claim::new(Arc::clone(&storage), self.options.clone()).unwrap();
        claim.bounds = BOUNDS;
        let database = self.database();
        let state = State::open_simulated(storage, Path::new(STATE), &database).unwrap();
        let (log, writer, _) = claim.open_unstarted(state.known().unwrap()).unwrap();
        Opened { log: Arc::new(log), writer, state }
    }

    /// Opens everything, and looks for what was promised.
    pub(super) fn look(&mut self, sim: &Sim) -> (Opened, Found) {
        let opened = self.open(sim);
        opened.state.bind(opened.log.id(1).epoch).unwrap();
        let found = self.check(&opened);
        let usage = opened.log.usage();
        let most = BOUNDS.max_size + BOUNDS.segment_size;
        assert!(usage.bytes <= most, "{usage:?}");
        // A segment that was rewritten, and those whose place it took.
        let beside = self.options.max_quarantine + 2 * self.options.max_ledger + (32 << 10);
        let used = sim.used_in(&self.options.dir) as u64;
        assert!(used <= most + beside, "{used} bytes: {usage:?}");
        (opened, found)
    }

    fn check(&self, opened: &Opened) -> Found {
        let Opened { log, state, .. } = opened;
        let id = log.id(1);
        assert!(self.id.is_none_or(|known| known == id), "ids are stable");
        let losses = log.losses();
        assert!(self.are_fine(&losses), "nothing was damaged: {losses:?}");
        let mut found = Found::default();
        let mut reader = log.reader(1);
        for (lsn, payload) in read(&mut reader).0 {
            let said = Said::decode(&payload);
            let last = found.events.last_key_value();
            assert!(last.is_none_or(|(last, _)| *last < lsn), "order");
            assert!(!self.dropped.contains(&lsn), "{lsn} was dropped");
            match self.stored.get(&lsn) {
                Some(stored) => assert_eq!(*stored, said, "LSN {lsn} means another event now"),
                None => assert!(
                    said == PROBE || self.unsure.contains(&said) || self.is_waiting(said),
                    "nobody wrote {said:?}"
                ),
            }
            found.events.insert(lsn, said);
        }
        let last = self.stored.last_key_value().map_or(0, |(lsn, _)| *lsn);
        assert!(log.committed() >= last, "LSN {last} would be given again");
        // A reader may have met damage.
        let losses = log.losses();
        assert!(self.are_fine(&losses), "nothing was damaged: {losses:?}");
        for lsn in self.lost.iter().cloned().flatten().filter(|lsn| self.stored.contains_key(lsn)) {
            let is_told = losses.iter().any(|loss| loss.lsns.contains(&lsn));
            assert!(is_told, "the loss of {lsn} is not in the ledger any more");
        }
        for lsn in &self.dropped {
            let said = &self.stored[lsn];
            let is_told = losses.iter().any(|loss| self.is_lost(loss, *lsn, said));
            assert!(is_told, "{lsn}, {said:?} was dropped, and is not in the ledger");
        }
        for (name, delivered) in SINKS.iter().zip(self.delivered) {
            let cursor = state.cursors().get(name).unwrap_or(1);
            assert!(cursor <= delivered + 1, "{name} never got {}", cursor - 1);
            let (events, lost) = read(&mut log.reader(cursor));
            let may_be_gone = self.damaged || self.policy.drops();
            assert!(may_be_gone || lost.is_empty(), "{name} at {cursor}, {lost:?} is gone");
            let read: BTreeSet<Lsn> = events.into_iter().map(|(lsn, _)| lsn).collect();
            for (lsn, said) in self.stored.range(delivered + 1..) {
                let lost = losses.iter().any(|loss| self.is_lost(loss, *lsn, said));
                assert!(read.contains(lsn) || lost, "{name} never gets {lsn}, {said:?}");
            }
            // No more is lost than the ledger says. One event may be in two entries: it was to be thinned
            // out, and what was left of its segment to be dropped.
            let told: u64 = losses.iter().map(|loss| loss.count).sum();
            let gone = self.stored.range(delivered + 1..).filter(|(lsn, _)| !read.contains(lsn));
            let gone = gone.count() as u64;
            assert!(gone <= told, "{name} at {cursor}: {gone} are gone, {losses:?}");
        }
        rebuild(opened, &mut found);
        if !self.damaged {
            self.check_models(&found);
        }
        found
    }

    fn is_waiting(&self, said: Said) -> bool {
        let of = |sent: &Sent| {
            let events = if let Sent::Events(events) = sent { &events[..] } else { &[] };
            events.contains(&(said, false))
        };
        self.waiting.iter().any(|(_, sent)| of(sent))
    }

    fn check_models(&self, found: &Found) {
        let mut last = Model::new();
        let kept = self.stored.iter().filter(|(lsn, _)| !self.dropped.contains(lsn));
        let seen = kept.chain(&found.events).collect::<BTreeMap<_, _>>();
        for said in seen.into_values() {
            last.insert(said.key, said.tag);
        }
        assert_eq!(found.retained, last, "the read model of events");
        let waiting = self.waiting.iter().filter_map(|(_, sent)| match sent {
            Sent::Control(said) => Some(said),
            Sent::Events(_) => None,
        });
        let unsure: Vec<&Said> = self.unsure_control.iter().chain(waiting).collect();
        for key in 0..=u8::MAX {
            let (promised, is) = (self.control.get(&key), found.sessions.get(&key));
            let later = |tag: u64| {
                unsure.iter().any(|it| (it.key, it.tag) == (key, tag)) && Some(&tag) > promised
            };
            let fine = is == promised || is.is_some_and(|tag| later(*tag));
            assert!(fine, "control records of {key}: {promised:?} is promised, it is {is:?}");
        }
    }

    /// A disk without faults takes events again. Answers the LSN of one; of none where the log is full,
    /// unless it may be freed of all others.
    fn takes_events(&mut self, mut opened: Opened, may_release: bool) -> Option<Lsn> {
        for _ in 0..3 {
            let block = &mut block([&PROBE.encode(300)[..]]);
            if let Append::Accepted(mut commit) = opened.log.append(block) {
                while opened.writer.step(later()) {}
                let Poll::Ready(Ok(lsns)) = futures_now(Pin::new(&mut commit)) else {
                    panic!("not stored on a healthy disk")
                };
                assert!(self.stored.last_key_value().is_none_or(|(last, _)| last < lsns.start()));
                return Some(*lsns.start());
            }
            if !may_release {
                return None;
            }
            // Full: as when all have everything.
            opened.log.release_control(opened.log.control_mark(), Lsn::MAX);
            opened.log.release(Lsn::MAX);
            while opened.writer.step(later()) {}
        }
        panic!("it takes no events: {:?}", opened.log.usage());
    }

    /// A crash that the history goes on behind: what was found is promised from now on.
    pub(super) fn absorb(&mut self, opened: &Opened, found: &Found) {
        for (lsn, said) in &found.events {
            self.unsure.remove(said);
            self.stored.insert(*lsn, *said);
        }
        for (key, tag) in &found.control {
            let known = self.control.entry(*key).or_default();
            *known = (*known).max(*tag);
        }
        if !self.stored.is_empty() {
            self.id = Some(opened.log.id(1));
        }
        self.databases = [opened.state.snapshot().unwrap()].into();
    }
}

/// An hour later.
pub(super) fn later() -> std::time::Instant {
    std::time::Instant::now() + Duration::from_secs(3600)
}

/// The read models, from the state and what the log says behind it.
fn rebuild(opened: &Opened, found: &mut Found) {
    let Opened { log, state, .. } = opened;
    let load = |name| {
        let tree = state.tree(name).unwrap();
        let model: Model = tree
            .load()
            .unwrap()
            .into_iter()
            .map(|(key, tag)| (key[0], u64::from_le_bytes(tag.try_into().unwrap())))
            .collect();
        (tree, model)
    };
    let (tree, model) = load(RETAINED);
    found.retained = model;
    for (_, payload) in read(&mut log.reader(tree.applied() + 1)).0 {
        let said = Said::decode(&payload);
        found.retained.insert(said.key, said.tag);
    }
    let (tree, model) = load(SESSIONS);
    tree.needs_control(0);
    found.sessions = model;
    let (mut restore, mut chunk) = (log.restore(tree.applied() + 1), Chunk::default());
    loop {
        match restore.read(&mut chunk, 4096).unwrap() {
            Read::Frames => {}
            Read::Lost(_) => continue,
            Read::Tail => return,
        }
        for block in chunk.frames().flat_map(|frame| frame.blocks()) {
            if let Block::Control { body, .. } = block.unwrap() {
                let said = Said::decode(body);
                found.control.insert(said.key, said.tag);
                found.sessions.insert(said.key, said.tag);
            }
        }
    }
}
