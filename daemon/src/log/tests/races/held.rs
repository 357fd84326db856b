//! One is held at a place, and another goes on.

use std::io;
use std::time::Instant;

use super::super::super::ledger::Ledger;
use super::super::super::segment;
use super::super::super::storage::sim::Sim;
use super::super::lanes::{ALERTS, ALL, almost_fill, fill, ledger, with_lanes};
use super::super::*;
use super::between::{Between, Call};
use super::{LATE, alerts, expiring};

const NO_HANDLES: i32 = 24;
/// With two lanes that drop their oldest events.
fn rolling(dir: &Path) -> Options {
    let lane = |name: &str| LaneOptions {
        name: name.into(),
        max_size: Some(256 << 10),
        rule: Rule { when_full: WhenFull::DropOldest, ..Rule::default() },
        ..LaneOptions::default_lane()
    };
    Options { lanes: vec![LaneOptions::default_lane(), lane("a"), lane("b")], ..options(dir) }
}

fn event(lane: Lane) -> BlockBuilder {
    let mut block = BlockBuilder::new("", Received::Synced { unix_micros: 0 });
    let (topic, qos, retain) = ("t", Qos::AtLeastOnce, false);
    let (properties, payload) = (Properties::default(), &[7; 900][..]);
    block.push_in(lane, &Draft { topic, qos, retain, properties, payload });
    block
}

async fn fits(log: &Log, lane: Lane) -> bool {
    match log.append(&mut event(lane)) {
        Append::Accepted(commit) => commit.await.is_ok(),
        _ => false,
    }
}

/// A reader was given a frame before it counted as committed. A second reader from there on was taken for
/// one of another log, and began with the oldest event; and what of the frame was gone, nobody knew yet.
#[tokio::test]
async fn nobody_reads_further_than_what_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    for payload in [b"one", b"two"] {
        append(&log, payload).await;
    }
    // As it is a moment before.
    log.shared.committed.store(1, Ordering::Release);
    let mut reader = log.reader(1);
    assert_eq!(read(&mut reader), (vec![(1, b"one".to_vec())], vec![]));
    assert_eq!(reader.position(), 2);
    log.shared.committed.store(2, Ordering::Release);
    assert_eq!(read(&mut reader), (vec![(2, b"two".to_vec())], vec![]));
}

/// The segment was merged into the one before it while a reader was about to open it. Where that could
/// not be opened either, for want of file handles, all that is left of both was passed over.
#[tokio::test]
async fn a_reader_whose_segment_is_merged_goes_on_in_the_one_that_stands_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let between = Between::default();
    let (log, _) = Log::open(Arc::new(between.clone()), expiring(dir.path())).unwrap();
    almost_fill(&log).await;
    let table: Vec<_> = log.shared.table().0.clone();
    let (path, first) = (table[1].path.clone(), table[1].header.first);
    let (mut reader, mut chunk) = (log.reader(first), Chunk::default());
    let (other, oldest, mut refusals) = (Arc::downgrade(&log), table[0].path.clone(), 1);
    drop(table);
    between.each(move |call, at| {
        if call == Call::Open && at == path && path.exists() {
            other.upgrade().unwrap().expire(LATE, &ALL).unwrap();
            assert!(!path.exists());
        } else if call == Call::Open && at == oldest && !path.exists() && refusals > 0 {
            refusals -= 1;
            return Err(io::Error::from_raw_os_error(NO_HANDLES));
        }
        Ok(())
    });
    assert!(reader.read(&mut chunk, 4096).is_err(), "it is tried again");
    let (events, lost) = read(&mut reader);
    assert_eq!(lost, []);
    let expected: Vec<Lsn> = (first..=log.committed()).filter(|lsn| lsn % 10 == 0).collect();
    assert_eq!(alerts(&events), expected);
    assert!(log.losses().iter().all(|loss| loss.reason == Reason::Expired));
}

/// Room was made in one lane, and then the disk failed: who waited for that room was not told.
#[tokio::test]
async fn who_waits_for_room_is_told_of_it_though_no_more_can_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let between = Between::default();
    let (log, _) = Log::open(Arc::new(between.clone()), rolling(dir.path())).unwrap();
    while fits(&log, Lane(1)).await & fits(&log, Lane(2)).await {
        // So that no segment is removed whole.
        assert!(fits(&log, Lane(0)).await);
    }
    while fits(&log, Lane(1)).await {}
    while fits(&log, Lane(2)).await {}
    let block = event(Lane(1));
    let mut room = std::pin::pin!(log.room_for(block.lanes()));
    assert!(futures_now(room.as_mut()).is_pending());
    let mut good = 1;
    between.each(move |call, path| {
        if call == Call::Create && path.ends_with(segment::REWRITTEN) {
            if good == 0 {
                return Err(io::Error::other("the disk is gone"));
            }
            good -= 1;
        }
        Ok(())
    });
    log.trim(&ALL).unwrap_err();
    assert!(futures_now(room).is_ready());
}

/// The events of one lane were in segments that no checkpoint covers yet: so no room was made in the other.
#[tokio::test]
async fn a_lane_in_which_no_room_can_be_made_keeps_none_from_another() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&rolling(dir.path()));
    while fits(&log, Lane(2)).await {}
    let covered = Covered { before: log.committed() + 1, ..ALL };
    while fits(&log, Lane(1)).await {}
    assert!(log.trim(&covered).unwrap() > 0);
    assert!(fits(&log, Lane(2)).await);
}

/// The writer had begun a segment, and could not remove the one before it because somebody else was just
/// done with that: it stayed, and with it whoever waited for the room.
#[test]
fn what_is_released_while_somebody_removes_goes_too() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut writer, _) = open_unstarted(disk(), options(dir.path())).unwrap();
    assert!(matches!(log.append(&mut event(Lane(0))), Append::Accepted(_)));
    writer.step(Instant::now());
    let alone = log.shared.housekeeping();
    log.shared.released.store(2, Ordering::Release);
    log.shared.queue.roll();
    writer.step(Instant::now());
    assert_eq!(log.usage().segments, 2);
    drop(alone);
    assert_eq!(log.usage().segments, 1);
}

/// Events were appended as gone, and their records released before the ledger said so: after a crash
/// nobody knew that they were dropped.
#[tokio::test]
async fn records_of_what_is_gone_stay_until_the_ledger_says_so() {
    for trims in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let options = expiring(dir.path());
        let (log, _) = open(&options);
        for number in 1..=60 {
            let mut block = event(Lane(0));
            block.push_gone(ALERTS, 3);
            let Append::Accepted(commit) = log.append(&mut block) else { panic!("refused") };
            assert_eq!(*commit.await.unwrap().end(), 4 * number);
        }
        let last = log.committed();
        while log.usage().segments < 6 {
            fill(&log, 5, 1, &ALL).await;
        }
        match trims {
            true => drop(log.expire(LATE, &Covered { needed: Lsn::MAX, ..ALL }).unwrap()),
            false => log.release(log.committed() + 1),
        }
        assert!(log.usage().first > last);
        let entries = ledger(&log, Reason::Dropped);
        let counts: u64 = entries.iter().filter(|it| it.0 == ALERTS).map(|it| it.2).sum();
        assert_eq!(counts, 180);
        log.enter_gone();
        assert_eq!(ledger(&log, Reason::Dropped), entries, "once");
        assert_eq!(log.lane_usage(ALERTS).dropped, 180);
    }
}

/// Some sink had passed records of what is gone, and the process died before the ledger said so.
#[test]
fn what_is_gone_at_the_end_of_the_log_is_entered_when_it_is_opened() {
    let sim = Sim::new(1);
    let options = with_lanes(Path::new("/"), WhenFull::Reject);
    let (log, mut writer, _) = open_unstarted(Arc::new(sim.clone()), options).unwrap();
    let mut add = |log: &Log, gone| {
        let mut block = event(Lane(0));
        block.push_gone(ALERTS, gone);
        assert!(matches!(log.append(&mut block), Append::Accepted(_)));
        writer.step(Instant::now());
    };
    add(&log, 3);
    log.enter_gone();
    add(&log, 4);
    add(&log, 5);
    let found = |sim: &Sim| {
        sim.kill();
        let options = with_lanes(Path::new("/"), WhenFull::Reject);
        let (log, ..) = open_unstarted(Arc::new(sim.clone()), options).unwrap();
        ledger(&log, Reason::Dropped)
    };
    let of = |lsns, count| (ALERTS, lsns, count);
    let expected = [of(1..=4, 3), of(5..=15, 9)];
    // Also while another segment is begun.
    let (sender, disks) = std::sync::mpsc::channel();
    sim.watch(Box::new(move |sim, _| drop(sender.send(sim.fork(0)))));
    log.shared.queue.roll();
    writer.step(Instant::now());
    let disks: Vec<_> = disks.try_iter().collect();
    assert!(disks.len() > 6);
    for disk in disks {
        assert_eq!(found(&disk), expected);
        assert_eq!(found(&disk), expected, "once");
    }
    drop((log, writer));
    assert_eq!(found(&sim), expected);
}

/// A log was closed, and another process had it open, while somebody still released in the first.
#[tokio::test]
async fn a_log_that_is_closed_removes_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let options = expiring(dir.path());
    let (old, _) = open(&options);
    almost_fill(&old).await;
    old.close().await;
    let (new, _) = open(&options);
    let before = read(&mut new.reader(1));
    old.expire(LATE, &ALL).unwrap();
    old.trim(&ALL).unwrap();
    old.release(old.committed() + 1);
    assert!(read(&mut new.reader(1)) == before);
    assert_eq!(new.losses(), []);
}

/// What an entry covers that the disk had not taken was called entered.
#[test]
fn runs_that_are_covered_are_entered_when_the_entry_is_on_disk() {
    let sim = Sim::new(1);
    let open = || {
        let path = PathBuf::from("/ledger");
        Ledger::open(Arc::new(sim.clone()), path, 4096, |_| ()).unwrap()
    };
    let ledger = open();
    sim.fail_syncs(1);
    assert!(!ledger.record(Loss::now(Lane(1), 5..=9, Reason::Dropped)));
    assert!(ledger.record_runs(Lane(1), &[6..=7], Reason::Dropped));
    sim.cut_power();
    assert_eq!(open().entries().len(), 1);
}
