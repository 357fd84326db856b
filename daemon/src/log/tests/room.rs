//! What the files of the log take: all of it counts, whatever becomes of them, and it stays within `max_size`.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::super::segment;
use super::super::storage::sim::{Call, Sim};
use super::damage::{DIR, add, open, segments, written};
use super::*;

/// A segment's file.
const WHOLE: u64 = 64 << 10;

/// Bytes of the files of segments and spares, and of one that is to be a segment.
fn taken(sim: &Sim) -> u64 {
    let is_meant = |path: &&PathBuf| {
        path.parent() == Some(Path::new(DIR))
            && (path.extension().is_some_and(|it| it == "seg" || it == "spare")
                || path.ends_with(segment::UNFINISHED))
    };
    sim.files().iter().filter(is_meant).map(|path| sim.content(path).len() as u64).sum()
}

/// The most that the files take from now on, looked at before each change.
fn most_taken(sim: &Sim) -> Arc<AtomicU64> {
    let most = Arc::new(AtomicU64::new(taken(sim)));
    let seen = Arc::clone(&most);
    sim.watch(Box::new(move |sim, _| {
        seen.fetch_max(taken(sim), Ordering::Relaxed);
    }));
    most
}

#[test]
fn a_first_frame_larger_than_its_file_takes_the_room_of_spares() {
    let sim = Sim::new(1);
    let (log, mut writer, _) = open(&sim);
    let max_size = options(Path::new("/")).max_size;
    // All of it is taken.
    while log.usage().segments < 16 {
        assert_eq!(add(&log, &mut writer), Ok(()));
    }
    assert_eq!(taken(&sim), max_size);
    log.release(41);
    assert_eq!((log.usage().segments, log.shared.spares.bytes()), (14, 2 * WHOLE));
    let most = most_taken(&sim);
    let Append::Accepted(mut commit) = log.append(&mut block([&[7; 100_000][..]])) else {
        panic!("refused")
    };
    writer.step(Instant::now());
    assert!(matches!(futures_now(Pin::new(&mut commit)), Poll::Ready(Ok(_))));
    // In one of the spares, which grew; the other one went.
    let newest = sim.content(&segments(&sim)[14]).len() as u64;
    assert_eq!((newest > 100_000, log.shared.spares.bytes()), (true, 0), "{newest}");
    let most = most.load(Ordering::Relaxed);
    assert!(most <= max_size, "{most} of {max_size}");
}

#[test]
fn a_file_that_is_no_segment_any_more_and_no_spare_yet_counts() {
    // It becomes a spare; it cannot, and goes; somebody reads it, so that it goes; it cannot go, and stays.
    for (failing, is_read, left) in [
        (None, false, (1, 2 * WHOLE)),
        (Some(Call::Rename), false, (1, WHOLE)),
        (None, true, (1, WHOLE)),
        (Some(Call::Unlink), true, (3, 0)),
    ] {
        let sim = written();
        let (log, _writer, _) = open(&sim);
        let _reader = is_read.then(|| {
            let mut reader = log.reader(1);
            assert_eq!(reader.read(&mut Chunk::default(), 1).unwrap(), Read::Frames);
            reader
        });
        let shared = Arc::clone(&log.shared);
        let looks = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&looks);
        sim.watch(Box::new(move |sim, call| {
            let (counted, taken) = (shared.on_disk(), taken(sim));
            assert!(counted >= taken, "before {call:?}: {counted} of {taken}");
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        failing.into_iter().for_each(|call| sim.fail_once(call));
        log.release(41);
        let case = format!("{failing:?}, read: {is_read}");
        assert!(!sim.is_to_fail() && looks.load(Ordering::Relaxed) >= 3, "{case}");
        assert_eq!((log.usage().segments, log.shared.spares.bytes()), left, "{case}");
        assert_eq!(log.shared.on_disk(), taken(&sim), "{case}");
        assert_eq!(log.usage().bytes + log.usage().spare, taken(&sim), "{case}");
    }
}

#[test]
fn what_a_full_segment_keeps_behind_its_end_counts_as_used_also_after_a_reopening() {
    let sim = written();
    let (log, mut writer, _) = open(&sim);
    let ends: Vec<u64> = log.shared.table().0.iter().map(|segment| segment.len()).collect();
    let kept = WHOLE - ends[0];
    assert!((1000..=WHOLE / 16).contains(&kept) && ends[1] == ends[0], "{ends:?}");
    assert_eq!(taken(&sim), 3 * WHOLE);
    // Not of the newest, which may still use it.
    assert_eq!(log.usage().bytes, 2 * WHOLE + ends[2]);
    // It is full, as the others are.
    assert_eq!(add(&log, &mut writer), Ok(()));
    let usage = log.usage();
    let newest = log.shared.table().0[3].len();
    assert_eq!(usage.bytes, 3 * WHOLE + newest);
    assert_eq!(usage.bytes + usage.spare, taken(&sim));
    drop((log, writer));
    for seed in 0..4 {
        let sim = sim.fork(seed);
        if seed == 0 {
            sim.kill()
        } else {
            sim.cut_power()
        }
        let (log, _writer, _) = open(&sim);
        assert_eq!(log.usage(), usage, "seed {seed}");
        log.release(21);
        assert_eq!(log.usage().bytes, usage.bytes - WHOLE, "all of its file is free");
    }
}

#[test]
fn what_waits_has_room_before_what_a_full_segment_keeps() {
    let sim = Sim::new(1);
    let options = Options { max_size: 256 << 10, ..options(Path::new("/")) };
    let (log, mut writer, _) = open_unstarted(Arc::new(sim.clone()), options.clone()).unwrap();
    let most = most_taken(&sim);
    // Up to the last byte: frames of 5 events, as many of which wait as may.
    let mut waiting = Vec::new();
    loop {
        match log.append(&mut block([&[7; 3000][..]])) {
            Append::Accepted(commit) => waiting.push(commit),
            Append::Busy => assert!(writer.step(Instant::now())),
            Append::Full => break,
            refused => panic!("{refused:?}"),
        }
    }
    while writer.step(Instant::now()) {}
    let stored = |mut commit| matches!(futures_now(Pin::new(&mut commit)), Poll::Ready(Ok(_)));
    assert!(waiting.len() > 80 && waiting.into_iter().all(stored));
    let (usage, most) = (log.usage(), most.load(Ordering::Relaxed));
    assert!(usage.bytes <= options.max_size && most <= options.max_size, "{usage:?}, {most}");
    let tails: Vec<u64> =
        log.shared.table().0.iter().map(|segment| segment.taken() - segment.len()).collect();
    // The third one was left when all that waits would have had no room beside it.
    assert!(tails[0] > 0 && tails[1] > 0 && tails[2] == 0, "{tails:?}");
}
