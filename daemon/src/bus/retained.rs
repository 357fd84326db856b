//! Retained messages: the last event of each topic that was published with RETAIN.
//!
//! A read model of the log: held in memory, bounded in count (`limits.max-retained`) and bytes
//! (`limits.max-retained-size`; `limits.max-memory`), and written to the state in batches, so that a start need not read the whole log. The state holds each
//! as the block of one event (`tidegate_event::record`), under its topic.

#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashSet};
use std::ops::Bound;
use std::time::{Duration, Instant};

use tidegate_config::Limits;
use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Epoch, EventId, EventRef, Filter, Lane, Lsn, record};
use tracing::warn;

use super::event::Event;
use super::metrics::Metrics;
use crate::clock::unix_micros;
use crate::memory::{Claim, Memory, Sort};
use crate::state::{StateError, Tree};

/// How long a change may wait before it is written to the state.
const CHANGE_DELAY: Duration = Duration::from_millis(100);
/// How many changed topics may wait.
const MAX_CHANGES: usize = 500;
/// How long the state may claim less than it covers, and over how many events: that much of the log
/// cannot be released, and is read again at the next start.
const POSITION_DELAY: Duration = Duration::from_secs(5);
const MAX_POSITION_GAP: u64 = 10_000;
/// How long a message whose time is over may take up room.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes that a record takes in the state beside what its event says, about.
const RECORD: usize = 32;
/// After a failed write to the state.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// How many there may be, and how many bytes of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) count: usize,
    pub(super) bytes: u64,
}

impl Bounds {
    pub(super) fn of(limits: &Limits) -> Self {
        let bytes = limits.max_retained_size.map_or(u64::MAX, |size| size.0);
        Self { count: limits.max_retained, bytes }
    }
}

/// The retained messages.
#[derive(Debug)]
pub(super) struct Retained {
    entries: BTreeSet<Entry>,
    /// What they take in the state.
    bytes: u64,
    bounds: Bounds,
    memory: Memory,
    metrics: Metrics,
    tree: Tree,
    /// Topics whose entry in the tree is out of date.
    changed: HashSet<Box<str>>,
    /// What the tree covers.
    applied: Lsn,
    /// When the tree was last written, or when the oldest change came.
    since: Instant,
    /// No write before this.
    retry_at: Option<Instant>,
    expired_at: Instant,
}

/// One retained message; its key is the topic.
#[derive(Debug)]
pub(super) struct Entry {
    /// The message.
    pub(super) event: Event,
    /// Who published it.
    pub(super) origin: Box<str>,
    _own: Claim,
}

impl Entry {
    /// Bytes that it takes beside the event: its place in the tree, and among the changes.
    fn own(event: &EventRef<'_>) -> usize {
        2 * size_of::<Self>() + event.origin.len() + event.topic.len() + 64
    }

    fn size(event: &EventRef<'_>) -> usize {
        let EventRef { topic, properties, payload, .. } = event;
        Self::own(event) + topic.len() + properties.as_bytes().len() + payload.len()
    }

    /// Bytes that it takes in the state.
    fn stored(&self) -> u64 {
        let properties = self.event.properties().as_bytes();
        stored(self.event.topic(), &self.origin, properties, self.event.payload())
    }

    fn new(event: &EventRef<'_>, memory: &Memory) -> Self {
        Self {
            event: Event::copy(event, memory, Sort::Retained),
            origin: event.origin.into(),
            _own: memory.claim(Sort::Retained, Self::own(event)),
        }
    }
}

/// Bytes that such a message takes in the state, its key among them.
fn stored(topic: &str, origin: &str, properties: &[u8], payload: &[u8]) -> u64 {
    (2 * topic.len() + origin.len() + properties.len() + payload.len() + RECORD) as u64
}

impl Retained {
    /// Reads what `tree` holds.
    #[expect(clippy::mutable_key_type, reason = "the order is that of the topics, which stay")]
    pub(super) fn load(
        tree: Tree,
        bounds: Bounds,
        memory: Memory,
        metrics: Metrics,
    ) -> Result<Self, StateError> {
        let mut entries = BTreeSet::new();
        for (key, value) in tree.load()? {
            match decode(&value, &memory) {
                Some(entry) => _ = entries.insert(entry),
                None => warn!(
                    topic = %String::from_utf8_lossy(&key),
                    "a retained message in the state is damaged and left out"
                ),
            }
        }
        let bytes = entries.iter().map(Entry::stored).sum();
        let this = Self {
            entries,
            bytes,
            bounds,
            memory,
            metrics,
            applied: tree.applied(),
            tree,
            changed: HashSet::new(),
            since: Instant::now(),
            retry_at: None,
            expired_at: Instant::now(),
        };
        this.show();
        Ok(this)
    }

    fn show(&self) {
        self.metrics.retained.set(self.entries.len() as i64);
        self.metrics.retained_bytes.set(i64::try_from(self.bytes).unwrap_or(i64::MAX));
    }

    fn fits(&self, event: &EventRef<'_>) -> bool {
        self.entries.len() < self.bounds.count
            && self.bytes
                + stored(event.topic, event.origin, event.properties.as_bytes(), event.payload)
                <= self.bounds.bytes
            && self.memory.fits(Sort::Retained, Entry::size(event))
    }

    /// The log up to and including this LSN is in the state.
    pub(super) fn applied(&self) -> Lsn {
        self.applied
    }

    /// Takes in an event of the log that was published with RETAIN: it becomes its topic's message,
    /// or removes it, if it has no payload (`[MQTT-3.3.1-6]`).
    pub(super) fn apply(&mut self, event: &EventRef<'_>) {
        let old = self.entries.take(event.topic);
        let had = old.is_some();
        self.bytes -= old.as_ref().map_or(0, Entry::stored);
        drop(old);
        if !event.payload.is_empty() {
            if self.fits(event) {
                let entry = Entry::new(event, &self.memory);
                self.bytes += entry.stored();
                self.entries.insert(entry);
            } else {
                self.metrics.retained_refused.inc();
                if !had {
                    // Nothing was there, nothing is.
                    return;
                }
            }
        } else if !had {
            return;
        }
        self.show();
        self.mark(event.topic);
    }

    fn mark(&mut self, topic: &str) {
        if self.changed.is_empty() {
            self.since = Instant::now();
        }
        if !self.changed.contains(topic) {
            self.changed.insert(topic.into());
        }
    }

    /// The messages whose topics match and whose time is not over, in the order of their topics.
    pub(super) fn matching(&self, filter: &Filter) -> impl Iterator<Item = &Entry> {
        let now = unix_micros();
        // Only topics that begin like the filter come into question: `a/b` for `a/b/#`, which
        // matches `a/b` too.
        let text = filter.as_str();
        let wildcard = text.find(['+', '#']).unwrap_or(text.len());
        let prefix = text[..wildcard].trim_end_matches('/');
        self.entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |entry| entry.event.topic().starts_with(prefix))
            .filter(|entry| filter.matches(entry.event.topic()))
            .filter(move |entry| entry.event.expiry(now) != Some(0))
    }

    /// The message of this topic.
    pub(super) fn get(&self, topic: &str) -> Option<Event> {
        self.entries.get(topic).map(|entry| entry.event.clone())
    }

    /// Forgets messages whose time is over, now and then.
    fn expire(&mut self) {
        if self.expired_at.elapsed() < EXPIRY_INTERVAL {
            return;
        }
        self.expired_at = Instant::now();
        let now = unix_micros();
        let over: Vec<Box<str>> = self
            .entries
            .iter()
            .filter(|entry| entry.event.expiry(now) == Some(0))
            .map(|entry| entry.event.topic().into())
            .collect();
        for topic in over {
            self.bytes -= self.entries.take(&*topic).as_ref().map_or(0, Entry::stored);
            self.mark(&topic);
        }
        self.show();
    }

    /// Whether so much has changed that it is to be written before there is more.
    pub(super) fn is_full(&self) -> bool {
        self.changed.len() >= MAX_CHANGES
    }

    /// When [`Retained::write`] is due, if everything up to and including `read` was applied.
    pub(super) fn due(&self, read: Lsn) -> Option<Instant> {
        let at = if !self.changed.is_empty() {
            self.since + if self.is_full() { Duration::ZERO } else { CHANGE_DELAY }
        } else if read > self.applied {
            let far = read - self.applied >= MAX_POSITION_GAP;
            self.since + if far { CHANGE_DELAY } else { POSITION_DELAY }
        } else {
            return None;
        };
        Some(self.retry_at.map_or(at, |retry| at.max(retry)))
    }

    /// Writes the changes to the state, which then covers the log up to and including `read`. After a
    /// failure they are kept for another attempt; the log holds them until then.
    pub(super) fn write(&mut self, read: Lsn) {
        self.expire();
        let mut block = None;
        let changes = self
            .changed
            .iter()
            .map(|topic| {
                let entry = self.entries.get(&**topic);
                let value = entry.map(|entry| encode(entry, &mut block));
                (topic.as_bytes().to_vec(), value)
            })
            .collect();
        match self.tree.apply(changes, read) {
            Ok(()) => {
                self.changed.clear();
                self.applied = read;
                self.retry_at = None;
            }
            Err(why) => {
                warn!("retained messages could not be written to the state: {why}");
                self.retry_at = Some(Instant::now() + RETRY_DELAY);
            }
        }
        self.since = Instant::now();
    }
}

fn encode(entry: &Entry, block: &mut Option<BlockBuilder>) -> Vec<u8> {
    let event = &entry.event;
    let block = block.get_or_insert_with(|| BlockBuilder::new("", event.received));
    block.restart(&entry.origin, event.received);
    block.push(&Draft {
        topic: event.topic(),
        qos: event.qos,
        retain: true,
        properties: Properties::new(event.properties().as_bytes()),
        payload: event.payload(),
    });
    block.finish().to_vec()
}

fn decode(value: &[u8], memory: &Memory) -> Option<Entry> {
    // The state does not keep where in the log it stood.
    let nowhere = EventId { epoch: Epoch(0), lane: Lane(0), lsn: 0 };
    let event = record::events(value, nowhere).next()?.ok()?;
    Some(Entry::new(&event, memory))
}

impl Borrow<str> for Entry {
    fn borrow(&self) -> &str {
        self.event.topic()
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.event.topic() == other.event.topic()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.event.topic().cmp(other.event.topic())
    }
}
