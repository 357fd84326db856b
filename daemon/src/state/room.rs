//! What the log may take on disk: `log.max-size` is for everything that the gateway keeps, and `log.min-free`
//! stays free for others.
//!
//! What grows beside the log up to a bound of its own (dead letters, quarantine, ledger, ballast) has that bound
//! set aside, whatever it takes now: it may grow when the log is full and can give nothing back. The state is
//! looked at instead, now and then, and has at least its part ([`tidegate_config::Budget`]); as much as it takes
//! is set aside with what a checkpoint more would, and the most that its database took of late, which shrinks and
//! grows while sled makes room in it. What the log has taken since that goes into the state, it counts itself
//! ([`Log::set_counted`]). So when the state grows it is the log that takes no more events.

mod found;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;
use tidegate_config::{Budget, Config};
use tracing::{info, warn};

use crate::log::Log;
use found::Found;

/// On a small file system no more than one part of so many stays free.
const SMALL_PART: u64 = 16;
/// Until then, what goes into the state is there, and on disk: it waits in the bus, and in sled.
const SETTLED: Duration = Duration::from_secs(3);
/// For so many looks the database is as large as it was.
const REMEMBERED: usize = 60;
/// Checkpoints that there may be, one of which is being written.
const CHECKPOINTS: u64 = 3;
/// What the state may grow by between two looks beside what the log counts: this part of what it has at least.
const GROWTH_PART: u64 = 4;

/// Where to look, and what there is to be. All clones are one.
#[derive(Debug, Clone)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Places,
    /// `log.min-free`, in bytes.
    min_free: u64,
    budget: Budget,
    /// Bytes of retained messages: a checkpoint has them all.
    retained: Gauge,
    looks: Mutex<Looks>,
}

/// What is where.
#[derive(Debug)]
struct Places {
    data_dir: PathBuf,
    /// The names of the sinks, each with the bound of its dead letters in bytes.
    sinks: Vec<(String, u64)>,
}

/// What was seen.
#[derive(Debug, Default)]
struct Looks {
    /// What other files have.
    others: u64,
    /// How large the database was, newest last.
    databases: VecDeque<u64>,
    /// What had gone into the state by when.
    stateful: VecDeque<(Instant, u64)>,
    /// Whether it was said that the log has hardly any room.
    told: bool,
}

impl Room {
    /// As `config` says; `retained` shows the bytes of retained messages.
    pub fn new(config: &Config, retained: Gauge) -> Self {
        let sinks = config.sinks.iter();
        let places = Places {
            data_dir: config.gateway.data_dir.clone(),
            sinks: sinks.map(|it| (it.name.clone(), it.dead_letter.max_size.0)).collect(),
        };
        let (min_free, budget) = (config.log.min_free.0, config.budget());
        Self(Arc::new(Inner { places, min_free, budget, retained, looks: Mutex::default() }))
    }

    /// Looks how much is free, and with `all` what other files take, and tells the log. Waits for the disk.
    pub fn measure(&self, log: &Log, all: bool) {
        let Inner { places, min_free, budget, retained, looks } = &*self.0;
        let mut looks = looks.lock().unwrap_or_else(PoisonError::into_inner);
        if all {
            looks.note_stateful(Instant::now(), log.stateful());
            let found = Found::look(places, || log.on_disk());
            let retained = u64::try_from(retained.get()).unwrap_or_default();
            looks.others = looks.set_aside(budget, &found, retained);
            looks.tell(budget, &found);
        }
        if let Some(counted) = looks.counted(Instant::now()) {
            log.set_counted(counted);
        }
        let left = (*min_free > 0)
            .then(|| found::free(&places.data_dir))
            .flatten()
            .map(|(free, size)| free.saturating_sub((*min_free).min(size / SMALL_PART)));
        log.set_room(looks.others, left);
    }
}

impl Looks {
    fn note_stateful(&mut self, now: Instant, stateful: u64) {
        self.stateful.push_back((now, stateful));
    }

    /// How much of what went into the state is there by `now`; none while nobody has looked.
    fn counted(&mut self, now: Instant) -> Option<u64> {
        let is_settled = |(at, _): &(Instant, u64)| now.duration_since(*at) >= SETTLED;
        // The newest that is settled stays.
        while self.stateful.get(1).is_some_and(is_settled) {
            self.stateful.pop_front();
        }
        let oldest = self.stateful.front()?;
        Some(if is_settled(oldest) { oldest.1 } else { 0 })
    }

    /// Bytes of `log.max-size` that are not the log's.
    fn set_aside(&mut self, budget: &Budget, found: &Found, retained: u64) -> u64 {
        self.databases.push_back(found.database);
        if self.databases.len() > REMEMBERED {
            self.databases.pop_front();
        }
        let database = self.databases.iter().copied().max().unwrap_or_default();
        // A checkpoint has what the newest one has, or what came since.
        let checkpoint = found.checkpoint.max(retained);
        let checkpoints = found.checkpoints.max(CHECKPOINTS * checkpoint);
        let state = database + checkpoints + budget.state.0 / GROWTH_PART;
        [
            found.dead_letters,
            found.quarantine.max(budget.quarantine.0),
            found.ledger.max(budget.ledger.0),
            found.ballast.max(budget.ballast.0),
            state.max(budget.state.0),
            found.unknown,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// Says it once when the log has hardly any room, and once when it has some again.
    fn tell(&mut self, budget: &Budget, found: &Found) {
        let planned = budget.left().0 + budget.segments.0;
        let left = budget.max_size.0.saturating_sub(self.others);
        if !self.told && left < planned / 2 {
            self.told = true;
            warn!(
                left,
                max_size = budget.max_size.0,
                state = found.database + found.checkpoints,
                dead_letters = found.dead_letters,
                quarantine = found.quarantine,
                other_files = found.unknown,
                "of log.max-size hardly anything is left for events, and they will be refused when it is used \
                 up: raise log.max-size, or have fewer retained messages (limits.max-retained-size) and \
                 sessions (limits.max-sessions)"
            );
        } else if self.told && left > planned / 8 * 5 {
            self.told = false;
            info!(left, "of log.max-size there is room for events again");
        }
    }
}

#[cfg(test)]
mod tests;
