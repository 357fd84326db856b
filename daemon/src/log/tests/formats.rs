//! A log of each version of the format, as the program wrote it that had that version.
//!
//! `fixtures/v<version>` holds segments and ledger. All were made in the same way, with segments of
//! 4 KiB: 24 events, a commit each, in three runs of 8; from version 2 on a control record of type 9 behind
//! each sixth event; from version 3 on the second run compresses with LZ4 and the third with deflate; from
//! version 4 on each seventh event is in lane 1, and the tenth is gone; from version 5 on the events 21 to 23
//! are one block, the last of them with the topic of the first. After the
//! second run a bit was flipped in the event with LSN 4, which was met in the end: it stands in the
//! ledger. A new version adds its directory, which [`write_a_fixture`] makes, and a line to [`ALL`]; those
//! that are there never change.

use std::fs;

use tidegate_event::record::Block;
use tidegate_event::{Epoch, Property};

use super::super::queue::Bounds;
use super::super::segment::VERSION;
use super::*;

/// Version, epoch, segments, whether it has control records.
const ALL: [(u32, u64, usize, bool); 5] = [
    (1, 1_177_604_557_953_738_765, 4, false),
    (2, 15_276_141_940_766_108_840, 4, true),
    (3, 10_494_387_233_508_851_726, 2, true),
    (4, 17_696_149_442_064_365_650, 2, true),
    (5, 9_601_050_364_077_260_669, 2, true),
];
const EVENTS: Lsn = 24;
const DAMAGED: Lsn = 4;
/// From version 4 on.
const GONE: Lsn = 10;

fn lane(version: u32, lsn: Lsn) -> Lane {
    Lane(u8::from(version >= 4 && lsn.is_multiple_of(7)))
}

/// The first event of the block of an event.
fn block_of(version: u32, lsn: Lsn) -> Lsn {
    if version >= 5 && (21..=23).contains(&lsn) { 21 } else { lsn }
}

fn topic(version: u32, lsn: Lsn) -> String {
    let number = if version >= 5 && lsn == 23 { 21 } else { lsn };
    format!("plant/boiler-7/{number}")
}

fn received(version: u32, lsn: Lsn) -> Received {
    Received::Synced { unix_micros: 1_780_000_000_000_000 + block_of(version, lsn) as i64 }
}

/// The LSNs of the events that are there.
fn kept(version: u32) -> Vec<Lsn> {
    let is_kept = |lsn: &Lsn| *lsn != DAMAGED && (version < 4 || *lsn != GONE);
    (1..=EVENTS).filter(is_kept).collect()
}

fn fixture(version: u32) -> PathBuf {
    let dir = format!("src/log/tests/fixtures/v{version}");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)
}

/// A copy of a fixture, as the directory of a log.
fn copy(version: u32, to: &Path) {
    let to = to.join("log");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(fixture(version)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Every property of every event is what was handed in, and every control record is at its place.
fn check(log: &Arc<Log>, version: u32, epoch: u64, has_control: bool) {
    let (mut restore, mut chunk) = (log.restore(1), Chunk::default());
    let (mut lsns, mut lost, mut controls) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match restore.read(&mut chunk, 1000).unwrap() {
            Read::Frames => {}
            Read::Lost(lsns) => lost.push(lsns),
            Read::Tail => break,
        }
        for frame in chunk.frames() {
            for event in frame.events() {
                let event = event.unwrap();
                let lsn = event.lsn();
                lsns.push(lsn);
                assert_eq!(event.id, EventId { epoch: Epoch(epoch), lane: Lane(0), lsn });
                assert_eq!(event.lane, lane(version, lsn));
                assert_eq!(event.received, received(version, lsn));
                let topic = topic(version, lsn);
                assert_eq!((event.origin, event.topic), ("boiler-7", &*topic));
                let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][lsn as usize % 3];
                assert_eq!((event.qos, event.retain), (qos, lsn.is_multiple_of(5)));
                assert!(frame.has_retained || !event.retain);
                let (payload, properties) = content(lsn);
                assert_eq!(event.properties.as_bytes(), properties);
                assert_eq!(event.payload, payload.as_bytes());
            }
            for block in frame.blocks() {
                if let Block::Control { control, body } = block.unwrap() {
                    assert_eq!(control, 9);
                    controls
                        .push((*lsns.last().unwrap(), String::from_utf8(body.to_vec()).unwrap()));
                }
            }
        }
    }
    assert_eq!((lsns, lost), (kept(version), vec![DAMAGED..=DAMAGED]));
    let expected = [6, 12, 18, 24].map(|lsn| (lsn, format!("control {lsn}")));
    assert_eq!(controls, if has_control { expected.to_vec() } else { vec![] });
}

#[tokio::test]
async fn every_version_that_was_ever_written_is_read_and_continued() {
    for (version, epoch, segments, has_control) in ALL {
        println!("version {version}");
        let dir = tempfile::tempdir().unwrap();
        copy(version, dir.path());
        for next in EVENTS + 1..=EVENTS + 2 {
            let (log, recovery) = open(&options(dir.path()));
            assert_eq!((recovery.torn_bytes, recovery.set_aside.len()), (0, 0));
            assert!(log.usage().segments >= segments);
            let losses = log.losses();
            let mut said: Vec<_> = losses.iter().map(|it| (it.lsns.clone(), it.reason)).collect();
            said.sort_by_key(|(lsns, _)| *lsns.start());
            // In version 4 nobody had said that events were gone when it was written.
            let gone = (!kept(version).contains(&GONE)).then_some((GONE..=GONE, Reason::Dropped));
            let expected = [(DAMAGED..=DAMAGED, Reason::Damaged)].into_iter().chain(gone);
            assert_eq!(said, expected.collect::<Vec<_>>());
            if next == EVENTS + 1 {
                check(&log, version, epoch, has_control);
            }
            assert_eq!(log.losses(), losses, "the damage is known");
            assert_eq!(append(&log, b"new").await, next..=next, "LSNs go on");
            log.close().await;
        }
        let (log, _) = open(&options(dir.path()));
        assert_eq!(read(&mut log.reader(EVENTS + 1)).0.len(), 2);
    }
}

/// A program of the older version would take what is added for damage: so it has to refuse.
#[tokio::test]
async fn a_segment_that_is_continued_says_the_version_that_continues_it() {
    for (version, ..) in ALL {
        let dir = tempfile::tempdir().unwrap();
        copy(version, dir.path());
        let (log, _) = open(&options(dir.path()));
        append(&log, b"new").await;
        let newest = log.shared.table().0.last().unwrap().path.clone();
        let oldest = log.shared.table().0[0].path.clone();
        log.close().await;
        let said = |path: &Path| fs::read(path).unwrap()[8..12].to_vec();
        assert_eq!(said(&newest), VERSION.to_le_bytes());
        assert_eq!(said(&oldest), version.to_le_bytes(), "and no other is touched");
    }
}

/// Looking at it changes nothing, also where it is of an older version.
#[test]
fn every_version_is_shown_as_it_lies_there() {
    for (version, _, segments, _) in ALL {
        let dir = tempfile::tempdir().unwrap();
        copy(version, dir.path());
        let view = View::open(&options(dir.path())).unwrap();
        assert_eq!(view.segments().len(), segments);
        let (events, lost) = read(&mut view.reader(1));
        let lsns: Vec<Lsn> = events.iter().map(|(lsn, _)| *lsn).collect();
        assert_eq!((lsns, lost), (kept(version), vec![DAMAGED..=DAMAGED]));
        for entry in fs::read_dir(fixture(version)).unwrap() {
            let path = entry.unwrap().path();
            let shown = dir.path().join("log").join(path.file_name().unwrap());
            assert!(fs::read(path).unwrap() == fs::read(shown).unwrap());
        }
    }
}

#[test]
fn each_fixture_is_of_the_version_that_it_says() {
    let newest = ALL.map(|(version, ..)| version).into_iter().max();
    assert_eq!(newest, Some(VERSION), "add a fixture of the new version, and leave the others");
    for (version, ..) in ALL {
        for entry in fs::read_dir(fixture(version)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "seg") {
                assert_eq!(fs::read(&path).unwrap()[8..12], version.to_le_bytes());
            }
        }
    }
}

/// The payload and the properties of the event `lsn`.
fn content(lsn: Lsn) -> (String, Vec<u8>) {
    let mut properties = Vec::new();
    if lsn.is_multiple_of(4) {
        Property::ContentType("text/plain").write(&mut properties);
        Property::User("unit", "degC").write(&mut properties);
    }
    (format!("{:->400}", format!(" reading {lsn}")), properties)
}

#[tokio::test]
#[ignore = "writes the fixture of the version that is written now, where there is none"]
async fn write_a_fixture() {
    let dir = tempfile::tempdir().unwrap();
    let segment_size = 4 << 10;
    let bounds = Bounds { segment_size, max_bytes: 1 << 10, ..options(dir.path()).bounds() };
    let open = |compression| {
        let options = Options { compression, ..options(dir.path()) };
        let mut claim = Claim::new(Arc::new(FileSystem), options).unwrap();
        claim.bounds = bounds;
        claim.open(None).unwrap().0
    };
    for (run, compression) in
        [Compression::None, Compression::Lz4, Compression::Deflate].into_iter().enumerate()
    {
        let log = open(compression);
        let mut block = BlockBuilder::new("", received(VERSION, 0));
        for lsn in run as Lsn * 8 + 1..=run as Lsn * 8 + 8 {
            let (payload, properties) = content(lsn);
            let topic = topic(VERSION, lsn);
            if block_of(VERSION, lsn) == lsn {
                block.restart("boiler-7", received(VERSION, lsn));
            }
            let event = Draft {
                topic: &topic,
                qos: [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][lsn as usize % 3],
                retain: lsn.is_multiple_of(5),
                properties: Properties::new(&properties),
                payload: payload.as_bytes(),
            };
            match lsn {
                GONE => block.push_gone(Lane(1), 1),
                _ => block.push_in(lane(VERSION, lsn), &event),
            }
            if block_of(VERSION, lsn + 1) == block_of(VERSION, lsn) {
                continue;
            }
            let Append::Accepted(commit) = log.append(&mut block) else { panic!("refused") };
            commit.await.unwrap();
            if lsn.is_multiple_of(6) {
                append_control(&log, format!("control {lsn}").as_bytes()).await;
            }
        }
        log.close().await;
        if run == 1 {
            let oldest = dir.path().join("log/00000000000000000001-00000001.seg");
            let mut bytes = fs::read(&oldest).unwrap();
            bytes[1024 + 1500] ^= 4;
            fs::write(oldest, bytes).unwrap();
        }
    }
    let log = open(Compression::None);
    read(&mut log.reader(1));
    println!("epoch {}", log.id(1).epoch.0);
    log.close().await;
    fs::create_dir(fixture(VERSION)).expect("none is overwritten");
    for entry in fs::read_dir(dir.path().join("log")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with("lock") {
            fs::copy(&path, fixture(VERSION).join(path.file_name().unwrap())).unwrap();
        }
    }
}
