//! The segments that are there.

use std::ops::RangeInclusive;
use std::sync::Arc;

use tidegate_event::Lsn;

use super::{HEADER_LEN, Segment};

/// The segments in the order of their sequence, and so of their LSNs.
#[derive(Debug, Default)]
pub(in crate::log) struct Table(pub(in crate::log) Vec<Arc<Segment>>);

/// Where an LSN is.
#[derive(Debug)]
pub(in crate::log) enum Place {
    In(Arc<Segment>),
    /// In no segment: released, or lost.
    Gone(RangeInclusive<Lsn>),
    /// Not yet written.
    Ahead,
}

impl Table {
    pub(in crate::log) fn locate(&self, lsn: Lsn) -> Place {
        let index = self.0.partition_point(|segment| segment.end() <= lsn);
        match self.0[index..].iter().find(|segment| !segment.has_no_events()) {
            Some(segment) if segment.header.first > lsn => {
                Place::Gone(lsn..=segment.header.first - 1)
            }
            Some(segment) => Place::In(Arc::clone(segment)),
            None => Place::Ahead,
        }
    }

    /// The oldest LSN in it.
    pub(in crate::log) fn oldest(&self) -> Option<Lsn> {
        let filled = self.0.iter().find(|segment| !segment.has_no_events());
        filled.map(|segment| segment.header.first)
    }

    /// The oldest segment that can go ([`Segment::is_released`]). Never the newest one: LSNs and
    /// epoch go on from it.
    pub(in crate::log) fn released(&self, before: Lsn, control: u64) -> Option<Arc<Segment>> {
        let (_, older) = self.0.split_last()?;
        older.iter().find(|segment| segment.is_released(before, control)).cloned()
    }

    /// Where the oldest segments end of which `goes` says so, and where those begin that stay: never none.
    pub(in crate::log) fn behind(&self, goes: impl Fn(&Segment) -> bool) -> Option<(Lsn, Lsn)> {
        let (newest, older) = self.0.split_last()?;
        let count = older.iter().take_while(|segment| goes(segment)).count();
        let end = older[..count].iter().map(|segment| segment.end()).max()?;
        Some((end, older.get(count).unwrap_or(newest).header.first))
    }

    /// `mark`, or the oldest segment with an event from `next` on, if that is older.
    pub(in crate::log) fn covered(&self, mark: u64, next: Lsn) -> u64 {
        let needed = self.0.iter().find(|segment| segment.end() > next);
        needed.map_or(mark, |segment| mark.min(segment.header.sequence))
    }

    /// Where the last hole ends that the release of control records has left: the index of a segment
    /// before which one is not there, and no event is missing.
    pub(in crate::log) fn behind_holes(&self) -> usize {
        let is_hole = |index: &usize| {
            let (segment, before) = (&self.0[*index], &self.0[*index - 1]);
            let named = segment.header.before.filter(|it| it.len > HEADER_LEN as u64);
            let named = named.map(|it| segment.header.sequence - u64::from(it.back));
            let holds = |it: &Arc<Segment>, sequence| {
                (it.header.sequence..=it.header.through()).contains(&sequence)
            };
            let is_gone = |sequence| self.0.iter().all(|it| !holds(it, sequence));
            named.is_some_and(is_gone) && before.end() >= segment.header.first
        };
        let hole = (1..self.0.len()).rev().find(is_hole).unwrap_or(0);
        // One that was rewritten has no control records any more: it is a hole itself.
        let rewritten = self.0.iter().rposition(|segment| segment.header.rewritten.is_some());
        hole.max(rewritten.map_or(0, |index| index + 1))
    }

    /// What they take of `max_size`.
    pub(in crate::log) fn bytes(&self) -> u64 {
        self.0.iter().map(|segment| segment.taken()).sum()
    }

    /// Bytes of the files.
    pub(in crate::log) fn size(&self) -> u64 {
        self.0.iter().map(|segment| segment.size()).sum()
    }

    pub(in crate::log) fn contains(&self, segment: &Arc<Segment>) -> bool {
        self.0.iter().any(|other| Arc::ptr_eq(other, segment))
    }

    /// Puts one in the place of some that follow each other.
    pub(in crate::log) fn replace(&mut self, run: &[Arc<Segment>], by: Arc<Segment>) {
        let Some(first) = run.first() else { return };
        let place = self.0.iter().position(|segment| Arc::ptr_eq(segment, first));
        self.0.retain(|segment| run.iter().all(|gone| !Arc::ptr_eq(gone, segment)));
        self.0.insert(place.unwrap_or_default().min(self.0.len()), by);
    }

    /// Back to its place.
    pub(in crate::log) fn put_back(&mut self, segment: Arc<Segment>) {
        let sequence = segment.header.sequence;
        let index = self.0.partition_point(|other| other.header.sequence < sequence);
        self.0.insert(index, segment);
    }

    /// Answers whether it was there.
    pub(in crate::log) fn remove(&mut self, sequence: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|segment| segment.header.sequence != sequence);
        self.0.len() < before
    }
}
