//! The log as its users see it, on the machine's own file system.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Lane, Qos, Received};

use super::*;

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.join("log"),
        lane: Lane(0),
        max_size: 1 << 20,
        segment_size: 64 << 10,
        max_delay: Duration::ZERO,
        max_bytes: 16 << 10,
    }
}

fn open(options: &Options) -> (Arc<Log>, Recovery) {
    Log::open(Arc::new(FileSystem), options.clone()).unwrap()
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

/// Reads what follows: the events, and what is lost between them.
fn read(reader: &mut Reader) -> (Vec<(Lsn, Vec<u8>)>, Vec<RangeInclusive<Lsn>>) {
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
