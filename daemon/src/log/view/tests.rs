use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use tidegate_event::record::{Properties, write_control};
use tidegate_event::{BlockBuilder, Draft, Qos, Received};

use super::*;
use crate::log::{Append, Chunk, FileSystem, Log, Read};

const SECOND: i64 = 1_000_000;

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.into(),
        max_size: 1 << 20,
        segment_size: 64 << 10,
        max_bytes: 16 << 10,
        ..Options::default()
    }
}

fn create(dir: &Path) -> Arc<Log> {
    Log::open(Arc::new(FileSystem), options(dir)).unwrap().0
}

fn look(dir: &Path) -> View {
    View::open(&options(dir)).unwrap()
}

/// Appends an event of 700 bytes for each second.
async fn append(log: &Log, seconds: impl IntoIterator<Item = i64>) {
    for second in seconds {
        let received = Received::Synced { unix_micros: second * SECOND };
        let mut block = BlockBuilder::new("boiler-7", received);
        block.push(&Draft {
            topic: "plant/boiler-7",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            payload: &[7; 700],
        });
        match log.append(&mut block) {
            Append::Accepted(commit) => drop(commit.await.unwrap()),
            refused => panic!("{refused:?}"),
        }
    }
}

/// The LSNs of the events that follow, and those that are lost.
fn read(reader: &mut Reader) -> (Vec<Lsn>, Vec<std::ops::RangeInclusive<Lsn>>) {
    let (mut events, mut lost) = (Vec::new(), Vec::new());
    let mut chunk = Chunk::default();
    loop {
        match reader.read(&mut chunk, 4096).unwrap() {
            Read::Tail => return (events, lost),
            Read::Lost(lsns) => lost.push(lsns),
            Read::Frames => {
                let frames = chunk.frames().flat_map(|frame| frame.events());
                events.extend(frames.map(|event| event.unwrap().lsn()));
            }
        }
    }
}

fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn walk(view: &View) -> Vec<Walked> {
    let mut all = Vec::new();
    for index in 0..view.segments().len() {
        view.walk(index, |walked| {
            all.push(walked);
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    all
}

#[tokio::test]
async fn a_log_in_use_is_seen_whole_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path());
    append(&log, 1..=200).await;
    let mut control = Vec::new();
    write_control(1, b"a session", &mut control);
    let Append::Accepted(commit) = log.append_control(&control) else { panic!("refused") };
    commit.await.unwrap();

    let before = content(dir.path());
    let view = look(dir.path());
    assert_eq!(view.usage(), log.usage());
    assert_eq!(view.epoch(), log.id(1).epoch);
    assert_eq!(view.changes(), []);
    assert_eq!(read(&mut view.reader(1)), ((1..=200).collect(), Vec::new()));
    assert_eq!(read(&mut view.reader(77)).0[0], 77);
    let frames = walk(&view);
    assert_eq!(frames.len(), 201);
    let Walked::Frame(last) = frames.last().unwrap() else { panic!("{frames:?}") };
    assert_eq!((last.events, last.control, last.received), (0, 1, None));
    let Walked::Frame(first) = &frames[0] else { panic!("{frames:?}") };
    assert_eq!((first.first, first.received), (1, Some((SECOND, SECOND))));
    assert_eq!(content(dir.path()), before);
}

#[tokio::test]
async fn it_follows_what_is_written_and_says_what_was_released_unseen() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path());
    append(&log, 1..=50).await;
    let mut view = look(dir.path());
    let mut reader = view.reader(41);
    assert_eq!(read(&mut reader).0, (41..=50).collect::<Vec<_>>());
    assert!(!view.follow().unwrap());
    for end in [51, 52, 300] {
        let first = log.committed() as i64 + 1;
        append(&log, first..=end).await;
        while view.follow().unwrap() {}
        let expected: Vec<Lsn> = (first as u64..=end as u64).collect();
        assert_eq!(read(&mut reader), (expected, Vec::new()));
        assert_eq!(view.usage().last, end as u64);
    }
    assert!(view.segments().len() > 3);

    append(&log, 301..=600).await;
    log.release(550);
    let oldest = log.usage().first;
    assert!(oldest > 400);
    while view.follow().unwrap() {}
    let (events, lost) = read(&mut reader);
    assert_eq!(*events.last().unwrap(), 600);
    let lost: u64 = lost.iter().map(|lsns| lsns.end() - lsns.start() + 1).sum();
    assert_eq!(events.len() as u64 + lost, 300, "every LSN is read or told");
}

#[tokio::test]
async fn what_opening_would_do_is_told_and_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path());
    append(&log, 1..=200).await;
    log.close().await;
    drop(log);
    let segments: Vec<PathBuf> =
        content(dir.path()).into_keys().filter(|path| path.extension().is_some()).collect();
    let (damaged, newest) = (&segments[0], segments.last().unwrap());
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    flip(damaged, 5000);
    let whole = fs::metadata(newest).unwrap().len();
    fs::OpenOptions::new().write(true).open(newest).unwrap().set_len(whole - 1).unwrap();
    fs::write(dir.path().join("notes.txt"), "foreign").unwrap();

    let before = content(dir.path());
    let view = look(dir.path());
    let changes = view.changes();
    let moved = |change: &Change| matches!(change, Change::Moved { from, .. } if from.ends_with("notes.txt"));
    let cut = |change: &Change| matches!(change, Change::Cut { path, .. } if path == newest);
    assert!(changes.iter().any(moved) && changes.iter().any(cut), "{changes:?}");
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert_eq!(view.usage().last, 199);
    let damage: Vec<_> =
        walk(&view).into_iter().filter(|walked| matches!(walked, Walked::Damage(_))).collect();
    let [Walked::Damage(damage)] = &damage[..] else { panic!("{damage:?}") };
    let lost = damage.lsns.clone().unwrap();
    assert_eq!(lost.start(), lost.end());
    assert!(damage.offset < 5000 && damage.offset + damage.bytes > 5000);
    assert_eq!(read(&mut view.reader(1)).1, [lost]);
    assert_eq!(content(dir.path()), before);
    assert!(!dir.path().join("quarantine").exists());

    drop(create(dir.path()));
    assert!(dir.path().join("quarantine/00000001-notes.txt").exists());
    assert_eq!(look(dir.path()).changes(), []);
}

#[tokio::test]
async fn it_shows_where_the_log_begins_and_what_is_missing_there() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path());
    append(&log, 1..=400).await;
    assert_eq!(look(dir.path()).begins(), Some(1));
    let segments = look(dir.path()).segments();
    log.release(segments[1].lsns.start);
    let view = look(dir.path());
    assert_eq!(view.begins(), Some(segments[1].lsns.start));
    assert_eq!((view.changes(), &view.recovery().quarantined), (&[][..], &vec![]));
    log.close().await;
    drop(log);
    fs::remove_file(&segments[1].path).unwrap();
    let view = look(dir.path());
    assert_eq!(view.recovery().quarantined, [segments[1].lsns.start..=segments[1].lsns.end - 1]);
    assert_eq!(view.begins(), Some(segments[1].lsns.start));
}

#[tokio::test]
async fn a_time_leads_to_the_segment_that_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path());
    append(&log, 1001..=1600).await;
    let view = look(dir.path());
    let segments = view.segments();
    assert!(segments.len() > 5);
    for second in 990..=1610 {
        let time = second * SECOND;
        let since = view.since(time).unwrap();
        let wanted = (second - 1000).max(1) as Lsn;
        assert!(since <= wanted, "second {second}: from {since}");
        let segment = segments.iter().rfind(|segment| segment.lsns.start <= wanted).unwrap();
        assert!(second > 1600 || since == segment.lsns.start, "second {second}: from {since}");
        let until = view.until(time).unwrap();
        assert!(until > wanted.min(600) || second <= 1000, "second {second}: until {until}");
    }
    assert_eq!(view.until(2000 * SECOND).unwrap(), 601);
    assert_eq!(view.since(0).unwrap(), 1);
    assert_eq!(view.until(0).unwrap(), 1);
}

#[tokio::test]
async fn what_the_segments_take_adds_up_to_what_the_log_uses() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path());
    append(&log, 1..=300).await;
    let check = |usage: Usage| {
        let view = look(dir.path());
        let segments = view.segments();
        let (newest, full) = segments.split_last().unwrap();
        assert_eq!((full.len(), newest.unused), (3, 0), "{segments:?}");
        for segment in full {
            let file = fs::metadata(&segment.path).unwrap().len();
            assert_eq!(segment.bytes + segment.unused, file);
        }
        assert!(full.iter().all(|segment| segment.unused > 0), "{segments:?}");
        let all: u64 = segments.iter().map(|segment| segment.bytes + segment.unused).sum();
        assert_eq!((all, view.usage().bytes), (usage.bytes, usage.bytes));
    };
    let usage = log.usage();
    check(usage);
    log.close().await;
    check(usage);
}

#[tokio::test]
async fn a_file_with_the_name_of_the_quarantine_is_nothing_that_was_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    let path = dir.path().join("quarantine");
    std::fs::write(&path, "foreign").unwrap();
    assert_eq!(look(dir.path()).set_aside().unwrap(), []);
    assert_eq!(std::fs::read(&path).unwrap(), b"foreign");
}
