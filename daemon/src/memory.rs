//! What clients make the gateway hold in memory, bounded in all (`limits.max-memory`).
//!
//! One table of counters for the daemon. Whoever holds something for a client has a [`Claim`] on it,
//! which says how much that is, and gives it back with the end of what it stands for. What can be held
//! back, or refused, is so when its sort has used up its share, and before that it asks ([`Memory::fits`]):
//!
//! | sort | what | its share | of all | beyond |
//! |---|---|---|---|---|
//! | connecting | connections that have not sent a CONNECT | all | all | closed at once |
//! | connections | tasks, small buffers, TLS | all | 15/16 | refused (0x97, 3.1.1: code 3) |
//! | buffers | packets that arrive or leave, wills, HTTP bodies | half | 14/16 | the connection that wants more ends (0x97); HTTP 503 |
//! | deliveries | events that wait for subscribers | half | 13/16 | as below |
//! | subscriptions | filters | half | 14/16 | refused (0x97, 3.1.1: 0x80) |
//! | sessions | what outlasts a connection | half | 14/16 | refused (0x97, 3.1.1: code 3) |
//! | retained | retained messages | a quarter | 13/16 | stored as an event, not retained |
//!
//! Deliveries are **tight** from a quarter of the memory on, or once eleven sixteenths are used in all: then
//! a subscriber that has taken nothing for a while loses what waits for it (QoS 0 is dropped and counted,
//! QoS 1 and 2 are read from the log later), and one that takes is given less at once. A queue never takes
//! more than a sixteenth of what is left, or 8 KiB: however many fill up, one that keeps up notices nothing, but
//! for what a burst of QoS 0 brings beyond that.
//!
//! A figure is what a thing takes, and what goes with it, by estimate; a task adds to it at most what it
//! has in hand. What the daemon itself needs (some 20 MiB), and tables with bounds of their own (`dedup`,
//! `auth`, the log's queue), come on top.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// The accountant. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    used: [AtomicUsize; Sort::ALL.len()],
    refused: [Counter; Sort::ALL.len()],
}

/// What memory is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// A connection that has not said who it is.
    Connecting,
    /// A connection, while it does little.
    Connections,
    /// Packets and requests in parts.
    Buffers,
    /// Events that wait for subscribers.
    Deliveries,
    /// Filters.
    Subscriptions,
    /// What outlasts a connection.
    Sessions,
    /// Retained messages.
    Retained,
}

/// How much deliveries may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// What each asks for.
    Plenty,
    /// Little at once, and nothing for who takes nothing.
    Tight,
    /// Their share is used up: a few KiB each.
    None,
}

/// Memory that is in use; dropping it gives it back.
#[derive(Debug)]
pub struct Claim {
    memory: Memory,
    sort: Sort,
    bytes: usize,
}

impl Sort {
    const ALL: [Self; 7] = [
        Self::Connecting,
        Self::Connections,
        Self::Buffers,
        Self::Deliveries,
        Self::Subscriptions,
        Self::Sessions,
        Self::Retained,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connections => "connections",
            Self::Buffers => "buffers",
            Self::Deliveries => "deliveries",
            Self::Subscriptions => "subscriptions",
            Self::Sessions => "sessions",
            Self::Retained => "retained",
        }
    }

    /// Sixteenths: of the memory for this sort, and of the memory that all sorts have used by then.
    fn share(self) -> (usize, usize) {
        match self {
            Self::Connecting => (16, 16),
            Self::Connections => (16, 15),
            Self::Buffers | Self::Subscriptions | Self::Sessions => (8, 14),
            Self::Deliveries => (8, 13),
            Self::Retained => (4, 13),
        }
    }
}

impl Memory {
    /// `max` is in bytes.
    pub fn new(max: usize) -> Self {
        let inner = Inner { max, used: Default::default(), refused: Default::default() };
        Self(Arc::new(inner))
    }

    /// Enters the figures: `tidegate_memory_…`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Bytes in use, of all sorts.
    pub fn used(&self) -> usize {
        self.0.used.iter().map(|used| used.load(Ordering::Relaxed)).sum()
    }

    fn of(&self, sort: Sort) -> &AtomicUsize {
        &self.0.used[sort as usize]
    }

    fn is_within(&self, (share, of_all): (usize, usize), sort: Sort, more: usize) -> bool {
        let sixteenth = self.0.max / 16;
        self.of(sort).load(Ordering::Relaxed) + more <= share * sixteenth
            && self.used() + more <= of_all * sixteenth
    }

    /// Whether there is room for so many bytes more. A refusal is counted.
    pub fn fits(&self, sort: Sort, more: usize) -> bool {
        let fits = self.is_within(sort.share(), sort, more);
        if !fits {
            self.0.refused[sort as usize].inc();
        }
        fits
    }

    /// Bytes that are left for this sort.
    pub fn left(&self, sort: Sort) -> usize {
        let (share, of_all) = sort.share();
        let sixteenth = self.0.max / 16;
        let own = (share * sixteenth).saturating_sub(self.of(sort).load(Ordering::Relaxed));
        own.min((of_all * sixteenth).saturating_sub(self.used()))
    }

    /// How much deliveries may take.
    pub fn room(&self) -> Room {
        if self.is_within((4, 11), Sort::Deliveries, 0) {
            Room::Plenty
        } else if self.is_within(Sort::Deliveries.share(), Sort::Deliveries, 0) {
            Room::Tight
        } else {
            Room::None
        }
    }

    /// A claim on so many bytes that are in use already.
    pub fn claim(&self, sort: Sort, bytes: usize) -> Claim {
        self.of(sort).fetch_add(bytes, Ordering::Relaxed);
        Claim { memory: self.clone(), sort, bytes }
    }

    /// A claim on so many bytes, if there is room for them.
    pub fn try_claim(&self, sort: Sort, bytes: usize) -> Option<Claim> {
        self.fits(sort, bytes).then(|| self.claim(sort, bytes))
    }
}

impl Claim {
    /// Bytes that it stands for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// It is so many bytes by now.
    pub fn set(&mut self, bytes: usize) {
        let used = self.memory.of(self.sort);
        if bytes > self.bytes {
            used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// The same, if there is room for what it is more.
    pub fn try_set(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.bytes || self.memory.fits(self.sort, bytes - self.bytes);
        if fits {
            self.set(bytes);
        }
        fits
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Collector for Memory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let limit = ConstGauge::new(self.0.max as u64);
        let help = "What clients may make the gateway hold (limits.max-memory)";
        let metric = encoder.encode_descriptor(
            "tidegate_memory_limit",
            help,
            Some(&Unit::Bytes),
            EncodeMetric::metric_type(&limit),
        )?;
        limit.encode(metric)?;
        let help = "What clients make the gateway hold";
        let kind = EncodeMetric::metric_type(&limit);
        let mut family =
            encoder.encode_descriptor("tidegate_memory", help, Some(&Unit::Bytes), kind)?;
        for sort in Sort::ALL {
            let used = ConstGauge::new(self.of(sort).load(Ordering::Relaxed) as u64);
            used.encode(family.encode_family(&[("sort", sort.name())])?)?;
        }
        let help = "What was held back or refused because of limits.max-memory";
        let kind = EncodeMetric::metric_type(&self.0.refused[0]);
        let mut family = encoder.encode_descriptor("tidegate_memory_refused", help, None, kind)?;
        for sort in Sort::ALL {
            let labels = [("sort", sort.name())];
            self.0.refused[sort as usize].encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_had_again() {
        let memory = Memory::new(1600);
        let first = memory.try_claim(Sort::Connecting, 1600).unwrap();
        assert!(memory.try_claim(Sort::Connecting, 1).is_none());
        drop(first);
        assert_eq!(memory.used(), 0);
        assert!(memory.fits(Sort::Connecting, 1600));
    }

    #[test]
    fn no_sort_takes_the_room_of_the_connections() {
        let memory = Memory::new(1600);
        let mut buffers = memory.claim(Sort::Buffers, 0);
        assert!(!buffers.try_set(801));
        assert!(buffers.try_set(800));
        let mut deliveries = memory.claim(Sort::Deliveries, 500);
        assert!(!deliveries.try_set(501), "thirteen of sixteen in all");
        assert!(memory.try_claim(Sort::Subscriptions, 101).is_none());
        let _subscriptions = memory.try_claim(Sort::Subscriptions, 100).unwrap();
        let _connections = memory.try_claim(Sort::Connections, 100).unwrap();
        assert!(memory.try_claim(Sort::Connections, 1).is_none());
        let connecting = memory.try_claim(Sort::Connecting, 100).unwrap();
        assert!(memory.try_claim(Sort::Connecting, 1).is_none());
        assert_eq!((memory.used(), connecting.bytes()), (1600, 100));
        // What was in use before there was a limit counts all the same.
        deliveries.set(5000);
        drop(buffers);
        assert!(!memory.fits(Sort::Connecting, 1));
    }

    #[test]
    fn deliveries_are_tight_before_there_is_no_room() {
        let memory = Memory::new(1600);
        let mut deliveries = memory.claim(Sort::Deliveries, 400);
        assert_eq!(memory.room(), Room::Plenty);
        deliveries.set(401);
        assert_eq!(memory.room(), Room::Tight);
        deliveries.set(801);
        assert_eq!(memory.room(), Room::None);
        deliveries.set(0);
        let mut others = memory.claim(Sort::Connections, 1101);
        assert_eq!(memory.room(), Room::Tight);
        others.set(1301);
        assert_eq!(memory.room(), Room::None);
    }
}
