//! What readers come by, and whether that is what was promised.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_event::record::Item;

use super::super::*;
use super::world::{LANES, NEWEST, World};

/// The name of who looks from outside.
pub(super) const OUTSIDE: &str = "outside";

/// What a reader came by.
pub(super) struct Seen {
    pub(super) name: &'static str,
    pub(super) next: Lsn,
    events: Vec<(Lsn, Lane, u64)>,
    /// What it was not given, though it was not excused.
    missed: Vec<RangeInclusive<Lsn>>,
    pub(super) excused: u64,
}

impl Seen {
    pub(super) fn new(name: &'static str, next: Lsn) -> Self {
        Self { name, next, events: Vec::new(), missed: Vec::new(), excused: 0 }
    }
}

/// What happened, so that a round in which nothing did is noticed.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "shown")]
pub(super) struct Tally {
    answered: u64,
    /// Appended as gone.
    gone: u64,
    /// By reader: events that it has from the ledger alone.
    missed: BTreeMap<&'static str, u64>,
    /// By reason, what the ledger says.
    entered: BTreeMap<&'static str, u64>,
    /// Looks from outside.
    pub(super) looks: u64,
}

/// What was answered: in which lane, and what tells it from all others; nothing where it was appended as gone.
pub(super) type Answered = BTreeMap<Lsn, (Lane, Option<u64>)>;

impl Seen {
    /// Reads once. Answers whether there is nothing more.
    pub(super) fn take(
        &mut self,
        reader: &mut Reader,
        chunk: &mut Chunk,
        bytes: usize,
        world: &World,
    ) -> bool {
        match reader.read(chunk, bytes).unwrap() {
            Read::Tail => return true,
            Read::Lost(lsns) => self.pass(lsns.end() + 1, world),
            Read::Frames => {
                for item in chunk.frames().flat_map(|frame| frame.items()) {
                    match item.unwrap() {
                        Item::Event(event) if event.lsn() < self.next => {}
                        Item::Event(event) => {
                            self.pass(event.lsn(), world);
                            let (tag, rest) = event.payload.split_first_chunk().unwrap();
                            let tag = u64::from_le_bytes(*tag);
                            assert_eq!(rest[0], event.lane.0);
                            assert!(rest[1..].iter().all(|byte| *byte == tag as u8), "another's");
                            self.events.push((event.lsn(), event.lane, tag));
                            self.next = event.lsn() + 1;
                        }
                        Item::Gone { first, count, lane } => {
                            let end = first + u64::from(count);
                            self.pass(first, world);
                            let excused = world.excused.load(Ordering::Acquire);
                            let open = self.next.max(excused)..=end - 1;
                            let is_known = self.name == OUTSIDE || reader.knows_gone(lane, &open);
                            assert!(
                                open.is_empty() || is_known,
                                "{}: {open:?} {lane:?}",
                                self.name
                            );
                            self.pass(end, world);
                        }
                    }
                }
            }
        }
        false
    }

    /// Goes on at `to`: what lies before it is not there.
    fn pass(&mut self, to: Lsn, world: &World) {
        let excused = world.excused.load(Ordering::Acquire);
        if to > self.next {
            self.excused += to.min(excused.max(self.next)) - self.next;
            let open = self.next.max(excused)..=to - 1;
            if !open.is_empty() {
                self.missed.push(open);
            }
            self.next = to;
        }
    }
}

pub(super) fn check(world: &World, answered: &Answered, seen: &[Seen]) -> Tally {
    let last = world.log.committed();
    assert_eq!(answered.len() as u64, last, "one answer for each LSN");
    let tags: BTreeSet<_> = answered.values().filter_map(|it| it.1).collect();
    let gone = answered.values().filter(|it| it.1.is_none()).count();
    assert_eq!(tags.len() + gone, answered.len());
    let losses = world.log.losses();
    let on_purpose = [Reason::Dropped, Reason::Thinned, Reason::Expired];
    for loss in &losses {
        assert!(on_purpose.contains(&loss.reason), "there was no such loss: {loss:?}");
        let of_lane = answered.range(loss.lsns.clone()).filter(|(_, it)| it.0 == loss.lane);
        assert!(of_lane.count() as u64 >= loss.count, "{loss:?}");
    }
    let dropped_new: u64 =
        losses.iter().filter(|loss| loss.lane == NEWEST).map(|loss| loss.count).sum();
    assert_eq!(dropped_new, gone as u64, "each once");
    let mut tally = Tally { answered: last, gone: gone as u64, ..Tally::default() };
    for loss in &losses {
        *tally.entered.entry(loss.reason.label()).or_default() += loss.count;
    }
    for reader in seen {
        for (lsn, lane, tag) in &reader.events {
            assert_eq!(answered[lsn], (*lane, Some(*tag)), "{}: LSN {lsn}", reader.name);
        }
        assert!(reader.events.is_sorted_by(|one, next| one.0 < next.0), "{}", reader.name);
        for lsn in reader.missed.iter().cloned().flatten() {
            let lane = answered[&lsn].0;
            let is_entered = |loss: &Loss| loss.lane == lane && loss.lsns.contains(&lsn);
            assert!(losses.iter().any(is_entered), "{}: {lsn} of {lane:?}", reader.name);
        }
        let missed: usize = reader.missed.iter().cloned().map(Iterator::count).sum();
        *tally.missed.entry(reader.name).or_default() += missed as u64;
    }
    tally
}

/// What each lane has: events, and bytes.
pub(super) fn figures(log: &Log) -> Vec<(u64, u64)> {
    let of = |lane| log.lane_usage(Lane(lane));
    (0..LANES).map(of).map(|usage| (usage.events, usage.bytes)).collect()
}

/// The figures are those of what is there.
pub(super) fn recount(log: &Arc<Log>) {
    let (mut reader, mut chunk) = (log.reader(1), Chunk::default());
    let mut found = vec![(0, 0); usize::from(LANES)];
    loop {
        match reader.read(&mut chunk, 64 << 10).unwrap() {
            Read::Tail => break,
            // A segment that held control records alone.
            Read::Lost(lsns) => panic!("{lsns:?}"),
            Read::Frames => {
                for frame in chunk.frames() {
                    for part in record::lanes(frame.payload).iter() {
                        let (events, bytes) = &mut found[usize::from(part.lane.0)];
                        *events += u64::from(part.events);
                        *bytes += part.bytes;
                    }
                }
            }
        }
    }
    assert_eq!(figures(log), found);
}
