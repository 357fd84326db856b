use tidegate_event::Filter;
use tidegate_event::record::InLane;

use super::*;

const MAX: u64 = 1000;

fn lane(name: &str, max_size: Option<u64>, when_full: WhenFull) -> LaneOptions {
    let topics = vec![Filter::new(&format!("{name}/#")).unwrap()];
    LaneOptions { name: name.into(), topics, max_size, rule: Rule { when_full, ..Rule::default() } }
}

/// Lane 0, of which nothing is said; 1, of 200 bytes, that drops its oldest; 2, of 300, with this policy.
fn lanes(bulk: WhenFull) -> Lanes {
    Lanes::new(
        vec![
            (Lane(0), LaneOptions::default_lane()),
            (Lane(1), lane("alerts", Some(200), WhenFull::DropOldest)),
            (Lane(2), lane("bulk", Some(300), bulk)),
        ],
        MAX,
    )
}

fn part(lane: u8, bytes: u64) -> InLanes {
    InLanes::from_iter([InLane { lane: Lane(lane), events: 1, gone: 0, bytes, newest: 0 }])
}

#[test]
fn the_topic_says_which_lane() {
    let lanes = lanes(WhenFull::Reject);
    assert_eq!(lanes.of("alerts/hot/a"), Lane(1));
    assert_eq!(lanes.of("bulk"), Lane(2));
    assert_eq!(lanes.of("other"), Lane(0));
    assert_eq!(lanes.name(Lane(2)), "bulk");
    assert_eq!(lanes.name(Lane(77)), DEFAULT, "the config knows it no more");
}

#[test]
fn what_a_lane_does_not_use_no_other_gets() {
    let lanes = lanes(WhenFull::Reject);
    assert_eq!(lanes.fits(&part(0, 500), 500), Ok(()));
    assert_eq!(lanes.fits(&part(0, 501), 501), Err(NoRoom::Refused));
    assert_eq!(lanes.fits(&part(2, 300), 800), Ok(()), "lane 0 is full, and the log is not");
    assert_eq!(lanes.fits(&part(2, 301), 800), Err(NoRoom::Refused));
    lanes.add(&part(2, 300));
    assert_eq!(lanes.fits(&part(2, 1), 801), Err(NoRoom::Refused));
    assert_eq!(lanes.fits(&part(0, 500), 800), Ok(()));
    assert_eq!(lanes.fits(&part(1, 200), 1000), Ok(()));
    assert_eq!(lanes.fits(&part(1, 200), 1001), Err(NoRoom::Pressed));
    lanes.remove(&part(2, 300));
    assert_eq!(lanes.fits(&part(0, 500), 800), Err(NoRoom::Refused), "it may come again");
}

#[test]
fn a_block_in_several_lanes_has_to_fit_into_each() {
    let lanes = lanes(WhenFull::Reject);
    let both = |bulk, alerts| part(2, bulk).iter().chain(part(1, alerts).iter()).copied().collect();
    assert_eq!(lanes.fits(&both(300, 200), 1000), Ok(()));
    assert_eq!(lanes.fits(&both(301, 1), 302), Err(NoRoom::Refused));
    assert_eq!(lanes.fits(&both(1, 201), 202), Err(NoRoom::Pressed));
}

#[test]
fn a_full_lane_does_what_its_policy_says_and_no_other_is_full() {
    for (policy, full) in [
        (WhenFull::Reject, Admission::Refuses),
        (WhenFull::DropNewest, Admission::Drops),
        (WhenFull::DropOldest, Admission::Takes),
    ] {
        let lanes = lanes(policy);
        lanes.note(0);
        assert_eq!(lanes.admission(Lane(2)), Admission::Takes);
        lanes.add(&part(2, 290));
        lanes.note(290);
        assert_eq!(lanes.admission(Lane(2)), full);
        assert_eq!(lanes.admission(Lane(0)), Admission::Takes);
        lanes.note(990);
        assert_eq!(lanes.admission(Lane(0)), Admission::Refuses);
    }
}

#[test]
fn a_lane_that_drops_its_oldest_is_pressed_before_it_is_full() {
    let lanes = lanes(WhenFull::DropOldest);
    assert_eq!(lanes.pressed(0, &[]), None);
    lanes.add(&part(2, 281));
    assert_eq!(lanes.pressed(281, &[]), None);
    lanes.add(&part(2, 2));
    assert_eq!(lanes.pressed(283, &[]), Some(Lane(2)));
}

#[test]
fn what_other_files_take_is_no_room_for_events() {
    let lanes = lanes(WhenFull::DropOldest);
    assert_eq!(lanes.fits(&part(0, 500), 500), Ok(()));
    lanes.set_room(100, u64::MAX);
    assert_eq!(lanes.fits(&part(0, 401), 401), Err(NoRoom::Refused));
    assert_eq!(lanes.fits(&part(0, 400), 400), Ok(()));
    lanes.set_room(5000, u64::MAX);
    assert_eq!(lanes.max_size(), 0);
    assert_eq!(lanes.fits(&part(0, 1), 1), Err(NoRoom::Refused));
}

#[test]
fn what_goes_into_the_state_takes_room_until_it_is_counted_there() {
    let lanes = lanes(WhenFull::DropOldest);
    lanes.add_stateful(300);
    assert_eq!(lanes.max_size(), MAX, "nobody looks");
    lanes.set_counted(0);
    assert_eq!(lanes.max_size(), MAX - 2 * 300);
    assert_eq!(lanes.stateful(), 300);
    lanes.add_stateful(50);
    lanes.set_counted(300);
    assert_eq!(lanes.max_size(), MAX - 2 * 50);
    lanes.set_room(950, u64::MAX);
    assert_eq!(lanes.max_size(), 0, "and no less");
}

#[test]
fn a_lane_loses_nothing_of_its_own_to_files_that_grow_but_what_is_wanted() {
    let lanes = lanes(WhenFull::DropOldest);
    lanes.add(&part(2, 200));
    lanes.set_room(900, u64::MAX);
    assert_eq!(lanes.pressed(700, &[]), None);
    assert_eq!(lanes.fits(&part(2, 10), 710), Err(NoRoom::Pressed));
    assert_eq!(lanes.pressed(700, &[]), Some(Lane(2)));
}

#[test]
fn a_disk_that_others_fill_drops_no_more_than_is_wanted() {
    let lanes = lanes(WhenFull::DropOldest);
    lanes.add(&part(2, 200));
    lanes.set_room(0, 200);
    assert_eq!(lanes.pressed(200, &[]), None, "nobody wants room");
    assert_eq!(lanes.fits(&part(2, 10), 210), Err(NoRoom::Pressed));
    assert_eq!(lanes.pressed(200, &[]), Some(Lane(2)));
    lanes.dropped_some(Lane(2));
    assert_eq!(lanes.pressed(200, &[]), None);
}

#[test]
fn what_is_gone_fits_whatever_the_lane_holds() {
    let lanes = lanes(WhenFull::DropNewest);
    lanes.add(&part(2, 300));
    let gone =
        InLanes::from_iter([InLane { lane: Lane(2), events: 0, gone: 1, bytes: 5, newest: 0 }]);
    assert_eq!(lanes.fits(&gone, 305), Ok(()));
}

#[test]
fn who_waits_waits_for_all_of_a_block_while_other_files_leave_less() {
    let lanes = lanes(WhenFull::Reject);
    let block = part(0, 120);
    assert_eq!(lanes.capped(&block), block);
    // A quarter of what is left for lane 0 would be 15 bytes.
    lanes.set_room(440, u64::MAX);
    assert_eq!(lanes.capped(&block), block);
    assert_eq!(lanes.fits(&block, 120), Err(NoRoom::Refused));
    assert_eq!(lanes.capped(&part(0, 300)), part(0, 125), "it may never fit");
}

#[test]
fn a_lane_for_which_nothing_is_left_is_full() {
    let lanes = lanes(WhenFull::Reject);
    lanes.set_room(MAX, u64::MAX);
    lanes.note(0);
    assert_eq!(lanes.admission(Lane(0)), Admission::Refuses);
}
