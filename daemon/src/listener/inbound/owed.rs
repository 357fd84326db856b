//! Acknowledgements that are owed: they leave when the log says that their block is on disk, in the order
//! of the PUBLISH packets (`[MQTT-4.6.0-2]`).

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use tidegate_event::{Lane, Lsn, Qos};

use super::super::codec::{Kind, Reason, Version, write_ack};
use super::super::copies::Copies;
use super::super::session::Session;
use super::super::{End, Metrics};
use crate::log::Commit;

/// Buffers that are kept to be used again.
const SPARE: usize = 4;

/// A PUBACK or PUBREC to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct AckDue {
    pub(super) id: u16,
    pub(super) qos: Qos,
    pub(super) says: Says,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Says {
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

/// A block that the log has; or, without a commit, acknowledgements that wait for nothing but those
/// before them.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) commit: Option<Commit>,
    pub(super) acks: Vec<AckDue>,
    /// Of what is in the block, and of what is not because it came before.
    pub(super) copies: Option<Box<Copies>>,
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// Events with packet ids lie behind this one.
    pub(super) floor: Option<Lsn>,
}

impl Handed {
    /// What counts against the limit: events, or acknowledgements if these are more.
    fn counts(&self) -> usize {
        self.events.max(self.acks.len())
    }
}

#[derive(Debug)]
struct Waiting {
    handed: Handed,
    counts: usize,
    /// The commit failed.
    failed: bool,
}

/// What one connection is owed, oldest first.
#[derive(Debug)]
pub(super) struct Owed {
    version: Version,
    metrics: Metrics,
    waiting: VecDeque<Waiting>,
    counts: usize,
    bytes: usize,
    spare: Vec<Vec<AckDue>>,
}

impl Owed {
    pub(super) fn new(version: Version, metrics: Metrics) -> Self {
        let (waiting, spare) = (VecDeque::new(), Vec::new());
        Self { version, metrics, waiting, counts: 0, bytes: 0, spare }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Events that wait for their commits, or acknowledgements where these are more.
    pub(super) fn counts(&self) -> usize {
        self.counts
    }

    /// Bytes of the blocks that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events with packet ids that wait lie behind this one.
    pub(super) fn floor(&self) -> Option<Lsn> {
        self.waiting.iter().find_map(|waiting| waiting.handed.floor)
    }

    /// An empty buffer for [`Handed::acks`].
    pub(super) fn buffer(&mut self) -> Vec<AckDue> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn push(&mut self, handed: Handed) {
        let counts = handed.counts();
        self.counts += counts;
        self.bytes += handed.bytes;
        self.waiting.push_back(Waiting { handed, counts, failed: false });
    }

    /// Appends the acknowledgements that are due to `out`; `not_stored` says why the disk did not take
    /// something. Answers whether there were any.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        session: &mut Session,
        not_stored: impl Fn() -> Reason,
        out: &mut Vec<u8>,
    ) -> Result<bool, End> {
        self.poll_commits(context);
        let mut progress = false;
        while let Some(Waiting { handed, failed, .. }) = self.waiting.front_mut() {
            let copies = handed.copies.as_mut();
            if handed.commit.is_some() || copies.is_some_and(|it| it.poll(context).is_pending()) {
                break;
            }
            let result = match *failed {
                false => Ok(()),
                true if self.version == Version::V4 => {
                    self.waiting.pop_front();
                    return Err(End::NotStored);
                }
                true => Err(not_stored()),
            };
            progress = true;
            if let Some(waiting) = self.waiting.pop_front() {
                self.acknowledge(waiting, result, session, out);
            }
        }
        Ok(progress)
    }

    /// Notes which blocks are on disk by now, also behind one that waits for somebody else's: that may
    /// wait for one of these.
    fn poll_commits(&mut self, context: &mut Context<'_>) {
        for Waiting { handed, failed, .. } in &mut self.waiting {
            let Some(commit) = &mut handed.commit else { continue };
            let Poll::Ready(committed) = Pin::new(commit).poll(context) else { break };
            (handed.commit, *failed) = (None, committed.is_err());
            handed.copies.iter_mut().for_each(|copies| copies.settled(!*failed));
        }
    }

    fn acknowledge(
        &mut self,
        Waiting { mut handed, counts, .. }: Waiting,
        result: Result<(), Reason>,
        session: &mut Session,
        out: &mut Vec<u8>,
    ) {
        self.counts -= counts;
        self.bytes -= handed.bytes;
        let (mut stored, mut refused) = (0, 0);
        for AckDue { id, qos, says } in handed.acks.drain(..) {
            let reason = match says {
                Says::Again | Says::Duplicate => Reason::Success,
                Says::Copy(number) => match &handed.copies {
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
            self.metrics.dropped.inc_by((handed.events as u64).saturating_sub(refused));
        }
        if self.spare.len() < SPARE {
            self.spare.push(handed.acks);
        }
    }

    /// Waits until the session knows the fate of all of it. Nobody is answered any more.
    pub(super) async fn settle(&mut self, session: &mut Session) {
        while let Some(Waiting { handed, failed, .. }) = self.waiting.pop_front() {
            let Handed { commit, acks, mut copies, .. } = handed;
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
        let left = self.waiting.drain(..).filter_map(|Waiting { handed, .. }| {
            Some((handed.commit?, *handed.copies.filter(|copies| copies.has_marks())?))
        });
        left.collect()
    }

    /// Gives back what a quiet connection does not need.
    pub(super) fn shrink(&mut self) {
        self.spare = Vec::new();
        self.waiting.shrink_to_fit();
    }
}
