//! What is written is counted, and a budget of it is kept.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn payload_frames_pages_and_syncs_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path()));
    let before = log.written();
    for _ in 0..10 {
        append(&log, &[7; 100]).await;
    }
    let written = log.written();
    assert_eq!(written.payload, 1000);
    assert_eq!(written.syncs - before.syncs, 10);
    assert_eq!(written.bytes, log.usage().bytes);
    assert!(written.on_flash - before.on_flash >= 10 * 4096, "{written:?}");
    assert_eq!((written.stretch, written.day), (Duration::ZERO, None));
}

#[test]
fn over_budget_a_commit_waits_for_more_events_but_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let daily_write_budget = Some(24 * 4 * 4096);
    let options = Options { daily_write_budget, ..options(dir.path()) };
    let (log, mut writer, _) = open_unstarted(Arc::new(FileSystem), options).unwrap();
    let add = || match log.append(&mut block([&b"event"[..]])) {
        Append::Accepted(commit) => commit,
        refused => panic!("{refused:?}"),
    };
    // An hour's share is four pages: the segment's header took one.
    for _ in 0..14 {
        drop(add());
        assert!(writer.step(Instant::now() + Duration::from_secs(5)));
    }
    assert_eq!(log.written().stretch, Duration::from_secs(1));
    let (mut first, mut second) = (add(), add());
    assert!(!writer.step(Instant::now()), "it waits");
    assert!(writer.step(Instant::now() + Duration::from_secs(2)), "no longer than a second");
    for commit in [&mut first, &mut second] {
        assert!(matches!(futures_now(Pin::new(commit)), Poll::Ready(Ok(_))), "both in one");
    }
    let (day, budget) = log.written().day.unwrap();
    assert!(day >= 15 * 4096 && budget == 24 * 4 * 4096, "{day}");
}
