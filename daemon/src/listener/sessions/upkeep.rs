//! What happens to sessions while nobody looks: wills and sessions that are due, what the log is to
//! have, what the state is to have, and what the log must keep.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tidegate_event::Lsn;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::records::{Detached, Record};
use super::{GROUP, Kept, Sessions, Table};
use crate::state::{Change, State};
use crate::supervise::{Role, Supervisor};

/// Between two saves of what has changed.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the state may claim less of the log than it covers where nothing has changed: that much
/// of the log cannot be released, and is read again at the next start.
const POSITION_DELAY: Duration = Duration::from_secs(5);
/// A will that the log did not take is tried again after this.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What the last save left.
#[derive(Debug)]
struct Saved {
    at: Instant,
    /// The log and the bus, as they were.
    seen: (Lsn, Lsn),
    failed: bool,
}

impl Sessions {
    /// Starts the upkeep. It ends with the drain, with everything saved.
    pub fn start(&self, state: &State, supervisor: &Supervisor) {
        let (this, requests) = (self.clone(), state.save_requests());
        let drain = supervisor.drain().clone();
        supervisor.spawn("sessions", Role::Critical, this.run(requests, drain));
    }

    async fn run(self, mut requests: watch::Receiver<u64>, drain: CancellationToken) {
        let mut saves = interval(SAVE_INTERVAL);
        saves.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut saved = Saved { at: Instant::now(), seen: (0, 0), failed: false };
        loop {
            let due = self.lock().due.first().map(|(due, _)| *due);
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.do_what_is_due(Instant::now()),
                () = self.0.earlier.notified() => {}
                _ = saves.tick() => self.save(&mut saved, false),
                Ok(()) = requests.changed() => self.save(&mut saved, true),
                () = drain.cancelled() => break,
            }
        }
        self.save(&mut saved, true);
    }

    /// Publishes the wills and ends the sessions whose time is over at `now`.
    fn do_what_is_due(&self, now: Instant) {
        let inner = &self.0;
        let mut table = self.lock();
        while let Some((due, client)) = table.due.first().cloned()
            && due <= now
        {
            table.due.pop_first();
            let Some(entry) = table.clients.get_mut(&client) else { continue };
            entry.due = None;
            let (mut ends, mut will) = (entry.ends, entry.will);
            let Some(kept) = entry.kept.clone() else { continue };
            if will.is_some_and(|will| will <= now) {
                will = (!self.publish_due(&kept, &client)).then(|| now + RETRY_DELAY);
            }
            match ends {
                Some(end) if end <= now && will.is_none() => {
                    table.end(&client, inner);
                    table.clients.remove(&client);
                    inner.metrics.sessions_expired.inc();
                    inner.metrics.sessions.set(table.kept as i64);
                    info!(client = &*client, "session expired");
                    self.touch();
                    continue;
                }
                Some(end) if end <= now => ends = will,
                _ => {}
            }
            table.schedule(&client, ends, will);
        }
    }

    /// Publishes the will of a session whose client has been away for long enough. False if the log
    /// does not take it for now.
    fn publish_due(&self, kept: &Kept, client: &Arc<str>) -> bool {
        let mut live = kept.lock();
        let Some(Detached { at, expiry, will: Some(will) }) = live.stored.detached.clone() else {
            return true;
        };
        let published = self.try_publish(&will, client);
        if published {
            live.record(client, &Record::Detached(Detached { at, expiry, will: None }));
            // Refused, the upkeep hands it over later.
            let _ = live.append(&self.0.log);
            self.touch();
        }
        published
    }

    /// Saves what has changed. The state then covers the log as far as the bus has handed it out.
    fn save(&self, saved: &mut Saved, at_once: bool) {
        let inner = &self.0;
        // What is in the log by now is in the sessions by now, but for what lies behind their floors.
        let seen = (inner.log.committed(), inner.bus.position());
        let mark = inner.log.control_mark();
        let late = saved.at.elapsed() >= POSITION_DELAY;
        // Before anything of a session is read.
        let touched =
            inner.touched.swap(false, Ordering::AcqRel) | inner.bus.groups().take_touched();
        if !at_once && !touched && (seen == saved.seen || !late) {
            return;
        }
        let mut table = self.lock();
        table.append(&inner.log);
        let covered = table.cover(self, seen.0.min(seen.1.saturating_sub(1)));
        // Before the sessions: what a group does not owe any more they have. None ends meanwhile.
        let mut groups = inner.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut had = groups.clone();
        let shared = inner.bus.groups().save(seen.1, &mut had);
        let (mut changes, mut needed) = table.changes();
        drop(table);
        needed = needed.min(shared.needed.unwrap_or(Lsn::MAX));
        changes.extend(shared.changes.into_iter().map(|(group, value)| {
            let mut key = vec![GROUP];
            key.extend_from_slice(group.as_bytes());
            (key, value)
        }));
        // First what must stay: who sees what is covered sees this too.
        inner.needed.store(needed, Ordering::Release);
        let applied = inner.tree.applied();
        let written = match changes.is_empty() && covered <= applied {
            true => Ok(()),
            false => inner.tree.apply(changes, covered.max(applied)),
        };
        match written {
            Ok(()) => {
                *groups = had;
                inner.tree.needs_control(mark);
            }
            Err(why) if !saved.failed => {
                warn!("sessions could not be written to the state: {why}");
                saved.failed = true;
            }
            Err(_) => {}
        }
        (saved.at, saved.seen) = (Instant::now(), seen);
    }
}

impl Table {
    /// Hands to the log what it does not have yet of any session. Answers up to which event all of
    /// them know the log, at most `covered`.
    fn cover(&self, sessions: &Sessions, covered: Lsn) -> Lsn {
        let kept = self.clients.values().filter_map(|entry| entry.kept.as_ref());
        kept.fold(covered, |covered, kept| {
            let mut live = kept.lock();
            if !live.unlogged.is_empty() {
                // Refused, the next round tries again.
                let _ = live.append(&sessions.0.log);
            }
            live.floor.map_or(covered, |floor| covered.min(floor))
        })
    }

    /// What the state is to have, and the first event that a session needs of the log.
    fn changes(&mut self) -> (Vec<Change>, Lsn) {
        let ended = std::mem::take(&mut self.ended);
        let mut changes: Vec<Change> =
            ended.iter().map(|client| (client.as_bytes().to_vec(), None)).collect();
        let mut needed = Lsn::MAX;
        for (client, entry) in &self.clients {
            let Some(kept) = &entry.kept else { continue };
            let mut live = kept.lock();
            let unsent = live.backlog.unsent().map(|unsent| unsent.max(live.stored.next));
            let oldest = live.stored.oldest_flight();
            needed = needed.min(unsent.into_iter().chain(oldest).min().unwrap_or(Lsn::MAX));
            if std::mem::take(&mut live.dirty) || unsent != live.saved_unsent {
                live.saved_unsent = unsent;
                changes.push((client.as_bytes().to_vec(), Some(live.stored.encode(unsent))));
            }
        }
        (changes, needed)
    }
}
