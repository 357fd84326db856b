//! Segments behind which nothing says where they end: the next one's header is damaged, or it is missing.

use std::time::Instant;

use super::super::storage::sim::Sim;
use super::super::writer::Writer;
use super::damage::{quarantined, segments, without};
use super::lanes::{ALERTS, with_lanes};
use super::*;

fn open(sim: &Sim) -> (Arc<Log>, Writer, Recovery) {
    let options = with_lanes(Path::new("/"), WhenFull::Reject);
    let (log, writer, recovery) = open_unstarted(Arc::new(sim.clone()), options).unwrap();
    (Arc::new(log), writer, recovery)
}

/// A disk with 60 alerts of 3100 bytes, a frame each, in three segments of 20; each segment ends with a
/// control record, and its file goes on behind that.
fn written() -> Sim {
    let sim = Sim::new(1);
    let (log, mut writer, _) = open(&sim);
    for number in 1..=60u8 {
        let mut block = BlockBuilder::new("boiler-7", Received::Synced { unix_micros: 1 });
        let (topic, payload) = ("alerts/hot", &[number; 3100]);
        let (qos, retain, properties) = (Qos::AtLeastOnce, false, Properties::default());
        block.push_in(ALERTS, &Draft { topic, qos, retain, properties, payload });
        assert!(matches!(log.append(&mut block), Append::Accepted(_)));
        assert!(writer.step(Instant::now()));
        if number.is_multiple_of(20) {
            let Append::Accepted(_) = log.append_control(&control(&[b'a' + number / 20])) else {
                panic!("refused")
            };
            assert!(writer.step(Instant::now()));
        }
    }
    assert_eq!(log.usage().segments, 3);
    drop((log, writer));
    sim.kill();
    sim
}

/// The middle one of the segments cannot be used any more.
fn lose_the_middle(sim: &Sim, is_missing: bool) {
    let middle = &segments(sim)[1];
    if is_missing {
        sim.lose(middle);
    } else {
        [0, 512].iter().for_each(|byte| sim.flip(middle, *byte, 0));
    }
}

/// What there is to restore without the middle one.
fn rest() -> Vec<String> {
    let events = |lsns: RangeInclusive<Lsn>| lsns.map(|lsn| lsn.to_string());
    let (first, last) = (events(1..=20), events(41..=60));
    first.chain(["b".into(), "lost".into()]).chain(last).chain(["d".into()]).collect()
}

#[test]
fn a_segment_before_one_that_cannot_be_used_is_read_to_its_end_and_loses_nothing() {
    for (is_missing, reason) in [(false, Reason::Damaged), (true, Reason::Missing)] {
        let sim = written();
        let alerts = open(&sim.fork(1)).0.lane_usage(ALERTS);
        lose_the_middle(&sim, is_missing);
        // Set aside the first time, it is missing the second.
        for opening in 0..2 {
            let (log, _writer, recovery) = open(&sim);
            let losses = log.losses();
            let entered: Vec<_> = losses.iter().map(|it| (it.lsns.clone(), it.reason)).collect();
            assert_eq!(entered[0], (21..=40, reason), "{reason:?}, opening {opening}");
            assert!(entered.iter().all(|(lsns, _)| *lsns == (21..=40)), "{entered:?}");
            assert_eq!(recovery.quarantined, [21..=40], "known before anybody reads");
            let (events, lost) = read(&mut log.reader(1));
            assert_eq!(lost, [21..=40]);
            assert_eq!(events.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(), without(21..=40));
            // Nor is what lies behind its last frame damage.
            assert_eq!(restored(&log, 1), rest());
            assert_eq!(
                (log.control_lost(), quarantined(&sim).len()),
                (0, usize::from(!is_missing))
            );
            // What it holds is in the lane that it was in.
            let usage = log.lane_usage(ALERTS);
            assert_eq!((usage.events, usage.bytes), (alerts.events / 3 * 2, alerts.bytes / 3 * 2));
            assert_eq!(log.losses(), losses, "reading found nothing more");
            sim.kill();
        }
    }
}

#[test]
fn what_is_damaged_in_a_segment_before_one_that_cannot_be_used_is_all_that_it_loses() {
    for (is_missing, reason) in [(false, Reason::Damaged), (true, Reason::Missing)] {
        let sim = written();
        lose_the_middle(&sim, is_missing);
        let oldest = &segments(&sim)[0];
        let content = sim.content(oldest);
        let is_frame = |at: &usize| content[*at..].starts_with(b"TGF1");
        let frames: Vec<usize> = (0..content.len()).filter(is_frame).collect();
        assert_eq!(frames.len(), 21, "20 events and a control record");
        // With the last event goes what lies behind it: nothing good follows there.
        for index in [9, 19, 20] {
            sim.flip(oldest, frames[index] + 25, 3);
        }
        let (log, _writer, recovery) = open(&sim);
        assert_eq!(recovery.quarantined, [10..=10, 20..=40]);
        let losses = log.losses();
        let entered: Vec<_> = losses.iter().map(|it| (it.lsns.clone(), it.reason)).collect();
        assert_eq!(entered, [(10..=10, Reason::Damaged), (20..=40, reason)]);
        let (events, lost) = read(&mut log.reader(1));
        assert_eq!((events.len(), lost), (18 + 20, vec![10..=10, 20..=40]));
        assert_eq!(log.losses(), losses, "reading found nothing more");
    }
}
