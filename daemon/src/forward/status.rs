//! How a sink fares: for `/status`, for the log, and for whoever frees the events on disk.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_event::Lsn;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::clock;
use crate::progress::Progress;

/// Changes that follow each other faster than this are logged at debug level only.
const QUIET: Duration = Duration::from_secs(10);
/// No event is waiting.
const NONE: i64 = i64::MAX;

/// How a sink fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// What it is given arrives.
    Ok,
    /// It cannot be reached, or fails; batches are sent again.
    Retrying,
    /// It asked for a pause.
    Throttled,
    /// It refuses some events, which go to the dead-letter queue.
    Poison,
    /// It refuses us: someone has to look at the config or the other side.
    Misconfigured,
    /// Poison events are held back: the dead-letter queue takes no more.
    DeadLettersFull,
}

/// A sink's state at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The sink's name.
    pub name: String,
    /// Where it sends to.
    pub address: String,
    /// How it fares.
    pub condition: Condition,
    /// For how long it has fared so, in seconds.
    pub for_seconds: u64,
    /// What went wrong last, if something did since the start.
    pub last_error: Option<String>,
    /// The next LSN to deliver: everything below is delivered, unwanted, or a dead letter.
    pub cursor: Lsn,
    /// Events in the log that the cursor has not passed.
    pub lag_events: u64,
    /// Age of the oldest event known not to be delivered, in seconds; 0 where all are.
    pub lag_seconds: u64,
}

/// What a forwarder and its handle share.
#[derive(Debug)]
pub(super) struct Monitor {
    name: String,
    address: String,
    cursor: AtomicU64,
    /// When the oldest undelivered event was received, in microseconds since 1970.
    oldest: AtomicI64,
    /// What the forwarder has done.
    steps: AtomicU64,
    fares: Mutex<Fares>,
}

#[derive(Debug)]
struct Fares {
    condition: Condition,
    since: Instant,
    /// A word that changes when there is something new to say.
    reason: &'static str,
    last_error: Option<String>,
    logged: Option<Instant>,
}

impl Monitor {
    pub(super) fn new(name: &str, address: &str, cursor: Lsn) -> Self {
        Self {
            name: name.to_owned(),
            address: address.to_owned(),
            cursor: AtomicU64::new(cursor),
            oldest: AtomicI64::new(NONE),
            steps: AtomicU64::new(0),
            fares: Mutex::new(Fares {
                condition: Condition::Ok,
                since: Instant::now(),
                reason: "",
                last_error: None,
                logged: None,
            }),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn cursor(&self) -> Lsn {
        self.cursor.load(Ordering::Acquire)
    }

    /// Moves the cursor; `oldest` is when the oldest undelivered event was received.
    pub(super) fn moved(&self, cursor: Lsn, oldest: Option<i64>) {
        self.cursor.store(cursor, Ordering::Release);
        self.oldest.store(oldest.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// The forwarder got on.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// How far the forwarder is.
    pub(super) fn progress(&self, committed: Lsn) -> Progress {
        let steps = self.steps.load(Ordering::Relaxed);
        Progress { steps, has_work: self.cursor() <= committed }
    }

    /// Seconds since the oldest undelivered event was received.
    pub(super) fn lag_seconds(&self) -> u64 {
        let age = clock::unix_micros().saturating_sub(self.oldest.load(Ordering::Relaxed));
        u64::try_from(age / 1_000_000).unwrap_or_default()
    }

    /// Something arrived.
    pub(super) fn delivered(&self) {
        let mut fares = self.fares();
        if fares.condition == Condition::Ok {
            return;
        }
        let lasted = fares.since.elapsed().as_secs();
        match fares.change(Condition::Ok, "") {
            true => info!(sink = self.name, "delivers again, after {lasted} s"),
            false => debug!(sink = self.name, "delivers again, after {lasted} s"),
        }
    }

    /// Something did not. Logged once a condition and `reason`, with what to do about it.
    pub(super) fn trouble(&self, condition: Condition, reason: &'static str, message: String) {
        let mut fares = self.fares();
        let is_new = (fares.condition, fares.reason) != (condition, reason);
        if is_new {
            let sink = &self.name;
            match (fares.change(condition, reason), condition) {
                (false, _) => debug!(sink, reason, "{message}"),
                (true, Condition::Misconfigured) => error!(
                    sink,
                    reason, "refused by {message}; nothing is given up, the events wait on disk"
                ),
                (true, Condition::Throttled) => info!(sink, reason, "{message}"),
                (true, Condition::Poison) => warn!(sink, reason, "refused: {message}"),
                (true, _) => warn!(sink, reason, "{message}; trying again"),
            }
        }
        fares.last_error = Some(message);
    }

    pub(super) fn status(&self, committed: Lsn) -> Status {
        let cursor = self.cursor();
        let fares = self.fares();
        Status {
            name: self.name.clone(),
            address: self.address.clone(),
            condition: fares.condition,
            for_seconds: fares.since.elapsed().as_secs(),
            last_error: fares.last_error.clone(),
            cursor,
            lag_events: committed.saturating_add(1).saturating_sub(cursor),
            lag_seconds: self.lag_seconds(),
        }
    }

    fn fares(&self) -> MutexGuard<'_, Fares> {
        self.fares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fares {
    /// Answers whether to say it aloud.
    fn change(&mut self, condition: Condition, reason: &'static str) -> bool {
        let now = Instant::now();
        if self.condition != condition {
            self.since = now;
        }
        (self.condition, self.reason) = (condition, reason);
        let aloud = self.logged.is_none_or(|logged| now.duration_since(logged) >= QUIET);
        if aloud {
            self.logged = Some(now);
        }
        aloud
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_status_says_what_is_wrong_since_when_and_how_much_waits() {
        let monitor = Monitor::new("cloud", "http://bus/", 5);
        assert_eq!(monitor.status(4).lag_events, 0);
        let minute = Duration::from_secs(60);
        tokio::time::advance(minute).await;
        monitor.trouble(Condition::Retrying, "refused", "http://bus/: refused".into());
        tokio::time::advance(minute).await;
        monitor.trouble(Condition::Retrying, "timeout", "http://bus/: timeout".into());
        monitor.moved(11, Some(clock::unix_micros() - 3_500_000));
        let status = monitor.status(30);
        assert_eq!((status.condition, status.for_seconds), (Condition::Retrying, 60));
        assert_eq!(status.last_error.as_deref(), Some("http://bus/: timeout"));
        assert_eq!((status.cursor, status.lag_events, status.lag_seconds), (11, 20, 3));
        monitor.delivered();
        monitor.moved(31, None);
        let status = monitor.status(30);
        assert_eq!((status.condition, status.for_seconds), (Condition::Ok, 0));
        assert_eq!((status.lag_events, status.lag_seconds), (0, 0));
    }
}
