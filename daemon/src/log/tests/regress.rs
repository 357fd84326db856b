//! What random histories found, one test each.

use std::sync::mpsc;
use std::time::Instant;

use super::super::storage::sim::Sim;
use super::*;
use crate::state::{State, retention};

fn open(sim: &Sim) -> (Arc<Log>, Writer, Recovery) {
    let opened = open_unstarted(Arc::new(sim.clone()), options(Path::new("/"))).unwrap();
    (Arc::new(opened.0), opened.1, opened.2)
}

/// Appends an event of 3000 bytes, which is committed with the writer's next step.
fn add(log: &Log) {
    assert!(matches!(log.append(&mut block([&[7; 3000][..]])), Append::Accepted(_)));
}

/// From now on, the disk as each change finds it.
fn before_each_change(sim: &Sim) -> mpsc::Receiver<Sim> {
    let (sender, receiver) = mpsc::channel();
    sim.watch(Box::new(move |sim, _| drop(sender.send(sim.fork(0)))));
    receiver
}

/// The power goes in `sim`, in two hundred ways.
fn power_cuts(sim: &Sim) -> impl Iterator<Item = Sim> {
    let sim = sim.clone();
    (0..200).map(move |seed| {
        let sim = sim.fork(seed);
        sim.cut_power();
        sim
    })
}

/// The zeros of a probe reached the disk and the header of its segment did not: that was taken for a
/// segment whose header is damaged, and cost LSNs that nobody ever had.
#[test]
fn a_power_cut_during_a_probe_is_no_damage() {
    let sim = Sim::new(1);
    // Too little for a segment to be allocated ahead.
    sim.leave_room(10_000);
    let (log, mut writer, _) = open(&sim);
    add(&log);
    writer.step(Instant::now());
    sim.leave_room(2500);
    add(&log);
    writer.step(Instant::now());
    let disks = before_each_change(&sim);
    sim.leave_room(usize::MAX >> 1);
    writer.step(Instant::now() + Duration::from_secs(3600));
    let disks: Vec<_> = disks.try_iter().collect();
    assert!(disks.len() > 5);
    for sim in disks.iter().flat_map(power_cuts) {
        let (log, _, recovery) = open(&sim);
        assert_eq!((log.committed(), log.losses(), recovery.quarantined), (1, vec![], vec![]));
    }
}

/// A read model had every event; a control record came behind the newest one, in the same segment.
/// When another segment was begun, the one with both was released.
#[test]
fn control_records_behind_the_newest_event_outlast_its_release() {
    let sim = Sim::new(1);
    let (log, mut writer, _) = open(&sim);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let database = std::collections::BTreeMap::new();
    let state = State::open_simulated(storage, Path::new("/state"), &database).unwrap();
    add(&log);
    writer.step(Instant::now());
    let sessions = state.tree("sessions").unwrap();
    sessions.apply(vec![], 1).unwrap();
    sessions.needs_control(log.control_mark());
    assert!(matches!(log.append_control(&control(b"late")), Append::Accepted(_)));
    writer.step(Instant::now());
    log.shared.queue.roll();
    writer.step(Instant::now());
    retention::free(&log, &state, || false, 2, true).unwrap();
    assert_eq!(restored(&log, sessions.applied() + 1), ["late"]);
    // With an event behind it, it has come before that.
    add(&log);
    writer.step(Instant::now());
    sessions.apply(vec![], 2).unwrap();
    retention::free(&log, &state, || false, 3, true).unwrap();
    assert_eq!(log.usage().first, 2);
}

/// The process died between making a directory and syncing the one above it; the next one found it
/// there, and events were answered in a directory that the power took away.
#[test]
fn directories_are_durable_before_the_first_answer_whoever_made_them() {
    let sim = Sim::new(1);
    let deep = Options { dir: "/var/lib/gateway/log".into(), ..options(Path::new("/")) };
    let open = |sim: &Sim| open_unstarted(Arc::new(sim.clone()), deep.clone()).unwrap();
    let disks = before_each_change(&sim);
    drop(open(&sim));
    let disks: Vec<_> = disks.try_iter().collect();
    assert!(disks.len() > 8);
    for sim in disks {
        sim.kill();
        let (log, mut writer, _) = open(&sim);
        add(&log);
        writer.step(Instant::now());
        assert_eq!(log.committed(), 1);
        drop((log, writer));
        for sim in power_cuts(&sim) {
            assert_eq!(open(&sim).0.committed(), 1);
        }
    }
}

/// Sinks still needed an old segment; control records behind its events were applied again on top of
/// newer ones, whose segment was covered and released.
#[test]
fn old_control_records_are_not_applied_again_without_those_that_were_released() {
    let sim = Sim::new(1);
    let (log, mut writer, _) = open(&sim);
    add(&log);
    writer.step(Instant::now());
    let mut write = |body: &[u8]| {
        assert!(matches!(log.append_control(&control(body)), Append::Accepted(_)));
        writer.step(Instant::now());
        log.shared.queue.roll();
        writer.step(Instant::now());
    };
    write(b"subscribed");
    write(b"unsubscribed");
    log.release_control(log.control_mark(), 2);
    log.release(1);
    assert_eq!(log.usage().segments, 2, "the one between is gone");
    write(b"later");
    assert_eq!(restored(&log, 2), ["later"]);
    drop((log, writer));
    sim.cut_power();
    assert_eq!(restored(&open(&sim).0, 2), ["later"]);
}

/// A segment could not be created, and a later one under its name had the power go before its header
/// was durable: where its blocks were those of the first, it had that one's header, and what the
/// segment before it had taken since was gone.
#[test]
fn a_header_in_reused_blocks_is_not_taken_for_that_of_the_segment() {
    for seed in 0..4 {
        let sim = Sim::new(seed);
        let say = |log: &Log, writer: &mut Writer, body: &[u8]| {
            assert!(matches!(log.append_control(&control(body)), Append::Accepted(_)));
            writer.step(Instant::now());
        };
        let (log, mut writer, _) = open(&sim);
        say(&log, &mut writer, b"subscribed");
        sim.fail_syncs(1);
        log.shared.queue.roll();
        writer.step(Instant::now());
        drop((log, writer));
        sim.kill();
        let (log, mut writer, _) = open(&sim);
        say(&log, &mut writer, b"unsubscribed");
        let disks = before_each_change(&sim);
        log.shared.queue.roll();
        writer.step(Instant::now());
        assert_eq!(log.usage().segments, 2);
        let disks: Vec<_> = disks.try_iter().collect();
        assert!(disks.len() >= 4);
        for sim in disks.iter().flat_map(power_cuts) {
            let (log, _, recovery) = open(&sim);
            assert_eq!(restored(&log, 1), ["subscribed", "unsubscribed"], "disk {seed}");
            assert_eq!((log.losses(), recovery.set_aside), (vec![], vec![]));
            assert!(sim.files().iter().all(|path| !path.ends_with("segment.new")));
        }
    }
}

/// Behind a hole that the release of control records had left, a segment was abandoned before it held
/// anything. The one that took its place named one before the hole as the last that held anything: so
/// the hole did not show any more.
#[test]
fn a_hole_shows_behind_a_segment_that_came_to_nothing() {
    let sim = Sim::new(1);
    let (log, mut writer, _) = open(&sim);
    add(&log);
    writer.step(Instant::now());
    for body in ["subscribed", "unsubscribed"] {
        assert!(matches!(log.append_control(&control(body.as_bytes())), Append::Accepted(_)));
        writer.step(Instant::now());
        log.shared.queue.roll();
        writer.step(Instant::now());
    }
    let sequence = log.control_mark();
    log.release_control(sequence, 2);
    log.release(1);
    assert_eq!(log.usage().segments, 2, "the one between is gone");
    sim.fail_syncs(1);
    assert!(matches!(log.append_control(&control(b"later")), Append::Accepted(_)));
    writer.step(Instant::now());
    assert_eq!((log.usage().segments, log.control_mark()), (2, sequence + 1));
    assert_eq!(restored(&log, 2), ["later"]);
    drop((log, writer));
    sim.cut_power();
    assert_eq!(restored(&open(&sim).0, 2), ["later"]);
}
