//! From PUBLISH to acknowledgement: what one read brings becomes one block, its acknowledgements
//! leave when the log says that it is on disk.
//!
//! Nothing here costs an allocation, a lock or a channel an event: events are borrowed from the read
//! buffer and copied once, into the block.

mod owed;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_config::Limits;
use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Lane, Lsn, Property, Qos};
use tokio::time::timeout;

use owed::{AckDue, Handed, Owed, Says};

use super::aliases::Aliases;
use super::codec::{Bad, Frame, Publish, Reason, Version};
use super::copies::{self, Copies};
use super::pace::Pace;
use super::session::{self, Session};
use super::{End, Metrics};
use crate::gate::{Arrival, Denied, Entry, Gate, Rights};
use crate::log::{Append, Commit};

/// Bytes of one client's events that may wait for their commits, beside the limit on their number.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// How long an MQTT 5 client is made to wait before it is told that there is no room: long enough for
/// a burst to get to disk.
const FULL_DELAY: Duration = Duration::from_millis(250);

const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

/// One connection's way into the log.
pub(super) struct Inbound {
    gate: Arc<Gate>,
    metrics: Metrics,
    version: Version,
    client: Arc<str>,
    /// Events that may wait.
    max_waiting: usize,
    aliases: Aliases,
    /// Retained messages are kept; else an MQTT 5 client was told so.
    retains: bool,
    /// Whether the session outlasts the connection: then a QoS 2 event carries its packet id, so that
    /// what is stored and what is known of it never differ.
    kept: bool,
    pace: Pace,
    block: Option<BlockBuilder>,
    properties: Vec<u8>,
    /// The same and a packet id.
    extended: Vec<u8>,
    /// Events in `block`, by QoS.
    received: [u64; 3],
    /// For what is in `block`, and between.
    acks: Vec<AckDue>,
    /// Of what is in `block`, and of what is not because it came before.
    copies: Option<Box<Copies>>,
    /// Of blocks that the log has.
    owed: Owed,
    /// The log did not take `block`: it waits for this, which says whether there is room.
    room: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    /// What `room` waits for is not only the disk's pace: the log is full, or takes no writes.
    refused: bool,
    /// An MQTT 5 client was told that there is no room, and nothing was taken since.
    refusing: bool,
    /// A PUBLISH of a 3.1.1 client is not taken in: it waits for room in its lane.
    held: Option<Held>,
}

/// What a PUBLISH waits for before it is taken in.
struct Held {
    lane: Lane,
    room: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What became of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publishing {
    /// It is taken in.
    TakenIn,
    /// It is to be handed over again when [`Inbound::is_full`] is false.
    Held,
}

impl Inbound {
    pub(super) fn new(
        gate: Arc<Gate>,
        metrics: Metrics,
        version: Version,
        client: Arc<str>,
        limits: &Limits,
        kept: bool,
    ) -> Self {
        Self {
            gate,
            owed: Owed::new(version, metrics.clone()),
            metrics,
            version,
            client,
            max_waiting: usize::from(limits.max_inflight.max(1)),
            aliases: Aliases::new(limits.max_topic_aliases, limits.max_topic_length),
            retains: limits.max_retained > 0,
            kept,
            pace: Pace::new(limits),
            block: None,
            properties: Vec::new(),
            extended: Vec::new(),
            received: [0; 3],
            acks: Vec::new(),
            copies: None,
            room: None,
            refused: false,
            refusing: false,
            held: None,
        }
    }

    /// Bytes that it takes; the log's own queue has a bound of its own.
    pub(super) fn memory(&self) -> usize {
        let block = self.block.as_ref().map_or(0, BlockBuilder::capacity);
        block + self.properties.capacity() + self.extended.capacity() + self.aliases.memory()
    }

    /// Whether it takes no more: the connection is not read until it does.
    pub(super) fn is_full(&self) -> bool {
        let (count, bytes) =
            self.block.as_ref().map_or((0, 0), |block| (block.count() as usize, block.len()));
        self.room.is_some()
            || self.held.is_some()
            || self.pace.is_spent()
            || self.owed.counts() + count.max(self.acks.len()) >= self.max_waiting
            || self.owed.bytes() + bytes >= MAX_WAITING_BYTES
    }

    /// Whether it takes no more because the log or a lane has no room, or the disk takes no writes.
    pub(super) fn is_refused(&self) -> bool {
        self.held.is_some() || self.room.is_some() && self.refused
    }

    /// The client is gone: what the log has not taken yet it will not be given. A client that is owed
    /// an acknowledgement sends it again.
    pub(super) fn abandon(&mut self) {
        if let Some(Held { lane, .. }) = self.held.take() {
            self.metrics.refused.inc();
            self.gate.count_refused(lane, 1);
        }
        if self.room.take().is_some() {
            let events = self.block.as_ref().map_or(0, |block| u64::from(block.count()));
            let owed =
                self.acks.iter().filter(|ack| matches!(ack.says, Says::Block(_))).count() as u64;
            self.metrics.refused.inc_by(owed);
            self.metrics.dropped.inc_by(events.saturating_sub(owed));
            self.acks.clear();
            self.copies = None;
            self.reset_block();
        }
    }

    /// Whether everything that was taken in is acknowledged.
    pub(super) fn is_idle(&self) -> bool {
        self.owed.is_empty() && self.room.is_none()
    }

    /// Takes in a PUBLISH.
    pub(super) fn publish(
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

    /// Hands what came since the last time to the log.
    pub(super) fn submit(&mut self) {
        if self.room.is_some() {
            return;
        }
        let Some(block) = self.block.as_mut().filter(|block| !block.is_empty()) else {
            if !self.acks.is_empty() {
                self.wait(None, 0, 0, None);
            }
            return;
        };
        let floor = block.has_packet_id().then(|| self.gate.committed());
        for (qos, count) in QOS.into_iter().zip(&mut self.received) {
            self.metrics.received(qos, std::mem::take(count));
        }
        let (events, bytes) = (block.count() as usize, block.len());
        let refused = match self.gate.submit(block) {
            Append::Accepted(commit) => {
                self.refusing = false;
                self.reset_block();
                return self.wait(Some(commit), events, bytes, floor);
            }
            // A slow disk is no full log: the client goes at the disk's pace.
            Append::Busy => None,
            Append::Full => Some(Reason::QuotaExceeded),
            Append::Unavailable => Some(not_stored(&self.gate)),
        };
        let patience = match (self.version, refused) {
            (Version::V4, _) | (_, None) => Duration::MAX,
            (Version::V5, Some(Reason::QuotaExceeded)) if !self.refusing => FULL_DELAY,
            (Version::V5, Some(reason)) => return self.refuse(reason),
        };
        self.refused = refused.is_some();
        let gate = Arc::clone(&self.gate);
        let parts = self.block.as_ref().map(|block| block.lanes().clone()).unwrap_or_default();
        let room = async move { timeout(patience, gate.room(&parts)).await.is_ok() };
        self.room = Some(Box::pin(room));
    }

    /// Tells an MQTT 5 client that the log did not take its events; where only some lanes have no room,
    /// that it did not take theirs.
    fn refuse(&mut self, reason: Reason) {
        if reason == Reason::QuotaExceeded
            && let Some(block) = &mut self.block
        {
            let before = block.count();
            let full = self.gate.split(block, &self.client);
            if !full.is_empty() {
                let refused = u64::from(before - block.count());
                self.refuse_lanes(&full, refused);
                self.refusing = true;
                return self.submit();
            }
        }
        let events = self.block.as_ref().map_or(0, |block| u64::from(block.count()));
        let mut answered = 0;
        for ack in self.acks.iter_mut().filter(|ack| matches!(ack.says, Says::Block(_))) {
            ack.says = Says::Refused(reason);
            answered += 1;
        }
        self.metrics.refused.inc_by(answered);
        self.metrics.dropped.inc_by(events.saturating_sub(answered));
        self.refusing = true;
        self.copies.iter_mut().for_each(|copies| copies.settled(false));
        self.reset_block();
        self.wait(None, 0, 0, None);
    }

    /// Tells an MQTT 5 client that events of these lanes, so many, are not in the block any more.
    fn refuse_lanes(&mut self, full: &[Lane], events: u64) {
        let mut answered = 0;
        for ack in &mut self.acks {
            if let Says::Block(lane) = ack.says
                && full.contains(&lane)
            {
                ack.says = Says::Refused(Reason::QuotaExceeded);
                answered += 1;
                self.gate.count_refused(lane, 1);
            }
        }
        self.metrics.refused.inc_by(answered);
        self.metrics.dropped.inc_by(events.saturating_sub(answered));
        self.copies.iter_mut().for_each(|copies| copies.forget(full));
    }

    /// Begins the block anew, should the log have left something in it.
    fn reset_block(&mut self) {
        if let Some(block) = &mut self.block {
            block.restart(&self.client, self.gate.now());
        }
    }

    /// Whether the next [`Inbound::submit`] hands over events with packet ids.
    pub(super) fn has_packet_ids(&self) -> bool {
        self.block.as_ref().is_some_and(BlockBuilder::has_packet_id)
    }

    /// Events with packet ids whose fate is not known lie behind this one.
    pub(super) fn floor(&self) -> Option<Lsn> {
        self.owed.floor().or_else(|| self.has_packet_ids().then(|| self.gate.committed()))
    }

    /// Waits until the session knows the fate of everything that the log has taken. Nobody is
    /// answered any more.
    pub(super) async fn settle(&mut self, session: &mut Session) {
        self.owed.settle(session).await;
    }

    /// What the log has taken, and has to be known should it come again.
    pub(super) fn leave(&mut self) -> Vec<(Commit, Copies)> {
        self.owed.leave()
    }

    fn wait(&mut self, commit: Option<Commit>, events: usize, bytes: usize, floor: Option<Lsn>) {
        let acks = std::mem::replace(&mut self.acks, self.owed.buffer());
        let copies = self.copies.take();
        self.owed.push(Handed { commit, acks, copies, events, bytes, floor });
    }

    /// Appends the acknowledgements that are due to `out`. Ready when there was progress.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        session: &mut Session,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), End>> {
        let mut progress = self.pace.poll(context).is_ready();
        if let Some(room) = &mut self.room
            && let Poll::Ready(there_is) = room.as_mut().poll(context)
        {
            self.room = None;
            if there_is {
                self.submit();
            } else {
                self.refuse(Reason::QuotaExceeded);
            }
            progress = true;
        }
        if let Some(held) = &mut self.held
            && held.room.as_mut().poll(context).is_ready()
        {
            self.held = None;
            progress = true;
        }
        let gate = &self.gate;
        progress |= self.owed.poll(context, session, || not_stored(gate), out)?;
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Gives back what a quiet connection does not need.
    pub(super) fn shrink(&mut self) {
        if self.room.is_none() {
            self.block = None;
        }
        self.properties = Vec::new();
        self.acks.shrink_to_fit();
        self.owed.shrink();
    }
}

/// Why the disk did not take something.
fn not_stored(gate: &Gate) -> Reason {
    match gate.is_disk_full() {
        true => Reason::QuotaExceeded,
        false => Reason::Unspecified,
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").field("owed", &self.owed.counts()).finish_non_exhaustive()
    }
}
