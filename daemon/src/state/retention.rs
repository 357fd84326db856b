//! Frees the log: a task that says up to where nobody needs it any more.
//!
//! Events go when every sink's cursor, every session and every read model has passed them, `log.retain`
//! is over, and a checkpoint of the state that covers them is on disk. Sessions keep no more than
//! `limits.max-session-backlog`. `log.retain` gives way once the log is
//! three quarters full: what everybody has is not worth refusing what nobody has.
//!
//! A checkpoint wears the flash, so events that could go stay until an eighth of `log.max-size` has
//! come together, the log is half full, or a minute has passed. What goes is what the two checkpoints
//! that are kept both cover, should the newest be damaged: half of that, on average. Read models that only remember how
//! far they are do so rarely; they are asked to when they alone are in the way.
//!
//! A failed state database takes no checkpoint. The daemon goes on without, until the log is three
//! quarters full; then it stops in order, because a start rebuilds the database and a full log
//! refuses events.
//!
//! Lanes that drop their oldest events have them dropped, or thinned out, here: as soon as they are nearly
//! full, and behind a checkpoint too. So have lanes that keep events no longer than their `max-age`.
//!
//! A lane counts as the log does: one that is half full, or three quarters, is a reason to free it.
//!
//! A disk that is full before the log is (somebody else filled it, or `log.max-size` is larger than the
//! partition) counts as a full log. If a checkpoint does not fit on it, the [`Ballast`] makes room for
//! one; it is written again when the disk takes writes.

mod marks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_event::{Lsn, Received};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, error, warn};

use marks::Marks;

use super::ballast::Ballast;
use super::room::Room;
use super::{State, StateError};
use crate::clock::Clock;
use crate::log::{LaneUsage, Log, Usage};
use crate::supervise::{Role, Supervisor};

/// Between two looks.
const TICK: Duration = Duration::from_millis(200);
/// Events that could go wait at most this long for others.
const GATHER: Duration = Duration::from_secs(60);
/// Between two looks how much of the disk other files take.
const MEASURE: Duration = Duration::from_secs(1);
/// What was dropped within this time is one entry of the ledger.
const ENTER: Duration = Duration::from_secs(1);
/// Between two looks for events that are older than their lane keeps them.
const LOOK: Duration = Duration::from_secs(10);
/// After a checkpoint that could not be written.
const RETRY: Duration = Duration::from_secs(10);

/// What is to be freed, and who has a say in it.
#[derive(Debug)]
pub struct Retention {
    /// The log.
    pub log: Arc<Log>,
    /// The read models and cursors.
    pub state: State,
    /// The names of the sinks; one that has no cursor yet needs everything.
    pub sinks: Vec<String>,
    /// What sessions have not read yet.
    pub sessions: SessionBacklog,
    /// `log.max-size`, in bytes.
    pub max_size: u64,
    /// How much of the disk the log may take.
    pub room: Option<Room>,
    /// Room for a checkpoint on a full disk.
    pub ballast: Ballast,
    /// Says how old events are.
    pub clock: Clock,
    /// `log.retain`: counted from the start for events that are older than that.
    pub retain: Duration,
}

/// What sessions have not read yet.
#[derive(Debug, Default)]
pub struct SessionBacklog {
    /// The first event that one of them needs.
    pub from: Arc<AtomicU64>,
    /// Bytes of the log that are kept for them (`limits.max-session-backlog`).
    pub max_bytes: u64,
}

/// What there is to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Nothing,
    /// Read models are in the way.
    AskToSave,
    /// A checkpoint, then the release of what is below.
    Release(Lsn),
}

/// What that depends on.
struct View<F> {
    usage: Usage,
    max_size: u64,
    /// How full the fullest lane is, in thousandths.
    fullest_lane: u64,
    /// The log is as large as it may become on this disk.
    disk_full: bool,
    /// The next LSN that some sink needs, or a session.
    sinks: Lsn,
    /// The next LSN that some read model needs.
    models: Lsn,
    /// The next LSN that `retain` protects.
    retained: Lsn,
    since_release: Duration,
    /// Bytes that come free with a release below an LSN.
    releasable: F,
}

impl<F: Fn(Lsn) -> u64> View<F> {
    fn is_fuller_than(&self, quarters: u64) -> bool {
        self.disk_full
            || self.usage.bytes > self.max_size / 4 * quarters
            || self.fullest_lane > 250 * quarters
    }

    fn action(&self) -> Action {
        let sinks = match self.is_fuller_than(3) {
            true => self.sinks,
            false => self.sinks.min(self.retained),
        };
        let worth = |before| {
            let bytes = (self.releasable)(before);
            let pressing = self.is_fuller_than(2) || self.since_release >= GATHER;
            bytes > 0 && (pressing || bytes >= self.max_size / 8)
        };
        let before = sinks.min(self.models);
        if worth(before) {
            Action::Release(before)
        } else if before < sinks && worth(sinks) {
            Action::AskToSave
        } else {
            Action::Nothing
        }
    }
}

impl Retention {
    /// Starts the task. It ends with the drain.
    pub fn start(self, supervisor: &Supervisor) {
        let task = self.run(supervisor.clone());
        supervisor.spawn("retention", Role::Critical, task);
    }

    async fn run(self, supervisor: Supervisor) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut marks = Marks::new(self.retain);
        let mut released_at = Instant::now();
        let mut looked_at = Instant::now();
        let mut entered_at = Instant::now();
        let mut measured_at: Option<Instant> = None;
        let mut failed_at: Option<Instant> = None;
        let mut ballast_at: Option<Instant> = None;
        loop {
            let urgent = tokio::select! {
                () = supervisor.drain().cancelled() => return self.enter_gone().await,
                () = self.log.pressed() => true,
                _ = ticks.tick() => false,
            };
            if self.state.is_untidy() {
                let state = self.state.clone();
                // What it fails on is said by whoever has something to save.
                let _ = tokio::task::spawn_blocking(move || state.tidy()).await;
            }
            if self.log.is_disk_full() {
                // Not at once, when others wait for the room.
                ballast_at = Some(Instant::now());
            } else if !self.ballast.is_held() && ballast_at.is_none_or(|at| at.elapsed() >= GATHER)
            {
                ballast_at = Some(Instant::now());
                self.hold_ballast().await;
            }
            if failed_at.is_some_and(|at| at.elapsed() < RETRY) {
                continue;
            }
            let expired = match self.clock.now() {
                Received::Synced { unix_micros } if looked_at.elapsed() >= LOOK => {
                    looked_at = Instant::now();
                    self.log.has_expired(unix_micros).then_some(unix_micros)
                }
                _ => None,
            };
            if urgent || expired.is_some() || self.log.is_pressed() {
                self.make_room(expired).await;
            }
            if let Some(room) = self.room.clone() {
                let all = measured_at.is_none_or(|at| at.elapsed() >= MEASURE);
                if all {
                    measured_at = Some(Instant::now());
                }
                let log = Arc::clone(&self.log);
                // It does not panic; and if it does, the next one tells.
                let _ = tokio::task::spawn_blocking(move || room.measure(&log, all)).await;
            }
            if entered_at.elapsed() >= ENTER {
                entered_at = Instant::now();
                self.enter_gone().await;
            }
            let view = self.view(&mut marks, released_at.elapsed());
            let before = match view.action() {
                Action::Nothing => continue,
                Action::AskToSave => {
                    // A database that failed saves nothing any more: they would be in the way for ever.
                    if view.is_fuller_than(3)
                        && let Some(why) = self.state.failure()
                    {
                        supervisor.fail(format!("the log cannot be freed: {why}"));
                    }
                    self.state.request_save();
                    continue;
                }
                Action::Release(before) => before,
            };
            let urgent = view.is_fuller_than(3);
            failed_at = match self.release(before, urgent).await {
                Ok(()) => {
                    released_at = Instant::now();
                    None
                }
                Err(why) => {
                    error!(%why, "the log cannot be freed");
                    if urgent && self.state.failure().is_some() {
                        supervisor.fail(format!("the log cannot be freed: {why}"));
                    }
                    Some(Instant::now())
                }
            };
        }
    }

    fn view(
        &self,
        marks: &mut Marks,
        since_release: Duration,
    ) -> View<impl Fn(Lsn) -> u64 + use<'_>> {
        let usage = self.log.usage();
        let cursors = self.state.cursors();
        let newest = usage.last.saturating_add(1);
        let models = self.state.applied();
        // Behind that: what the models have passed, it has seen.
        let max_size = self.max_size.min(self.log.budget());
        // However large the state has become, sessions keep no more than half of what is left.
        let oldest = self.log.newest_within(self.sessions.max_bytes.min(max_size / 2));
        let sessions = self.sessions.from.load(Ordering::Acquire).max(oldest);
        let sinks = self.sinks.iter().map(|name| cursors.get(name).unwrap_or_default());
        View {
            usage,
            max_size,
            fullest_lane: self.fullest_lane(),
            disk_full: self.log.is_disk_full(),
            sinks: sinks.min().unwrap_or(newest).min(newest).min(sessions),
            models: models.lsn.saturating_add(1).min(newest),
            retained: marks.protected(Instant::now(), usage.last),
            since_release,
            releasable: move |before| {
                self.log.releasable(before, models.control, models.lsn.saturating_add(2))
            },
        }
    }

    fn fullest_lane(&self) -> u64 {
        let lanes = self.log.lanes().all().map(|lane| self.log.lane_usage(lane));
        let fill = |lane: LaneUsage| match lane.is_full {
            true => 1000,
            false => lane.bytes.saturating_mul(1000) / lane.max_bytes.max(1),
        };
        lanes.map(fill).max().unwrap_or_default()
    }

    async fn release(&self, before: Lsn, urgent: bool) -> Result<(), StateError> {
        let (log, state, ballast) =
            (Arc::clone(&self.log), self.state.clone(), self.ballast.clone());
        let task = tokio::task::spawn_blocking(move || {
            free(&log, &state, || ballast.give_up(), before, urgent)
        });
        // It does not panic; and if it does, the next tick tries again.
        task.await.unwrap_or(Ok(()))
    }

    /// Enters in the ledger what lanes dropped that drop new events.
    async fn enter_gone(&self) {
        let log = Arc::clone(&self.log);
        // What it fails on, the log says.
        let _ = tokio::task::spawn_blocking(move || log.enter_gone()).await;
    }

    /// Makes room in lanes that drop their oldest events, and drops what is older than its lane keeps it,
    /// at this time in microseconds since 1970.
    async fn make_room(&self, now: Option<i64>) {
        let (log, state) = (Arc::clone(&self.log), self.state.clone());
        let cursors = self.state.cursors();
        let sinks = self.sinks.iter().map(|name| cursors.get(name).unwrap_or_default());
        let needed = sinks.min().unwrap_or(Lsn::MAX);
        let ballast = self.ballast.clone();
        let task = tokio::task::spawn_blocking(move || {
            make_room(&log, &state, || ballast.give_up(), needed, now)
        });
        match task.await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => error!(%why, "no room can be made in the log's lanes"),
            // It does not panic; and if it does, the next tick tries again.
            Err(_) => {}
        }
    }

    async fn hold_ballast(&self) {
        let ballast = self.ballast.clone();
        let held = tokio::task::spawn_blocking(move || ballast.hold()).await;
        if let Ok(Err(error)) = held {
            warn!(%error, "there is no room for log.ballast: a full disk may not be freed");
        }
    }
}

/// A checkpoint, then the release of what lies before the event `before` and is covered. Where the disk
/// is full, `make_room` may help; it answers whether it did.
pub(crate) fn free(
    log: &Log,
    state: &State,
    make_room: impl FnOnce() -> bool,
    before: Lsn,
    urgent: bool,
) -> Result<(), StateError> {
    let mut covered = match state.checkpoint() {
        Err(error) if error.is_disk_full() && make_room() => state.checkpoint()?,
        other => other?,
    };
    if urgent && covered.lsn.saturating_add(1) < before {
        // Now both of those that are kept cover it.
        covered = state.checkpoint()?;
    }
    let before = before.min(covered.lsn.saturating_add(1));
    // Who needs control records has one event more than it releases.
    log.release_control(covered.control, covered.lsn.saturating_add(2));
    log.release(before);
    debug!(before, "released");
    Ok(())
}

/// Makes room in lanes, as far as checkpoints cover it: of the two that are kept, so that it may take two.
/// Where the disk is full, `give_up` may help; it answers whether it did.
pub(crate) fn make_room(
    log: &Log,
    state: &State,
    give_up: impl Fn() -> bool,
    needed: Lsn,
    now: Option<i64>,
) -> Result<(), StateError> {
    for _ in 0..2 {
        let covered = match state.checkpoint() {
            Err(error) if error.is_disk_full() && give_up() => state.checkpoint()?,
            other => other?,
        };
        let covered = log.covered(covered.lsn, covered.control, needed);
        let expired = now.map_or(Ok(0), |now| log.expire(now, &covered));
        let trimmed = log.trim(&covered).map_err(StateError::Log)?;
        let expired = expired.map_err(StateError::Log)?;
        debug!(trimmed, expired, "room was made in the log's lanes");
        if !log.is_pressed() && !now.is_some_and(|now| log.has_expired(now)) {
            return Ok(());
        }
    }
    // Read models may be in the way.
    state.request_save();
    Ok(())
}

#[cfg(test)]
mod tests;
