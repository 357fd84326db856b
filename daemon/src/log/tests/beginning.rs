//! The front of the log: what was released there, and what is lost there.

use std::sync::Mutex;

use super::super::beginning::FILE;
use super::super::storage::sim::{Call, Sim};
use super::damage::{DIR, add, open, opened, quarantined, segments, without, written};
use super::*;

fn file() -> PathBuf {
    Path::new(DIR).join(FILE)
}

/// Opens, and says where the log begins, and what is in the ledger.
fn front(sim: &Sim) -> (Option<Lsn>, Vec<(RangeInclusive<Lsn>, Reason)>) {
    let (log, ..) = open(sim);
    let losses = log.losses().into_iter().map(|loss| (loss.lsns, loss.reason)).collect();
    (log.shared.beginning.lsn(), losses)
}

/// The same with the power going before.
fn front_after_a_cut(sim: &Sim) -> (Option<Lsn>, Vec<(RangeInclusive<Lsn>, Reason)>) {
    sim.cut_power();
    front(sim)
}

fn lose_the_oldest(sim: &Sim) {
    sim.kill();
    sim.lose(&segments(sim)[0]);
}

#[test]
fn an_oldest_segment_that_vanished_is_a_loss_and_entered_once() {
    let sim = written();
    lose_the_oldest(&sim);
    let (recovery, events, lost, losses) = opened(&sim);
    assert_eq!((&recovery.quarantined, &losses), (&vec![1..=20], &vec![1..=20]));
    assert_eq!((events, lost), (without(1..=20), vec![]), "who has no cursor begins behind it");
    for _ in 0..3 {
        let (at, losses) = front_after_a_cut(&sim);
        assert_eq!((at, losses), (Some(21), vec![(1..=20, Reason::Missing)]));
    }
    // And the next one.
    lose_the_oldest(&sim);
    assert_eq!(opened(&sim).3, [1..=20, 21..=40]);
}

#[test]
fn an_oldest_segment_that_is_set_aside_is_a_loss() {
    // Cut to nothing, or under the name of another one.
    let sim = written();
    sim.set_content(&segments(&sim)[0], &[]);
    let (recovery, _, _, losses) = opened(&sim);
    assert_eq!((recovery.set_aside.len(), losses), (1, vec![1..=20]));
    let sim = written();
    let oldest = segments(&sim).swap_remove(0);
    sim.rename(&oldest, &oldest.with_file_name("00000000000000000003-00000001.seg")).unwrap();
    let (recovery, _, _, losses) = opened(&sim);
    assert_eq!((recovery.set_aside.len(), losses), (1, vec![1..=20]));
    // Without a header: then it is damaged, and that alone.
    let sim = written();
    [0, 512].iter().for_each(|byte| sim.flip(&segments(&sim)[0], *byte, 0));
    for _ in 0..2 {
        assert_eq!(front_after_a_cut(&sim), (Some(21), vec![(1..=20, Reason::Damaged)]));
    }
}

#[test]
fn wherever_the_power_goes_in_a_release_nothing_is_taken_for_lost() {
    let sim = written();
    let (log, _writer, _) = open(&sim);
    let points = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&points);
    sim.watch(Box::new(move |sim, call| {
        seen.lock().unwrap().push(call);
        for seed in 0..16 {
            let fork = sim.fork(seed);
            assert_eq!(front_after_a_cut(&fork).1, [], "before {call:?}");
            assert_eq!(front_after_a_cut(&fork).1, []);
        }
    }));
    log.release(41);
    assert_eq!((log.usage().segments, log.shared.beginning.lsn()), (1, Some(41)));
    let points = std::mem::take(&mut *points.lock().unwrap());
    let of = |call| points.iter().filter(|it| **it == call).count();
    assert_eq!((of(Call::Write), of(Call::Sync)), (1, 1), "two segments share one: {points:?}");
    assert_eq!(points[..2], [Call::Write, Call::Sync], "and that comes first");
}

#[test]
fn what_was_released_is_no_loss_and_what_vanishes_behind_it_is() {
    let sim = written();
    let (log, _writer, _) = open(&sim);
    log.release(21);
    drop(log);
    sim.kill();
    assert_eq!(front(&sim), (Some(21), vec![]));
    lose_the_oldest(&sim);
    assert_eq!(front(&sim), (Some(41), vec![(21..=40, Reason::Missing)]));
}

#[test]
fn what_a_full_lane_drops_is_no_loss_beside_that() {
    let dir = tempfile::tempdir().unwrap();
    let rule = Rule { when_full: WhenFull::DropOldest, ..Rule::default() };
    let lanes = vec![LaneOptions { rule, ..LaneOptions::default_lane() }];
    let options = Options { lanes, max_size: 256 << 10, ..options(dir.path()) };
    let (log, mut writer, _) = open_unstarted(Arc::new(FileSystem), options.clone()).unwrap();
    for _ in 0..120 {
        if add(&log, &mut writer) == Err(None) || log.is_pressed() {
            log.trim(&log.covered(log.committed(), log.control_mark(), 1)).unwrap();
        }
    }
    let (first, losses) = (log.usage().first, log.losses());
    assert!(first > 1 && losses.iter().all(|loss| loss.reason == Reason::Dropped), "{losses:?}");
    assert_eq!(log.shared.beginning.lsn(), Some(first));
    drop((log, writer));
    let (log, recovery) = Log::open(Arc::new(FileSystem), options).unwrap();
    assert_eq!((log.losses(), recovery.quarantined), (losses, vec![]));
}

#[test]
fn a_file_that_says_nothing_is_set_aside_and_written_anew() {
    let good = {
        let sim = written();
        sim.content(&file())
    };
    let other = {
        let sim = Sim::new(7);
        drop(open(&sim));
        sim.content(&file())
    };
    let mut newer = good.clone();
    for copy in [0, 512] {
        newer[copy + 8] = 2;
        let crc = crc32c::crc32c(&newer[copy..copy + 32]);
        newer[copy + 32..copy + 36].copy_from_slice(&crc.to_le_bytes());
    }
    let mut flipped = good.clone();
    [25, 512 + 25].iter().for_each(|byte| flipped[*byte] ^= 1);
    let bad = [
        ("emptied", vec![]),
        ("cut", good[..20].to_vec()),
        ("flipped", flipped),
        ("of another log", other),
        ("newer", newer),
        ("another file", vec![7; 100_000]),
    ];
    for (what, content) in bad {
        let sim = written();
        sim.set_content(&file(), &content);
        // It cannot be told from a release then.
        lose_the_oldest(&sim);
        let (recovery, events, _, losses) = opened(&sim);
        assert_eq!((events, losses), (without(1..=20), vec![]), "{what}");
        assert_eq!(recovery.set_aside.len(), 1, "{what}");
        assert_eq!(sim.content(&recovery.set_aside[0]), content, "{what}");
        sim.kill();
        assert_eq!(front(&sim), (Some(21), vec![]), "{what}");
        lose_the_oldest(&sim);
        assert_eq!(front(&sim).1, [(21..=40, Reason::Missing)], "{what}");
    }
}

#[test]
fn one_damaged_copy_costs_nothing_and_is_written_again() {
    for copy in [0, 512] {
        let sim = written();
        let good = sim.content(&file());
        sim.flip(&file(), copy + 24, 5);
        let damaged = sim.fork(1);
        assert_eq!((front(&sim), quarantined(&sim)), ((Some(1), vec![]), vec![]));
        assert_eq!(sim.content(&file()), good);
        lose_the_oldest(&damaged);
        assert_eq!(front(&damaged), (Some(21), vec![(1..=20, Reason::Missing)]));
        // Nor does a sector that the disk cannot read.
        let sim = written();
        sim.make_unreadable(&file(), copy as u64..copy as u64 + 512);
        lose_the_oldest(&sim);
        assert_eq!(front(&sim), (Some(21), vec![(1..=20, Reason::Missing)]));
    }
}

#[test]
fn a_log_without_the_file_begins_where_its_oldest_segment_does() {
    let sim = written();
    sim.lose(&file());
    lose_the_oldest(&sim);
    assert_eq!(front(&sim), (Some(21), vec![]));
    assert_eq!(quarantined(&sim), [] as [&str; 0]);
    lose_the_oldest(&sim);
    assert_eq!(front(&sim), (Some(41), vec![(21..=40, Reason::Missing)]));
}

#[test]
fn segments_that_are_copied_back_are_of_the_log_again() {
    let sim = written();
    let oldest = segments(&sim).swap_remove(0);
    let content = sim.content(&oldest);
    let (log, _writer, _) = open(&sim);
    log.release(41);
    drop(log);
    sim.kill();
    sim.set_content(&oldest, &content);
    let (_, events, lost, losses) = opened(&sim);
    // The second one was released, which cannot be told from lost any more.
    assert_eq!((events, &lost, losses), (without(21..=40), &vec![21..=40], lost.clone()));
    sim.kill();
    assert_eq!(front(&sim).0, Some(1));
    lose_the_oldest(&sim);
    assert_eq!(front(&sim).1.last(), Some(&(1..=40, Reason::Missing)));
}

#[test]
fn an_older_copy_of_the_file_enters_what_is_not_there_and_no_more() {
    let sim = written();
    let old = sim.content(&file());
    let (log, _writer, _) = open(&sim);
    log.release(21);
    drop(log);
    sim.kill();
    sim.set_content(&file(), &old);
    assert_eq!(front(&sim), (Some(21), vec![(1..=20, Reason::Missing)]));
}

#[test]
fn a_newer_copy_of_the_file_enters_nothing_and_hides_nothing_later() {
    let sim = written();
    let whole = sim.fork(1);
    let (log, _writer, _) = open(&sim);
    log.release(41);
    whole.set_content(&file(), &sim.content(&file()));
    whole.kill();
    assert_eq!(front(&whole), (Some(1), vec![]));
    lose_the_oldest(&whole);
    assert_eq!(front(&whole), (Some(21), vec![(1..=20, Reason::Missing)]));
}

#[test]
fn nothing_goes_while_it_cannot_be_noted() {
    let sim = written();
    let (log, _writer, _) = open(&sim);
    // Written over, and anew.
    sim.fail_syncs(2);
    log.release(21);
    assert_eq!(log.usage().segments, 3);
    assert_eq!(front_after_a_cut(&sim.fork(3)).1, []);
    log.release(21);
    assert_eq!((log.usage().segments, log.shared.beginning.lsn()), (2, Some(21)));
    drop(log);
    assert_eq!(front_after_a_cut(&sim), (Some(21), vec![]));
}

#[test]
fn a_full_disk_is_freed_all_the_same() {
    // Written over, it takes no room.
    let sim = written();
    let (log, _writer, _) = open(&sim);
    sim.leave_room(0);
    log.release(21);
    assert_eq!((log.usage().segments, log.shared.beginning.lsn()), (2, Some(21)));
    // There is no file, and no room for one.
    sim.lose(&file());
    sim.leave_room(0);
    log.release(41);
    assert_eq!((log.usage().segments, log.shared.beginning.lsn()), (1, None));
    drop(log);
    sim.leave_room(usize::MAX >> 1);
    for _ in 0..2 {
        assert_eq!(front_after_a_cut(&sim), (Some(41), vec![]));
    }
}

#[test]
fn a_directory_in_its_place_keeps_nothing_from_going() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("log").join(FILE)).unwrap();
    let (log, mut writer, _) = open_unstarted(Arc::new(FileSystem), options(dir.path())).unwrap();
    (0..60).for_each(|_| assert_eq!(add(&log, &mut writer), Ok(())));
    log.release(41);
    assert_eq!((log.usage().segments, log.losses()), (1, vec![]));
}
