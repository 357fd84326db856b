use std::ops::RangeInclusive;

use tidegate_event::{Lane, Lsn};

use super::*;
use crate::log::storage::FileSystem;
use crate::log::storage::sim::Sim;

fn loss(lsns: RangeInclusive<Lsn>) -> Loss {
    let count = lsns.end() - lsns.start() + 1;
    Loss { lane: Lane(1), lsns, count, reason: Reason::Damaged, unix_micros: -7 }
}

#[test]
fn entries_survive_a_reopening_and_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let open = || Ledger::open(Arc::new(FileSystem), path.clone(), 4096, |_| ()).unwrap();
    let ledger = open();
    let losses = [loss(5..=9), loss(20..=20), loss(30..=41)];
    losses.iter().for_each(|loss| assert!(ledger.record(loss.clone())));
    ledger.record(loss(6..=7));
    assert_eq!(open().entries(), losses);

    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(3 * ENTRY_LEN);
    bytes[ENTRY_LEN + 9] ^= 1;
    bytes.extend_from_slice(b"torn");
    std::fs::write(&path, bytes).unwrap();
    let ledger = open();
    assert_eq!(ledger.entries(), [losses[0].clone(), losses[2].clone()]);
    assert_eq!(ledger.losses(), Losses { entries: 2, events: 17, damaged: 1 });
    ledger.record(loss(50..=50));
    assert_eq!(open().entries(), [losses[0].clone(), losses[2].clone(), loss(50..=50)]);
}

#[test]
fn an_entry_is_found_wherever_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let losses = [loss(5..=9), loss(20..=20), loss(30..=41)];
    let mut bytes = encode(&losses[..1]);
    bytes.extend_from_slice(b"TGL1 is not an entry");
    bytes.extend(encode(&losses[1..]));
    std::fs::write(&path, &bytes).unwrap();
    let mut kept = Vec::new();
    let open = |kept: &mut Vec<u8>| {
        let keep = |bytes: &[u8]| kept.extend_from_slice(bytes);
        Ledger::open(Arc::new(FileSystem), path.clone(), 4096, keep).unwrap()
    };
    let ledger = open(&mut kept);
    assert_eq!((ledger.entries(), kept), (losses.to_vec(), bytes));
    assert_eq!(ledger.losses().damaged, 1);
    // The next entry mends it.
    ledger.record(loss(50..=50));
    let mended = std::fs::read(&path).unwrap();
    assert_eq!(mended[..4 * ENTRY_LEN], encode(&ledger.entries()));
    assert!(is_zero(&mended[4 * ENTRY_LEN..]));
    assert_eq!(open(&mut Vec::new()).losses(), Losses { entries: 4, events: 19, damaged: 0 });
}

#[test]
fn a_full_ledger_forgets_no_lsn_and_no_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let bound = 16 * ENTRY_LEN as u64;
    let open = || Ledger::open(Arc::new(FileSystem), path.clone(), bound, |_| ()).unwrap();
    let ledger = open();
    for number in 1..=1000 {
        let lsn = number * 10;
        ledger.record(loss(lsn..=lsn + 1));
        assert!(std::fs::metadata(&path).unwrap().len() <= bound);
        if number % 97 == 0 {
            assert_eq!(open().entries(), ledger.entries());
        }
    }
    let entries = open().entries();
    assert!((1..=1000).all(|n| entries.iter().any(|entry| entry.lsns.contains(&(n * 10)))));
    assert_eq!(ledger.losses().events, 2000);
    assert_eq!(entries.last(), Some(&loss(10_000..=10_001)), "new ones are as they were entered");
}

#[test]
fn a_full_disk_takes_the_next_entries() {
    let sim = Sim::new(1);
    sim.set_content(Path::new("/log/other"), b"");
    let path = Path::new("/log/ledger");
    let open = || Ledger::open(Arc::new(sim.clone()), path.into(), 16 << 10, |_| ()).unwrap();
    let ledger = open();
    ledger.hold_room();
    sim.leave_room(0);
    // A page has room for 85; as long as there is some on the disk, half a page is ahead.
    assert!((1..=85).all(|lsn| ledger.record(loss(lsn..=lsn))));
    assert!(!ledger.record(loss(86..=86)));
    assert!(ledger.owes(&(86..=90)) && !ledger.owes(&(1..=85)));
    sim.leave_room(6000);
    assert!(ledger.catch_up().is_ok() && !ledger.owes(&(1..=86)));
    sim.leave_room(0);
    assert!((87..=128).all(|lsn| ledger.record(loss(lsn..=lsn))));
    sim.cut_power();
    let ledger = open();
    assert_eq!(ledger.entries().len(), 128);
    assert_eq!(ledger.losses().damaged, 0);
    assert!(ledger.owes(&(5..=5)), "it may have been in memory only");
}

#[test]
fn what_was_on_disk_is_not_owed_when_it_is_merged() {
    let sim = Sim::new(1);
    sim.set_content(Path::new("/log/other"), b"");
    let path = Path::new("/log/ledger");
    let open = || Ledger::open(Arc::new(sim.clone()), path.into(), 4096, |_| ()).unwrap();
    let ledger = open();
    let all: Vec<Loss> = (1..=90).map(|number| loss(number * 10..=number * 10)).collect();
    assert!(all[..85].iter().all(|loss| ledger.record(loss.clone())));
    sim.leave_room(0);
    // It does not fit, nor does the file that has it all.
    assert!(all[85..].iter().all(|loss| !ledger.record(loss.clone())));
    assert!(ledger.entries().len() < 80);
    assert!(!ledger.owes(&(1..=850)) && ledger.owes(&(860..=860)));
    sim.cut_power();
    assert_eq!(open().entries(), all[..85]);
    sim.leave_room(4096);
    assert!(ledger.owes(&(900..=900)));
}

#[test]
fn a_part_that_the_disk_cannot_read_leaves_the_others() {
    let sim = Sim::new(1);
    sim.set_content(Path::new("/log/other"), b"");
    let path = Path::new("/log/ledger");
    let mut copies = 0;
    let mut open = |sim: &Sim| {
        let copy = |bytes: &[u8]| copies += bytes.len();
        Ledger::open(Arc::new(sim.clone()), path.into(), 64 << 10, copy).unwrap()
    };
    let all: Vec<Loss> = (1..=300).map(|lsn| loss(lsn * 2..=lsn * 2)).collect();
    let ledger = open(&sim);
    assert!(all.iter().all(|loss| ledger.record(loss.clone())));
    // A page of four, each with 85 entries; and the last one, with 44 of them.
    for (unreadable, left) in [(4096, 300 - 86), (12288, 300 - 44)] {
        let sim = sim.fork(0);
        sim.make_unreadable(path, unreadable..unreadable + 1);
        let ledger = open(&sim);
        let losses = ledger.losses();
        assert_eq!((losses.entries, losses.damaged), (left, 1), "{unreadable}");
        assert!(ledger.entries().iter().all(|loss| all.contains(loss)));
        // It is written anew, elsewhere.
        assert!(ledger.record(loss(1..=1)));
        assert_eq!(open(&sim).losses(), Losses { entries: left + 1, events: left + 1, damaged: 0 });
    }
    assert!(copies >= 2 * 300 * ENTRY_LEN, "a copy of each: {copies}");
}

#[test]
fn what_is_lost_in_part_says_nothing_of_other_events_between() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let ledger = Ledger::open(Arc::new(FileSystem), path, 4096, |_| ()).unwrap();
    let part = |lsns, count| Loss { count, reason: Reason::Dropped, ..loss(lsns) };
    // New events that a full lane dropped; then it is to drop its oldest.
    let entries = [part(1..=100, 50), part(20..=40, 11), part(41..=60, 20)];
    entries.iter().for_each(|loss| assert!(ledger.record(loss.clone())));
    assert_eq!(ledger.entries(), entries);
    // A crash came before they went; meanwhile the sink has got some of them.
    for again in [part(20..=40, 11), part(30..=40, 5), part(45..=50, 6)] {
        assert!(ledger.record(again));
    }
    assert_eq!(ledger.entries(), entries);
}

#[test]
fn of_an_entry_across_two_sectors_either_may_be_there_after_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let losses: Vec<_> = (1..=11).map(|lsn| loss(lsn..=lsn)).collect();
    let whole = encode(&losses);
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Ledger::open(Arc::new(FileSystem), path.clone(), 4096, |_| ()).unwrap().losses()
    };
    // The eleventh lies at 480..528.
    for torn in [512..528, 480..512] {
        let mut bytes = whole.clone();
        bytes.resize(4096, 0);
        bytes[torn].fill(0);
        assert_eq!(open(&bytes), Losses { entries: 10, events: 10, damaged: 0 });
        // Whatever else is missing of one is damage: also of the last one,
        let mut bytes = whole.clone();
        bytes.resize(4096, 0);
        bytes[500] ^= 1;
        assert_eq!(open(&bytes), Losses { entries: 10, events: 10, damaged: 1 });
        // and of one that has others behind it.
        bytes[500] ^= 1;
        bytes[432..480].fill(0);
        assert_eq!(open(&bytes), Losses { entries: 10, events: 10, damaged: 1 });
    }
}

#[test]
fn what_lies_side_by_side_is_merged_without_a_loss() {
    let side_by_side = [loss(5..=9), loss(20..=29), loss(10..=12), loss(12..=13)];
    let merged = loss::merge(side_by_side.to_vec(), 100);
    assert_eq!(merged, [loss(5..=13), loss(20..=29)]);
    let other = Loss { reason: Reason::Missing, ..loss(14..=15) };
    assert_eq!(loss::merge(vec![other.clone(), merged[0].clone()], 1), [loss(5..=13), other]);
}

#[test]
fn what_is_gone_whatever_its_lane_is_entered_where_no_entry_accounts_for_it() {
    let left = |entries: &[Loss], run| loss::unaccounted(entries.iter(), &run);
    let of = |lane, reason, lsns: RangeInclusive<Lsn>, count| Loss {
        lane: Lane(lane),
        reason,
        lsns,
        count,
        unix_micros: 0,
    };
    let whole = [
        of(1, Reason::Dropped, 11..=20, 10),
        of(2, Reason::Expired, 21..=30, 10),
        of(0, Reason::Damaged, 41..=50, 10),
    ];
    assert_eq!(left(&whole, 11..=30), []);
    assert_eq!(left(&whole, 15..=25), []);
    assert_eq!(left(&whole, 5..=60), [5..=10, 31..=40, 51..=60]);
    assert_eq!(left(&[], 5..=6), [5..=6]);
    // Two lanes, each of which has lost its part.
    let parts = [of(1, Reason::Dropped, 1..=99, 60), of(2, Reason::Dropped, 4..=100, 40)];
    assert_eq!(left(&parts, 1..=100), []);
    assert_eq!(left(&parts, 1..=101), [1..=101]);
    assert_eq!(left(&parts, 2..=100), [2..=100], "how many of the first lie before it?");
    assert_eq!(left(&parts[..1], 1..=100), [1..=100]);
    let thinned = [of(1, Reason::Thinned, 1..=99, 60), of(1, Reason::Dropped, 2..=100, 40)];
    assert_eq!(left(&thinned, 1..=100), []);
    let twice = [of(1, Reason::Expired, 1..=99, 60), of(1, Reason::Dropped, 2..=100, 40)];
    assert_eq!(left(&twice, 1..=100), [1..=100], "they may be the same");
}
