//! A publisher of numbers whose session is kept: it goes on where it was, across connections and kills.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::packet::{self, CONNECT, PUBACK, Version};
use crate::wire::Wire;

/// PUBREC's packet type, shifted into place; so for the others.
pub const PUBREC: u8 = 0x50;
/// PUBREL, with the flags it must have.
pub const PUBREL: u8 = 0x62;
/// PUBCOMP
pub const PUBCOMP: u8 = 0x70;
const DUP: u8 = 8;

/// Connects with an MQTT 3.1.1 session that is kept. None if the broker is not there.
pub fn resume(broker: SocketAddr, id: &str) -> Option<Wire> {
    let mut wire = Wire::try_open(broker).ok()?;
    let body = [&packet::text("MQTT")[..], &[Version::V4 as u8, 0, 0, 60], &packet::text(id)];
    wire.send(&packet::packet(CONNECT, &body.concat()));
    wire.try_answer().ok()??;
    Some(wire)
}

/// An acknowledgement with this first byte.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    packet::packet(first, &id.to_be_bytes())
}

/// Publishes numbers from 0 on to the topic `n` with QoS 1 or 2, and remembers what it has to.
#[derive(Debug)]
pub struct Publisher {
    qos: u8,
    total: u32,
    next: u32,
    /// Whether PUBREC came, by packet id.
    open: BTreeMap<u16, (u32, bool)>,
}

impl Publisher {
    /// Of `total` numbers.
    pub fn new(qos: u8, total: u32) -> Self {
        Self { qos, total, next: 0, open: BTreeMap::new() }
    }

    fn send(&self, wire: &mut Wire, id: u16, number: u32, dup: u8) {
        let payload = number.to_string();
        let mut packet = packet::publish(Version::V4, self.qos, b"n", id, payload.as_bytes());
        packet[0] |= dup;
        wire.send(&packet);
    }

    /// Until everything is acknowledged; false if the connection ends before. `progress` counts.
    ///
    /// # Panics
    /// When the broker says what it may not say.
    pub fn run(&mut self, broker: SocketAddr, progress: &AtomicUsize) -> bool {
        let Some(mut wire) = resume(broker, "publisher") else { return false };
        let mut open: Vec<_> = self.open.iter().map(|(id, (n, rec))| (*n, *id, *rec)).collect();
        open.sort_unstable();
        for (number, id, received) in open {
            match received {
                true => wire.send(&ack(PUBREL, id)),
                false => self.send(&mut wire, id, number, DUP),
            }
        }
        loop {
            while self.next < self.total
                && let Some(id) = (1..=20).find(|id| !self.open.contains_key(id))
            {
                self.open.insert(id, (self.next, false));
                self.send(&mut wire, id, self.next, 0);
                self.next += 1;
            }
            if self.open.is_empty() {
                return true;
            }
            let Ok(Some((first, body))) = wire.try_answer() else { return false };
            let id = u16::from_be_bytes([body[0], body[1]]);
            match first {
                PUBREC => {
                    self.open.entry(id).and_modify(|open| open.1 = true);
                    wire.send(&ack(PUBREL, id));
                }
                PUBCOMP | PUBACK => {
                    self.open.remove(&id);
                    progress.fetch_add(1, Ordering::Relaxed);
                }
                _ => panic!("{first:02x} {body:02x?}"),
            }
        }
    }
}
