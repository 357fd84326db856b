//! What a sink has not got: ranges of the log, each of some lanes.

use tidegate_event::{Lane, Lsn};

/// The most ranges that a cursor has.
pub const MAX_SPANS: usize = 16;
/// The first byte of a record of several ranges. A record of one that is all of the log has no such
/// byte: it is its LSN alone, as it always was.
const VERSION: u8 = 1;
/// `from`, `to` (all ones: open), the set of lanes.
const LEN: usize = 8 + 8 + 32;

/// A set of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneSet([u64; 4]);

/// A range of the log that is open for a sink: no event of these lanes in it is known to be done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first LSN.
    pub from: Lsn,
    /// The first one behind it; `None` for a range that goes on with the log.
    pub to: Option<Lsn>,
    /// Whose events.
    pub lanes: LaneSet,
}

impl LaneSet {
    /// Every lane, known or not.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// Whether the lane is in it.
    pub fn contains(self, lane: Lane) -> bool {
        self.0[usize::from(lane.0 >> 6)] & (1 << (lane.0 & 63)) != 0
    }

    /// The set with this lane in it.
    #[must_use]
    pub fn with(mut self, lane: Lane) -> Self {
        self.0[usize::from(lane.0 >> 6)] |= 1 << (lane.0 & 63);
        self
    }

    /// What is in one of them.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// What is in this one and not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// Whether no lane is in it.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl FromIterator<Lane> for LaneSet {
    fn from_iter<I: IntoIterator<Item = Lane>>(lanes: I) -> Self {
        lanes.into_iter().fold(Self::default(), Self::with)
    }
}

impl Span {
    /// All of the log from this LSN on.
    pub fn onward(from: Lsn) -> Self {
        Self { from, to: None, lanes: LaneSet::ALL }
    }
}

/// A cursor as it lies in the state.
pub(super) fn encode(spans: &[Span]) -> Vec<u8> {
    if let [span] = spans
        && *span == Span::onward(span.from)
    {
        return span.from.to_le_bytes().to_vec();
    }
    let mut record = Vec::with_capacity(1 + spans.len() * LEN);
    record.push(VERSION);
    for span in spans {
        record.extend_from_slice(&span.from.to_le_bytes());
        record.extend_from_slice(&span.to.unwrap_or(Lsn::MAX).to_le_bytes());
        span.lanes.0.iter().for_each(|word| record.extend_from_slice(&word.to_le_bytes()));
    }
    record
}

/// `None` for a record that is none, or a newer version's: the sink begins with the oldest event.
pub(super) fn decode(record: &[u8]) -> Option<Vec<Span>> {
    if let Ok(next) = record.try_into() {
        return Some(vec![Span::onward(Lsn::from_le_bytes(next))]);
    }
    let (version, rest) = record.split_first()?;
    let (spans, left) = rest.as_chunks::<LEN>();
    if *version != VERSION || !left.is_empty() || !(1..=MAX_SPANS).contains(&spans.len()) {
        return None;
    }
    let span = |bytes: &[u8; LEN]| {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]);
        let to = Some(word(1)).filter(|to| *to != Lsn::MAX);
        Span { from: word(0), to, lanes: LaneSet(std::array::from_fn(|lane| word(2 + lane))) }
    };
    Some(spans.iter().map(span).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_set_knows_its_lanes() {
        let set: LaneSet = [Lane(0), Lane(63), Lane(64), Lane(255)].into_iter().collect();
        let found: Vec<u8> = (0..=255).filter(|lane| set.contains(Lane(*lane))).collect();
        assert_eq!(found, [0, 63, 64, 255]);
        assert!(LaneSet::ALL.without(set).contains(Lane(1)));
        assert!(set.without(LaneSet::ALL).is_empty());
        assert_eq!(LaneSet::ALL.without(set).union(set), LaneSet::ALL);
    }

    #[test]
    fn a_cursor_that_is_one_place_is_written_as_it_always_was() {
        assert_eq!(encode(&[Span::onward(7)]), 7_u64.to_le_bytes());
        assert_eq!(decode(&7_u64.to_le_bytes()), Some(vec![Span::onward(7)]));
    }

    #[test]
    fn what_is_no_cursor_is_none() {
        let good = encode(&[Span { to: Some(9), ..Span::onward(7) }]);
        assert!(decode(&good).is_some());
        for bad in [&good[..good.len() - 1], &[], &[VERSION], &[&[2], &good[1..]].concat()] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
        let many = vec![Span { to: Some(9), ..Span::onward(7) }; MAX_SPANS + 1];
        assert_eq!(decode(&encode(&many)), None);
    }

    proptest! {
        #[test]
        fn a_cursor_reads_back(
            spans in prop::collection::vec((any::<u64>(), any::<Option<u32>>(), any::<u8>()), 1..=16),
        ) {
            let span = |(from, to, lane): (u64, Option<u32>, u8)| Span {
                from,
                to: to.map(u64::from),
                lanes: LaneSet::default().with(Lane(lane)),
            };
            let spans: Vec<Span> = spans.into_iter().map(span).collect();
            prop_assert_eq!(decode(&encode(&spans)), Some(spans));
        }
    }
}
