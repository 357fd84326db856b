//! A set of numbers that mostly follow one another, kept as ranges.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A set of LSNs. Its size in memory is the number of its ranges, whatever it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct IntervalSet {
    /// First to last of every range but the highest; no two touch.
    lower: BTreeMap<u64, u64>,
    /// The highest range: the one that grows in the ordinary case.
    highest: Option<(u64, u64)>,
    len: u64,
}

impl IntervalSet {
    /// The set that holds `ranges`, in any order.
    pub(super) fn from_ranges(ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        ranges.sort_unstable();
        let mut set = Self::default();
        for (first, last) in ranges {
            match &mut set.highest {
                Some((_, end)) if first <= end.saturating_add(1) => {
                    set.len += last.saturating_sub(*end);
                    *end = last.max(*end);
                }
                highest => {
                    if let Some((start, end)) = highest.replace((first, last)) {
                        set.lower.insert(start, end);
                    }
                    set.len += last - first + 1;
                }
            }
        }
        set
    }

    /// Adds `number`; false if it was there.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        match &mut self.highest {
            None => self.highest = Some((number, number)),
            Some((_, last)) if number > *last => {
                if number == *last + 1 {
                    *last = number;
                } else if let Some((first, last)) = self.highest.replace((number, number)) {
                    self.lower.insert(first, last);
                }
            }
            Some((first, _)) if number >= *first => return false,
            Some((first, _)) => {
                let touches_highest = number + 1 == *first;
                let below = self.lower.range_mut(..=number).next_back();
                let start = match below {
                    Some((_, last)) if number <= *last => return false,
                    Some((start, last)) if *last + 1 == number => {
                        *last = number;
                        *start
                    }
                    _ => {
                        self.lower.insert(number, number);
                        number
                    }
                };
                if touches_highest {
                    self.lower.remove(&start);
                    *first = start;
                } else if let Some(last) = self.lower.remove(&(number + 1)) {
                    self.lower.insert(start, last);
                }
            }
        }
        self.len += 1;
        true
    }

    /// Takes `number` out; false if it was not there.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        let range = match self.highest {
            Some((first, last)) if (first..=last).contains(&number) => {
                self.highest = None;
                (first, last)
            }
            _ => match self.lower.range(..=number).next_back() {
                Some((&first, &last)) if number <= last => {
                    self.lower.remove(&first);
                    (first, last)
                }
                _ => return false,
            },
        };
        if range.0 < number {
            self.lower.insert(range.0, number - 1);
        }
        if number < range.1 {
            self.lower.insert(number + 1, range.1);
        }
        if self.highest.is_none() {
            self.highest = self.lower.pop_last();
        }
        self.len -= 1;
        true
    }

    /// Whether `number` is in it.
    pub(super) fn contains(&self, number: u64) -> bool {
        match self.highest {
            Some((first, last)) if number >= first => number <= last,
            _ => self.lower.range(..=number).next_back().is_some_and(|(_, last)| number <= *last),
        }
    }

    /// Whether adding `number` would lengthen a range rather than begin one.
    pub(super) fn touches(&self, number: u64) -> bool {
        number.checked_sub(1).is_some_and(|below| self.contains(below))
            || number.checked_add(1).is_some_and(|above| self.contains(above))
    }

    /// The highest number in it.
    pub(super) fn max(&self) -> Option<u64> {
        self.highest.map(|(_, last)| last)
    }

    /// How many numbers.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How many ranges.
    pub(super) fn ranges(&self) -> usize {
        self.lower.len() + usize::from(self.highest.is_some())
    }

    /// The ranges in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.lower.iter().map(|(first, last)| (*first, *last)).chain(self.highest)
    }

    /// What is missing between `from` and the highest number, in order.
    pub(super) fn gaps(&self, from: u64) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let mut next = from;
        self.iter().filter_map(move |(first, last)| {
            let gap = (next < first).then(|| next..=first - 1);
            next = next.max(last.saturating_add(1));
            gap
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_as_a_set_of_numbers(
            steps in prop::collection::vec((any::<bool>(), 1u64..40), 0..200),
        ) {
            let mut set = IntervalSet::default();
            let mut model = HashSet::new();
            for (insert, number) in steps {
                if insert {
                    prop_assert_eq!(set.insert(number), model.insert(number));
                } else {
                    prop_assert_eq!(set.remove(number), model.remove(&number));
                }
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert_eq!(set.max(), model.iter().max().copied());
                for number in 0..42 {
                    prop_assert_eq!(set.contains(number), model.contains(&number));
                }
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
                let missing: u64 = set.gaps(1).map(|gap| gap.end() - gap.start() + 1).sum();
                prop_assert_eq!(missing, set.max().unwrap_or(0) - set.len());
                prop_assert_eq!(&IntervalSet::from_ranges(ranges.into_iter().rev()), &set);
            }
        }
    }

    #[test]
    fn numbers_in_a_row_are_one_range() {
        let mut set = IntervalSet::default();
        (1..=100_000).for_each(|number| assert!(set.insert(number)));
        assert_eq!((set.ranges(), set.len()), (1, 100_000));
        assert!(set.insert(u64::MAX));
        assert!(!set.insert(u64::MAX));
        assert_eq!(set.gaps(1).collect::<Vec<_>>(), [100_001..=u64::MAX - 1]);
    }
}
