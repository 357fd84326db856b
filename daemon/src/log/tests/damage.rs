//! One test for each way in which a disk lets the log down.

use std::time::Instant;

use super::super::frame::{self, Parsed};
use super::super::segment::{self, Decoded};
use super::super::storage::sim::Sim;
use super::super::writer::Writer;
use super::*;

pub(super) const DIR: &str = "/log";

pub(super) fn open(sim: &Sim) -> (Arc<Log>, Writer, Recovery) {
    let (log, writer, recovery) =
        open_unstarted(Arc::new(sim.clone()), options(Path::new("/"))).unwrap();
    (Arc::new(log), writer, recovery)
}

/// A disk with 60 events of 3000 bytes, a frame each, in three segments of 20.
pub(super) fn written() -> Sim {
    written_of(60)
}

/// The same, with so many events.
fn written_of(events: usize) -> Sim {
    let sim = Sim::new(1);
    let (log, mut writer, _) = open(&sim);
    (0..events).for_each(|_| assert_eq!(add(&log, &mut writer), Ok(())));
    assert_eq!(log.usage().segments, 3);
    sim
}

/// Appends an event of 3000 bytes and commits it.
pub(super) fn add(log: &Log, writer: &mut Writer) -> Result<(), Option<NotStored>> {
    let Append::Accepted(mut commit) = log.append(&mut block([&[7; 3000][..]])) else {
        return Err(None);
    };
    writer.step(Instant::now());
    match futures_now(Pin::new(&mut commit)) {
        Poll::Ready(answer) => answer.map(drop).map_err(Some),
        Poll::Pending => panic!("no answer"),
    }
}

pub(super) fn segments(sim: &Sim) -> Vec<PathBuf> {
    let names = sim.list(Path::new(DIR)).unwrap();
    names
        .iter()
        .filter(|name| name.ends_with(".seg"))
        .map(|name| Path::new(DIR).join(name))
        .collect()
}

pub(super) fn quarantined(sim: &Sim) -> Vec<String> {
    sim.list(&Path::new(DIR).join("quarantine")).unwrap_or_default()
}

/// Opens, reads everything, and says what is there and what is not.
pub(super) fn opened(sim: &Sim) -> (Recovery, Vec<Lsn>, Lost, Lost) {
    let (log, mut writer, recovery) = open(sim);
    let (events, lost) = read(&mut log.reader(1));
    let losses = log.losses().into_iter().map(|loss| loss.lsns).collect();
    let next = log.committed() + 1;
    assert_eq!(add(&log, &mut writer), Ok(()), "it takes events");
    assert_eq!(log.committed(), next);
    (recovery, events.into_iter().map(|(lsn, _)| lsn).collect(), lost, losses)
}

pub(super) fn without(lost: RangeInclusive<Lsn>) -> Vec<Lsn> {
    (1..=60).filter(|lsn| !lost.contains(lsn)).collect()
}

/// Where the newest segment ends, and what the next frame would be, in its file.
fn next_frame(sim: &Sim) -> (PathBuf, usize, Vec<u8>) {
    let newest = segments(sim).pop().unwrap();
    let content = sim.content(&newest);
    let Decoded::Header(header) = segment::Header::decode(&content) else { panic!("no header") };
    let (mut at, mut frame) = (segment::HEADER_LEN, Vec::new());
    while let Parsed::Frame(found) = frame::parse(&content[at..], header.salt) {
        frame = content[at..at + found.frame_len()].to_vec();
        at += found.frame_len();
    }
    let Parsed::Frame(last) = frame::parse(&frame, header.salt) else { panic!("no frame") };
    frame::seal(&mut frame, last.end(), 1, 0, header.salt);
    (newest, at, frame)
}

#[test]
fn a_torn_tail_is_cut_and_nothing_is_lost() {
    for is_allocated in [true, false] {
        let sim = written_of(50);
        let (newest, end, frame) = next_frame(&sim);
        let mut content = sim.content(&newest);
        assert!(content.len() > end + 3000, "the segment is allocated ahead");
        if !is_allocated {
            content.truncate(end + 2000);
            content.resize(end + 2000, 0);
        }
        content[end..end + 2000].copy_from_slice(&frame[..2000]);
        sim.set_content(&newest, &content);
        let (recovery, events, lost, losses) = opened(&sim);
        assert_eq!(recovery.torn_bytes, if is_allocated { frame.len() as u64 } else { 2000 });
        assert_eq!((events, lost, losses), ((1..=50).collect(), vec![], vec![]));
    }
}

#[test]
fn what_an_older_use_of_the_file_left_behind_the_end_is_neither_torn_nor_damaged() {
    let sim = written_of(50);
    let (newest, end, mut frame) = next_frame(&sim);
    // Frames that were good, of older events and another salt; the first one where the next is to be.
    frame::seal(&mut frame, 20, 1, 0, 7);
    let mut content = sim.content(&newest);
    let room = content.len() - end;
    content[end..].copy_from_slice(&frame.repeat(room / frame.len() + 1)[..room]);
    sim.set_content(&newest, &content);
    let (recovery, events, lost, losses) = opened(&sim);
    assert_eq!((recovery.torn_bytes, recovery.control_lost), (0, 0));
    assert_eq!((events, lost, losses), ((1..=50).collect(), vec![], vec![]));
    assert_eq!(sim.content(&newest).len(), content.len(), "it is written over, not cut");
    // A bad frame with a good one behind it is damage all the same.
    sim.kill();
    sim.flip(&newest, end - 100, 3);
    let (recovery, ..) = opened(&sim);
    assert_eq!(recovery.quarantined, [50..=50]);
}

#[test]
fn a_flipped_bit_in_the_newest_segment_costs_one_frame() {
    let sim = written();
    let newest = segments(&sim).pop().unwrap();
    sim.flip(&newest, 1024 + 3100 * 3, 5);
    let (recovery, events, lost, losses) = opened(&sim);
    assert_eq!(recovery.quarantined.len(), 1);
    let gone = recovery.quarantined[0].clone();
    assert_eq!(gone.clone().count(), 1);
    assert_eq!((events, lost), (without(gone.clone()), vec![gone.clone()]));
    assert_eq!(losses, [gone]);
    assert_eq!(quarantined(&sim).len(), 1);
    assert_eq!(opened(&sim).3.len(), 1, "it is entered once");
}

#[test]
fn damaged_control_records_are_counted_and_cost_no_event() {
    let sim = Sim::new(1);
    let (log, mut writer, _) = open(&sim);
    let mut offsets = Vec::new();
    for number in 0..9u8 {
        offsets.push(log.usage().bytes);
        match number % 3 {
            0 => assert_eq!(add(&log, &mut writer), Ok(())),
            _ => {
                let Append::Accepted(_) = log.append_control(&control(&[b'a' + number])) else {
                    panic!("refused")
                };
                writer.step(Instant::now());
            }
        }
    }
    drop((log, writer));
    // The first one behind the second event.
    sim.flip(&segments(&sim)[0], offsets[4] as usize + 30, 2);
    sim.kill();
    for opening in 0..2 {
        let (log, _, recovery) = open(&sim);
        assert_eq!(recovery.control_lost, 1 - opening, "it is counted once");
        assert_eq!(log.control_lost(), 1 - opening);
        assert_eq!(restored(&log, 1), ["1", "b", "c", "2", "f", "3", "h", "i"]);
        assert_eq!((read(&mut log.reader(1)).0.len(), log.losses()), (3, vec![]));
        assert_eq!(quarantined(&sim).len(), 1);
        drop(log);
        sim.kill();
    }
}

#[test]
fn a_flipped_bit_in_an_older_segment_is_found_when_it_is_read() {
    let sim = written();
    sim.flip(&segments(&sim)[0], 1024 + 3100 * 3, 5);
    let (recovery, events, lost, losses) = opened(&sim);
    assert!(recovery.quarantined.is_empty());
    assert_eq!(lost.len(), 1);
    assert_eq!(events, without(lost[0].clone()));
    assert_eq!(losses, lost);
}

#[test]
fn a_missing_segment_in_the_middle_is_a_loss_of_its_events_only() {
    let sim = written();
    sim.unlink(&segments(&sim)[1]).unwrap();
    let (_, events, lost, losses) = opened(&sim);
    assert_eq!((lost.len(), &losses), (1, &lost));
    assert_eq!(lost[0].clone().count(), 20);
    assert_eq!(events, without(lost[0].clone()));
}

#[test]
fn a_segment_that_vanishes_while_the_log_is_open_is_a_loss() {
    let sim = written();
    let (log, ..) = open(&sim);
    sim.unlink(&segments(&sim)[0]).unwrap();
    let (events, lost) = read(&mut log.reader(1));
    assert_eq!(events.len() + lost[0].clone().count(), 60);
    assert_eq!(log.losses()[0].reason, Reason::Missing);
}

#[test]
fn a_reader_that_comes_while_a_segment_is_being_removed_reports_no_loss() {
    let sim = written();
    let (log, ..) = open(&sim);
    // The file goes before the table knows.
    log.shared.released.store(21, Ordering::Release);
    sim.unlink(&segments(&sim)[0]).unwrap();
    let (events, lost) = read(&mut log.reader(1));
    assert_eq!((events.len(), lost), (40, vec![1..=20]));
    assert_eq!(log.losses(), []);
}

#[test]
fn a_full_disk_is_given_up_once_and_not_at_every_probe() {
    let sim = Sim::new(1);
    // Too little for a segment to be allocated ahead.
    sim.leave_room(10_000);
    let (log, mut writer, _) = open(&sim);
    assert_eq!(add(&log, &mut writer), Ok(()));
    // Room for a segment's header, and not for a frame.
    sim.leave_room(2500);
    assert_eq!(add(&log, &mut writer), Err(Some(NotStored)));
    for hour in 1..20 {
        writer.step(Instant::now() + Duration::from_secs(3600 * hour));
        assert_eq!(add(&log, &mut writer), Err(None), "the probe says that there is no room");
        assert!(log.is_disk_full());
    }
    sim.leave_room(40_000);
    writer.step(Instant::now() + Duration::from_secs(3600 * 24));
    assert_eq!(add(&log, &mut writer), Ok(()));
    assert!(log.usage().bytes < 12_000 && !log.is_disk_full(), "{:?}", log.usage());
}

#[test]
fn a_segment_without_a_header_is_set_aside_and_its_lsns_are_never_used_again() {
    for index in [0, 1] {
        let sim = written();
        let path = &segments(&sim)[index];
        [0, 512].iter().for_each(|byte| sim.flip(path, *byte, 0));
        let (recovery, events, lost, losses) = opened(&sim);
        assert_eq!(recovery.set_aside.len(), 1);
        assert_eq!(events.len(), 40);
        assert_eq!(losses.len(), 1);
        assert_eq!(losses[0].clone().count(), 20);
        assert_eq!(lost, if index == 0 { vec![] } else { losses }, "a new reader begins behind it");
    }
    let sim = written();
    let newest = segments(&sim).pop().unwrap();
    [0, 512].iter().for_each(|byte| sim.flip(&newest, *byte, 0));
    let (_, events, _, losses) = opened(&sim);
    assert_eq!(events, (1..=40).collect::<Vec<_>>());
    assert!(*losses[0].start() == 41 && *losses[0].end() >= 60);
}

#[test]
fn one_damaged_copy_of_a_header_costs_nothing() {
    let sim = written();
    for path in segments(&sim) {
        sim.flip(&path, 20, 3);
    }
    let (recovery, events, ..) = opened(&sim);
    assert_eq!((events, recovery.set_aside), (without(0..=0), vec![]));
}

#[test]
fn a_damaged_copy_of_the_newest_header_is_written_again() {
    let sim = written();
    let newest = segments(&sim).pop().unwrap();
    for copy in [0, 512] {
        sim.flip(&newest, copy + 20, 3);
        let (log, _, recovery) = open(&sim);
        assert_eq!((read(&mut log.reader(1)).0.len(), recovery.set_aside), (60, vec![]));
        drop(log);
        sim.kill();
    }
}

/// Somebody publishes what he has of a log, of this one or another.
#[test]
fn a_frame_in_a_payload_is_never_taken_for_one_of_the_log() {
    for lsn in 1..=4 {
        let sim = Sim::new(1);
        let (log, mut writer, _) = open(&sim);
        let mut frame = vec![0; frame::HEADER_LEN];
        frame.extend_from_slice(block([&b"invented"[..]]).finish());
        frame::seal(&mut frame, lsn, 1, 0, 7);
        for payload in [&b"one"[..], &frame, &frame, b"four"] {
            assert!(matches!(log.append(&mut block([payload])), Append::Accepted(_)));
            writer.step(Instant::now());
        }
        drop((log, writer));
        sim.kill();
        // The second one's header, and the length in it.
        let at = 1024 + frame::HEADER_LEN + block([&b"one"[..]]).finish().len();
        sim.flip(&segments(&sim)[0], at + 5, 0);
        let (log, ..) = open(&sim);
        let (events, lost) = read(&mut log.reader(1));
        let lsns: Vec<Lsn> = events.iter().map(|(lsn, _)| *lsn).collect();
        assert_eq!((lsns, lost), (vec![1, 3, 4], vec![2..=2]));
        assert!(events.iter().all(|(_, payload)| payload != b"invented"));
    }
}

/// What is damaged in a segment is known from the ledger alone once that is released.
#[test]
fn a_loss_outlasts_its_segment_and_the_power() {
    for seed in 0..8 {
        let sim = written();
        sim.flip(&segments(&sim)[0], 1024 + 3100 * 3, 5);
        let sim = sim.fork(seed);
        let (log, writer, _) = open(&sim);
        // The disk does not take the entry at once.
        sim.fail_syncs(1);
        let lost = read(&mut log.reader(1)).1;
        assert_eq!(lost.len(), 1);
        log.release(21);
        assert_eq!(log.usage().segments, 2);
        drop((log, writer));
        sim.cut_power();
        let losses: Lost = open(&sim).0.losses().into_iter().map(|loss| loss.lsns).collect();
        assert_eq!(losses, lost);
    }
}

#[test]
fn what_is_not_ours_is_set_aside_and_never_deleted() {
    let sim = written();
    let other = Sim::new(2);
    let options = Options { lane: Lane(3), ..options(Path::new("/")) };
    drop(open_unstarted(Arc::new(other.clone()), options).unwrap());
    let lane = other.content(&segments(&other)[0]);
    let epoch = {
        let other = Sim::new(3);
        drop(open(&other));
        other.content(&segments(&other)[0])
    };
    let foreign = [
        ("notes.txt", &b"to do"[..]),
        ("00000000000000000500-000000aa.seg", &lane),
        ("00000000000000000501-000000ab.seg", &epoch),
        ("00000000000000000061-000000ac.seg", b""),
        ("00000000000000000061-000000ad.seg", b"tidegate"),
    ];
    for (name, content) in foreign {
        sim.set_content(&Path::new(DIR).join(name), content);
    }
    let (recovery, events, lost, losses) = opened(&sim);
    assert_eq!((events, lost, losses), (without(0..=0), vec![], vec![]));
    assert_eq!(recovery.set_aside.len(), foreign.len());
    for to in recovery.set_aside {
        let name = to.file_name().unwrap().to_str().unwrap();
        let (_, content) = foreign.iter().find(|(foreign, _)| name.ends_with(foreign)).unwrap();
        assert_eq!(sim.content(&to), *content, "{name}");
    }
}

#[test]
fn a_newer_version_is_refused_and_left_untouched() {
    let sim = written();
    let path = &segments(&sim)[1];
    let mut content = sim.content(path);
    for copy in [0, 512] {
        content[copy + 8] = 9;
        let crc = crc32c::crc32c(&content[copy..copy + 60]);
        content[copy + 60..copy + 64].copy_from_slice(&crc.to_le_bytes());
    }
    sim.set_content(path, &content);
    sim.set_content(&Path::new(DIR).join("notes.txt"), b"to do");
    // To this version the ledger of a newer one is damaged.
    sim.set_content(&Path::new(DIR).join(LEDGER), &b"TGL2, as it may be".repeat(5));
    let refused = open_unstarted(Arc::new(sim.clone()), options(Path::new("/"))).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "/log/00000000000000000021-00000002.seg: written by a newer version of tidegate (log format \
         9, this one reads up to 5); install that version again"
    );
    assert!(sim.content(path) == content);
    assert_eq!(quarantined(&sim), Vec::<String>::new());
    assert!(sim.open(&Path::new(DIR).join("notes.txt")).is_ok());
}

#[test]
fn a_sector_that_cannot_be_read_costs_its_frames() {
    for index in [0, 2] {
        let sim = written();
        let bad = 1024 + 3100 * 4;
        sim.make_unreadable(&segments(&sim)[index], bad..bad + 512);
        let (_, events, lost, losses) = opened(&sim);
        let gone: u64 = losses.iter().map(|lsns| lsns.clone().count() as u64).sum();
        assert!((1..=3).contains(&gone), "{losses:?}");
        assert_eq!(lost, losses);
        assert_eq!(events.len() as u64, 60 - gone);
    }
}

#[test]
fn a_read_that_fails_once_costs_nothing() {
    let sim = written();
    let (log, ..) = open(&sim);
    let (mut reader, mut chunk, mut events) = (log.reader(1), Chunk::default(), 0);
    loop {
        sim.fail_reads(1);
        match reader.read(&mut chunk, 4096).unwrap() {
            Read::Frames => events += chunk.frames().count(),
            Read::Tail => break,
            Read::Lost(lsns) => panic!("{lsns:?} are there"),
        }
    }
    assert_eq!((events, log.losses()), (60, vec![]));
}

#[test]
fn an_unreadable_ledger_is_set_aside() {
    let sim = written();
    let ledger = Path::new(DIR).join("ledger");
    sim.set_content(&ledger, &[0; 96]);
    sim.make_unreadable(&ledger, 0..96);
    let (_, events, ..) = opened(&sim);
    assert_eq!(events.len(), 60);
    assert_eq!(quarantined(&sim), ["00000001-ledger"]);
}

#[test]
fn a_directory_in_the_place_of_a_file_is_set_aside() {
    use super::super::{beginning, lane, ledger};
    let names = [
        segment::UNFINISHED,
        segment::REWRITTEN,
        LEDGER,
        ledger::UNFINISHED,
        beginning::FILE,
        beginning::UNFINISHED,
        lane::NAMES,
        lane::UNFINISHED,
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join("log").join(name);
    names.iter().for_each(|name| std::fs::create_dir_all(path(name).join("within")).unwrap());
    let options = Options { max_ledger: 4096, ..options(dir.path()) };
    let (log, mut writer, _) = open_unstarted(Arc::new(FileSystem), options).unwrap();
    (0..60).for_each(|_| assert_eq!(add(&log, &mut writer), Ok(())));
    // Until the ledger is written anew.
    for lane in 1..=100 {
        assert!(log.shared.ledger.record(Loss::now(Lane(lane), 5..=5, Reason::Dropped)));
    }
    log.release(41);
    assert_eq!(log.usage().segments, 1);
    let aside = std::fs::read_dir(path("quarantine")).unwrap();
    assert_eq!(aside.count(), names.len());
}

#[test]
fn after_a_failed_fdatasync_the_frame_goes_to_a_new_segment() {
    let sim = Sim::new(1);
    let (log, mut writer, _) = open(&sim);
    assert_eq!(add(&log, &mut writer), Ok(()));
    sim.fail_syncs(1);
    assert_eq!(add(&log, &mut writer), Ok(()));
    assert_eq!((log.committed(), log.usage().segments), (2, 2));
    sim.cut_power();
    drop((log, writer));
    assert_eq!(opened(&sim).1, [1, 2]);
}

#[test]
fn a_disk_that_fails_for_good_is_never_acknowledged_and_is_tried_again() {
    let sim = Sim::new(1);
    let (log, mut writer, _) = open(&sim);
    assert_eq!(add(&log, &mut writer), Ok(()));
    sim.fail_syncs(u32::MAX);
    assert_eq!(add(&log, &mut writer), Err(Some(NotStored)));
    assert_eq!(add(&log, &mut writer), Err(None), "unavailable");
    assert_eq!(log.refusing(), Some(Refusing::DiskFails));
    let room = log.room(3050);
    tokio::pin!(room);
    let later = Instant::now() + Duration::from_secs(11);
    assert!(writer.step(later));
    assert!(futures_now(room.as_mut()).is_pending());
    sim.fail_syncs(0);
    assert!(writer.step(later + Duration::from_secs(11)));
    assert!(futures_now(room.as_mut()).is_ready());
    assert_eq!(add(&log, &mut writer), Ok(()));
    assert_eq!(read(&mut log.reader(1)).0.len(), 2);
}

#[test]
fn a_disk_that_was_full_takes_events_again_and_nothing_is_left_behind() {
    let sim = Sim::new(1);
    // Too little for a segment to be allocated ahead.
    sim.leave_room(10_000);
    let (log, mut writer, _) = open(&sim);
    assert_eq!(add(&log, &mut writer), Ok(()));
    sim.leave_room(1500);
    assert_eq!(add(&log, &mut writer), Err(Some(NotStored)));
    for hour in 1..20 {
        writer.step(Instant::now() + Duration::from_secs(3600 * hour));
    }
    sim.leave_room(usize::MAX >> 1);
    writer.step(Instant::now() + Duration::from_secs(3600 * 24));
    assert_eq!(add(&log, &mut writer), Ok(()));
    assert_eq!(log.committed(), 2);
    assert!(segments(&sim).len() <= 2, "{:?}", segments(&sim));
}

#[test]
fn a_disk_that_fails_while_the_log_is_opened_does_not_keep_it_closed() {
    for changes in 0..8 {
        let sim = written();
        sim.fuse(changes);
        let (log, mut writer, _) = open(&sim);
        assert_eq!(read(&mut log.reader(1)).0.len(), 60);
        assert!(add(&log, &mut writer).is_err());
        drop((log, writer));
        sim.kill();
        assert_eq!(opened(&sim).1.len(), 60);
    }
}
