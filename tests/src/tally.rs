//! What the load published beside what the receiver keeps.

use std::collections::{BTreeMap, HashSet};

use crate::load::Fleet;
use crate::receiver::Receiver;
use crate::wait::{LATER, eventually};

/// How often each message of the load stands in the receiver's store.
#[derive(Debug, Default)]
pub struct Tally {
    /// By device, then by `seq`.
    seen: BTreeMap<String, Vec<u32>>,
    /// Events whose (source, id) stood there before.
    repeated_ids: usize,
    /// Messages that came after a later one of their device.
    out_of_order: usize,
    events: u64,
}

impl Tally {
    /// Reads everything that `receiver` keeps.
    #[track_caller]
    pub fn of(receiver: &Receiver) -> Self {
        let mut tally = Self::default();
        let mut ids = HashSet::new();
        receiver.each_event(|event| {
            tally.events += 1;
            let id = format!("{} {}", event["source"], event["id"]);
            tally.repeated_ids += usize::from(!ids.insert(id));
            let data = &event["data"];
            if let (Some(device), Some(seq)) = (data["device"].as_str(), data["seq"].as_u64()) {
                tally.count(device, seq as usize);
            }
        });
        tally
    }

    fn count(&mut self, device: &str, seq: usize) {
        let seen = self.seen.entry(device.to_owned()).or_default();
        if seen.len() > seq {
            self.out_of_order += 1;
        } else {
            seen.resize(seq + 1, 0);
        }
        seen[seq] += 1;
    }

    /// Events in the store.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Waits until `receiver` has stored as many events as `fleet` had acknowledged and has come to
    /// rest, then asserts that none of them is missing, none is there twice, and that each device's
    /// are in order.
    ///
    /// # Panics
    /// When one is.
    #[track_caller]
    pub fn is_complete(receiver: &Receiver, fleet: &Fleet) -> Self {
        eventually("everything that was acknowledged is upstream", LATER * 2, || {
            receiver.stored() >= fleet.acknowledged()
        });
        let mut tally = Self::of(receiver);
        // Events that were stored but never acknowledged may stand before the last acknowledged ones.
        eventually("nothing acknowledged is missing upstream", LATER, || {
            tally.missing(fleet) == 0 || {
                tally = Self::of(receiver);
                false
            }
        });
        assert_eq!(tally.repeated_ids, 0, "events with the id of another one");
        assert_eq!(tally.twice(), 0, "messages that are there twice");
        assert_eq!(tally.out_of_order, 0, "messages behind a later one of their device");
        tally
    }

    /// Acknowledged messages that are not there.
    pub fn missing(&self, fleet: &Fleet) -> usize {
        let missing = |publisher: &crate::load::Publisher| {
            let seen = self.seen.get(publisher.device()).map(Vec::as_slice).unwrap_or_default();
            (0..publisher.sent())
                .filter(|seq| publisher.was_acknowledged(*seq))
                .filter(|seq| seen.get(*seq as usize).is_none_or(|count| *count == 0))
                .count()
        };
        fleet.publishers().iter().map(missing).sum()
    }

    /// Messages that are there more than once.
    pub fn twice(&self) -> usize {
        self.seen.values().flatten().filter(|count| **count > 1).count()
    }
}
