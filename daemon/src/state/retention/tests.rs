use super::*;

const MIB: u64 = 1 << 20;

/// 100 MiB, of which `bytes` are in use; a MiB comes free for each LSN.
fn view(bytes: u64, sinks: Lsn, models: Lsn, retained: Lsn) -> View<fn(Lsn) -> u64> {
    View {
        usage: Usage { bytes: bytes * MIB, first: 1, last: bytes, segments: 1, ..Usage::default() },
        max_size: 100 * MIB,
        fullest_lane: 0,
        disk_full: false,
        sinks,
        models,
        retained,
        since_release: Duration::ZERO,
        releasable: |before| (before - 1) * MIB,
    }
}

#[test]
fn nothing_goes_that_a_sink_or_a_read_model_needs() {
    assert_eq!(view(60, 1, 50, Lsn::MAX).action(), Action::Nothing);
    assert_eq!(view(60, 9, 50, Lsn::MAX).action(), Action::Release(9));
    assert_eq!(view(60, 50, 9, Lsn::MAX).action(), Action::Release(9));
}

#[test]
fn little_waits_for_more_or_a_minute_or_a_half_full_log() {
    assert_eq!(view(40, 4, 4, Lsn::MAX).action(), Action::Nothing);
    assert_eq!(view(40, 14, 14, Lsn::MAX).action(), Action::Release(14));
    assert_eq!(view(51, 4, 4, Lsn::MAX).action(), Action::Release(4));
    let late = View { since_release: GATHER, ..view(40, 4, 4, Lsn::MAX) };
    assert_eq!(late.action(), Action::Release(4));
    let idle = View { since_release: GATHER, ..view(40, 1, 1, Lsn::MAX) };
    assert_eq!(idle.action(), Action::Nothing);
}

#[test]
fn read_models_that_are_in_the_way_are_asked_to_save() {
    assert_eq!(view(40, 20, 1, Lsn::MAX).action(), Action::AskToSave);
    assert_eq!(view(40, 4, 1, Lsn::MAX).action(), Action::Nothing);
    assert_eq!(view(40, 20, 1, 3).action(), Action::Nothing);
}

#[test]
fn retain_gives_way_to_a_log_that_fills_up() {
    assert_eq!(view(60, 50, 50, 9).action(), Action::Release(9));
    assert_eq!(view(60, 50, 50, 1).action(), Action::Nothing);
    assert_eq!(view(76, 50, 50, 1).action(), Action::Release(50));
}

#[test]
fn a_disk_that_is_full_counts_as_a_full_log() {
    let full = View { disk_full: true, ..view(40, 4, 4, 1) };
    assert_eq!(full.action(), Action::Release(4));
    let full = View { disk_full: true, ..view(40, 4, 1, 1) };
    assert_eq!(full.action(), Action::AskToSave);
}

#[test]
fn a_lane_counts_as_the_log_does() {
    let lane = |fullest_lane, retained| View { fullest_lane, ..view(40, 4, 4, retained) };
    assert_eq!(lane(500, Lsn::MAX).action(), Action::Nothing);
    assert_eq!(lane(501, Lsn::MAX).action(), Action::Release(4));
    assert_eq!(lane(750, 1).action(), Action::Nothing);
    assert_eq!(lane(751, 1).action(), Action::Release(4));
}

#[test]
fn events_are_protected_for_as_long_as_retain_says() {
    let start = Instant::now();
    let mut marks = Marks::new(Duration::from_secs(640));
    let mut at = |second, last| marks.protected(start + Duration::from_secs(second), last);
    assert_eq!(at(0, 5), 1);
    assert_eq!(at(1, 6), 1);
    assert_eq!(at(10, 10), 1);
    assert_eq!(at(639, 99), 1);
    assert_eq!(at(640, 99), 6);
    assert_eq!(at(650, 99), 11);
    assert_eq!(at(5000, 99), 100);
    assert_eq!(Marks::new(Duration::ZERO).protected(start, 5), Lsn::MAX);
}
