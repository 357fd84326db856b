//! A batch: encoded events in one buffer, and where each of them lies in it, so that a batch can be
//! split without reading its events again.

use std::ops::Range;

use bytes::Bytes;
use tidegate_event::Lsn;
use tokio::time::Instant;

use super::partition::Partitions;

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Events.
    pub(super) events: usize,
    /// Bytes of the body, brackets included. Only an event that is larger alone goes beyond it.
    pub(super) bytes: usize,
    /// Whether the body is a JSON array. Else its events lie one behind the other.
    pub(super) array: bool,
}

/// A batch that still takes events.
#[derive(Debug)]
pub(super) struct OpenBatch {
    partitions: Partitions,
    body: Vec<u8>,
    entries: Vec<Entry>,
    opened: Instant,
    /// When its oldest event was received, in microseconds since 1970.
    received: i64,
    array: bool,
}

/// One event of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    lsn: Lsn,
    /// Where it ends in the body.
    end: usize,
}

/// What [`OpenBatch::push`] did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Push {
    /// There is room for more.
    Room,
    /// The batch is full and to be closed.
    Full,
    /// The event did not fit: the batch is to be closed, and another to begin with these bytes.
    Overflow(Vec<u8>),
}

/// A batch that is complete.
#[derive(Debug)]
pub(super) struct Batch {
    partitions: Partitions,
    body: Bytes,
    entries: Vec<Entry>,
    first: Lsn,
    received: i64,
    array: bool,
}

impl OpenBatch {
    /// An empty batch of `partitions`, opened at `opened`; `capacity` is a guess at its size.
    pub(super) fn new(
        partitions: Partitions,
        opened: Instant,
        capacity: usize,
        limits: Limits,
    ) -> Self {
        let mut body = Vec::with_capacity(capacity.min(limits.bytes));
        if limits.array {
            body.push(b'[');
        }
        Self {
            partitions,
            body,
            entries: Vec::new(),
            opened,
            received: i64::MAX,
            array: limits.array,
        }
    }

    /// Appends the event that `write` writes.
    pub(super) fn push(
        &mut self,
        lsn: Lsn,
        received: i64,
        limits: Limits,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Push {
        let before = self.body.len();
        if self.array && !self.entries.is_empty() {
            self.body.push(b',');
        }
        let start = self.body.len();
        write(&mut self.body);
        let closing = usize::from(self.array);
        if !self.entries.is_empty() && self.body.len() + closing > limits.bytes {
            let event = self.body[start..].to_vec();
            self.body.truncate(before);
            return Push::Overflow(event);
        }
        self.entries.push(Entry { lsn, end: self.body.len() });
        self.received = self.received.min(received);
        if self.entries.len() >= limits.events || self.body.len() + closing >= limits.bytes {
            Push::Full
        } else {
            Push::Room
        }
    }

    /// Takes over the events of a batch of other partitions, unless both together are too much.
    pub(super) fn merge(&mut self, other: Self, limits: Limits) -> Result<(), Self> {
        let opening = usize::from(self.array);
        let length = self.body.len() + other.body.len();
        if self.entries.len() + other.entries.len() > limits.events || length + 1 > limits.bytes {
            return Err(other);
        }
        // The other one's bracket makes place for the comma.
        let shift = self.body.len();
        if self.array {
            self.body.push(b',');
        }
        self.body.extend_from_slice(&other.body[opening..]);
        let moved = other.entries.iter().map(|e| Entry { end: shift + e.end, ..*e });
        self.entries.extend(moved);
        self.partitions = self.partitions.with(other.partitions);
        self.received = self.received.min(other.received);
        Ok(())
    }

    /// Completes the batch. It holds at least one event.
    pub(super) fn close(mut self) -> Batch {
        if self.array {
            self.body.push(b']');
        }
        // What growing took too much would stay with the batch for as long as it waits.
        if self.body.capacity() > self.body.len() + self.body.len() / 4 {
            self.body.shrink_to_fit();
        }
        Batch {
            partitions: self.partitions,
            first: self.first(),
            body: self.body.into(),
            entries: self.entries,
            received: self.received,
            array: self.array,
        }
    }

    pub(super) fn partitions(&self) -> Partitions {
        self.partitions
    }

    /// When its first event was read.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// Its lowest LSN. Of one partition it is the first; merged ones stand one behind the other.
    pub(super) fn first(&self) -> Lsn {
        self.entries.iter().map(|entry| entry.lsn).min().unwrap_or(Lsn::MAX)
    }

    pub(super) fn received(&self) -> i64 {
        self.received
    }
}

impl Batch {
    pub(super) fn partitions(&self) -> Partitions {
        self.partitions
    }

    /// How many events.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the body.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// Its lowest LSN.
    pub(super) fn first(&self) -> Lsn {
        self.first
    }

    pub(super) fn received(&self) -> i64 {
        self.received
    }

    /// The LSN of event number `index`.
    pub(super) fn lsn(&self, index: usize) -> Lsn {
        self.entries[index].lsn
    }

    /// The LSNs of its events.
    pub(super) fn lsns(&self) -> impl Iterator<Item = Lsn> {
        self.entries.iter().map(|entry| entry.lsn)
    }

    /// Bytes of some of the events, at least one.
    pub(super) fn size(&self, events: &Range<usize>) -> usize {
        self.entries[events.end - 1].end - self.start(events.start)
    }

    /// A body of some of the events, at least one. All of them, or those of a batch that is no array,
    /// cost no copy.
    pub(super) fn body(&self, events: Range<usize>) -> Bytes {
        if !self.array {
            let start = self.start(events.start);
            return self.body.slice(start..self.entries[events.end - 1].end);
        }
        if events.len() == self.entries.len() {
            return self.body.clone();
        }
        let inner = &self.body[self.start(events.start)..self.entries[events.end - 1].end];
        let mut body = Vec::with_capacity(inner.len() + 2);
        body.push(b'[');
        body.extend_from_slice(inner);
        body.push(b']');
        body.into()
    }

    /// One event as it was encoded.
    pub(super) fn event(&self, index: usize) -> Bytes {
        self.body.slice(self.start(index)..self.entries[index].end)
    }

    fn start(&self, index: usize) -> usize {
        // An array has a bracket or a comma before each event.
        let before = index.checked_sub(1).map_or(0, |i| self.entries[i].end);
        before + usize::from(self.array)
    }
}

#[cfg(test)]
mod tests;
