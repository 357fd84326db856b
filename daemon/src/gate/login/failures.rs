//! What failed logins cost: their address has to wait, longer each time.
//!
//! Failures are counted for each name that an address tries, a user's or a token, so that one device
//! with a wrong password does not lock out what else is behind the same address; and, with ten times the patience,
//! for the address itself, so that trying many names does not help. Pure: the time is told.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use tidegate_config as config;

use super::generations::Generations;

/// For how many user names' worth of failures an address is good.
const NAMES: u32 = 10;

/// The failures of all addresses.
#[derive(Debug)]
pub(super) struct Failures {
    max: u32,
    penalty: Duration,
    max_penalty: Duration,
    entries: Generations<Key, Entry>,
    names: RandomState,
}

/// An address, and a hash of the user name or nothing.
type Key = (IpAddr, Option<u64>);

#[derive(Debug)]
struct Entry {
    count: u32,
    last: Instant,
    /// Until when logins are refused.
    until: Option<Instant>,
}

impl Failures {
    pub(super) fn new(config: &config::Failures) -> Self {
        Self {
            max: config.max.into(),
            penalty: config.penalty.0,
            max_penalty: config.max_penalty.0,
            entries: Generations::new(config.max_remembered),
            names: RandomState::new(),
        }
    }

    fn keys(&self, address: IpAddr, name: &[u8]) -> [(Key, u32); 2] {
        let network = network(address);
        let hash = self.names.hash_one(name);
        [((network, Some(hash)), self.max), ((network, None), self.max * NAMES)]
    }

    /// Whether a login with `name` from `address` is refused unseen.
    pub(super) fn refuses(&mut self, address: IpAddr, name: &[u8], now: Instant) -> bool {
        self.keys(address, name).iter().any(|(key, _)| {
            let entry = self.entries.get(key);
            entry.and_then(|entry| entry.until).is_some_and(|until| now < until)
        })
    }

    /// A login failed. Answers with the penalty, where one begins.
    pub(super) fn failed(
        &mut self,
        address: IpAddr,
        name: &[u8],
        now: Instant,
    ) -> Option<Duration> {
        let mut begins = None;
        for (key, max) in self.keys(address, name) {
            if self.entries.get(&key).is_none() {
                self.entries.insert(key, Entry { count: 0, last: now, until: None });
            }
            let Some(entry) = self.entries.get(&key) else { continue };
            if now.saturating_duration_since(entry.last) >= self.max_penalty {
                entry.count = 0;
            }
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
            if let Some(beyond) = entry.count.checked_sub(max) {
                let factor = 2_u32.saturating_pow(beyond);
                let penalty = self.penalty.saturating_mul(factor).min(self.max_penalty);
                entry.until = Some(now + penalty);
                begins = begins.max(Some(penalty));
            }
        }
        begins
    }

    /// A login was right: what its name failed with before is forgotten.
    pub(super) fn succeeded(&mut self, address: IpAddr, name: &[u8]) {
        let [(key, _), _] = self.keys(address, name);
        self.entries.remove(&key);
    }
}

/// What one owner can have many of counts as one: an IPv6 /64. IPv4 within IPv6 is IPv4.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failures() -> (Failures, Instant) {
        (Failures::new(&config::Failures::default()), Instant::now())
    }

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn the_penalty_begins_after_some_failures_doubles_and_has_an_end() {
        let (mut failures, mut now) = failures();
        for _ in 0..4 {
            assert_eq!(failures.failed(address(1), b"pump", now), None);
            assert!(!failures.refuses(address(1), b"pump", now));
        }
        let mut penalties = Vec::new();
        for _ in 0..12 {
            let penalty = failures.failed(address(1), b"pump", now).unwrap();
            assert!(failures.refuses(address(1), b"pump", now + penalty - SECOND / 2));
            assert!(!failures.refuses(address(1), b"pump", now + penalty));
            now += penalty;
            penalties.push(penalty.as_secs());
            if penalty == 300 * SECOND {
                break;
            }
        }
        assert_eq!(penalties, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        now += 301 * SECOND;
        assert_eq!(failures.failed(address(1), b"pump", now), None, "all was forgotten");
    }

    #[test]
    fn one_wrong_device_does_not_lock_out_its_neighbours() {
        let (mut failures, now) = failures();
        for _ in 0..9 {
            failures.failed(address(1), b"pump", now);
        }
        assert!(failures.refuses(address(1), b"pump", now));
        assert!(!failures.refuses(address(1), b"boiler", now), "another user name");
        assert!(!failures.refuses(address(2), b"pump", now), "another address");
        failures.succeeded(address(1), b"pump");
        assert!(!failures.refuses(address(1), b"pump", now));
    }

    #[test]
    fn trying_many_names_does_not_help() {
        let (mut failures, now) = failures();
        let locked =
            (0..100).find(|n| failures.failed(address(1), n.to_string().as_bytes(), now).is_some());
        assert_eq!(locked, Some(49));
        assert!(failures.refuses(address(1), b"boiler", now));
        assert!(!failures.refuses(address(2), b"boiler", now));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (mut failures, now) = failures();
        let host = |n: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, n));
        for n in 0..5 {
            failures.failed(host(n), b"pump", now);
        }
        assert!(failures.refuses(host(99), b"pump", now));
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), address(1));
    }
}
