//! CloudEvents that come twice: an event that brings its own source and id is stored once.
//!
//! The last events are remembered by a hash of 128 bits of source and id, for `dedup.window` and up to
//! `dedup.max-events`, in memory; after a start, from the newest events in the log. A second copy is
//! acknowledged, once the first is on disk, and not stored.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tidegate_config::Dedup as Config;
use tidegate_event::cloudevents;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::clock;
use crate::log::{Chunk, Log, Read};

/// Bytes of the log that are read at a start, about.
const MAX_RESTORED: u64 = 64 << 20;
/// Bytes read at once then.
const CHUNK: usize = 256 << 10;

/// The events that were seen lately. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Dedup {
    window: Duration,
    max_events: usize,
    hashers: [RandomState; 2],
    table: Arc<Mutex<Table>>,
    metrics: Metrics,
}

/// What an event is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u128);

#[derive(Debug, Default)]
struct Table {
    seen: HashMap<Key, Seen>,
    /// Oldest first; an entry may be gone from `seen`.
    order: VecDeque<(Instant, Key)>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    fate: Fate,
}

#[derive(Debug)]
enum Fate {
    Stored,
    /// True once it is stored; closed without, if it is not.
    Pending(watch::Receiver<bool>),
}

#[derive(Debug, Clone, Default)]
struct Metrics {
    duplicates: Counter,
    remembered: Gauge,
    forgotten: Counter,
}

/// Whether an event came before.
#[derive(Debug)]
pub enum Arrival {
    /// The first one: it is to be stored, and the mark told.
    First(Mark),
    /// Another of one that is on disk.
    OfStored,
    /// Another of one that waits for the disk.
    OfPending(Pending),
}

/// The first copy of an event on its way to the disk. Dropped, it is forgotten.
#[derive(Debug)]
pub struct Mark {
    key: Key,
    table: Arc<Mutex<Table>>,
    remembered: Gauge,
    stored: watch::Sender<bool>,
}

/// Waits for what becomes of a first copy.
#[derive(Debug)]
pub struct Pending(watch::Receiver<bool>);

impl Dedup {
    /// Remembers nothing yet.
    pub fn new(config: &Config) -> Self {
        Self {
            window: config.window.0,
            max_events: config.max_events,
            hashers: Default::default(),
            table: Arc::default(),
            metrics: Metrics::default(),
        }
    }

    /// Enters the figures, each as `tidegate_dedup_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("tidegate_dedup");
        let Metrics { duplicates, remembered, forgotten } = self.metrics.clone();
        registry.register("duplicates", "Second copies of events, not stored", duplicates);
        registry.register("remembered", "Events that are remembered", remembered);
        registry.register(
            "forgotten_early",
            "Events forgotten before dedup.window was over, because of dedup.max-events",
            forgotten,
        );
    }

    /// Whether anything is remembered.
    pub fn is_on(&self) -> bool {
        self.max_events > 0 && !self.window.is_zero()
    }

    /// What the event with this source and id is known by.
    pub fn key(&self, source: &str, id: &str) -> Key {
        let [high, low] = [0, 1].map(|n| u128::from(self.hashers[n].hash_one((source, id))));
        Key(high << 64 | low)
    }

    /// Says whether the event was seen before.
    pub fn enter(&self, key: Key) -> Arrival {
        let now = Instant::now();
        let mut table = self.table();
        self.forget_old(&mut table, now);
        let arrival = match table.seen.get(&key).map(|seen| &seen.fate) {
            Some(Fate::Stored) => Arrival::OfStored,
            Some(Fate::Pending(stored)) => Arrival::OfPending(Pending(stored.clone())),
            None => {
                let (stored, fate) = watch::channel(false);
                if self.is_on() {
                    table.insert(key, Seen { at: now, fate: Fate::Pending(fate) });
                }
                let (table, remembered) =
                    (Arc::clone(&self.table), self.metrics.remembered.clone());
                Arrival::First(Mark { key, table, remembered, stored })
            }
        };
        if !matches!(arrival, Arrival::First(_)) {
            self.metrics.duplicates.inc();
        }
        self.note(&table);
        arrival
    }

    /// Remembers the newest events in the log, before it takes others. Waits for the disk.
    pub fn restore(&self, log: &Arc<Log>) {
        let usage = log.usage();
        let events = (usage.last + 1).saturating_sub(usage.first);
        if events == 0 || !self.is_on() {
            return;
        }
        let fitting = MAX_RESTORED / (usage.bytes / events).max(1);
        let back = fitting.min(self.max_events as u64);
        let mut reader = log.reader((usage.last + 1).saturating_sub(back).max(usage.first));
        let (mut chunk, wall, now) = (Chunk::default(), clock::unix_micros(), Instant::now());
        loop {
            match reader.read(&mut chunk, CHUNK) {
                Ok(Read::Frames) => {}
                Ok(Read::Tail) => break,
                Ok(Read::Lost(_)) => continue,
                Err(error) => {
                    warn!("not all events that came before the start can be told apart: {error}");
                    break;
                }
            }
            let mut table = self.table();
            for event in chunk.frames().flat_map(|frame| frame.events()).flatten() {
                let age = wall.saturating_sub(event.received.unix_micros()).max(0);
                let age = Duration::from_micros(age.unsigned_abs());
                let at = now.checked_sub(age).filter(|_| age < self.window);
                if let Some((source, id)) = cloudevents::own_identity(&event)
                    && let Some(at) = at
                {
                    let key = self.key(&source, &id);
                    table.insert(key, Seen { at, fate: Fate::Stored });
                }
            }
        }
        let mut table = self.table();
        self.forget_old(&mut table, now);
        self.note(&table);
        if !table.seen.is_empty() {
            info!(events = table.seen.len(), "CloudEvents in the log are known again");
        }
    }

    fn forget_old(&self, table: &mut Table, now: Instant) {
        while let Some(&(at, key)) = table.order.front() {
            let old = now.duration_since(at) >= self.window;
            if !old && table.order.len() <= self.max_events {
                break;
            }
            table.order.pop_front();
            // Another entry of the same event, that came later, stays.
            if table.seen.get(&key).is_some_and(|seen| seen.at == at) {
                table.seen.remove(&key);
                self.metrics.forgotten.inc_by(u64::from(!old));
            }
        }
    }

    fn note(&self, table: &Table) {
        self.metrics.remembered.set(i64::try_from(table.seen.len()).unwrap_or(i64::MAX));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, key: Key, seen: Seen) {
        self.order.push_back((seen.at, key));
        self.seen.insert(key, seen);
    }
}

impl Mark {
    /// The event is on disk.
    pub fn stored(self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = table.seen.get_mut(&self.key) {
            seen.fate = Fate::Stored;
        }
        drop(table);
        self.stored.send_replace(true);
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if *self.stored.borrow() {
            return;
        }
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.seen.remove(&self.key);
        self.remembered.set(i64::try_from(table.seen.len()).unwrap_or(i64::MAX));
    }
}

impl Pending {
    /// Whether the first copy is on disk, once that is known.
    pub async fn is_stored(mut self) -> bool {
        self.0.wait_for(|stored| *stored).await.is_ok()
    }
}

#[cfg(test)]
mod tests;
