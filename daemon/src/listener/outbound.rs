//! From the bus to the client: deliveries become PUBLISH packets, within the client's receive maximum
//! and packet size.

use std::collections::VecDeque;
use std::sync::Arc;

use tidegate_event::Qos;

use super::codec::{Kind, PublishWriter, Reason, Version, write_ack};
use super::session::{Resend, Session};
use super::sessions::{Resending, What};
use crate::bus::Delivery;
use crate::clock::unix_micros;
use crate::gate::Rights;
use crate::memory::{Memory, Room, Sort};

/// Bytes that wait to be written at which no more deliveries are encoded.
const MAX_BACKLOG: usize = 64 * 1024;
/// The same when memory is tight.
const SMALL_BACKLOG: usize = 4 * 1024;
/// One connection's part of the memory that is left for all.
const PART: usize = 32;

/// The flag of a PUBLISH that may have been sent before.
const DUP: u8 = 1 << 3;

/// One connection's way out.
#[derive(Debug)]
pub(super) struct Outbound {
    /// Taken from the bus, not yet sent.
    pub(super) deliveries: VecDeque<Delivery>,
    /// To be sent before these, under their old packet ids.
    pub(super) again: VecDeque<Resending>,
    /// More of that is to come.
    pub(super) resumes: bool,
    max_backlog: usize,
    version: Version,
    writer: PublishWriter,
}

/// What [`Outbound::send`] sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    /// A PUBLISH with QoS 2: its packet id must be known after a crash.
    pub(super) exactly_once: bool,
    /// The last of the retained messages that new subscriptions brought.
    pub(super) greeted: bool,
}

impl Outbound {
    /// `max_packet_size` is the client's, in bytes, and `max_aliases` how many it takes.
    pub(super) fn new(version: Version, max_packet_size: usize, max_aliases: u16) -> Self {
        Self {
            deliveries: VecDeque::new(),
            again: VecDeque::new(),
            resumes: false,
            max_backlog: MAX_BACKLOG,
            version,
            writer: PublishWriter::new(version, max_packet_size, max_aliases),
        }
    }

    /// Bytes that it takes, without the events.
    pub(super) fn memory(&self) -> usize {
        self.deliveries.capacity() * size_of::<Delivery>()
            + self.again.capacity() * size_of::<Resending>()
            + self.writer.memory()
    }

    /// Says how much memory there is.
    pub(super) fn set_room(&mut self, memory: &Memory) {
        let left = memory.left(Sort::Buffers) / PART;
        self.max_backlog = match memory.room() {
            Room::Plenty => left.clamp(SMALL_BACKLOG, MAX_BACKLOG),
            Room::Tight | Room::None => SMALL_BACKLOG,
        };
    }

    /// Whether it can take more from the bus.
    pub(super) fn wants(&self, backlog: usize) -> bool {
        self.again.is_empty()
            && (self.deliveries.is_empty() || self.resumes)
            && backlog < self.max_backlog
    }

    /// Whether [`Outbound::send`] would append something to `out`.
    pub(super) fn is_ready(&self, session: &Session, out: &[u8]) -> bool {
        let next = self.deliveries.front();
        out.len() < self.max_backlog
            && (!self.again.is_empty()
                || next.is_some_and(|next| next.qos == Qos::AtMostOnce || session.has_window()))
    }

    /// Appends what may leave now to `out`, in order. An event whose time is over is passed over
    /// (`[MQTT-3.3.2-5]`), and one that the client is too small for (`[MQTT-3.1.2-25]`) or may not
    /// receive.
    pub(super) fn send(
        &mut self,
        session: &mut Session,
        rights: &mut Rights,
        out: &mut Vec<u8>,
    ) -> Sent {
        let mut sent = Sent::default();
        self.send_again(session, rights, out);
        while out.len() < self.max_backlog
            && !self.resumes
            && self.again.is_empty()
            && let Some(delivery) = self.deliveries.front_mut()
        {
            let expiry = delivery.event.expiry(unix_micros());
            let mut loan = delivery.loan.take().map(|loan| *loan);
            if loan.as_ref().is_some_and(|loan| !loan.may_leave(delivery.qos)) {
                self.deliveries.pop_front();
                continue;
            }
            if expiry != Some(0) && rights.may_receive(delivery.event.topic()) {
                let mut id = 0;
                if delivery.qos != Qos::AtMostOnce {
                    let Some(free) = session.send(delivery.qos) else {
                        delivery.loan = loan.map(Box::new);
                        break;
                    };
                    id = free;
                }
                if self.writer.write(delivery, id, expiry, out) {
                    if id != 0 {
                        let group = loan.as_ref().map(|loan| Arc::clone(loan.group()));
                        let what = || What::of(delivery, group);
                        session.sent(id, delivery.qos, what, loan.take());
                        sent.exactly_once |= delivery.qos == Qos::ExactlyOnce;
                    }
                } else if id != 0 {
                    session.unsend(id);
                }
            }
            if let Some(loan) = loan {
                // This client cannot have it, and that is as if it had.
                loan.settle();
            }
            let greeting = delivery.lsn.is_none();
            self.deliveries.pop_front();
            sent.greeted |= greeting && self.deliveries.front().is_none_or(|it| it.lsn.is_some());
        }
        sent
    }

    /// Sends what was under way when the last connection ended (`[MQTT-4.4.0-1]`). A QoS 2 PUBLISH
    /// goes out even if its time is over: the client may have it, and keeps its packet id.
    fn send_again(&mut self, session: &mut Session, rights: &mut Rights, out: &mut Vec<u8>) {
        while out.len() < self.max_backlog
            && let Some(Resending { id, delivery }) = self.again.front()
        {
            match (session.resend(*id), delivery) {
                (Resend::Later, _) => return,
                (Resend::Never, _) => {}
                (Resend::Release, _) => {
                    write_ack(Kind::PubRel, *id, Reason::Success, self.version, out);
                }
                (Resend::Publish, None) => session.give_up(*id),
                (Resend::Publish, Some(delivery)) => {
                    let expiry = delivery.event.expiry(unix_micros());
                    let over = expiry == Some(0) && delivery.qos != Qos::ExactlyOnce;
                    let begin = out.len();
                    if !over
                        && rights.may_receive(delivery.event.topic())
                        && self.writer.write(delivery, *id, expiry, out)
                    {
                        out[begin] |= DUP;
                    } else {
                        session.give_up(*id);
                    }
                }
            }
            self.again.pop_front();
        }
    }

    /// Gives back what a quiet connection does not need.
    pub(super) fn shrink(&mut self) {
        self.deliveries.shrink_to_fit();
        self.again.shrink_to_fit();
    }
}
