//! From PUBLISH to acknowledgement: what one read brings becomes one block, its acknowledgements
//! leave when the log says that it is on disk.
//!
//! Nothing here costs an allocation, a lock or a channel an event: events are borrowed from the read
//! buffer and copied once, into the block.

mod owed;
mod publish;
mod submit;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_config::Limits;
use tidegate_event::{BlockBuilder, Lane, Lsn};

use owed::{AckDue, Owed, Says};

use super::aliases::Aliases;
use super::codec::{Reason, Version};
use super::copies::Copies;
use super::pace::Pace;
use super::session::Session;
use super::{End, Metrics};
use crate::gate::Gate;
use crate::log::Commit;

/// Bytes of one client's events that may wait for their commits, beside the limit on their number.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

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
