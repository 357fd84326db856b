//! A segment that could not be begun: the frame that it was to begin with is tried again, and is there once.

use std::sync::Mutex;
use std::time::Instant;

use super::super::storage::sim::{Call, Sim};
use super::super::writer::Writer;
use super::damage::open;
use super::*;

/// The numbers of the events that were answered, in the order of their LSNs, from 1 on.
type Answered = Arc<Mutex<Vec<u64>>>;

/// Appends the event of this number, 3000 bytes, and says what its LSN is, if it was stored.
fn add(log: &Log, writer: &mut Writer, number: u64) -> Option<Lsn> {
    let payload = number.to_le_bytes().repeat(375);
    let Append::Accepted(mut commit) = log.append(&mut block([&payload[..]])) else {
        return None;
    };
    writer.step(Instant::now());
    match futures_now(Pin::new(&mut commit)) {
        Poll::Ready(Ok(lsns)) => Some(*lsns.start()),
        _ => None,
    }
}

/// Opens: what was answered is there, once, under its LSN, and one more event at most; nothing is lost, nor
/// set aside.
fn is_whole(sim: &Sim, answered: &[u64], what: &str) {
    sim.fail_syncs(0);
    sim.fail_dir_syncs(0);
    let (log, mut writer, recovery) = open(sim);
    let (events, lost) = read(&mut log.reader(1));
    let (first, last) = (log.usage().first, log.committed());
    assert!(events.iter().map(|(lsn, _)| *lsn).eq(first..=last), "{what}");
    let count = answered.len() as u64;
    assert!((count..=count + 1).contains(&last), "{what}: {last} of {count}");
    for (lsn, payload) in events {
        let number = u64::from_le_bytes(*payload.first_chunk().unwrap());
        assert_eq!(payload, number.to_le_bytes().repeat(375), "{what}: LSN {lsn}");
        match answered.get(lsn as usize - 1) {
            Some(answered) => assert_eq!(number, *answered, "{what}: LSN {lsn}"),
            None => assert!(!answered.contains(&number), "{what}: {number} is there twice"),
        }
    }
    assert_eq!((lost, recovery.quarantined, log.losses()), (vec![], vec![], vec![]), "{what}");
    assert_eq!(recovery.set_aside, Vec::<PathBuf>::new(), "{what}");
    assert_eq!(add(&log, &mut writer, u64::MAX), Some(last + 1), "{what}");
}

/// What fails when the next segment is to begin.
#[derive(Debug, Clone, Copy)]
enum Failing {
    Once(Call),
    /// So many fdatasyncs: also that of the frame in the segment before.
    Syncs(u32),
    /// So many fsyncs of the directory: also of the attempt's removal, and then of the next attempt.
    DirSyncs(u32),
}

#[test]
fn a_frame_whose_segment_could_not_begin_is_stored_once_all_the_same() {
    use Failing::{DirSyncs, Once, Syncs};
    let new = [Call::Create, Call::Write, Call::Sync, Call::Rename, Call::SyncDir].map(Once);
    let reused = [Call::Write, Call::Sync, Call::Rename, Call::SyncDir].map(Once);
    for (is_reused, all) in [(false, &new[..]), (true, &reused), (false, &[Syncs(2), DirSyncs(2)])]
    {
        for failing in all {
            let answered = fails(is_reused, *failing, 1);
            assert!(answered.into_iter().eq(1..=85), "{failing:?}: nobody is refused");
        }
    }
}

#[test]
fn a_frame_that_was_not_stored_at_all_leaves_its_lsns_to_the_next_one() {
    for count in 3..=8 {
        for failing in [Failing::Syncs(count), Failing::DirSyncs(count)] {
            for seed in 0..2 {
                let answered = fails(false, failing, seed);
                assert!((60..85).contains(&answered.len()), "{failing:?}: {}", answered.len());
            }
        }
    }
}

/// Fills three segments, lets this fail while the fourth begins, and crashes everywhere. Answers what was
/// answered.
fn fails(is_reused: bool, failing: Failing, seed: u64) -> Vec<u64> {
    let sim = Sim::new(seed);
    let (log, mut writer, _) = open(&sim);
    for number in 1..=60 {
        assert_eq!(add(&log, &mut writer, number), Some(number));
    }
    if is_reused {
        log.release(21);
        assert!(log.shared.spares.bytes() > 0);
    }
    let segments = log.usage().segments;
    let answered: Answered = Arc::new(Mutex::new((1..=60).collect()));
    let known = Arc::clone(&answered);
    let what = format!("{failing:?}, spare: {is_reused}, seed {seed}");
    let context = what.clone();
    sim.watch(Box::new(move |sim, call| {
        crash(sim, &known.lock().unwrap(), &format!("{context}, before {call:?}"));
    }));
    match failing {
        Failing::Once(call) => sim.fail_once(call),
        Failing::Syncs(count) => sim.fail_syncs(count),
        Failing::DirSyncs(count) => sim.fail_dir_syncs(count),
    }
    // Those that fail, those behind them, and the first of another segment.
    for number in 61..=85 {
        match add(&log, &mut writer, number) {
            Some(lsn) => {
                let mut answered = answered.lock().unwrap();
                answered.push(number);
                assert_eq!(lsn, answered.len() as u64, "{what}");
            }
            // The disk is tried again after a while.
            None => drop(writer.step(Instant::now() + Duration::from_secs(3600))),
        }
        let is_in_the_one_before = matches!(failing, Failing::Once(_)) && !is_reused;
        if number == 61 && is_in_the_one_before {
            assert_eq!((sim.is_to_fail(), log.usage().segments), (false, segments), "{what}");
        }
        if number == 68 {
            // What a crash could undo is done.
            sim.watch(Box::new(|_, _| ()));
        }
    }
    let answered = answered.lock().unwrap().clone();
    crash(&sim, &answered, &what);
    answered
}

/// The process dies, or the power goes.
fn crash(sim: &Sim, answered: &[u64], what: &str) {
    for seed in 0..3 {
        let sim = sim.fork(seed);
        if seed == 0 {
            sim.kill()
        } else {
            sim.cut_power()
        }
        is_whole(&sim, answered, what);
    }
}
