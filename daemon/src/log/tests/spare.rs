//! Files that are used again.

use std::fs;

use super::super::storage::sim::Sim;
use super::*;

fn names(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|it| it == ending)).collect();
    files.sort();
    files
}

async fn fill(log: &Log, segments: usize) {
    let wanted = log.usage().segments + segments;
    while log.usage().segments < wanted {
        append(log, &[7; 3000]).await;
    }
}

#[tokio::test]
async fn a_released_segment_is_written_over_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    fill(&log, 2).await;
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let oldest = inode(&names(dir.path(), "seg")[0]);
    let first = log.usage().last;
    log.release(first);
    let spares = names(dir.path(), "spare");
    assert_eq!((spares.len(), log.usage().segments), (2, 1));
    assert!(spares.iter().any(|path| inode(path) == oldest));
    fill(&log, 2).await;
    assert!(names(dir.path(), "spare").is_empty());
    let segments = names(dir.path(), "seg");
    assert!(segments[1..].iter().any(|path| inode(path) == oldest));
    let last = log.committed();
    assert_eq!(read(&mut log.reader(first)).0.len() as u64, last - first + 1);
    // The process dies, so nothing is cut.
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("log")).unwrap();
    for path in segments {
        fs::copy(&path, copy.path().join("log").join(path.file_name().unwrap())).unwrap();
    }
    let (copied, recovery) = open(&options(copy.path()));
    assert_eq!((recovery.torn_bytes, recovery.quarantined, recovery.control_lost), (0, vec![], 0));
    assert_eq!(read(&mut copied.reader(first)), read(&mut log.reader(first)));
    assert_eq!(append(&copied, b"next").await, last + 1..=last + 1);
}

#[tokio::test]
async fn spares_are_kept_within_bounds_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let (log, _) = open(&options);
    fill(&log, 12).await;
    log.release(log.committed());
    let usage = log.usage();
    // An eighth of the log.
    assert_eq!(names(dir.path(), "spare").len(), 2);
    assert!((100_000..200_000).contains(&usage.spare), "{usage:?}");
    log.close().await;
    let (log, recovery) = open(&options);
    assert_eq!(recovery.set_aside, Vec::<PathBuf>::new());
    assert_eq!(names(dir.path(), "spare").len(), 2);
    fill(&log, 2).await;
    assert!(names(dir.path(), "spare").is_empty());
    log.close().await;
    // One that is no use any more goes.
    fs::write(dir.path().join("log/0000abcd.spare"), "short").unwrap();
    drop(open(&options));
    assert!(names(dir.path(), "spare").is_empty());
}

#[tokio::test]
async fn all_files_together_stay_within_max_size() {
    // All but the first met a segment that kept what its file had left, and the next one's frame had no room.
    for seed in [1, 9, 30, 93, 118, 213, 284] {
        stays_within_max_size(seed).await;
    }
}

async fn stays_within_max_size(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_size: 512 << 10, ..options(dir.path()) };
    let (log, _) = open(&options);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..400 {
        match log.append(&mut block([&vec![7; random.usize(..12_000)][..]])) {
            Append::Accepted(commit) => drop(commit.await.unwrap()),
            Append::Full => log.release(random.u64(log.usage().first..=log.committed() + 1)),
            refused => panic!("{refused:?}"),
        }
        let look = || {
            let files = [names(dir.path(), "seg"), names(dir.path(), "spare")].concat();
            let sizes = files.iter().filter_map(|path| fs::metadata(path).ok());
            (sizes.map(|it| it.len()).sum::<u64>(), log.usage())
        };
        let (bytes, usage) = look();
        assert!(bytes <= options.max_size, "seed {seed}: {bytes}: {usage:?}");
        // What was released may still be on its way when the next segment has begun.
        let begin = std::time::Instant::now();
        let is_settled = || {
            let (bytes, usage) = look();
            usage.bytes + usage.spare == bytes
        };
        while !is_settled() {
            assert!(begin.elapsed() < Duration::from_secs(30), "seed {seed}: {:?}", look());
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn who_reads_a_segment_keeps_it_and_who_looks_from_outside_is_told_that_it_went() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let (log, _) = open(&options);
    fill(&log, 3).await;
    let (mut inside, mut chunk) = (log.reader(1), Chunk::default());
    assert_eq!(inside.read(&mut chunk, 1).unwrap(), Read::Frames);
    let mut outside = View::open(&options).unwrap().reader(1);
    assert_eq!(outside.read(&mut chunk, 1).unwrap(), Read::Frames);
    let second = log.usage().first;
    log.release(log.committed());
    fill(&log, 2).await;
    let (events, lost) = read(&mut inside);
    assert!(events.iter().any(|(lsn, _)| *lsn == second + 3), "of the segment that it had open");
    assert_eq!((lost.len(), log.losses()), (1, vec![]));
    let (events, lost) = read(&mut outside);
    assert!(!lost.is_empty());
    let all = events.len() as u64 + lost.into_iter().map(|lsns| lsns.count() as u64).sum::<u64>();
    assert_eq!((all, log.losses()), (60, vec![]));
    assert!(!dir.path().join("log/quarantine").exists());
}

#[test]
fn spares_are_the_first_to_go_when_the_disk_is_full() {
    let sim = Sim::new(1);
    let (log, mut writer, _) =
        open_unstarted(Arc::new(sim.clone()), options(Path::new("/"))).unwrap();
    let mut add = |log: &Log| {
        let Append::Accepted(mut commit) = log.append(&mut block([&[7; 3000][..]])) else {
            panic!("refused")
        };
        writer.step(std::time::Instant::now());
        assert!(matches!(futures_now(Pin::new(&mut commit)), Poll::Ready(Ok(_))));
    };
    (0..70).for_each(|_| add(&log));
    log.release(log.committed());
    let spare = log.usage().spare;
    sim.leave_room(0);
    // What is there already takes these.
    (0..35).for_each(|_| add(&log));
    assert!(log.usage().spare < spare && !log.is_disk_full());
}

#[test]
fn control_records_of_an_older_use_do_not_come_back() {
    let sim = Sim::new(1);
    let open = || open_unstarted(Arc::new(sim.clone()), options(Path::new("/"))).unwrap();
    let (log, mut writer, _) = open();
    let mut add = |log: &Log, body: u8| {
        assert!(matches!(log.append_control(&control(&[body; 3000])), Append::Accepted(_)));
        writer.step(std::time::Instant::now());
    };
    (0..25).for_each(|_| add(&log, b'a'));
    assert_eq!(log.usage().segments, 2);
    log.release_control(log.control_mark(), 1);
    log.release(1);
    assert!(log.shared.spares.bytes() > 0);
    // The last of them lie in the file of the first segment, before old ones: as long, with the same LSN.
    (0..20).for_each(|_| add(&log, b'b'));
    assert_eq!((log.usage().segments, log.shared.spares.bytes()), (2, 0));
    drop((log, writer));
    sim.kill();
    let log = Arc::new(open().0);
    let found = restored(&log, 1);
    let of = |body: u8| found.iter().filter(|said| said.as_bytes()[0] == body).count();
    assert_eq!((of(b'a'), of(b'b')), (4, 20));
}

#[tokio::test]
async fn a_full_segment_leaves_little_empty_and_its_file_as_it_is() {
    // Bytes of an event; frames in a segment, and whether they reach beyond its 64 KiB.
    for (bytes, frames, is_beyond) in
        [(16_300, 4, true), (1_950, 31, false), (14_000, 5, true), (19_500, 3, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        let (log, _) = open(&options);
        let sizes = || {
            let files = names(dir.path(), "seg");
            files.iter().map(|path| fs::metadata(path).unwrap().len()).collect::<Vec<_>>()
        };
        // One more begins the next segment.
        for _ in 0..2 * frames + 1 {
            append(&log, &vec![7; bytes]).await;
        }
        let (used, usage) = (sizes(), log.usage());
        assert_eq!((used.len(), usage.segments), (3, 3), "{bytes}");
        // Cut where more than a sixteenth of it is empty.
        let is_cut = bytes == 19_500;
        assert_eq!((used[0] > 64 << 10, used[0] < 64 << 10), (is_beyond, is_cut), "{bytes}");
        assert!(used[0] >= 56 << 10, "{used:?}");
        // What stays is used, what was allocated for the newest is not.
        assert_eq!(usage.bytes + usage.spare, used.iter().sum::<u64>());
        let newest = usage.bytes - used[0] - used[1];
        assert!((bytes as u64..bytes as u64 + 2048).contains(&newest), "{newest}");
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("log")).unwrap();
        for path in names(dir.path(), "seg") {
            fs::copy(&path, copy.path().join("log").join(path.file_name().unwrap())).unwrap();
        }
        let (copied, recovery) = open(&Options { dir: copy.path().join("log"), ..options.clone() });
        assert_eq!((recovery.torn_bytes, recovery.quarantined), (0, vec![]), "{bytes}");
        assert_eq!(copied.usage().bytes, usage.bytes, "{bytes}");
        assert_eq!(read(&mut copied.reader(1)), read(&mut log.reader(1)));
        // Once more, in the files that there are.
        log.release(log.committed());
        for _ in 0..frames {
            append(&log, &vec![8; bytes]).await;
        }
        assert_eq!(*sizes().last().unwrap(), used[0].max(64 << 10), "{bytes}");
    }
}
