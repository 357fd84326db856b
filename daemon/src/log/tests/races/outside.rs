//! Somebody looks from outside, and the log goes on.

use std::io;
use std::ops::ControlFlow;

use super::super::lanes::{ALL, almost_fill, fill};
use super::super::*;
use super::{LATE, alerts, expiring};

/// A segment was rewritten after it was looked at from outside, and seemed damaged.
#[tokio::test]
async fn who_looks_from_outside_takes_no_segment_that_was_rewritten_for_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let options = expiring(dir.path());
    let (log, _) = open(&options);
    almost_fill(&log).await;
    let view = View::open(&options).unwrap();
    log.expire(LATE, &ALL).unwrap();
    let (mut frames, mut gone) = (0, 0);
    for index in 0..view.segments().len() {
        let walked = view.walk(index, |walked| {
            assert!(matches!(walked, Walked::Frame(_)), "{walked:?}");
            frames += 1;
            ControlFlow::Continue(())
        });
        gone += usize::from(walked.is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
    }
    assert!(frames > 0 && gone > 3, "{frames} {gone}");
}

/// Segments were merged into an older one before they were looked for: those that were begun after the look,
/// or the one that was the newest then, whose end was not seen.
#[tokio::test]
async fn who_follows_from_outside_finds_what_is_left_of_segments_that_were_merged() {
    for (seen, last) in [(35, 400), (100, 150)] {
        let dir = tempfile::tempdir().unwrap();
        let options = expiring(dir.path());
        let (log, _) = open(&options);
        for number in 1..=seen {
            fill(&log, 5, number, &ALL).await;
        }
        let mut view = View::open(&options).unwrap();
        let mut reader = view.reader(1);
        assert_eq!(read(&mut reader).0.len() as u64, seen);
        for number in seen + 1..=last {
            fill(&log, 5, number, &ALL).await;
        }
        log.expire(LATE, &ALL).unwrap();
        assert_eq!(log.usage().segments, 2);
        while view.follow().unwrap() {}
        let (events, lost) = read(&mut reader);
        assert_eq!(lost, []);
        let expected: Vec<Lsn> = (seen + 1..=last).filter(|lsn| lsn % 10 == 0).collect();
        assert_eq!(alerts(&events), expected);
    }
}

/// A segment was rewritten after its end was looked for: a frame of it goes beyond what was seen.
#[tokio::test]
async fn who_looked_at_a_part_of_a_segment_reads_what_is_left_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = expiring(dir.path());
    let (log, _) = open(&options);
    for number in 1..=35 {
        fill(&log, 5, number, &ALL).await;
    }
    let view = View::open(&options).unwrap();
    for number in 36..=400 {
        fill(&log, 5, number, &ALL).await;
    }
    log.expire(LATE, &ALL).unwrap();
    let (events, lost) = read(&mut view.reader(1));
    assert_eq!(lost, []);
    assert!(alerts(&events).starts_with(&[10, 20, 30]), "{events:?}");
}
