//! Lanes on the machine's own file system: what goes, what stays, and what the ledger says.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use tidegate_event::Filter;
use tidegate_event::record::Item;

use super::*;
use crate::log::segment;

pub(super) const ALERTS: Lane = Lane(1);
pub(super) const ALL: Covered = Covered { before: Lsn::MAX, control: u64::MAX, needed: 1 };
/// Of all segments, in these tests.
const MAX: u64 = 1 << 20;

/// Lane 0 with this policy, and `alerts`.
pub(super) fn with_lanes(dir: &Path, when_full: WhenFull) -> Options {
    let rule = |when_full| Rule { when_full, ..Rule::default() };
    let default = LaneOptions { rule: rule(when_full), ..LaneOptions::default_lane() };
    let alerts = LaneOptions {
        name: "alerts".into(),
        topics: vec![Filter::new("alerts/#").unwrap()],
        max_size: Some(256 << 10),
        rule: rule(WhenFull::DropOldest),
    };
    Options { max_size: MAX, lanes: vec![default, alerts], ..options(dir) }
}

/// Appends an event of 900 bytes, each tenth an alert, received in this second; makes room if there is
/// none.
pub(super) async fn fill(log: &Arc<Log>, second: i64, number: u64, covered: &Covered) -> Lsn {
    let is_alert = number.is_multiple_of(10);
    let payload = [number as u8; 900];
    let topic = if is_alert { "alerts/hot" } else { "plant/boiler-7" };
    let lane = log.lanes().of(topic);
    assert_eq!(lane == ALERTS, is_alert);
    loop {
        let received = Received::Synced { unix_micros: second * 1_000_000 };
        let mut block = BlockBuilder::new("boiler-7", received);
        let (qos, retain, properties) = (Qos::AtLeastOnce, false, Properties::default());
        block.push_in(lane, &Draft { topic, qos, retain, properties, payload: &payload });
        match log.append(&mut block) {
            Append::Accepted(commit) => return *commit.await.unwrap().start(),
            Append::Busy => {
                log.trim(covered).unwrap();
                tokio::task::yield_now().await;
            }
            refused => panic!("{refused:?}"),
        }
    }
}

/// As many events as the log has room for, nearly.
const NEARLY_FULL: u64 = 700;

pub(super) async fn almost_fill(log: &Arc<Log>) {
    for number in 1..=NEARLY_FULL {
        fill(log, 5, number, &Covered { before: 1, ..ALL }).await;
    }
}

/// What is there of each lane, and what is gone.
fn look(log: &Arc<Log>) -> (BTreeSet<Lsn>, BTreeSet<Lsn>, BTreeSet<Lsn>) {
    let (mut default, mut alerts, mut gone) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut reader, mut chunk) = (log.reader(1), Chunk::default());
    gone.extend(1..reader.position());
    loop {
        match reader.read(&mut chunk, 4096).unwrap() {
            Read::Tail => return (default, alerts, gone),
            Read::Lost(lsns) => gone.extend(lsns),
            Read::Frames => {
                for item in chunk.frames().flat_map(|frame| frame.items()) {
                    match item.unwrap() {
                        Item::Event(event) if event.lane == ALERTS => alerts.insert(event.lsn()),
                        Item::Event(event) => default.insert(event.lsn()),
                        Item::Gone { first, count, .. } => {
                            gone.extend(first..first + u64::from(count));
                            true
                        }
                    };
                }
            }
        }
    }
}

fn on_disk(options: &Options) -> u64 {
    let files = std::fs::read_dir(&options.dir).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// What the ledger says is lost, by lane: so many, all between these.
pub(super) fn ledger(log: &Log, reason: Reason) -> Vec<(Lane, RangeInclusive<Lsn>, u64)> {
    let of = |loss: Loss| (loss.reason == reason).then_some((loss.lane, loss.lsns, loss.count));
    log.losses().into_iter().filter_map(of).collect()
}

#[tokio::test]
pub(super) async fn the_oldest_of_a_full_lane_go_and_the_alerts_between_them_stay() {
    let dir = tempfile::tempdir().unwrap();
    let options = with_lanes(dir.path(), WhenFull::DropOldest);
    let (log, _) = open(&options);
    for number in 1..=2500 {
        assert_eq!(fill(&log, 5, number, &ALL).await, number);
        assert!(on_disk(&options) <= MAX + (256 << 10), "{number}");
    }
    let (default, alerts, gone) = look(&log);
    assert_eq!(alerts, (1..=250).map(|n| n * 10).collect::<BTreeSet<_>>(), "none went");
    assert!(default.len() > 300 && *default.first().unwrap() > 1500, "{default:?}");
    assert_eq!(gone.len() + default.len() + alerts.len(), 2500);
    let entries = ledger(&log, Reason::Dropped);
    assert_eq!(entries.iter().map(|entry| entry.2).sum::<u64>(), gone.len() as u64);
    for (lane, lsns, count) in &entries {
        assert_eq!(*lane, Lane(0));
        assert_eq!(gone.range(lsns.clone()).count() as u64, *count, "{lsns:?}");
    }
    assert!(log.usage().segments < 30, "small ones are put together");

    let before = (log.lane_usage(Lane(0)), log.lane_usage(ALERTS));
    log.close().await;
    let (log, recovery) = open(&options);
    assert_eq!((recovery.quarantined.len(), recovery.set_aside.len()), (0, 0));
    assert_eq!(look(&log), (default, alerts, gone));
    let after = (log.lane_usage(Lane(0)), log.lane_usage(ALERTS));
    assert_eq!((after.0.events, after.0.bytes), (before.0.events, before.0.bytes));
    assert_eq!((after.1.events, after.1.bytes), (before.1.events, before.1.bytes));
    assert_eq!(after.1.events, 250);
}

/// A sink that comes to the hole afterwards entered it once more, as removed, in no lane.
#[tokio::test]
pub(super) async fn the_hole_that_a_lane_has_left_is_no_second_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&with_lanes(dir.path(), WhenFull::DropOldest));
    // No alerts among them, for which a segment would stay.
    for number in 0..2500 {
        fill(&log, 5, number * 10 + 1, &ALL).await;
    }
    let oldest = log.usage().first;
    assert!(oldest > 500, "{oldest}");
    let (reader, hole) = (log.reader(1), 1..=oldest - 1);
    assert_eq!(reader.not_gone(&hole), []);
    reader.enter_runs(None, &[hole], Reason::Released);
    assert_eq!(ledger(&log, Reason::Released), []);
    log.release(oldest + 300);
    let next = log.usage().first;
    assert!(next > oldest);
    assert_eq!(reader.not_gone(&(1..=next - 1)), [oldest..=next - 1]);
    reader.enter_runs(None, &[1..=next - 1], Reason::Released);
    let count = next - oldest;
    assert_eq!(ledger(&log, Reason::Released), [(Lane(0), oldest..=next - 1, count)]);
}

#[tokio::test]
pub(super) async fn what_every_sink_has_is_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&with_lanes(dir.path(), WhenFull::DropOldest));
    for number in 1..=2000 {
        fill(&log, 5, number, &Covered { needed: 500, ..ALL }).await;
    }
    let (_, _, gone) = look(&log);
    let lost: u64 = ledger(&log, Reason::Dropped).iter().map(|entry| entry.2).sum();
    assert_eq!(lost, gone.range(500..).count() as u64);
    assert!(lost > 0 && gone.range(..500).count() > 400);
}

#[tokio::test]
pub(super) async fn nothing_goes_that_no_checkpoint_covers() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&with_lanes(dir.path(), WhenFull::DropOldest));
    almost_fill(&log).await;
    let mut number = NEARLY_FULL + 1;
    while log.trim(&Covered { before: 1, ..ALL }).is_ok() && !log.is_pressed() {
        fill(&log, 5, number, &ALL).await;
        number += 1;
    }
    for covered in [Covered { before: 50, ..ALL }, Covered { control: 1, ..ALL }] {
        assert_eq!(log.trim(&covered).unwrap(), 0);
    }
    assert!(log.trim(&Covered { before: 300, ..ALL }).unwrap() > 0);
    assert!(ledger(&log, Reason::Dropped).iter().all(|(_, lsns, _)| *lsns.end() < 300));
}

#[tokio::test]
pub(super) async fn old_events_are_thinned_out_before_any_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let downsample = Downsample { interval: Duration::from_secs(10), keep: Keep::Last };
    let mut options = with_lanes(dir.path(), WhenFull::Downsample(downsample));
    options.lanes[1].max_size = Some(512 << 10);
    let (log, _) = open(&options);
    for number in 1..=4000u64 {
        fill(&log, number as i64, number, &ALL).await;
    }
    assert_eq!(ledger(&log, Reason::Dropped), []);
    let (default, alerts, gone) = look(&log);
    assert_eq!(alerts.len(), 400);
    assert_eq!(gone.len() + default.len() + alerts.len(), 4000);
    let thinned: u64 = ledger(&log, Reason::Thinned).iter().map(|entry| entry.2).sum();
    assert_eq!(thinned, gone.len() as u64);
    // One of each ten seconds, where a segment does not end between.
    let old = default.range(..2000).count();
    assert!((200..260).contains(&old), "{old}");
    for interval in 0..200 {
        assert!(default.contains(&(interval * 10 + 9)), "the last of {interval}");
    }
    // It ends: what is thinned out takes room too.
    for number in 4001..=10_000u64 {
        fill(&log, number as i64, number, &ALL).await;
    }
    assert!(!ledger(&log, Reason::Dropped).is_empty());
    let lost = |reason| ledger(&log, reason).iter().map(|entry| entry.2).sum::<u64>();
    let (_, _, gone) = look(&log);
    assert_eq!(lost(Reason::Dropped) + lost(Reason::Thinned), gone.len() as u64);
}

#[tokio::test]
pub(super) async fn what_is_older_than_its_lane_keeps_events_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = with_lanes(dir.path(), WhenFull::Reject);
    options.lanes[0].rule.max_age = Some(Duration::from_secs(100));
    let (log, _) = open(&options);
    for number in 1..=600 {
        fill(&log, number as i64, number, &ALL).await;
    }
    let now = |second: i64| second * 1_000_000;
    assert!(!log.has_expired(now(120)));
    assert!(log.has_expired(now(500)));
    let expired = log.expire(now(500), &ALL).unwrap();
    let (default, alerts, gone) = look(&log);
    assert_eq!((alerts.len(), gone.len() as u64), (60, expired));
    assert!(gone.iter().all(|lsn| *lsn < 400) && expired > 250, "{expired}");
    assert!(default.contains(&401), "a segment goes when its newest event is old enough");
    let lost: u64 = ledger(&log, Reason::Expired).iter().map(|entry| entry.2).sum();
    assert_eq!(lost, expired);
    assert!(!log.has_expired(now(500)));
}

#[tokio::test]
async fn a_lane_that_the_config_does_not_know_any_more_is_under_the_rule_of_lane_0() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = with_lanes(dir.path(), WhenFull::DropOldest);
    let (log, _) = open(&options);
    for number in 1..=500 {
        fill(&log, 5, number, &ALL).await;
    }
    log.close().await;
    options.lanes.pop();
    let (log, _) = open(&options);
    assert_eq!(log.lane_usage(Lane(0)).events, 500);
    for number in (1001..=3000u64).filter(|number| !number.is_multiple_of(10)) {
        let mut block = block([&[number as u8; 900][..]]);
        while let Append::Busy = log.append(&mut block) {
            log.trim(&ALL).unwrap();
            tokio::task::yield_now().await;
        }
    }
    log.enter_gone();
    let (_, alerts, gone) = look(&log);
    assert!(alerts.is_empty() && gone.len() > 1000);
    let lost: u64 = ledger(&log, Reason::Dropped).iter().map(|entry| entry.2).sum();
    assert_eq!(lost, gone.len() as u64);
}

#[tokio::test]
async fn a_reader_goes_on_where_a_segment_was_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&with_lanes(dir.path(), WhenFull::DropOldest));
    let (mut early, mut chunk) = (log.reader(1), Chunk::default());
    almost_fill(&log).await;
    let number = NEARLY_FULL + 1;
    assert_eq!(early.read(&mut chunk, 1000).unwrap(), Read::Frames);
    let view = View::open(&with_lanes(dir.path(), WhenFull::DropOldest)).unwrap();
    for more in number..number + 300 {
        fill(&log, 5, more, &ALL).await;
    }
    // What it had open it reads; then what there is.
    let (events, lost) = read(&mut early);
    assert_eq!(lost, []);
    assert!(events.iter().filter(|(lsn, _)| lsn.is_multiple_of(10)).count() > 60);
    let (events, _) = read(&mut view.reader(1));
    let alerts: Vec<_> = events.iter().map(|(lsn, _)| lsn).filter(|lsn| *lsn % 10 == 0).collect();
    assert_eq!(alerts.len() as u64, (number - 1) / 10, "{alerts:?}");
    assert_eq!(ledger(&log, Reason::Damaged), []);
}

#[tokio::test]
async fn a_reader_that_meets_damage_in_a_replaced_file_goes_on_with_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&with_lanes(dir.path(), WhenFull::DropOldest));
    almost_fill(&log).await;
    let segment = Arc::clone(&log.shared.table().0[1]);
    let (mut early, mut chunk) = (log.reader(segment.header.first), Chunk::default());
    assert_eq!(early.read(&mut chunk, 1000).unwrap(), Read::Frames);
    // In the file itself, which it has open.
    let file = std::fs::OpenOptions::new().write(true).open(&segment.path).unwrap();
    file.write_all_at(b"damage", segment::HEADER_LEN as u64 + 10_500).unwrap();
    let number = NEARLY_FULL + 1;
    for more in number..number + 400 {
        fill(&log, 5, more, &ALL).await;
    }
    assert!(!segment.path.exists(), "the first one stands for it");
    let (events, _) = read(&mut early);
    let events: BTreeSet<Lsn> = events.into_iter().map(|(lsn, _)| lsn).collect();
    let damaged = ledger(&log, Reason::Damaged);
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    let alerts = (segment.header.first..number).filter(|lsn| lsn % 10 == 0);
    for lsn in alerts.filter(|lsn| !damaged[0].1.contains(lsn)) {
        assert!(events.contains(&lsn) || lsn < segment.header.first + 10, "{lsn}");
    }
}

#[tokio::test]
async fn what_a_crash_left_of_a_replaced_segment_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let options = with_lanes(dir.path(), WhenFull::DropOldest);
    let (log, _) = open(&options);
    almost_fill(&log).await;
    let path = log.shared.table().0[1].path.clone();
    let bytes = std::fs::read(&path).unwrap();
    for number in NEARLY_FULL + 1..=NEARLY_FULL + 400 {
        fill(&log, 5, number, &ALL).await;
    }
    assert!(!path.exists(), "the first one stands for it");
    let before = look(&log);
    log.close().await;
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(options.dir.join(segment::REWRITTEN), b"cut off").unwrap();
    let (log, recovery) = open(&options);
    assert!(!path.exists());
    assert_eq!((recovery.quarantined.len(), recovery.set_aside.len()), (0, 0));
    assert_eq!(look(&log), before);
    log.trim(&ALL).unwrap();
}

#[tokio::test]
async fn damage_in_a_segment_that_is_rewritten_stands_in_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&with_lanes(dir.path(), WhenFull::DropOldest));
    almost_fill(&log).await;
    let path = log.shared.table().0[0].path.clone();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[segment::HEADER_LEN + 9 * 1000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for number in NEARLY_FULL + 1..=NEARLY_FULL + 250 {
        fill(&log, 5, number, &ALL).await;
    }
    let damaged = ledger(&log, Reason::Damaged);
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    let (_, alerts, gone) = look(&log);
    let lost = damaged[0].1.clone();
    assert!(lost.clone().all(|lsn| gone.contains(&lsn)), "{lost:?}");
    assert!(alerts.contains(&20) && !lost.contains(&20));
}

#[tokio::test]
pub(super) async fn a_lane_that_refuses_takes_no_more_and_the_others_do() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&with_lanes(dir.path(), WhenFull::Reject));
    let append = async |lane: Lane| {
        let mut block = BlockBuilder::new("", Received::Synced { unix_micros: 0 });
        let (topic, qos, retain) = ("a", Qos::AtLeastOnce, false);
        let (properties, payload) = (Properties::default(), &[7; 900][..]);
        block.push_in(lane, &Draft { topic, qos, retain, properties, payload });
        match log.append(&mut block) {
            Append::Accepted(commit) => commit.await.is_ok(),
            Append::Full => false,
            refused => panic!("{refused:?}"),
        }
    };
    let mut count = 0;
    while append(Lane(0)).await {
        count += 1;
    }
    assert!((700..850).contains(&count), "{count}: three quarters of the log");
    assert_eq!(log.lanes().admission(Lane(0)), Admission::Refuses);
    assert_eq!(log.lanes().admission(ALERTS), Admission::Takes);
    for _ in 0..250 {
        assert!(append(ALERTS).await, "the alerts have their own part");
    }
    let mut room = std::pin::pin!(log.lane_room(Lane(0)));
    assert!(futures_now(room.as_mut()).is_pending());
    log.release(log.committed() / 2);
    assert!(futures_now(room).is_ready());
    assert!(append(Lane(0)).await);
}

#[tokio::test]
pub(super) async fn gone_events_have_their_lsns_whatever_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&with_lanes(dir.path(), WhenFull::DropNewest));
    let mut number = 1;
    while log.lanes().admission(Lane(0)) == Admission::Takes {
        fill(&log, 5, number, &ALL).await;
        number += 1;
    }
    assert_eq!(log.lanes().admission(Lane(0)), Admission::Drops);
    let mut block = BlockBuilder::new("", Received::Synced { unix_micros: 0 });
    block.push_gone(Lane(0), 3);
    let Append::Accepted(commit) = log.append(&mut block) else { panic!("refused") };
    assert_eq!(commit.await.unwrap(), number..=number + 2);
    assert_eq!(look(&log).2, (number..=number + 2).collect::<BTreeSet<_>>());
    let reader = log.reader(1);
    let gone = |last| reader.knows_gone(Lane(0), &(number..=last));
    assert!(gone(number + 2) && !gone(number + 3));
    assert_eq!(ledger(&log, Reason::Dropped), []);
    log.enter_gone();
    let entry = (Lane(0), number..=number + 2, 3);
    assert_eq!(ledger(&log, Reason::Dropped), [entry]);
    assert!(
        gone(number + 2) && !gone(number + 3) && !reader.knows_gone(ALERTS, &(number..=number))
    );
    assert_eq!(log.lane_usage(Lane(0)).dropped, 3);
}
