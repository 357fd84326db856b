//! From PUBLISH to acknowledgement: what one read brings becomes one block, its acknowledgements
//! leave when the log says that it is on disk.
//!
//! Nothing here costs an allocation, a lock or a channel an event: events are borrowed from the read
//! buffer and copied once, into the block.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_config::Limits;
use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Lane, Lsn, Property, Qos};
use tokio::time::timeout;

use super::aliases::Aliases;
use super::codec::{Bad, Frame, Kind, Publish, Reason, Version, write_ack};
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
    /// Blocks that the log has, oldest first.
    waiting: VecDeque<Waiting>,
    waiting_events: usize,
    waiting_bytes: usize,
    /// Buffers of `acks` to use again.
    spare: Vec<Vec<AckDue>>,
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

/// A block that waits for its commit; without one there is nothing to wait for but those before it
/// (`[MQTT-4.6.0-2]`: acknowledgements keep the order of the PUBLISH packets).
struct Waiting {
    commit: Option<Commit>,
    /// The commit failed.
    failed: bool,
    acks: Vec<AckDue>,
    copies: Option<Box<Copies>>,
    events: usize,
    /// Events with packet ids lie behind this one.
    floor: Option<Lsn>,
    /// Events, or acknowledgements if these are more: what counts against the limit.
    counts: usize,
    bytes: usize,
}

/// A PUBACK or PUBREC to come.
#[derive(Debug, Clone, Copy)]
struct AckDue {
    id: u16,
    qos: Qos,
    says: Says,
}

#[derive(Debug, Clone, Copy)]
enum Says {
    /// What became of the block, in which it is in this lane.
    Block(Lane),
    /// The same packet was stored before.
    Again,
    /// Another copy of the event is on disk.
    Duplicate,
    /// What becomes of the other copy, which waits for the disk: a number in [`Copies`].
    Copy(u32),
    /// It was not admitted.
    Refused(Reason),
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
            waiting: VecDeque::new(),
            waiting_events: 0,
            waiting_bytes: 0,
            spare: Vec::new(),
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
            || self.waiting_events + count.max(self.acks.len()) >= self.max_waiting
            || self.waiting_bytes + bytes >= MAX_WAITING_BYTES
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
        self.waiting.is_empty() && self.room.is_none()
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
            Append::Unavailable => Some(self.not_stored()),
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

    /// Why the disk did not take something.
    fn not_stored(&self) -> Reason {
        match self.gate.is_disk_full() {
            true => Reason::QuotaExceeded,
            false => Reason::Unspecified,
        }
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
        let waiting = self.waiting.iter().find_map(|waiting| waiting.floor);
        waiting.or_else(|| self.has_packet_ids().then(|| self.gate.committed()))
    }

    /// Waits until the session knows the fate of everything that the log has taken. Nobody is
    /// answered any more.
    pub(super) async fn settle(&mut self, session: &mut Session) {
        while let Some(Waiting { commit, failed, acks, mut copies, .. }) = self.waiting.pop_front()
        {
            let stored = match commit {
                Some(commit) => commit.await.is_ok(),
                None => !failed,
            };
            copies.iter_mut().for_each(|copies| copies.settled(stored));
            for AckDue { id, qos, says } in acks {
                match says {
                    Says::Block(_) => session.acknowledged(qos, id, stored),
                    Says::Duplicate => session.acknowledged(qos, id, true),
                    // It comes again, and then that is known.
                    Says::Copy(_) => session.acknowledged(qos, id, false),
                    Says::Again | Says::Refused(_) => {}
                }
            }
        }
    }

    /// What the log has taken, and has to be known should it come again.
    pub(super) fn leave(&mut self) -> Vec<(Commit, Copies)> {
        let left = self.waiting.drain(..).filter_map(|Waiting { commit, copies, .. }| {
            Some((commit?, *copies.filter(|copies| copies.has_marks())?))
        });
        left.collect()
    }

    fn wait(&mut self, commit: Option<Commit>, events: usize, bytes: usize, floor: Option<Lsn>) {
        let acks = std::mem::replace(&mut self.acks, self.spare.pop().unwrap_or_default());
        let counts = events.max(acks.len());
        self.waiting_events += counts;
        self.waiting_bytes += bytes;
        let copies = self.copies.take();
        let failed = false;
        let waiting = Waiting { commit, failed, acks, copies, events, floor, counts, bytes };
        self.waiting.push_back(waiting);
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
        self.poll_commits(context);
        while let Some(front) = self.waiting.front_mut() {
            let copies = front.copies.as_mut();
            if front.commit.is_some() || copies.is_some_and(|it| it.poll(context).is_pending()) {
                break;
            }
            let result = match front.failed {
                false => Ok(()),
                true if self.version == Version::V4 => {
                    self.waiting.pop_front();
                    return Poll::Ready(Err(End::NotStored));
                }
                true => Err(self.not_stored()),
            };
            progress = true;
            if let Some(waiting) = self.waiting.pop_front() {
                self.acknowledge(waiting, result, session, out);
            }
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Notes which blocks are on disk by now, also behind one that waits for somebody else's: that may
    /// wait for one of these.
    fn poll_commits(&mut self, context: &mut Context<'_>) {
        for waiting in &mut self.waiting {
            let Some(commit) = &mut waiting.commit else { continue };
            let Poll::Ready(committed) = Pin::new(commit).poll(context) else { break };
            (waiting.commit, waiting.failed) = (None, committed.is_err());
            waiting.copies.iter_mut().for_each(|copies| copies.settled(!waiting.failed));
        }
    }

    fn acknowledge(
        &mut self,
        mut waiting: Waiting,
        result: Result<(), Reason>,
        session: &mut Session,
        out: &mut Vec<u8>,
    ) {
        self.waiting_events -= waiting.counts;
        self.waiting_bytes -= waiting.bytes;
        let (mut stored, mut refused) = (0, 0);
        for AckDue { id, qos, says } in waiting.acks.drain(..) {
            let reason = match says {
                Says::Again | Says::Duplicate => Reason::Success,
                Says::Copy(number) => match &waiting.copies {
                    Some(copies) if copies.is_stored(number) => Reason::Success,
                    _ => Reason::Unspecified,
                },
                Says::Refused(reason) => reason,
                Says::Block(_) => match result {
                    Ok(()) => Reason::Success,
                    Err(reason) => {
                        refused += 1;
                        reason
                    }
                },
            };
            if !matches!(says, Says::Again) {
                session.acknowledged(qos, id, reason == Reason::Success);
                stored += u64::from(reason == Reason::Success);
            }
            let kind = if qos == Qos::AtLeastOnce { Kind::PubAck } else { Kind::PubRec };
            write_ack(kind, id, reason, self.version, out);
        }
        self.metrics.acks.inc_by(stored);
        if result.is_err() {
            self.metrics.refused.inc_by(refused);
            self.metrics.dropped.inc_by((waiting.events as u64).saturating_sub(refused));
        }
        if self.spare.len() < 4 {
            self.spare.push(waiting.acks);
        }
    }

    /// Gives back what a quiet connection does not need.
    pub(super) fn shrink(&mut self) {
        if self.room.is_none() {
            self.block = None;
        }
        self.properties = Vec::new();
        self.acks.shrink_to_fit();
        self.spare = Vec::new();
        self.waiting.shrink_to_fit();
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").field("waiting", &self.waiting_events).finish_non_exhaustive()
    }
}
