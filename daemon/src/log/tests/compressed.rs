//! Frames that are compressed, whatever else is done with them.

use std::fs;

use super::super::frame::{self, HEADER_LEN, Parsed};
use super::super::segment::{self, Decoded, Header};
use super::*;

const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Deflate];

fn compressing(dir: &Path, compression: Compression) -> Options {
    Options { compression, ..options(dir) }
}

/// What a sensor says: 3000 bytes in which much is the same.
fn payload(number: u64) -> Vec<u8> {
    let line = format!("{{\"number\":{number},\"value\":{}.5}}", number % 90);
    line.into_bytes().into_iter().cycle().take(3000).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("log")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    paths.sort();
    paths
}

#[tokio::test]
async fn events_are_read_whatever_the_setting_was_when_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut sizes = Vec::new();
    for (round, compression) in ALL.into_iter().enumerate() {
        let (log, _) = open(&compressing(dir.path(), compression));
        let before = log.usage().bytes;
        for number in 0..60 {
            append(&log, &payload(round as u64 * 60 + number)).await;
        }
        sizes.push(log.usage().bytes - before);
        log.close().await;
    }
    assert!(sizes[1] * 10 < sizes[0] && sizes[2] * 10 < sizes[0], "{sizes:?}");
    let (log, recovery) = open(&options(dir.path()));
    assert_eq!((recovery.torn_bytes, recovery.quarantined.len()), (0, 0));
    let (events, lost) = read(&mut log.reader(1));
    assert_eq!(lost, []);
    let expected: Events = (0..180).map(|number| (number + 1, payload(number))).collect();
    assert!(events == expected, "{} events", events.len());
    assert_eq!(read(&mut log.reader(100)).0, expected[99..]);
    let mut restore = log.restore(100);
    let mut chunk = Chunk::default();
    let mut restored = 0;
    while restore.read(&mut chunk, 4096).unwrap() != Read::Tail {
        restored += chunk.frames().flat_map(|frame| frame.events()).map(Result::unwrap).count();
    }
    assert_eq!(restored, 81);
}

#[tokio::test]
async fn a_reader_inflates_no_more_at_a_time_than_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&compressing(dir.path(), Compression::Lz4));
    for number in 0..200 {
        append(&log, &payload(number)).await;
    }
    let mut reader = log.reader(1);
    let mut chunk = Chunk::default();
    let mut events = 0;
    // All of them are less than that on disk.
    while reader.read(&mut chunk, 32 << 10).unwrap() == Read::Frames {
        let inflated: usize = chunk.frames().map(|frame| frame.payload.len()).sum();
        assert!(inflated < 40 << 10, "{inflated}");
        events += chunk.frames().map(|frame| frame.count).sum::<u32>();
    }
    assert_eq!(events, 200);
}

#[tokio::test]
async fn damage_costs_one_frame() {
    for compression in ALL {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = open(&compressing(dir.path(), compression));
        for number in 0..60 {
            append(&log, &payload(number)).await;
        }
        log.close().await;
        let segment = segments(dir.path())[0].clone();
        let mut bytes = fs::read(&segment).unwrap();
        let middle = (segment::HEADER_LEN + bytes.len()) / 2;
        bytes[middle] ^= 1;
        fs::write(&segment, bytes).unwrap();
        let (log, _) = open(&options(dir.path()));
        let (events, lost) = read(&mut log.reader(1));
        assert_eq!((events.len(), lost.len()), (59, 1), "{compression:?}");
    }
}

#[tokio::test]
async fn a_frame_that_cannot_be_inflated_is_lost_and_the_next_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&compressing(dir.path(), Compression::Deflate));
    for number in 0..30 {
        append(&log, &payload(number)).await;
    }
    log.close().await;
    let segment = segments(dir.path())[0].clone();
    let mut bytes = fs::read(&segment).unwrap();
    let Decoded::Header(Header { salt, .. }) = Header::decode(&bytes) else { panic!("no header") };
    let mut at = segment::HEADER_LEN;
    for _ in 0..10 {
        let Parsed::Frame(header) = frame::parse(&bytes[at..], salt) else { panic!("no frame") };
        at += header.frame_len();
    }
    let Parsed::Frame(header) = frame::parse(&bytes[at..], salt) else { panic!("no frame") };
    assert_eq!(header.first, 11);
    let forged = &mut bytes[at..at + header.frame_len()];
    forged[HEADER_LEN + 4..].fill(0xff);
    frame::seal(forged, header.first, header.count, header.flags, salt);
    fs::write(&segment, bytes).unwrap();

    let (log, recovery) = open(&options(dir.path()));
    assert_eq!(recovery.quarantined, []);
    let (events, lost) = read(&mut log.reader(1));
    assert_eq!((events.len(), &lost[..]), (29, &[11..=11][..]));
    assert_eq!(log.losses().len(), 1);
    let mut restore = log.restore(1);
    let mut chunk = Chunk::default();
    let mut found = Vec::new();
    loop {
        match restore.read(&mut chunk, 1 << 20).unwrap() {
            Read::Frames => {}
            Read::Tail => break,
            Read::Lost(lsns) => found.push(lsns),
        }
    }
    assert_eq!(found, [11..=11]);
}
