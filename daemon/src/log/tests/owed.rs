//! What the ledger is to say, on a disk that has no room for it.

use std::sync::mpsc;
use std::time::Instant;

use super::super::ledger::Loss;
use super::super::storage::sim::Sim;
use super::*;

fn open(sim: &Sim) -> (Arc<Log>, Writer) {
    let opened = open_unstarted(Arc::new(sim.clone()), options(Path::new("/"))).unwrap();
    (Arc::new(opened.0), opened.1)
}

/// Commits an event of 3000 bytes.
fn add(log: &Log, writer: &mut Writer) {
    assert!(matches!(log.append(&mut block([&[7; 3000][..]])), Append::Accepted(_)));
    writer.step(Instant::now());
}

fn fill(log: &Log, writer: &mut Writer, segments: usize) {
    let wanted = log.usage().segments + segments;
    while log.usage().segments < wanted {
        add(log, writer);
    }
}

/// Neither the disk has room from now on, nor the ledger's file. Answers how many entries that has.
fn leave_no_room(sim: &Sim, log: &Log) -> u64 {
    sim.leave_room(0);
    let other = |lsn| Loss::now(Lane(9), lsn..=lsn, Reason::Expired);
    (1..).map(|number| number * 2).take_while(|lsn| log.shared.ledger.record(other(*lsn))).count()
        as u64
        + 1
}

/// The power goes in `sim`, in some ways.
fn power_cuts(sim: Sim) -> impl Iterator<Item = Sim> {
    (0..20).map(move |seed| {
        let sim = sim.fork(seed);
        sim.cut_power();
        sim.leave_room(usize::MAX >> 1);
        sim
    })
}

/// A file that is used again has room where the ledger has none: a segment was begun in it, and nobody looked
/// for what was gone in the one before.
#[test]
fn no_segment_is_begun_before_what_is_gone_is_in_the_ledger() {
    let sim = Sim::new(1);
    let (log, mut writer) = open(&sim);
    fill(&log, &mut writer, 2);
    log.release(log.committed());
    assert!(log.usage().spare > 0);
    leave_no_room(&sim, &log);
    let mut dropped = BlockBuilder::new("", Received::Synced { unix_micros: 0 });
    dropped.push_gone(Lane(0), 3);
    assert!(matches!(log.append(&mut dropped), Append::Accepted(_)));
    writer.step(Instant::now());
    let last = log.committed();
    let (sender, disks) = mpsc::channel();
    sim.watch(Box::new(move |sim, _| drop(sender.send(sim.fork(0)))));
    fill(&log, &mut writer, 2);
    let disks: Vec<Sim> = disks.try_iter().collect();
    assert!(disks.len() > 50);
    for sim in disks.into_iter().flat_map(power_cuts) {
        let (log, _) = open(&sim);
        let is_it =
            |loss: &Loss| (loss.reason, &loss.lsns) == (Reason::Dropped, &(last - 2..=last));
        assert!(log.losses().iter().any(is_it), "{:?}", log.losses());
    }
}

/// A full disk frees no segment whose damage only the memory knows.
#[test]
fn a_damaged_segment_stays_until_the_ledger_says_so_on_disk() {
    let sim = Sim::new(1);
    let (log, mut writer) = open(&sim);
    fill(&log, &mut writer, 3);
    let oldest =
        sim.files().into_iter().find(|path| path.extension().is_some_and(|it| it == "seg"));
    sim.flip(&oldest.unwrap(), 1024 + 3100, 3);
    leave_no_room(&sim, &log);
    let lost = read(&mut log.reader(1)).1;
    let [lost] = &lost[..] else { panic!("{lost:?}") };
    let segments = log.usage().segments;
    log.release(log.committed());
    assert_eq!(log.usage().segments, segments);
    let says_so = |log: &Log| log.losses().iter().any(|loss| loss.lsns == *lost);
    for sim in power_cuts(sim.fork(0)) {
        let (log, _) = open(&sim);
        assert_eq!(read(&mut log.reader(1)).1, std::slice::from_ref(lost));
        assert!(says_so(&log));
    }
    sim.leave_room(5000);
    log.release(log.committed());
    assert_eq!(log.usage().segments, 1);
    for sim in power_cuts(sim.fork(0)) {
        assert!(says_so(&open(&sim).0));
    }
}

/// What has no damage goes, and makes room for the ledger.
#[test]
fn a_sound_segment_makes_room_for_the_ledger() {
    let sim = Sim::new(1);
    let (log, mut writer) = open(&sim);
    fill(&log, &mut writer, 3);
    let files = sim.files();
    let mut segments = files.iter().filter(|path| path.extension().is_some_and(|it| it == "seg"));
    sim.flip(segments.nth(1).unwrap(), 1024 + 3100, 3);
    let entries = leave_no_room(&sim, &log);
    let lost = read(&mut log.reader(1)).1;
    log.release(log.committed());
    assert_eq!((log.usage().segments, lost.len()), (1, 1));
    for sim in power_cuts(sim.fork(0)) {
        let losses = open(&sim).0.losses();
        assert_eq!(losses.last().unwrap().lsns, lost[0]);
        assert_eq!(losses.len() as u64, entries + 1);
    }
}

/// The ledger is at its bound, and to take one entry more it is written anew, for which a full disk has no room.
#[test]
fn what_goes_makes_room_for_a_ledger_that_is_written_anew() {
    let sim = Sim::new(1);
    let options = Options { max_ledger: 4096, ..options(Path::new("/")) };
    let (log, mut writer, _) = open_unstarted(Arc::new(sim.clone()), options).unwrap();
    fill(&log, &mut writer, 3);
    // Of each segment it says something.
    let part = |lsn| Loss { count: 1, ..Loss::now(Lane(9), lsn..=lsn + 1, Reason::Expired) };
    let lsns = (1..=log.committed()).cycle();
    for (number, lsn) in (0..85).zip(lsns) {
        let lane = Lane(9 + (number / 60) as u8);
        assert!(log.shared.ledger.record(Loss { lane, ..part(lsn) }));
    }
    assert_eq!(log.losses().len(), 85);
    sim.leave_room(0);
    let mut dropped = BlockBuilder::new("", Received::Synced { unix_micros: 0 });
    dropped.push_gone(Lane(0), 3);
    assert!(matches!(log.append(&mut dropped), Append::Accepted(_)));
    writer.step(Instant::now());
    let last = log.committed();
    log.enter_gone();
    assert!(log.losses().len() < 85 && log.shared.ledger.owes(&(last - 2..=last)));
    log.release(last);
    assert_eq!((log.usage().segments, log.shared.ledger.owes(&(1..=last))), (1, false));
}
