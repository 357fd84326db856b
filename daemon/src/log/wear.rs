//! What the log writes to the flash, and how a daily budget of it is kept.
//!
//! A flash is written in pages: a commit that ends within one writes it, and the next commit writes it
//! again. So a commit counts as the pages of 4 KiB that it touches. What the file system writes beside
//! that (its journal, its tables) is not known here.
//!
//! # The budget
//!
//! Larger groups share pages, so who commits less often writes less. An hour's share of the budget may be
//! written at any pace. Beyond it each commit doubles the wait for the next one's events, up to
//! `max_stretch`; within it each halves that. Where the longest wait does not help either, the events are
//! written all the same: the day's budget is exceeded, and that is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a flash writes at least.
const PAGE: u64 = 4096;
const HOUR: Duration = Duration::from_secs(3600);
const HOURS: usize = 24;
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The first wait.
const FIRST: Duration = Duration::from_millis(1);
/// A rate over less than this says nothing of a year.
const LEAST: Duration = Duration::from_secs(60);

/// Counts what is written. Shared by appenders, the writer, and who looks.
#[derive(Debug)]
pub(super) struct Wear {
    begin: Instant,
    payload: AtomicU64,
    bytes: AtomicU64,
    pages: AtomicU64,
    syncs: AtomicU64,
    budget: Option<Mutex<Budget>>,
}

/// What a log has written since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Written {
    /// Bytes of the events' payloads, as they were handed over.
    pub payload: u64,
    /// Bytes of frames and headers.
    pub bytes: u64,
    /// Bytes of the pages that they lie in, each as often as it was written.
    pub on_flash: u64,
    /// Calls of fdatasync for events and control records.
    pub syncs: u64,
    /// Bytes on flash in a year, if it goes on like this; `None` in the first minute.
    pub a_year: Option<u64>,
    /// How long commits wait for the daily budget's sake.
    pub stretch: Duration,
    /// Bytes on flash in the last 24 hours, and the budget for them.
    pub day: Option<(u64, u64)>,
}

impl Wear {
    pub(super) fn new(daily: Option<u64>, max_stretch: Duration) -> Self {
        Self {
            begin: Instant::now(),
            payload: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            budget: daily.map(|daily| Mutex::new(Budget::new(daily, max_stretch))),
        }
    }

    /// Events with so many bytes of payload were taken.
    pub(super) fn took(&self, payload: u64) {
        self.payload.fetch_add(payload, Ordering::Relaxed);
    }

    /// So many bytes at `offset` of a file were written and synced. Answers what that means for the
    /// next commit.
    pub(super) fn wrote(&self, offset: u64, bytes: u64) -> Option<Pace> {
        let pages = pages(offset, bytes);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.pages.fetch_add(pages, Ordering::Relaxed);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let budget = self.budget.as_ref()?;
        let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
        Some(budget.wrote(self.begin.elapsed(), pages * PAGE))
    }

    pub(super) fn written(&self) -> Written {
        let elapsed = self.begin.elapsed();
        let on_flash = self.pages.load(Ordering::Relaxed) * PAGE;
        let a_year = on_flash as f64 * (YEAR.as_secs_f64() / elapsed.as_secs_f64());
        let budget = self.budget.as_ref();
        let budget = budget.map(|budget| budget.lock().unwrap_or_else(PoisonError::into_inner));
        Written {
            payload: self.payload.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            on_flash,
            syncs: self.syncs.load(Ordering::Relaxed),
            a_year: (elapsed >= LEAST).then_some(a_year as u64),
            stretch: budget.as_ref().map_or(Duration::ZERO, |budget| budget.stretch),
            day: budget.map(|mut budget| {
                budget.turn(elapsed);
                (budget.hours.iter().sum(), budget.daily)
            }),
        }
    }
}

/// The pages that bytes at an offset lie in.
fn pages(offset: u64, bytes: u64) -> u64 {
    (offset + bytes).div_ceil(PAGE) - offset / PAGE
}

/// What a commit means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// How long it waits for events.
    pub(super) stretch: Duration,
    /// The day's budget, where this commit exceeded it.
    pub(super) exceeds: Option<u64>,
}

/// Decides how long commits wait. Pure: times are counted from some beginning.
#[derive(Debug)]
struct Budget {
    daily: u64,
    max_stretch: Duration,
    stretch: Duration,
    /// Bytes that may be written now; below 0 too many were.
    left: f64,
    at: Duration,
    /// The last 24, by the hour.
    hours: [u64; HOURS],
    hour: u64,
    is_exceeded: bool,
}

impl Budget {
    fn new(daily: u64, max_stretch: Duration) -> Self {
        Self {
            daily,
            max_stretch,
            stretch: Duration::ZERO,
            left: daily as f64 / HOURS as f64,
            at: Duration::ZERO,
            hours: [0; HOURS],
            hour: 0,
            is_exceeded: false,
        }
    }

    fn wrote(&mut self, now: Duration, bytes: u64) -> Pace {
        self.turn(now);
        let share = self.daily as f64 / HOURS as f64;
        let earned = share * (now - self.at).as_secs_f64() / HOUR.as_secs_f64();
        self.at = now;
        self.left = (self.left + earned).min(share) - bytes as f64;
        // A day of too much is not held against the next one.
        self.left = self.left.max(-share);
        self.hours[self.hour as usize % HOURS] += bytes;
        self.stretch = if self.left < 0.0 {
            (self.stretch * 2).max(FIRST).min(self.max_stretch)
        } else {
            let half = self.stretch / 2;
            if half < FIRST { Duration::ZERO } else { half }
        };
        let was_exceeded = self.is_exceeded;
        self.is_exceeded = self.hours.iter().sum::<u64>() > self.daily;
        let exceeds = (self.is_exceeded && !was_exceeded).then_some(self.daily);
        Pace { stretch: self.stretch, exceeds }
    }

    /// Forgets the hours that are more than a day ago.
    fn turn(&mut self, now: Duration) {
        let hour = now.as_secs() / HOUR.as_secs();
        let passed = (hour - self.hour.min(hour)).min(HOURS as u64);
        for next in 1..=passed {
            self.hours[(self.hour + next) as usize % HOURS] = 0;
        }
        self.hour = self.hour.max(hour);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LONGEST: Duration = Duration::from_secs(1);

    #[test]
    fn a_page_counts_as_often_as_it_is_written() {
        assert_eq!(pages(0, 1), 1);
        assert_eq!(pages(4000, 200), 2);
        assert_eq!(pages(4096, 4096), 1);
        assert_eq!(pages(1024, 8192), 3);
        let wear = Wear::new(None, LONGEST);
        wear.took(150);
        for at in 0..10 {
            assert_eq!(wear.wrote(1024 + at * 200, 200), None);
        }
        let Written { payload, bytes, on_flash, syncs, a_year, day, .. } = wear.written();
        assert_eq!((payload, bytes, on_flash, syncs), (150, 2000, 40_960, 10));
        assert_eq!((a_year, day), (None, None));
    }

    #[test]
    fn commits_wait_longer_while_the_pace_is_too_high_and_less_when_it_is_not() {
        let mut budget = Budget::new(24 * MIB, LONGEST);
        // The hour's share at once.
        assert_eq!(budget.wrote(Duration::ZERO, MIB).stretch, Duration::ZERO);
        let mut stretch = Duration::ZERO;
        for commit in 1..=20 {
            let next = budget.wrote(Duration::from_millis(commit), 4096).stretch;
            assert!(next > stretch || next == LONGEST, "{next:?}");
            stretch = next;
        }
        assert_eq!(stretch, LONGEST);
        // Two idle hours later there is room again.
        for _ in 0..20 {
            stretch = budget.wrote(2 * HOUR, 4096).stretch;
        }
        assert_eq!(stretch, Duration::ZERO);
    }

    #[test]
    fn a_day_of_too_much_is_told_once_and_forgotten_a_day_later() {
        let mut budget = Budget::new(24 * MIB, LONGEST);
        let mut told = Vec::new();
        for hour in 0..24 {
            if let Some(daily) = budget.wrote(HOUR * hour, 2 * MIB).exceeds {
                told.push((hour, daily));
            }
        }
        assert_eq!(told, [(12, 24 * MIB)]);
        budget.turn(HOUR * 47);
        assert_eq!(budget.hours.iter().sum::<u64>(), 0);
        assert_eq!(budget.wrote(HOUR * 47, 1).exceeds, None);
        assert_eq!(budget.wrote(HOUR * 47, 25 * MIB).exceeds, Some(24 * MIB));
    }
}
