//! From the bus to the client: deliveries become PUBLISH packets, within the client's receive maximum
//! and packet size.

use std::collections::VecDeque;

use tidegate_event::Qos;

use super::codec::{PublishWriter, Version};
use super::session::Session;
use crate::bus::Delivery;
use crate::clock::unix_micros;
use crate::gate::Rights;

/// Bytes that wait to be written at which no more deliveries are encoded.
const MAX_BACKLOG: usize = 64 * 1024;

/// One connection's way out.
#[derive(Debug)]
pub(super) struct Outbound {
    /// Taken from the bus, not yet sent.
    pub(super) deliveries: VecDeque<Delivery>,
    writer: PublishWriter,
}

impl Outbound {
    /// `max_packet_size` is the client's, in bytes, and `max_aliases` how many it takes.
    pub(super) fn new(version: Version, max_packet_size: usize, max_aliases: u16) -> Self {
        let writer = PublishWriter::new(version, max_packet_size, max_aliases);
        Self { deliveries: VecDeque::new(), writer }
    }

    /// Whether it can take more from the bus.
    pub(super) fn wants(&self, backlog: usize) -> bool {
        self.deliveries.is_empty() && backlog < MAX_BACKLOG
    }

    /// Whether [`Outbound::send`] would append something to `out`.
    pub(super) fn is_ready(&self, session: &Session, out: &[u8]) -> bool {
        out.len() < MAX_BACKLOG
            && self
                .deliveries
                .front()
                .is_some_and(|next| next.qos == Qos::AtMostOnce || session.has_window())
    }

    /// Appends what may leave now to `out`, in order. An event whose time is over is passed over
    /// (`[MQTT-3.3.2-5]`), and one that the client is too small for (`[MQTT-3.1.2-25]`) or may not
    /// receive.
    pub(super) fn send(&mut self, session: &mut Session, rights: &mut Rights, out: &mut Vec<u8>) {
        while out.len() < MAX_BACKLOG
            && let Some(delivery) = self.deliveries.front()
        {
            let expiry = delivery.event.expiry(unix_micros());
            if expiry != Some(0) && rights.may_receive(delivery.event.topic()) {
                let mut id = 0;
                if delivery.qos != Qos::AtMostOnce {
                    let Some(free) = session.send(delivery.qos) else { return };
                    id = free;
                }
                if !self.writer.write(delivery, id, expiry, out) && id != 0 {
                    session.unsend(id);
                }
            }
            self.deliveries.pop_front();
        }
    }

    /// Gives back what a quiet connection does not need.
    pub(super) fn shrink(&mut self) {
        self.deliveries.shrink_to_fit();
    }
}
