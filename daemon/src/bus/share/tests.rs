//! Groups without a network: what they say in the log, and what they give to whom.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tidegate_event::record::Properties;
use tidegate_event::{
    Block, BlockBuilder, Draft, Epoch, EventId, EventRef, Lane, Lsn, Qos, Received, record,
};

use super::super::event::{Delivery, Event, Options};
use super::group::{Group, Pushed};
use super::lend::Next;
use super::records::{Record, Standing};
use super::{Groups, names_share, shared_filter};
use crate::bus::Metrics;
use crate::log::{Append, FileSystem, Log, Options as LogOptions};
use crate::memory::{Memory, Sort};

#[test]
fn a_shared_subscription_has_a_name_and_a_filter() {
    let filter = |text| shared_filter(text).map(|filter| filter.as_str().to_owned());
    assert_eq!(filter("$share/g/a/+/#").as_deref(), Some("a/+/#"));
    assert_eq!(filter("$share/g//").as_deref(), Some("/"));
    for bad in ["$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "a/b"] {
        assert_eq!(filter(bad), None, "{bad}");
    }
    assert!(names_share("$share") && names_share("$share/g") && !names_share("$shared/g"));
}

fn read(bytes: &[u8]) -> Vec<Option<(String, Record)>> {
    let blocks = record::blocks(bytes).map_while(Result::ok);
    let controls = blocks.filter_map(|block| match block {
        Block::Control { control, body } => {
            Some(Record::read(control, body).map(|(group, record)| (group.to_owned(), record)))
        }
        Block::Events(_) => None,
    });
    controls.collect()
}

fn lsns() -> impl Strategy<Value = Vec<Lsn>> {
    prop::collection::vec(1..30_u64, 0..5)
}

fn records() -> impl Strategy<Value = Record> {
    prop_oneof![
        (1..30_u64, any::<bool>(), lsns()).prop_map(|(next, waits, owed)| {
            let owed = owed.into_iter().filter(|lsn| *lsn < next).collect();
            Record::Position { next, waits, owed }
        }),
        lsns().prop_map(Record::Taken),
        lsns().prop_map(Record::Returned),
    ]
}

proptest! {
    #[test]
    fn every_record_reads_back_as_it_was_written(record in records(), bit in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        record.write("$share/g/a", &mut bytes);
        prop_assert_eq!(read(&bytes), vec![Some(("$share/g/a".to_owned(), record))]);
        // Damage is no record, or another one, and never a panic.
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        read(&bytes);
    }

    /// The state may be newer than what it claims to cover: then a part of the log comes twice.
    #[test]
    fn after_a_crash_nothing_is_missing_and_nothing_that_a_session_has_comes_again(
        steps in prop::collection::vec((0..8_u8, any::<prop::sample::Index>()), 0..60),
        saved in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
    ) {
        let mut life = Life::default();
        for (step, which) in steps {
            life.step(step, which);
        }
        let saved = saved.index(life.records.len() + 1);
        let from = from.index(saved + 1);
        let mut standing = Standing::new(1);
        let replayed = life.records[..saved].iter().chain(&life.records[from..]);
        replayed.for_each(|record| standing.apply(record.clone()));
        let offered = |lsn: &Lsn| {
            standing.owed.contains(lsn) || (*lsn >= standing.next && !standing.taken.contains(lsn))
        };
        for lsn in life.returned.iter().chain(&life.lent).chain(&[life.next]) {
            prop_assert!(offered(lsn), "{} is missing: {:?} {:?}", lsn, standing, life);
        }
        for lsn in life.has.iter().chain(&life.done) {
            prop_assert!(!offered(lsn), "{} comes again: {:?} {:?}", lsn, standing, life);
        }
    }
}

/// What happens to a group of which every event is one, and what it leaves in the log.
#[derive(Debug)]
struct Life {
    next: Lsn,
    returned: BTreeSet<Lsn>,
    /// With members whose sessions are not kept.
    lent: BTreeSet<Lsn>,
    /// In flight to a session that is kept,
    has: BTreeSet<Lsn>,
    /// of which the group does not know yet that the log has it,
    unknown: BTreeSet<Lsn>,
    /// and acknowledged by it.
    done: BTreeSet<Lsn>,
    records: Vec<Record>,
}

impl Default for Life {
    fn default() -> Self {
        let none = BTreeSet::new;
        let (returned, lent, has, unknown, done) = (none(), none(), none(), none(), none());
        Self { next: 1, returned, lent, has, unknown, done, records: Vec::new() }
    }
}

impl Life {
    fn give(&mut self) -> Lsn {
        self.returned.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    fn step(&mut self, step: u8, which: prop::sample::Index) {
        let pick = |set: &BTreeSet<Lsn>| {
            (!set.is_empty()).then(|| *set.iter().nth(which.index(set.len())).unwrap())
        };
        match step {
            0 | 1 => {
                let lsn = self.give();
                self.has.insert(lsn);
                self.unknown.insert(lsn);
                self.records.push(Record::Taken(vec![lsn]));
            }
            2 => {
                let lsn = self.give();
                self.lent.insert(lsn);
            }
            // Acknowledged, or the connection ends.
            3 => _ = pick(&self.lent).map(|lsn| self.lent.remove(&lsn)),
            4 => {
                let lsn = pick(&self.lent);
                self.returned.extend(lsn.filter(|lsn| self.lent.remove(lsn)));
            }
            5 => {
                let lsn = pick(&self.has);
                self.done.extend(lsn.filter(|lsn| self.has.remove(lsn)));
            }
            // The session ends.
            6 => {
                let has = std::mem::take(&mut self.has);
                self.unknown.retain(|lsn| !has.contains(lsn));
                self.returned.extend(&has);
                self.records.push(Record::Returned(has.into_iter().collect()));
            }
            _ => {
                let sets = [&self.returned, &self.lent, &self.unknown];
                let owed = sets.into_iter().flatten().copied().collect();
                self.records.push(Record::Position { next: self.next, waits: true, owed });
                if which.index(2) == 0 {
                    self.unknown.clear();
                }
            }
        }
    }
}

#[test]
fn a_standing_reads_back_from_its_blocks() {
    let standing = Standing {
        next: 40,
        waits: true,
        owed: BTreeSet::from([3, 39]),
        taken: BTreeSet::from([40, 70_000]),
    };
    let mut again = Standing::default();
    for (_, record) in read(&standing.encode("$share/g/a")).into_iter().flatten() {
        again.apply(record);
    }
    assert_eq!(again, standing);
}

#[test]
fn what_a_session_has_sent_is_not_owed_though_the_group_did_not_know_yet() {
    let mut standing = Standing::new(1);
    standing.take(5);
    standing.apply(Record::Position { next: 8, waits: true, owed: BTreeSet::from([4, 5]) });
    assert_eq!(standing.owed, BTreeSet::from([4]));
    standing.apply(Record::Returned(vec![5, 9]));
    // 9 comes anyway.
    assert_eq!(standing.owed, BTreeSet::from([4, 5]));
}

struct Site {
    log: Arc<Log>,
    groups: Groups,
    metrics: Metrics,
}

fn memory() -> Memory {
    Memory::new(64 << 20)
}

const KEY: &str = "$share/g/t";

fn site(dir: &Path) -> Site {
    let options = LogOptions {
        dir: dir.join("log"),
        lane: Lane(0),
        max_size: 64 << 20,
        segment_size: 1 << 20,
        max_delay: Duration::ZERO,
        max_bytes: 256 << 10,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(Arc::new(FileSystem), options).unwrap();
    let metrics = Metrics::default();
    let groups = Groups::new(Arc::clone(&log), metrics.clone(), memory(), 4096);
    Site { log, groups, metrics }
}

/// Commits `count` events on `t`, with QoS 0, 1 and 2 in turn, and something else between them.
async fn commit(log: &Arc<Log>, count: u64) {
    for _ in 0..count {
        let number = log.committed() + 1;
        let mut block = BlockBuilder::new("sensor", Received::Synced { unix_micros: 0 });
        let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][number as usize % 3];
        let properties = Properties::default();
        let topic = if number.is_multiple_of(5) { "other" } else { "t" };
        block.push(&Draft { topic, qos, retain: false, properties, payload: &[0; 100] });
        let Append::Accepted(commit) = log.append(&mut block) else { panic!("refused") };
        commit.await.unwrap();
    }
}

fn event(lsn: Lsn, qos: Qos) -> (Lsn, Event) {
    let event = EventRef {
        lane: Lane(0),
        id: EventId { epoch: Epoch(1), lane: Lane(0), lsn },
        received: Received::Synced { unix_micros: 0 },
        origin: "sensor",
        topic: "t",
        qos,
        retain: false,
        properties: Properties::default(),
        payload: &[0; 100],
    };
    (lsn, Event::copy(&event, &memory(), Sort::Deliveries))
}

fn options(qos: Qos) -> Options {
    Options { qos, no_local: false, retain_as_published: false, identifier: None }
}

fn open(site: &Site, members: u64) -> Arc<Group> {
    let filter = tidegate_event::Filter::new(KEY).unwrap();
    let group = site.groups.open(&filter, 1).unwrap();
    for id in 1..=members {
        group.join(id, options(Qos::ExactlyOnce), false, true, 1);
    }
    group
}

/// What the member takes, reading the log where it must.
fn take(group: &Arc<Group>, id: u64, window: usize) -> Vec<Delivery> {
    let mut into = VecDeque::new();
    loop {
        match group.take(id, window, true, &mut into) {
            Next::Read(job) => job.run().unwrap(),
            Next::Send => return into.into(),
            other => panic!("{other:?}"),
        }
    }
}

fn places(deliveries: &[Delivery]) -> Vec<Lsn> {
    deliveries.iter().filter_map(|delivery| delivery.lsn).collect()
}

fn settle(deliveries: Vec<Delivery>) -> Vec<Lsn> {
    let lsns = places(&deliveries);
    deliveries.into_iter().filter_map(|it| it.loan).for_each(|loan| loan.settle());
    lsns
}

#[tokio::test]
async fn what_is_not_settled_goes_back_and_comes_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    commit(&site.log, 8).await;
    let group = open(&site, 2);
    group.push(&mut [1, 2, 4].map(|lsn| event(lsn, Qos::AtLeastOnce)).into());
    let first = take(&group, 1, 2);
    assert_eq!(places(&first), [1, 2]);
    drop(first);
    assert_eq!(settle(take(&group, 2, 9)), [1, 2, 4]);
    assert_eq!(take(&group, 1, 9).len(), 0);
    assert_eq!(site.metrics.returned.get(), 2);
}

#[tokio::test]
async fn a_group_that_is_behind_reads_every_event_once_and_the_bus_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    commit(&site.log, 120).await;
    let group = open(&site, 2);
    let live = |lsns: std::ops::RangeInclusive<Lsn>| -> Vec<(Lsn, Event)> {
        let qos =
            |lsn: Lsn| [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][lsn as usize % 3];
        lsns.filter(|lsn| lsn % 5 != 0).map(|lsn| event(lsn, qos(lsn))).collect()
    };
    group.push(&mut live(1..=90));
    let mut got = settle(take(&group, 1, 7));
    let mut turn = 0;
    while got.len() < 60 {
        turn += 1;
        got.extend(settle(take(&group, 1 + turn % 2, 7)));
    }
    // The bus comes to what was read already.
    group.push(&mut live(91..=120));
    loop {
        let more = settle(take(&group, 2, 7));
        if more.is_empty() {
            break;
        }
        got.extend(more);
    }
    let mut sorted = got.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), got.len(), "something came twice");
    let owed = (1..=120).filter(|lsn| lsn % 5 != 0 && lsn % 3 != 0);
    assert!(owed.into_iter().all(|lsn| got.contains(&lsn)), "{got:?}");
}

#[tokio::test]
async fn what_a_group_owes_survives_and_what_it_gave_out_for_good_does_not_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    commit(&site.log, 20).await;
    let group = open(&site, 1);
    // A session that is kept: the group survives.
    group.join(7, options(Qos::ExactlyOnce), true, true, 1);
    group.push(&mut [1, 2, 3, 4, 6].map(|lsn| event(lsn, Qos::AtLeastOnce)).into());
    let held = take(&group, 7, 4);
    let (mut settled, rest) = (Vec::new(), held);
    for delivery in rest {
        if delivery.lsn == Some(2) {
            settled.extend(settle(vec![delivery]));
        } else {
            // The daemon is killed with these on loan.
            std::mem::forget(delivery);
        }
    }
    assert_eq!(settled, [2]);
    let mut saved = std::collections::HashMap::new();
    let answer = site.groups.save(7, &mut saved);
    assert_eq!(answer.needed, Some(1));
    let (key, encoded) = answer.changes.into_iter().next().unwrap();
    assert!(site.groups.save(7, &mut saved).changes.is_empty(), "nothing has changed");
    let mut standing = Standing::default();
    for (_, record) in read(&encoded.unwrap()).into_iter().flatten() {
        standing.apply(record);
    }
    let again = Groups::new(Arc::clone(&site.log), Metrics::default(), memory(), 4096);
    again.restore(&key, &standing, 6);
    let group = again.get(KEY).unwrap();
    group.join(1, options(Qos::ExactlyOnce), true, true, 7);
    let mut got = Vec::new();
    while let more = settle(take(&group, 1, 2))
        && !more.is_empty()
    {
        got.extend(more);
    }
    // From the log: there 6 has QoS 0, and nobody was there to have that.
    assert_eq!(got[..4], [1, 3, 4, 7]);
}

#[tokio::test]
async fn when_memory_is_tight_a_group_that_nobody_takes_from_goes_on_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::new(1 << 20);
    let log = site(dir.path()).log;
    let groups = Groups::new(log, Metrics::default(), memory.clone(), 1 << 20);
    let filter = tidegate_event::Filter::new(KEY).unwrap();
    let group = groups.open(&filter, 1).unwrap();
    group.join(1, options(Qos::ExactlyOnce), false, true, 1);
    group.push(&mut (1..=30).map(|lsn| event(lsn, Qos::AtLeastOnce)).collect());
    assert_eq!(group.push(&mut vec![event(31, Qos::AtLeastOnce)]), Pushed::default());
    let others = memory.claim(Sort::Deliveries, 400 << 10);
    assert_eq!(group.push(&mut vec![event(32, Qos::AtLeastOnce)]), Pushed::default(), "not slow");
    group.lock().waits = Instant::now().checked_sub(Duration::from_secs(5));
    let pushed = group.push(&mut vec![event(33, Qos::AtLeastOnce)]);
    assert_eq!(pushed, Pushed { dropped: 0, fell_behind: true });
    {
        let state = group.lock();
        assert_eq!((state.behind, state.queue.len()), (Some(1), 0));
    }
    drop((group, groups));
    assert_eq!(memory.used(), others.bytes());
}

#[tokio::test]
async fn a_member_that_does_not_come_when_called_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    let group = open(&site, 2);
    let (first, second) = (Woken::default(), Woken::default());
    let poll = |id, woken: &Arc<Woken>| {
        let waker = Arc::clone(woken).into();
        group.poll_ready(id, &std::task::Context::from_waker(&waker)).is_ready()
    };
    let (first, second) = (Arc::new(first), Arc::new(second));
    assert!(!poll(1, &first) && !poll(2, &second));
    group.push(&mut vec![event(1, Qos::AtLeastOnce)]);
    assert_eq!((first.count(), second.count()), (1, 0), "who came first is called first");
    // It cannot take anything any more.
    group.decline(1);
    assert_eq!(second.count(), 1);
    // Nor can this one: its connection ends.
    group.leave(2);
    assert!(poll(1, &first));
    assert_eq!(settle(take(&group, 1, 1)), [1]);
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl Woken {
    fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}
