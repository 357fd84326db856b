//! How a sink fares: for `/status`, for the log, and for whoever frees the events on disk.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// The parts of that lag, those that go first in front, while there is more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamStatus>,
}

/// One of the streams in which a sink that has fallen behind gets its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StreamStatus {
    /// Whether it is a backlog that newer events go ahead of.
    pub backlog: bool,
    /// The highest priority of its lanes.
    pub priority: u8,
    /// Events in the log that it has not passed; of other lanes, too.
    pub lag_events: u64,
    /// Age of its oldest event known not to be delivered, in seconds; 0 where all are.
    pub lag_seconds: u64,
}

/// Where a stream stands.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) name: StreamName,
    /// What it has not passed of what is committed.
    pub(super) open: Range<Lsn>,
    /// Whether it goes on with the log.
    pub(super) goes_on: bool,
    /// When its oldest undelivered event was received, in microseconds since 1970.
    pub(super) oldest: Option<i64>,
}

/// What a stream is called: ranges of a backlog are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamName {
    pub(super) is_backlog: bool,
    pub(super) priority: u8,
}

/// What a forwarder and its handle share.
#[derive(Debug)]
pub(super) struct Monitor {
    name: String,
    address: String,
    cursor: AtomicU64,
    streams: Mutex<Vec<Standing>>,
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
            streams: Mutex::default(),
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

    /// Moves the cursor: where the streams stand, those of higher rank first.
    pub(super) fn moved(&self, streams: Vec<Standing>) {
        let cursor = streams.iter().map(|stream| stream.open.start).min();
        self.cursor.store(cursor.unwrap_or_default(), Ordering::Release);
        *self.streams() = streams;
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
        let mut streams = self.streams().clone();
        for stream in streams.iter_mut().filter(|stream| stream.goes_on) {
            stream.open.end = stream.open.end.max(committed.saturating_add(1));
        }
        let (lag_events, lag_seconds) = match &streams[..] {
            [] => (committed.saturating_add(1).saturating_sub(cursor), 0),
            streams => lag(streams),
        };
        let fares = self.fares();
        Status {
            name: self.name.clone(),
            address: self.address.clone(),
            condition: fares.condition,
            for_seconds: fares.since.elapsed().as_secs(),
            last_error: fares.last_error.clone(),
            cursor,
            lag_events,
            lag_seconds,
            streams: if streams.len() > 1 { parts(&streams) } else { Vec::new() },
        }
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Standing>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fares(&self) -> MutexGuard<'_, Fares> {
        self.fares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events in one of the streams, and seconds since the oldest of them was received.
fn lag(streams: &[Standing]) -> (u64, u64) {
    let mut ranges: Vec<Range<Lsn>> = streams.iter().map(|stream| stream.open.clone()).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let (mut events, mut counted) = (0, 0);
    for range in ranges {
        let start = range.start.max(counted);
        events += range.end.saturating_sub(start);
        counted = counted.max(range.end);
    }
    let oldest = streams.iter().filter_map(|stream| stream.oldest).min();
    let age = oldest.map_or(0, |oldest| clock::unix_micros().saturating_sub(oldest) / 1_000_000);
    (events, u64::try_from(age).unwrap_or_default())
}

/// Streams of one name together.
fn parts(streams: &[Standing]) -> Vec<StreamStatus> {
    let mut names: Vec<StreamName> = streams.iter().map(|stream| stream.name).collect();
    // Those of a name stand together.
    names.dedup();
    let part = |name: StreamName| {
        let named: Vec<Standing> =
            streams.iter().filter(|stream| stream.name == name).cloned().collect();
        let (lag_events, lag_seconds) = lag(&named);
        let StreamName { is_backlog, priority } = name;
        StreamStatus { backlog: is_backlog, priority, lag_events, lag_seconds }
    };
    names.into_iter().map(part).collect()
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
        let stands = |is_backlog, priority, open, ago: Option<i64>| Standing {
            name: StreamName { is_backlog, priority },
            open,
            goes_on: !is_backlog,
            oldest: ago.map(|seconds| clock::unix_micros() - seconds * 1_000_000 - 500_000),
        };
        monitor.moved(vec![stands(false, 9, 11..30, Some(3))]);
        let status = monitor.status(30);
        assert!(status.streams.is_empty());
        assert_eq!((status.condition, status.for_seconds), (Condition::Retrying, 60));
        assert_eq!(status.last_error.as_deref(), Some("http://bus/: timeout"));
        assert_eq!((status.cursor, status.lag_events, status.lag_seconds), (11, 20, 3));
        monitor.delivered();
        monitor.moved(vec![
            stands(false, 9, 29..31, Some(1)),
            stands(true, 9, 11..20, None),
            stands(true, 0, 12..16, Some(60)),
            stands(true, 0, 17..25, Some(50)),
        ]);
        let status = monitor.status(30);
        assert_eq!((status.cursor, status.lag_events, status.lag_seconds), (11, 16, 60));
        let part = |backlog, priority, lag_events, lag_seconds| StreamStatus {
            backlog,
            priority,
            lag_events,
            lag_seconds,
        };
        assert_eq!(
            status.streams,
            [part(false, 9, 2, 1), part(true, 9, 9, 0), part(true, 0, 12, 60)]
        );
        monitor.moved(vec![stands(false, 9, 31..31, None)]);
        let status = monitor.status(30);
        assert_eq!((status.condition, status.for_seconds), (Condition::Ok, 0));
        assert_eq!((status.lag_events, status.lag_seconds), (0, 0));
    }
}
