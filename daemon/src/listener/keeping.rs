//! A connection and its session: what is sent, what is noted of it, what is handed over at the end.

use std::io;
use std::task::{Context, Poll};

use tidegate_event::Qos;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::codec::{self, Bad, Disconnect, Kind, Reason, Version};
use super::connect::CLOSE_TIMEOUT;
use super::connection::{Connection, MAX_BACKLOG};
use super::sessions::Again;
use super::{End, copies, will};
use crate::bus::{Delivery, RetainHandling, Subscription};
use crate::supervise::Role;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// What is to leave, behind what must be in the log first.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        match &mut self.journal {
            None => &mut self.wire.output,
            Some(journal) => &mut journal.output,
        }
    }

    /// Whether so much waits for the log that nothing more is to be noted.
    pub(super) fn is_held_up(&self) -> bool {
        let journal = self.journal.as_ref();
        journal.is_some_and(|it| it.is_blocked() || it.backlog() >= MAX_BACKLOG)
    }

    /// Sends what may leave.
    pub(super) fn send(&mut self) -> Result<(), End> {
        self.outbound.set_room(self.shared.sessions.memory());
        let held_up = self.is_held_up();
        let Some(journal) = &mut self.journal else {
            self.outbound.send(&mut self.session, &mut self.rights, &mut self.wire.output);
            return Ok(());
        };
        if !held_up {
            let sent = self.outbound.send(&mut self.session, &mut self.rights, &mut journal.output);
            if sent.exactly_once {
                journal.must_wait();
            }
            if sent.greeted {
                journal.greeted();
            }
        }
        journal.flush(&mut self.session, &mut self.wire.output)
    }

    /// Sends the retained messages that an earlier connection did not.
    pub(super) async fn greet(&mut self) -> Result<(), End> {
        let under_way = self.again.as_ref().map(Again::topics).unwrap_or_default();
        for greeting in std::mem::take(&mut self.greetings) {
            let (filter, options) = (greeting.filter, greeting.options);
            let retain_handling = RetainHandling::Always;
            let wanted = Subscription { filter, options, retain_handling };
            let retained = self.subscriber.subscribe(vec![wanted]).await?;
            let new =
                |it: &Delivery| it.qos > Qos::AtMostOnce && !under_way.contains(it.event.topic());
            self.outbound.deliveries.extend(retained.into_iter().filter(new));
        }
        Ok(())
    }

    /// Puts what comes next into `outbound`: first what was under way before.
    pub(super) async fn fill(&mut self) -> Result<(), End> {
        let Some(again) = &mut self.again else {
            let window = self.session.window();
            return Ok(self.subscriber.fill(&mut self.outbound.deliveries, window).await?);
        };
        if !again.fill(&self.subscriber, &mut self.outbound.again).await? {
            self.again = None;
            self.outbound.resumes = false;
        }
        Ok(())
    }

    /// Hands to the log what the client published.
    pub(super) fn submit(&mut self) -> Result<(), End> {
        if let Some(journal) = &mut self.journal {
            // A packet id is free before it is used again.
            journal.flush(&mut self.session, &mut self.wire.output)?;
            if self.inbound.has_packet_ids() {
                journal.begin_floor();
            }
        }
        self.inbound.submit();
        Ok(())
    }

    /// Takes note of what was stored.
    pub(super) fn note_stored(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.take(&mut self.session);
            journal.set_floor(self.inbound.floor());
        }
    }

    /// Answers an acknowledgement, once the log knows of it where that counts.
    pub(super) fn answer_durably(&mut self, kind: Kind, id: u16, says: Reason) {
        let version = self.version;
        codec::write_ack(kind, id, says, version, self.output());
        if let Some(journal) = &mut self.journal {
            journal.must_wait();
        }
    }

    /// Notes what is to be noted, and lets go what may leave. Whether nothing waits any more.
    pub(super) fn poll_journal(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let Some(journal) = &mut self.journal else { return Ok(true) };
        let output = &mut self.wire.output;
        journal.flush(&mut self.session, output)?;
        while let Poll::Ready(released) = journal.poll(context, output) {
            released?;
        }
        Ok(journal.is_idle())
    }

    /// The client has said goodbye.
    pub(super) fn disconnected(&mut self, goodbye: Disconnect) -> End {
        let Disconnect { with_will, session_expiry } = goodbye;
        if session_expiry.is_some_and(|expiry| !self.hold.set_expiry(expiry)) {
            return Bad::protocol("session expiry for a session that ends with its connection")
                .into();
        }
        End::Disconnected { with_will }
    }

    /// Hands over the session, publishes the will, says goodbye.
    pub(super) async fn finish(mut self, end: End) -> End {
        let metrics = &self.shared.metrics;
        match &end {
            End::Bad(_) | End::Denied(_) => metrics.malformed.inc(),
            // A frame of WebSocket, a record of TLS that is none.
            End::Io(why) if why.kind() == io::ErrorKind::InvalidData => metrics.malformed.inc(),
            End::KeepAlive => metrics.timed_out.inc(),
            End::Stuck => metrics.stuck.inc(),
            _ => 0,
        };
        if let Some(journal) = &mut self.journal {
            // A PUBLISH that comes again is known to be stored, or not to be.
            self.inbound.settle(&mut self.session).await;
            journal.close(&mut self.session);
        }
        let left = self.inbound.leave();
        if !left.is_empty() {
            self.shared.supervisor.spawn("last events", Role::Ordinary, copies::settle(left));
        }
        // What it did not send, or its client did not acknowledge, of shared subscriptions is for others.
        self.outbound.deliveries.clear();
        self.session.close();
        let Self { hold, subscriber, mut wire, mut rights, .. } = self;
        let will = self.will.filter(|_| end.publishes_will());
        // Before the last words: another connection may wait for it.
        if let Some(will) = hold.leave(subscriber, will) {
            will::publish(&will, &self.client, &mut rights, &self.shared);
        }
        if let (Some(reason), Version::V5) = (end.reason(), self.version) {
            codec::write_disconnect(reason, &mut wire.output);
        }
        // A client that does not take its last packets has gone.
        let _ = timeout(CLOSE_TIMEOUT, wire.close()).await;
        end
    }
}
