//! A client as a publisher: what it sends again, and with what it goes on.

use std::collections::VecDeque;

use super::super::broker::{packet, publish};
use super::model::{Message, Number};

const DUP: u8 = 8;

#[derive(Debug, Default)]
pub(super) struct Publisher {
    last_id: u16,
    /// Not complete, in the order in which they were published.
    out: VecDeque<Out>,
}

#[derive(Debug)]
struct Out {
    id: u16,
    number: Number,
    qos: u8,
    /// PUBREC came.
    received: bool,
    /// PUBREL left on this connection.
    released: bool,
}

impl Publisher {
    /// How many are not complete.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// How many wait for PUBACK or PUBREC.
    pub(super) fn unacknowledged(&self) -> usize {
        self.out.iter().filter(|out| !out.received).count()
    }

    /// The PUBLISH of a new message.
    pub(super) fn publish(&mut self, version: u8, number: Number, message: &Message) -> Vec<u8> {
        if message.qos > 0 {
            // Few ids, so that they are used again.
            self.last_id = (1..=32)
                .map(|step| (self.last_id + step) % 32 + 1)
                .find(|id| self.out.iter().all(|out| out.id != *id))
                .unwrap();
            let (id, qos) = (self.last_id, message.qos);
            self.out.push_back(Out { id, number, qos, received: false, released: false });
        }
        bytes(version, 0, self.last_id, number, message)
    }

    /// The session is gone: nobody knows what became of these.
    pub(super) fn give_up(&mut self) {
        self.out.clear();
    }

    /// What is sent at the beginning of a connection.
    pub(super) fn again(&mut self, version: u8, messages: &mut [Message]) -> Vec<u8> {
        let mut again = Vec::new();
        for out in &mut self.out {
            let message = &mut messages[out.number as usize];
            if out.received {
                out.released = true;
                again.extend(packet(0x62, &out.id.to_be_bytes()));
            } else {
                message.copies += u32::from(out.qos == 1);
                again.extend(bytes(version, DUP, out.id, out.number, message));
            }
        }
        again
    }

    /// PUBACK came; which message it is about.
    pub(super) fn puback(&mut self, id: u16) -> Number {
        let at = self.out.iter().position(|out| out.id == id && out.qos == 1);
        let at = at.unwrap_or_else(|| panic!("PUBACK {id} of nothing"));
        self.out.remove(at).unwrap().number
    }

    /// PUBREC came; which message it is about.
    pub(super) fn pubrec(&mut self, id: u16) -> Number {
        let out = self.out.iter_mut().find(|out| out.id == id && out.qos == 2);
        let out = out.unwrap_or_else(|| panic!("PUBREC {id} of nothing"));
        assert!(!out.released, "PUBREC {id} after the PUBREL");
        out.received = true;
        out.number
    }

    /// A PUBREL that is due, if there is one.
    pub(super) fn pubrel(&mut self) -> Option<Vec<u8>> {
        let out = self.out.iter_mut().find(|out| out.received && !out.released)?;
        out.released = true;
        Some(packet(0x62, &out.id.to_be_bytes()))
    }

    /// PUBCOMP came.
    pub(super) fn pubcomp(&mut self, id: u16) {
        let at = self.out.iter().position(|out| out.id == id && out.released);
        self.out.remove(at.unwrap_or_else(|| panic!("PUBCOMP {id} of nothing")));
    }

    /// The connection is gone.
    pub(super) fn dropped(&mut self) {
        self.out.iter_mut().for_each(|out| out.released = false);
    }
}

fn bytes(version: u8, dup: u8, id: u16, number: Number, message: &Message) -> Vec<u8> {
    let payload = number.to_string();
    publish(version, message.qos << 1 | dup, id, message.topic, payload.as_bytes())
}
