//! The log as its users see it, on the machine's own file system.

mod beginning;
mod compressed;
mod crash;
mod damage;
mod formats;
mod gaps;
mod lanes;
mod model;
mod on_sled;
mod owed;
mod pieces;
mod races;
mod regress;
mod retried;
mod room;
mod spare;
mod wear;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_event::record::{self, Properties};
use tidegate_event::{BlockBuilder, Draft, Lane, Qos, Received};

use super::storage::Storage;
use super::writer::Writer;
use super::*;

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.join("log"),
        lane: Lane(0),
        max_size: 1 << 20,
        segment_size: 64 << 10,
        max_delay: Duration::ZERO,
        max_bytes: 16 << 10,
        ..Options::default()
    }
}

/// Where the logs of these tests lie: `on_sled` runs them over the other engine.
fn disk() -> Arc<dyn Storage> {
    if on_sled::is_meant() { Engine::Sled.storage(Path::new("")) } else { Arc::new(FileSystem) }
}

fn open(options: &Options) -> (Arc<Log>, Recovery) {
    Log::open(disk(), options.clone()).unwrap()
}

/// Without a thread for its writer.
fn open_unstarted(
    storage: Arc<dyn Storage>,
    options: Options,
) -> Result<(Log, Writer, Recovery), OpenError> {
    Claim::new(storage, options)?.open_unstarted(None)
}

/// A block of an event for each payload.
fn block<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> BlockBuilder {
    let mut block = BlockBuilder::new("boiler-7", Received::Synced { unix_micros: 1 });
    for payload in payloads {
        block.push(&Draft {
            topic: "plant/boiler-7",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            payload,
        });
    }
    block
}

async fn append(log: &Log, payload: &[u8]) -> RangeInclusive<Lsn> {
    match log.append(&mut block([payload])) {
        Append::Accepted(commit) => commit.await.unwrap(),
        refused => panic!("{refused:?}"),
    }
}

type Events = Vec<(Lsn, Vec<u8>)>;
type Lost = Vec<RangeInclusive<Lsn>>;

/// Reads what follows: the events, and what is lost between them.
fn read(reader: &mut Reader) -> (Events, Lost) {
    let (mut events, mut lost) = (Vec::new(), Vec::new());
    let mut chunk = Chunk::default();
    loop {
        match reader.read(&mut chunk, 4096).unwrap() {
            Read::Tail => return (events, lost),
            Read::Lost(lsns) => lost.push(lsns),
            Read::Frames => {
                for event in chunk.frames().flat_map(|frame| frame.events()) {
                    let event = event.unwrap();
                    events.push((event.lsn(), event.payload.to_vec()));
                }
            }
        }
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_reopening_under_the_same_ids() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    let first = log.id(1);
    for number in 1..=300u64 {
        let lsns = append(&log, &[number as u8; 700]).await;
        assert_eq!(lsns, number..=number);
        assert_eq!(log.committed(), number);
    }
    assert!(log.usage().segments > 2);
    let before = read(&mut log.reader(1));
    log.close().await;
    assert!(matches!(log.append(&mut block([&b"late"[..]])), Append::Unavailable));

    let (log, recovery) = open(&options(dir.path()));
    assert_eq!((recovery.torn_bytes, recovery.quarantined.len()), (0, 0));
    let after = read(&mut log.reader(1));
    assert_eq!(before, after);
    assert_eq!((after.0.len(), after.1.len()), (300, 0));
    assert_eq!(log.id(1), first);
    assert_eq!(append(&log, b"next").await, 301..=301);
    assert_eq!(read(&mut log.reader(150)).0[0].0, 150);
}

#[tokio::test]
async fn a_full_log_refuses_until_a_segment_is_released_and_drains_to_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&Options { max_size: 256 << 10, ..options(dir.path()) });
    let fill = async || {
        loop {
            match log.append(&mut block([&[7; 9000][..]])) {
                Append::Accepted(commit) => drop(commit.await.unwrap()),
                // What was answered a moment ago may still be counted.
                Append::Full if futures_now(std::pin::pin!(log.room(9050))).is_ready() => {}
                Append::Full => return,
                Append::Busy => unreachable!("one at a time"),
                Append::Unavailable => panic!("the disk is fine"),
            }
        }
    };
    assert_eq!(log.refusing(), None);
    fill().await;
    assert_eq!(log.refusing(), Some(Refusing::Full));
    let full = log.usage();
    assert!(full.bytes <= 256 << 10 && full.bytes > 200 << 10, "{full:?}");
    let room = log.room(9050);
    tokio::pin!(room);
    assert!(futures_now(room.as_mut()).is_pending());
    log.release(full.first);
    assert!(futures_now(room.as_mut()).is_pending());
    // A cursor has passed the first segment.
    log.release(full.last / 2);
    room.await;
    assert_eq!(log.refusing(), None, "though nobody has asked again");
    fill().await;
    // And all of them; again and again.
    for _ in 0..10 {
        log.release(log.committed() + 1);
        log.room(9050).await;
        append(&log, b"fits").await;
        fill().await;
    }
    let (events, _) = read(&mut log.reader(1));
    assert_eq!(events.last().unwrap().0, log.committed());
}

fn futures_now<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test]
async fn a_block_as_large_as_the_newest_segment_gets_room_when_all_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&Options { max_size: 256 << 10, ..options(dir.path()) });
    let large = vec![7; 60 << 10];
    for _ in 0..12 {
        let commit = loop {
            match log.append(&mut block([&large[..], &large[..]])) {
                Append::Accepted(commit) => break commit,
                Append::Full => {
                    log.release(log.committed() + 1);
                    log.room(2 * large.len()).await;
                }
                Append::Busy => unreachable!("one at a time"),
                Append::Unavailable => panic!("the disk is fine"),
            }
        };
        commit.await.unwrap();
    }
}

#[tokio::test]
async fn who_needs_more_than_a_quarter_is_not_called_again_before_something_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&Options { max_size: 256 << 10, ..options(dir.path()) });
    for _ in 0..15 {
        append(&log, &[7; 9000]).await;
    }
    // What was answered a moment ago may still be counted.
    log.room(100 << 10).await;
    let large = vec![7; 130 << 10];
    assert!(matches!(log.append(&mut block([&large[..]])), Append::Full));
    for _ in 0..2 {
        let room = log.room(large.len());
        tokio::pin!(room);
        assert!(futures_now(room.as_mut()).is_pending(), "there is a quarter, and not enough");
        append(&log, b"a change").await;
        room.await;
    }
    assert!(matches!(log.append(&mut block([&large[..]])), Append::Full));
    log.release(log.committed() + 1);
    log.room(large.len()).await;
    append(&log, &large).await;
}

#[tokio::test]
async fn appenders_that_outrun_the_disk_are_refused_until_the_next_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut writer, _) = open_unstarted(disk(), options(dir.path())).unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        match log.append(&mut block([&[7; 5000][..]])) {
            Append::Accepted(commit) => waiting.push(commit),
            refused => break refused,
        }
    };
    assert!(matches!(refused, Append::Busy), "{refused:?}");
    assert!((13..=14).contains(&waiting.len()), "4 x 16 KiB, not {} blocks", waiting.len());
    let room = log.room(5050);
    tokio::pin!(room);
    assert!(futures_now(room.as_mut()).is_pending());
    assert!(writer.step(std::time::Instant::now()));
    assert!(futures_now(room.as_mut()).is_ready());
    assert!(matches!(log.append(&mut block([&b"fits"[..]])), Append::Accepted(_)));
}

#[tokio::test]
async fn a_commit_waits_for_more_until_its_delay_is_over_or_its_frame_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let delay = Duration::from_secs(3600);
    let options = Options { max_delay: delay, ..options(dir.path()) };
    let (log, mut writer, _) = open_unstarted(disk(), options).unwrap();
    let add =
        |len| assert!(matches!(log.append(&mut block([&vec![7; len][..]])), Append::Accepted(_)));
    let now = std::time::Instant::now();
    add(10);
    assert!(!writer.step(now));
    assert!(writer.step(now + 2 * delay));
    add(10);
    add(16 << 10);
    assert!(writer.step(now));
    assert_eq!(log.committed(), 2);
}

#[tokio::test]
async fn a_second_process_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    let refused = Log::open(disk(), options(dir.path())).unwrap_err();
    let lock = dir.path().join("log/lock");
    assert_eq!(
        refused.to_string(),
        format!("{}: in use by another process, which has to stop first", lock.display())
    );
    log.close().await;
    open(&options(dir.path()));
}

#[tokio::test]
async fn a_reader_that_was_passed_by_a_release_says_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    let mut reader = log.reader(1);
    for _ in 0..30 {
        append(&log, &[7; 9000]).await;
    }
    log.release(20);
    let first = log.usage().first;
    assert!(first > 1 && first <= 20);
    let (events, lost) = read(&mut reader);
    assert_eq!((events[0].0, lost), (first, vec![1..=first - 1]));
    assert!(log.losses().is_empty(), "a release is no loss");
}

#[tokio::test]
async fn what_a_frame_says_of_itself_is_what_its_blocks_hold() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    append(&log, b"plain").await;
    let mut retained = block([&b"a"[..]]);
    retained.push(&Draft {
        topic: "x",
        qos: Qos::AtMostOnce,
        retain: true,
        properties: Properties::default(),
        payload: b"kept",
    });
    let Append::Accepted(commit) = log.append(&mut retained) else { panic!("refused") };
    assert_eq!(commit.await, Ok(2..=3));
    let (mut reader, mut chunk) = (log.reader(3), Chunk::default());
    assert_eq!(reader.read(&mut chunk, 1 << 20).unwrap(), Read::Frames);
    let frames: Vec<_> = chunk.frames().collect();
    assert_eq!(frames.len(), 1);
    assert_eq!((frames[0].first, frames[0].count), (log.id(2), 2));
    assert!(frames[0].has_retained);
    let events: Vec<_> = frames[0].events().map(|event| event.unwrap().id).collect();
    assert_eq!(events, [log.id(3)], "those below the cursor are passed over");
    assert_eq!(reader.position(), 4);
}

/// A control block of type 9.
fn control(body: &[u8]) -> Vec<u8> {
    let mut blocks = Vec::new();
    record::write_control(9, body, &mut blocks);
    blocks
}

async fn append_control(log: &Log, body: &[u8]) -> RangeInclusive<Lsn> {
    match log.append_control(&control(body)) {
        Append::Accepted(commit) => commit.await.unwrap(),
        refused => panic!("{refused:?}"),
    }
}

/// What a restore from `from` on sees: events by LSN, control records by their body's first byte.
fn restored(log: &Arc<Log>, from: Lsn) -> Vec<String> {
    let (mut restore, mut chunk, mut seen) = (log.restore(from), Chunk::default(), Vec::new());
    loop {
        match restore.read(&mut chunk, 1).unwrap() {
            Read::Frames => {}
            Read::Tail => return seen,
            Read::Lost(_) => seen.push("lost".into()),
        }
        for frame in chunk.frames() {
            seen.extend(frame.events().map(|event| event.unwrap().lsn().to_string()));
            for block in frame.blocks() {
                if let record::Block::Control { body, .. } = block.unwrap() {
                    seen.push(String::from_utf8(body.to_vec()).unwrap());
                }
            }
        }
    }
}

#[tokio::test]
async fn control_records_take_no_lsn_and_are_there_after_a_reopening_up_to_the_very_end() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    let watch = log.watch();
    assert_eq!(append_control(&log, b"a").await, RangeInclusive::new(1, 0));
    assert!(!watch.has_changed().unwrap(), "who waits for events is not woken");
    append(&log, b"one").await;
    append_control(&log, b"b").await;
    append(&log, b"two").await;
    assert_eq!(append_control(&log, b"c").await, RangeInclusive::new(3, 2));
    let whole = ["a", "1", "b", "2", "c"];
    assert_eq!(restored(&log, 1), whole);
    log.close().await;

    let (log, _) = open(&options(dir.path()));
    assert_eq!(log.committed(), 2);
    assert_eq!(restored(&log, 1), whole);
    assert_eq!(restored(&log, 2), ["b", "2", "c"]);
    assert_eq!(restored(&log, 3), ["c"]);
    assert_eq!(read(&mut log.reader(1)).0.len(), 2);
    let mut reader = log.reader(3);
    append(&log, b"three").await;
    assert_eq!(read(&mut reader).0, [(3, b"three".to_vec())]);
}

#[tokio::test]
async fn control_records_alone_fill_segments_that_stay_until_their_mark_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    for _ in 0..60 {
        append_control(&log, &[b'x'; 3000]).await;
    }
    let segments = log.usage().segments;
    assert!(segments > 2);
    assert_eq!(log.releasable(1, 0, 1), 0);
    log.release(1);
    assert_eq!((log.usage().segments, restored(&log, 1).len()), (segments, 60));
    log.close().await;

    let (log, _) = open(&options(dir.path()));
    log.release(1);
    assert_eq!(restored(&log, 1).len(), 60);
    let mark = log.control_mark();
    assert!(log.releasable(1, mark, 1) > 50_000);
    log.release_control(mark, 1);
    log.release(1);
    assert_eq!(log.usage().segments, 1);
    assert_eq!(append(&log, b"one").await, 1..=1);
}

#[tokio::test]
async fn a_log_full_of_events_has_a_segment_left_for_control_records() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_size: 256 << 10, ..options(dir.path()) };
    let (log, _) = open(&options);
    while let Append::Accepted(commit) = log.append(&mut block([&[7; 5000][..]])) {
        commit.await.unwrap();
    }
    let mut taken = 0;
    let blocks = control(&[b'x'; 1000]);
    let refused = loop {
        match log.append_control(&blocks) {
            Append::Accepted(commit) => taken += commit.await.map(|_| blocks.len()).unwrap(),
            // What was answered a moment ago may still be counted.
            _ if futures_now(std::pin::pin!(log.control_room(blocks.len()))).is_ready() => {}
            refused => break refused,
        }
    };
    assert!(matches!(refused, Append::Full), "{refused:?}");
    assert!((60_000..70_000).contains(&taken), "{taken}");
    assert!(log.usage().bytes <= (256 << 10) + options.segment_size);
    let room = log.control_room(blocks.len());
    tokio::pin!(room);
    assert!(futures_now(room.as_mut()).is_pending());
    log.release(log.committed() / 2);
    room.await;
    append_control(&log, b"fits").await;
}

#[tokio::test]
async fn a_writer_that_is_gone_answers_nobody_with_a_promise_and_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, writer, _) = open_unstarted(disk(), options(dir.path())).unwrap();
    let Append::Accepted(commit) = log.append(&mut block([&b"waits"[..]])) else { panic!() };
    let stopped = log.stopped();
    tokio::pin!(stopped);
    assert!(futures_now(stopped.as_mut()).is_pending());
    drop(writer);
    stopped.await;
    assert_eq!(commit.await, Err(NotStored));
    assert!(matches!(log.append(&mut block([&b"late"[..]])), Append::Unavailable));
}

#[tokio::test]
async fn a_log_that_ends_before_what_somebody_has_read_goes_on_behind_that() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    for _ in 0..10 {
        append(&log, b"read").await;
    }
    let known = log.id(10);
    log.close().await;
    let segment = dir.path().join("log/00000000000000000001-00000001.seg");
    let file = std::fs::OpenOptions::new().write(true).open(segment).unwrap();
    file.set_len(file.metadata().unwrap().len() - 100).unwrap();

    let reopen = |known| {
        let claim = Claim::new(disk(), options(dir.path())).unwrap();
        claim.open(Some(known)).unwrap()
    };
    let (log, recovery) = reopen(known);
    assert_eq!(recovery.quarantined, vec![9..=10]);
    assert_eq!((log.committed(), log.losses()[0].reason), (10, Reason::Missing));
    // Whoever has none of it, whoever has all of it, and whoever comes late.
    let mut readers = [log.reader(1), log.reader(11)];
    assert_eq!(read(&mut readers[0]), (read(&mut log.reader(1)).0, vec![9..=10]));
    append(&log, b"new").await;
    for reader in &mut readers {
        assert_eq!(read(reader), (vec![(11, b"new".to_vec())], vec![]));
    }
    assert_eq!(read(&mut log.reader(9)).1, vec![9..=10]);
    assert_eq!(restored(&log, 8), ["8", "lost", "11"]);
    log.close().await;
    // The same again, or what another log's cursors say, changes nothing.
    for known in [known, EventId { epoch: tidegate_event::Epoch(1), lsn: 99, ..known }] {
        let (log, _) = reopen(known);
        assert_eq!((log.committed(), log.losses().len()), (11, 1));
        assert_eq!(read(&mut log.reader(9)).1, vec![9..=10]);
        log.close().await;
    }
}

#[tokio::test]
async fn a_cursor_of_another_log_reads_from_the_oldest_event() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    append(&log, b"one").await;
    assert_eq!(log.reader(2).position(), 2);
    assert_eq!(log.reader(3).position(), 1);
}
