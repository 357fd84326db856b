//! The tests of the log, over `engine = "sled"`.

use std::cell::Cell;

use super::{lanes, races};

thread_local! {
    static MEANT: Cell<bool> = const { Cell::new(false) };
}

/// Whether the test on this thread is one of these.
pub(super) fn is_meant() -> bool {
    MEANT.get()
}

macro_rules! on_sled {
    ($($module:ident: $($test:ident)*;)*) => {$($(
        #[test]
        fn $test() {
            MEANT.set(true);
            $module::$test();
        }
    )*)*};
}

on_sled! {
    super:
    what_was_answered_is_there_after_a_reopening_under_the_same_ids
    a_full_log_refuses_until_a_segment_is_released_and_drains_to_empty
    a_block_as_large_as_the_newest_segment_gets_room_when_all_is_released
    appenders_that_outrun_the_disk_are_refused_until_the_next_commit
    a_commit_waits_for_more_until_its_delay_is_over_or_its_frame_is_full
    a_second_process_is_refused_by_name
    a_reader_that_was_passed_by_a_release_says_what_it_missed
    what_a_frame_says_of_itself_is_what_its_blocks_hold
    control_records_take_no_lsn_and_are_there_after_a_reopening_up_to_the_very_end
    control_records_alone_fill_segments_that_stay_until_their_mark_is_released
    a_log_full_of_events_has_a_segment_left_for_control_records
    a_writer_that_is_gone_answers_nobody_with_a_promise_and_is_noticed
    a_log_that_ends_before_what_somebody_has_read_goes_on_behind_that
    a_cursor_of_another_log_reads_from_the_oldest_event;
    lanes:
    the_oldest_of_a_full_lane_go_and_the_alerts_between_them_stay
    what_every_sink_has_is_no_loss
    nothing_goes_that_no_checkpoint_covers
    old_events_are_thinned_out_before_any_is_dropped
    what_is_older_than_its_lane_keeps_events_goes
    a_lane_that_refuses_takes_no_more_and_the_others_do
    gone_events_have_their_lsns_whatever_is_full;
    races:
    whatever_runs_beside_it_nothing_is_lost_or_read_twice;
}
