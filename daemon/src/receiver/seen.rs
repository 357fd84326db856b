//! Which events were received: what finds the duplicates and the gaps.
//!
//! An event that says its place in a gateway's log (epoch, lane, LSN) is remembered in an interval
//! set: exact for ever, and as small as the number of gaps. Every other event is remembered by a hash
//! of its source and id, in a window of the last [`GENERATION`] to 2 × [`GENERATION`] events.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::RangeInclusive;

use ring::digest;
use serde::{Deserialize, Serialize};
use tidegate_event::cloudevents::parse::CloudEvent;
use tidegate_event::{Epoch, EventId, Lane, Lsn};

use super::intervals::IntervalSet;

/// Hashes in one half of the window: what a table of 2^19 slots holds before it grows, 9 MB.
pub(super) const GENERATION: usize = (1 << 19) / 8 * 7;
/// Logs that are followed; the events of further ones are found in the window only.
pub(super) const MAX_LOGS: usize = 4096;
/// Ranges over all logs, about 40 bytes each; an event that would make one more is remembered in the
/// window only.
pub(super) const MAX_RANGES: usize = 1 << 18;

/// What was received.
#[derive(Debug, Default)]
pub(super) struct Seen {
    logs: Vec<Log>,
    by_id: HashMap<(Epoch, Lane), Vec<usize>>,
    /// Of all logs.
    ranges: usize,
    /// Whether a place ever had to be remembered in the window.
    overflowed: bool,
    window: Window,
    /// The log of the event before: most often that of the next one, too.
    last: usize,
}

/// One lane of one gateway's log, seen from here.
#[derive(Debug)]
struct Log {
    epoch: Epoch,
    lane: Lane,
    /// None until an event with a source of the gateway's own says it.
    gateway: Option<Box<str>>,
    lsns: IntervalSet,
}

/// That an event was entered, and where: takes it out again if it could not be stored.
#[derive(Debug)]
#[must_use]
pub(super) struct Mark {
    hash: Option<u128>,
    place: Option<(usize, Lsn)>,
}

/// What [`Seen::enter`] found.
#[derive(Debug)]
pub(super) enum Entered {
    /// It is new.
    New(Mark),
    /// It was received before.
    Duplicate,
    /// It was received before, at another place of its gateway's log: the publisher sent it twice.
    DuplicateElsewhere(Mark),
}

/// One log as the API and the snapshot show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogView {
    /// As in the event id.
    pub(super) epoch: u64,
    pub(super) lane: u8,
    pub(super) gateway: Option<Box<str>>,
    /// First and last of what was received.
    pub(super) ranges: Vec<(Lsn, Lsn)>,
}

impl Seen {
    /// Enters `event`, unless it is there.
    pub(super) fn enter(&mut self, event: &CloudEvent<'_>) -> Entered {
        let mut mark = Mark { hash: None, place: None };
        let place = event.place();
        let mut in_window = place.is_none() || event.log_id.is_some();
        if let Some(id) = place {
            match self.enter_place(id, event) {
                Place::New(log) => mark.place = Some((log, id.lsn)),
                Place::Known => return Entered::Duplicate,
                Place::NoRoom => in_window = true,
            }
        }
        if in_window || self.overflowed {
            let hash = hash(event);
            if self.window.contains(hash) {
                return match mark.place {
                    Some(_) => Entered::DuplicateElsewhere(mark),
                    None => Entered::Duplicate,
                };
            }
            if in_window {
                self.window.insert(hash);
                mark.hash = Some(hash);
            }
        }
        Entered::New(mark)
    }

    /// Enters a place alone: the event there is a publisher's duplicate of another one.
    pub(super) fn enter_duplicate(&mut self, id: EventId) {
        let logs = self.by_id.get(&(id.epoch, id.lane));
        let log = match logs.and_then(|logs| logs.first().copied()) {
            Some(log) => Some(log),
            None => self.add_log(id, None),
        };
        if let Some(log) = log {
            self.enter_lsn(log, id.lsn);
        }
    }

    /// Takes out again what [`Seen::enter`] entered.
    pub(super) fn forget(&mut self, mark: &Mark) {
        if let Some(hash) = mark.hash {
            self.window.remove(hash);
        }
        if let Some((log, lsn)) = mark.place {
            let lsns = &mut self.logs[log].lsns;
            let before = lsns.ranges();
            lsns.remove(lsn);
            self.ranges = self.ranges + lsns.ranges() - before;
        }
    }

    fn enter_place(&mut self, id: EventId, event: &CloudEvent<'_>) -> Place {
        let Some(log) = self.find_log(id, event) else {
            self.overflowed = true;
            return Place::NoRoom;
        };
        self.last = log;
        self.enter_lsn(log, id.lsn)
    }

    fn enter_lsn(&mut self, log: usize, lsn: Lsn) -> Place {
        let lsns = &mut self.logs[log].lsns;
        let before = lsns.ranges();
        if self.ranges >= MAX_RANGES && !lsns.contains(lsn) && !lsns.touches(lsn) {
            self.overflowed = true;
            return Place::NoRoom;
        }
        if !lsns.insert(lsn) {
            return Place::Known;
        }
        self.ranges = self.ranges + lsns.ranges() - before;
        Place::New(log)
    }

    /// The log that `id` belongs to, followed from now on if it is new and there is room.
    fn find_log(&mut self, id: EventId, event: &CloudEvent<'_>) -> Option<usize> {
        // With a publisher's own source and id, only epoch and lane say which log it was.
        let gateway = event.gateway().filter(|_| event.log_id.is_none());
        let fits = |log: &Log| gateway.is_none() || log.gateway.as_deref() == gateway;
        if let Some(log) = self.logs.get(self.last)
            && (log.epoch, log.lane) == (id.epoch, id.lane)
            && fits(log)
        {
            return Some(self.last);
        }
        let same_id = self.by_id.get(&(id.epoch, id.lane)).map(Vec::as_slice).unwrap_or_default();
        if let Some(log) = same_id.iter().find(|log| fits(&self.logs[**log])) {
            return Some(*log);
        }
        if let Some(log) = same_id.iter().find(|log| self.logs[**log].gateway.is_none()) {
            self.logs[*log].gateway = gateway.map(Into::into);
            return Some(*log);
        }
        self.add_log(id, gateway)
    }

    fn add_log(&mut self, id: EventId, gateway: Option<&str>) -> Option<usize> {
        if self.logs.len() >= MAX_LOGS {
            return None;
        }
        self.logs.push(Log {
            epoch: id.epoch,
            lane: id.lane,
            gateway: gateway.map(Into::into),
            lsns: IntervalSet::default(),
        });
        let log = self.logs.len() - 1;
        self.by_id.entry((id.epoch, id.lane)).or_default().push(log);
        Some(log)
    }

    /// How many LSNs are missing, over all logs.
    pub(super) fn missing(&self) -> u64 {
        self.logs.iter().map(Log::missing).fold(0, u64::saturating_add)
    }

    /// The logs, with up to `max` of each one's gaps.
    pub(super) fn gaps(&self, max: usize) -> impl Iterator<Item = Gaps<'_>> {
        self.logs.iter().map(move |log| Gaps {
            gateway: log.gateway.as_deref(),
            epoch: log.epoch,
            lane: log.lane,
            received: log.lsns.len(),
            highest: log.lsns.max().unwrap_or(0),
            missing: log.missing(),
            ranges: log.lsns.gaps(1).take(max).collect(),
        })
    }

    /// All logs, to be kept.
    pub(super) fn logs(&self) -> Vec<LogView> {
        let view = |log: &Log| LogView {
            epoch: log.epoch.0,
            lane: log.lane.0,
            gateway: log.gateway.clone(),
            ranges: log.lsns.iter().collect(),
        };
        self.logs.iter().map(view).collect()
    }

    /// The window's hashes, older half first, to be kept.
    pub(super) fn window(&self) -> [Vec<u8>; 2] {
        [&self.window.older, &self.window.newer]
            .map(|half| half.iter().flat_map(|hash| hash.to_le_bytes()).collect())
    }

    /// What [`Seen::logs`] and [`Seen::window`] said.
    pub(super) fn restore(logs: Vec<LogView>, window: [&[u8]; 2]) -> Self {
        let mut seen = Self::default();
        for view in logs {
            let id = EventId { epoch: Epoch(view.epoch), lane: Lane(view.lane), lsn: 0 };
            if let Some(log) = seen.add_log(id, view.gateway.as_deref()) {
                let lsns = IntervalSet::from_ranges(view.ranges);
                seen.ranges += lsns.ranges();
                seen.logs[log].lsns = lsns;
            }
        }
        let half =
            |bytes: &[u8]| bytes.as_chunks().0.iter().copied().map(u128::from_le_bytes).collect();
        seen.window = Window { older: half(window[0]), newer: half(window[1]) };
        // Not kept: it only says that the window is to be asked for every event.
        seen.overflowed = seen.logs.len() >= MAX_LOGS || seen.ranges >= MAX_RANGES;
        seen
    }
}

/// One log's gaps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gaps<'a> {
    pub(super) gateway: Option<&'a str>,
    pub(super) epoch: Epoch,
    pub(super) lane: Lane,
    /// LSNs received.
    pub(super) received: u64,
    /// The highest of them.
    pub(super) highest: Lsn,
    /// LSNs below it, from 1 on, that were not.
    pub(super) missing: u64,
    /// Which.
    pub(super) ranges: Vec<RangeInclusive<Lsn>>,
}

enum Place {
    New(usize),
    Known,
    NoRoom,
}

impl Log {
    fn missing(&self) -> u64 {
        let zero = u64::from(self.lsns.contains(0));
        self.lsns.max().unwrap_or(0) - (self.lsns.len() - zero)
    }
}

/// The last hashes, in two halves: when the newer one is full, it becomes the older one.
#[derive(Debug, Default)]
struct Window {
    older: HashSet<u128, Uniform>,
    newer: HashSet<u128, Uniform>,
}

impl Window {
    fn contains(&self, hash: u128) -> bool {
        self.newer.contains(&hash) || self.older.contains(&hash)
    }

    fn insert(&mut self, hash: u128) {
        if self.newer.len() >= GENERATION {
            std::mem::swap(&mut self.older, &mut self.newer);
            self.newer.clear();
        }
        self.newer.insert(hash);
    }

    fn remove(&mut self, hash: u128) {
        if !self.newer.remove(&hash) {
            self.older.remove(&hash);
        }
    }
}

/// The first half of SHA-256 over source and id: nobody can make two events that collide, and the
/// snapshot of one version can be read by the next.
fn hash(event: &CloudEvent<'_>) -> u128 {
    let mut context = digest::Context::new(&digest::SHA256);
    let (source, id): (&Cow<'_, str>, _) = (&event.source, &event.id);
    context.update(&(source.len() as u64).to_le_bytes());
    context.update(source.as_bytes());
    context.update(id.as_bytes());
    let digest = context.finish();
    let mut half = [0; 16];
    half.copy_from_slice(&digest.as_ref()[..16]);
    u128::from_le_bytes(half)
}

/// The keys are hashes already.
type Uniform = BuildHasherDefault<Low64>;

#[derive(Debug, Default)]
struct Low64(u64);

impl Hasher for Low64 {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

#[cfg(test)]
mod tests;
