//! Handing the block to the log; and what a client is told, or made to wait for, when that does not take it.

use std::sync::Arc;
use std::time::Duration;

use tidegate_event::{Lane, Lsn, Qos};
use tokio::time::timeout;

use super::super::codec::{Reason, Version};
use super::owed::{Handed, Says};
use super::{Inbound, not_stored};
use crate::log::{Append, Commit};

/// How long an MQTT 5 client is made to wait before it is told that there is no room: long enough for
/// a burst to get to disk.
const FULL_DELAY: Duration = Duration::from_millis(250);

const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

impl Inbound {
    /// Hands what came since the last time to the log.
    pub(in crate::listener) fn submit(&mut self) {
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
    pub(super) fn refuse(&mut self, reason: Reason) {
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
    pub(super) fn reset_block(&mut self) {
        if let Some(block) = &mut self.block {
            block.restart(&self.client, self.gate.now());
        }
    }

    fn wait(&mut self, commit: Option<Commit>, events: usize, bytes: usize, floor: Option<Lsn>) {
        let acks = std::mem::replace(&mut self.acks, self.owed.buffer());
        let copies = self.copies.take();
        self.owed.push(Handed { commit, acks, copies, events, bytes, floor });
    }
}
