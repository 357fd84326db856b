//! Taking in a PUBLISH: what is to be stored joins the block of what the same read has brought.

use std::sync::Arc;

use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Property, Qos};

use super::super::codec::{Bad, Frame, Publish, Reason, Version};
use super::super::session::{self, Session};
use super::super::{End, copies};
use super::owed::{AckDue, Says};
use super::{Held, Inbound, Publishing};
use crate::gate::{Arrival, Denied, Entry, Rights};

impl Inbound {
    /// Takes in a PUBLISH.
    pub(in crate::listener) fn publish(
        &mut self,
        session: &mut Session,
        rights: &mut Rights,
        frame: &Frame<'_>,
    ) -> Result<Publishing, End> {
        let publish = Publish::read(frame, self.version, &mut self.properties)?;
        let Publish { qos, id, .. } = publish;
        let topic = self.aliases.resolve(&publish)?;
        if publish.retain && !self.retains && self.version == Version::V5 {
            let what = "RETAIN, which limits.max-retained = 0 rules out";
            return Err(Bad(Reason::RetainNotSupported, what).into());
        }
        let place = self.gate.place(topic);
        let promises = qos != Qos::AtMostOnce && !session.knows(qos, id);
        if place.refuses() && promises && self.version == Version::V4 {
            // Before anything takes note of it: it is handed over again.
            let (gate, lane) = (Arc::clone(&self.gate), place.lane());
            let room = Box::pin(async move { gate.lane_room(lane).await });
            self.held = Some(Held { lane, room });
            return Ok(Publishing::Held);
        }
        if self.pace.spend(frame.whole.len()) {
            self.metrics.paced.inc();
        }
        match session.publish(qos, id)? {
            session::Inbound::Store => {}
            session::Inbound::Ignore => return Ok(Publishing::TakenIn),
            session::Inbound::Acknowledge => {
                self.acks.push(AckDue { id, qos, says: Says::Again });
                return Ok(Publishing::TakenIn);
            }
        }
        let mut draft = Draft {
            topic,
            qos,
            retain: publish.retain,
            properties: publish.properties,
            payload: publish.payload,
        };
        if self.kept && qos == Qos::ExactlyOnce {
            self.extended.clear();
            self.extended.extend_from_slice(publish.properties.as_bytes());
            Property::PacketId(id).write(&mut self.extended);
            draft.properties = Properties::new(&self.extended);
        }
        if let Err(denied) = self.gate.check(rights, &draft) {
            self.metrics.denied(denied.label());
            match denied {
                Denied::TopicInvalid => {
                    return Err(
                        Bad(Reason::TopicInvalid, "PUBLISH to what is no topic name").into()
                    );
                }
                // Nothing was promised.
                _ if qos == Qos::AtMostOnce => {}
                // `[MQTT-3.3.5-2]`: 3.1.1 has no way to say no but this one, and an acknowledgement
                // would say that the event is on disk.
                _ if self.version == Version::V4 => return Err(End::Denied(denied)),
                _ => self.acks.push(AckDue { id, qos, says: Says::Refused(Reason::from(denied)) }),
            }
            return Ok(Publishing::TakenIn);
        }
        let mark = match copies::arrival(&self.gate, publish.properties, publish.payload) {
            None => None,
            Some(Arrival::First(mark)) => Some(mark),
            // Nobody waits for an answer.
            Some(_) if qos == Qos::AtMostOnce => return Ok(Publishing::TakenIn),
            Some(Arrival::OfStored) => {
                self.acks.push(AckDue { id, qos, says: Says::Duplicate });
                return Ok(Publishing::TakenIn);
            }
            Some(Arrival::OfPending(first)) => {
                let number = self.copies.get_or_insert_default().wait_for(first);
                self.acks.push(AckDue { id, qos, says: Says::Copy(number) });
                return Ok(Publishing::TakenIn);
            }
        };
        let gate = &self.gate;
        let block = self.block.get_or_insert_with(|| BlockBuilder::new(&self.client, gate.now()));
        if block.is_empty() {
            block.restart(&self.client, gate.now());
        }
        match gate.put(block, place, &draft) {
            Entry::Kept => {
                if let Some(mark) = mark {
                    self.copies.get_or_insert_default().mark(place.lane(), mark);
                }
            }
            // Not known by its mark: another copy may find room.
            Entry::Dropped => {}
            Entry::Refused(lane) => {
                gate.count_refused(lane, 1);
                if qos == Qos::AtMostOnce {
                    self.metrics.dropped.inc();
                } else {
                    self.metrics.refused.inc();
                    self.acks.push(AckDue { id, qos, says: Says::Refused(Reason::QuotaExceeded) });
                }
                return Ok(Publishing::TakenIn);
            }
        }
        self.received[qos as usize] += 1;
        if qos != Qos::AtMostOnce {
            self.acks.push(AckDue { id, qos, says: Says::Block(place.lane()) });
        }
        Ok(Publishing::TakenIn)
    }
}
