//! Which events may overtake each other: those of different sources.
//!
//! Sources are spread over as many partitions as batches may be in flight. A batch holds events of
//! some partitions, and no two batches in flight share one.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hasher};

use tidegate_event::EventRef;
use tidegate_event::cloudevents::{self, Encoder};

/// The most partitions there are: the bits of a set.
pub(super) const MAX_PARTITIONS: usize = 64;

/// A set of partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Partitions(u64);

impl Partitions {
    /// The set of partition number `index`, below [`MAX_PARTITIONS`].
    pub(super) fn one(index: usize) -> Self {
        Self(1 << index)
    }

    /// Both sets.
    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The lowest partition in it; [`MAX_PARTITIONS`] of the empty set.
    pub(super) fn lowest(self) -> usize {
        self.0.trailing_zeros() as usize
    }

    /// Whether they share a partition.
    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Finds an event's partition.
#[derive(Debug)]
pub(super) struct Partitioner {
    count: usize,
    /// Most events follow one of the same device.
    last: (String, usize),
}

impl Partitioner {
    /// `count` is 1 to [`MAX_PARTITIONS`].
    pub(super) fn new(count: usize) -> Self {
        let count = count.clamp(1, MAX_PARTITIONS);
        Self { count, last: (String::new(), index("", count)) }
    }

    /// The partition of the event's `source`.
    pub(super) fn of(&mut self, encoder: &Encoder, event: &EventRef<'_>) -> usize {
        let source = match cloudevents::own_source(event) {
            Some(source) => source,
            None => Cow::Borrowed(encoder.device(event)),
        };
        if self.last.0 != source {
            self.last.1 = index(&source, self.count);
            self.last.0.clear();
            self.last.0.push_str(&source);
        }
        self.last.1
    }
}

fn index(source: &str, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    hasher.write(source.as_bytes());
    (hasher.finish() % count as u64) as usize
}

#[cfg(test)]
mod tests {
    use tidegate_event::{BlockBuilder, Draft, Epoch, EventId, Lane, Property, Qos, Received};

    use super::*;

    /// The partition of an event of `origin` with these user properties.
    fn partition(partitioner: &mut Partitioner, origin: &str, user: &[(&str, &str)]) -> usize {
        let mut properties = Vec::new();
        user.iter().for_each(|(name, value)| Property::User(name, value).write(&mut properties));
        let mut block = BlockBuilder::new(origin, Received::Synced { unix_micros: 0 });
        block.push(&Draft {
            topic: "t",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: tidegate_event::record::Properties::new(&properties),
            payload: b"1",
        });
        let first = EventId { epoch: Epoch(1), lane: Lane(0), lsn: 1 };
        let encoder = Encoder::new("g", Vec::new(), "t".into(), None);
        let frame = block.finish().to_vec();
        let event = tidegate_event::record::events(&frame, first).next().unwrap().unwrap();
        partitioner.of(&encoder, &event)
    }

    #[test]
    fn one_source_has_one_partition_and_many_use_them_all() {
        let mut partitioner = Partitioner::new(4);
        let mut used = [0; 4];
        for number in 0..400 {
            let origin = format!("sensor-{number}");
            let index = partition(&mut partitioner, &origin, &[]);
            assert_eq!(partition(&mut partitioner, &origin, &[("traceparent", "x")]), index);
            used[index] += 1;
        }
        assert!(used.iter().all(|n| (60..=140).contains(n)), "{used:?}");
    }

    #[test]
    fn an_own_source_counts_whoever_brings_it() {
        let mut partitioner = Partitioner::new(64);
        let own = [("specversion", "1.0"), ("id", "1"), ("source", "/pump"), ("type", "t")];
        let first = partition(&mut partitioner, "bridge-1", &own);
        assert_eq!(partition(&mut partitioner, "bridge-2", &own), first);
        // Without an id it is no CloudEvent, and the source is the device's.
        let not_one = [("specversion", "1.0"), ("source", "/pump"), ("type", "t")];
        let device = partition(&mut partitioner, "bridge-1", &[]);
        assert_eq!(partition(&mut partitioner, "bridge-1", &not_one), device);
    }

    #[test]
    fn sets_meet_where_they_share_a_partition() {
        let (a, b) = (Partitions::one(0), Partitions::one(63));
        assert!(!a.meets(b) && a.with(b).meets(b));
        assert!(!Partitions::default().meets(a));
        assert_eq!((a.with(b).lowest(), b.lowest()), (0, 63));
    }
}
