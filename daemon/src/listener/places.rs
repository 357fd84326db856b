//! Places for connections: so many in all, so many of one address, so many that have not yet said who
//! they are.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_config::Limits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Metrics;
use super::transport::Footprint;
use crate::memory::{Claim, Memory, Sort};

/// The places of all listeners. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Places {
    in_all: Arc<Semaphore>,
    connecting: Arc<Semaphore>,
    by_address: Arc<ByAddress>,
    memory: Memory,
    metrics: Metrics,
}

#[derive(Debug)]
struct ByAddress {
    max: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// The limit that a connection is refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    InAll,
    Address,
    Connecting,
    Memory,
}

/// One connection's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    _in_all: OwnedSemaphorePermit,
    connecting: Option<OwnedSemaphorePermit>,
    address: IpAddr,
    by_address: Arc<ByAddress>,
    footprint: Footprint,
    memory: Claim,
    memories: Memory,
    metrics: Metrics,
}

impl Full {
    /// How many there are.
    pub(super) const KINDS: usize = 4;

    /// The key in `[limits]`.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::InAll => "max-connections",
            Self::Address => "max-connections-per-address",
            Self::Connecting => "max-connecting",
            Self::Memory => "max-memory",
        }
    }
}

impl Places {
    pub(super) fn new(limits: &Limits, memory: Memory, metrics: Metrics) -> Self {
        let semaphore = |max: usize| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        Self {
            in_all: semaphore(limits.max_connections),
            connecting: semaphore(limits.max_connecting),
            by_address: Arc::new(ByAddress {
                max: limits.connections_per_address(),
                taken: Mutex::default(),
            }),
            memory,
            metrics,
        }
    }

    /// A place for a connection from `address`, if there is one. A refusal is counted.
    pub(super) fn take(&self, address: IpAddr, footprint: Footprint) -> Result<Place, Full> {
        self.try_take(network(address), footprint)
            .inspect_err(|full| self.metrics.refused_connection(full.key()))
    }

    fn try_take(&self, address: IpAddr, footprint: Footprint) -> Result<Place, Full> {
        let permit = |semaphore: &Arc<Semaphore>, full| {
            Arc::clone(semaphore).try_acquire_owned().map_err(|_| full)
        };
        let in_all = permit(&self.in_all, Full::InAll)?;
        let connecting = permit(&self.connecting, Full::Connecting)?;
        let memory = self.memory.try_claim(Sort::Connecting, footprint.idle);
        let memory = memory.ok_or(Full::Memory)?;
        self.by_address.enter(address)?;
        self.metrics.connections.inc();
        self.metrics.connecting.inc();
        Ok(Place {
            _in_all: in_all,
            connecting: Some(connecting),
            address,
            by_address: Arc::clone(&self.by_address),
            footprint,
            memory,
            memories: self.memory.clone(),
            metrics: self.metrics.clone(),
        })
    }
}

impl ByAddress {
    fn enter(&self, address: IpAddr) -> Result<(), Full> {
        let mut table = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = table.entry(address).or_default();
        if *taken >= self.max {
            return Err(Full::Address);
        }
        *taken += 1;
        Ok(())
    }

    fn leave(&self, address: IpAddr) {
        let mut table = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = table.get_mut(&address) {
            *taken -= 1;
            if *taken == 0 {
                table.remove(&address);
            }
        }
    }
}

impl Place {
    /// What it takes.
    pub(super) fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// The client has said who it is. False if there is no memory for it.
    pub(super) fn connected(&mut self) -> bool {
        if self.connecting.take().is_none() {
            return true;
        }
        self.metrics.connecting.dec();
        let bytes = self.footprint.idle;
        self.memory.set(0);
        let fits = self.memories.fits(Sort::Connections, bytes);
        self.memory = self.memories.claim(Sort::Connections, bytes);
        fits
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.connecting.take().is_some() {
            self.metrics.connecting.dec();
        }
        self.by_address.leave(self.address);
        self.metrics.connections.dec();
    }
}

/// Whom an address belongs to: one host has a whole /64 of IPv6. An IPv4 address is itself, however it
/// is written.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(in_all: usize, per_address: usize, connecting: usize) -> Places {
        let limits = Limits {
            max_connections: in_all,
            max_connections_per_address: Some(per_address),
            max_connecting: connecting,
            ..Limits::default()
        };
        Places::new(&limits, Memory::new(100 << 4), Metrics::default())
    }

    const SMALL: Footprint = Footprint { idle: 100, stuck: 0 };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let places = places(10, 2, 10);
        let held = [0, 1].map(|_| places.take(address("192.0.2.1"), SMALL).unwrap());
        assert_eq!(places.take(address("192.0.2.1"), SMALL).unwrap_err(), Full::Address);
        assert_eq!(places.take(address("::ffff:192.0.2.1"), SMALL).unwrap_err(), Full::Address);
        let other = places.take(address("192.0.2.2"), SMALL).unwrap();
        drop(held);
        places.take(address("192.0.2.1"), SMALL).unwrap();
        drop(other);
        assert!(places.by_address.taken.lock().unwrap().is_empty(), "nothing is left behind");
        assert_eq!(places.metrics.connections.get(), 0);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let places = places(10, 1, 10);
        let _held = places.take(address("2001:db8::1"), SMALL).unwrap();
        assert_eq!(places.take(address("2001:db8::ffff:1"), SMALL).unwrap_err(), Full::Address);
        places.take(address("2001:db8:0:1::1"), SMALL).unwrap();
    }

    #[test]
    fn who_has_not_said_who_it_is_takes_no_place_from_those_who_have() {
        let places = places(3, 10, 1);
        let mut first = places.take(address("192.0.2.1"), SMALL).unwrap();
        assert_eq!(places.take(address("192.0.2.2"), SMALL).unwrap_err(), Full::Connecting);
        assert!(first.connected());
        assert!(first.connected());
        let second = places.take(address("192.0.2.2"), SMALL).unwrap();
        assert_eq!(places.metrics.connecting.get(), 1);
        drop(second);
        assert_eq!(places.metrics.connecting.get(), 0);
        let mut more: Vec<_> = [0; 2]
            .map(|_| {
                let mut place = places.take(address("192.0.2.3"), SMALL).unwrap();
                assert!(place.connected());
                place
            })
            .into();
        assert_eq!(places.take(address("192.0.2.4"), SMALL).unwrap_err(), Full::InAll);
        more.pop();
        places.take(address("192.0.2.4"), SMALL).unwrap();
    }
}
