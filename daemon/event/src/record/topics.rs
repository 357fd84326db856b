//! Which topics a block holds already, so that each is written once.
//!
//! The table is small, and forgets: a topic that is not found is written once more.

use std::ops::Range;

use super::read::take_bytes;

/// Topics that are remembered, at most. A power of two.
const SLOTS: usize = 256;
/// An odd number with mixed bits: the golden ratio's.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The topics of one block. Places in it are counted from its first record.
#[derive(Debug, Default)]
pub(super) struct Topics {
    /// Of the event before.
    last: Option<Held>,
    /// Where topics stand, by their hash; 0 for none. Empty until a block has a second topic.
    places: Vec<u16>,
    /// Whether `places` is not all 0.
    is_used: bool,
    /// Of the topic that was looked for last.
    slot: usize,
}

/// A topic in a block.
#[derive(Debug, Clone)]
struct Held {
    /// Where its length begins,
    at: usize,
    /// and where it lies, behind that.
    text: Range<usize>,
}

/// Where the topic of an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The event before has the same.
    Last,
    /// Its length begins here.
    Earlier(usize),
    /// Nowhere.
    New,
}

impl Topics {
    /// A new block begins.
    pub(super) fn clear(&mut self) {
        self.last = None;
        if std::mem::take(&mut self.is_used) {
            self.places.fill(0);
        }
    }

    /// Looks for the topic of the next event among `records`.
    pub(super) fn find(&mut self, records: &[u8], topic: &str) -> Place {
        let is_it = |held: &Held| records[held.text.clone()] == *topic.as_bytes();
        if self.last.as_ref().is_some_and(is_it) {
            return Place::Last;
        }
        if !self.is_used {
            return Place::New;
        }
        self.slot = slot(topic.as_bytes());
        let places = [self.places[self.slot], self.places[self.slot ^ 1]].map(usize::from);
        let known = places.into_iter().filter(|at| *at > 0);
        match known.map(|at| Held::at(records, at)).find(is_it) {
            Some(held) => Place::Earlier(self.last.insert(held).at),
            None => Place::New,
        }
    }

    /// The topic that was looked for was written to the end of `records`; its length begins at `at`.
    pub(super) fn wrote(&mut self, records: &[u8], at: usize) {
        let held = Held::at(records, at);
        // The first one is remembered with the second: most blocks have one only.
        if let Some(before) = self.last.take().filter(|_| !self.is_used) {
            self.places.resize(SLOTS, 0);
            self.is_used = true;
            self.slot = slot(&records[before.text.clone()]);
            self.remember(before.at);
            self.slot = slot(&records[held.text.clone()]);
        }
        if self.is_used {
            self.remember(at);
        }
        self.last = Some(held);
    }

    /// Topics far behind in a large block are not.
    fn remember(&mut self, at: usize) {
        let Ok(at) = u16::try_from(at) else { return };
        let is_free = |slot: &usize| self.places[*slot] == 0;
        let free = [self.slot, self.slot ^ 1].into_iter().find(is_free);
        self.places[free.unwrap_or(self.slot)] = at;
    }

    /// Bytes that it takes.
    pub(super) fn capacity(&self) -> usize {
        self.places.capacity() * size_of::<u16>()
    }
}

impl Held {
    /// The topic whose length begins at `at`.
    fn at(records: &[u8], at: usize) -> Self {
        let mut rest = &records[at..];
        let len = take_bytes(&mut rest).map_or(0, <[u8]>::len);
        let end = records.len() - rest.len();
        Self { at, text: end - len..end }
    }
}

/// The slot of a topic in the table. Who makes topics that share one has them written in full.
fn slot(topic: &[u8]) -> usize {
    let (words, _) = topic.as_chunks();
    let end = match topic.last_chunk() {
        Some(end) => u64::from_le_bytes(*end),
        None => topic.iter().fold(0, |end, byte| end << 8 | u64::from(*byte)),
    };
    let add = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(MIX);
    let hash = words.iter().fold(0, |hash, word| add(hash, u64::from_le_bytes(*word)));
    let hash = add(hash, end);
    (hash >> (u64::BITS - SLOTS.trailing_zeros())) as usize
}
