//! A connection's notes about its session on their way into the log, and what must not leave before
//! they are there.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_event::{Filter, Lsn};

use super::super::End;
use super::super::session::{Notes, Session};
use super::{Kept, Record, Sessions, Subscription};
use crate::log::{Append, Commit};

/// Bytes of acknowledgements that wait for a record that cannot wait, or for the upkeep, to take them
/// along into the log: none of them is worth a commit of its own.
const LAZY: usize = 4 * 1024;

/// The journal of one connection.
pub(in crate::listener) struct Journal {
    sessions: Sessions,
    client: Arc<str>,
    kept: Arc<Kept>,
    /// Packets that may leave once what was noted up to now is in the log.
    pub(in crate::listener) output: Vec<u8>,
    /// Whether they must wait for that.
    waits: bool,
    /// Subscriptions that were added or ended.
    changes: Vec<Record<'static>>,
    /// Packets that wait for their records, or for those before them.
    held: VecDeque<(Option<Commit>, Vec<u8>)>,
    held_bytes: usize,
    /// The log did not take the records: this says when to try again.
    room: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    floor: Option<Lsn>,
}

impl Journal {
    pub(super) fn new(sessions: Sessions, client: Arc<str>, kept: Arc<Kept>) -> Self {
        Self {
            sessions,
            client,
            kept,
            output: Vec::new(),
            waits: false,
            changes: Vec::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            room: None,
            floor: None,
        }
    }

    /// Bytes that wait to leave.
    pub(in crate::listener) fn backlog(&self) -> usize {
        self.output.len() + self.held_bytes
    }

    /// Bytes that it takes.
    pub(in crate::listener) fn memory(&self) -> usize {
        self.output.capacity() + self.held_bytes
    }

    /// Whether the log does not take records at the moment: then nothing more should be noted.
    pub(in crate::listener) fn is_blocked(&self) -> bool {
        self.room.is_some()
    }

    /// Whether nothing waits.
    pub(in crate::listener) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.output.is_empty() && self.room.is_none()
    }

    /// What is in `output` must not leave before what was noted is on disk.
    pub(in crate::listener) fn must_wait(&mut self) {
        self.waits = true;
    }

    /// Subscriptions were added or replaced.
    pub(in crate::listener) fn subscribed(&mut self, subscriptions: Vec<Subscription>) {
        if !subscriptions.is_empty() {
            self.changes.push(Record::Subscribed(subscriptions.into()));
            self.waits = true;
        }
    }

    /// Subscriptions were ended.
    pub(in crate::listener) fn unsubscribed(&mut self, filters: Vec<Filter>) {
        if !filters.is_empty() {
            self.changes.push(Record::Unsubscribed(filters.into()));
            self.waits = true;
        }
    }

    /// The retained messages of all subscriptions were sent.
    pub(in crate::listener) fn greeted(&mut self) {
        self.changes.push(Record::Greeted);
    }

    /// Says behind which event those may lie that the session does not know of yet: before they are
    /// handed to the log, and whenever some of them were taken note of.
    pub(in crate::listener) fn set_floor(&mut self, floor: Option<Lsn>) {
        if self.floor != floor {
            self.floor = floor;
            self.kept.lock().floor = floor;
        }
    }

    /// As [`Journal::set_floor`], with the newest event there is now; unless it is set.
    pub(in crate::listener) fn begin_floor(&mut self) {
        if self.floor.is_none() {
            self.set_floor(Some(self.sessions.0.log.committed()));
        }
    }

    /// Takes note of the events that are stored by now; the log knows of them.
    pub(in crate::listener) fn take(&mut self, session: &mut Session) {
        let Some(notes) = session.notes().filter(|notes| !notes.taken.is_empty()) else { return };
        let mut live = self.kept.lock();
        live.stored.apply(&Record::Taken((&notes.taken).into()));
        live.dirty = true;
        notes.taken.clear();
        drop(live);
        self.sessions.touch();
    }

    /// Takes note of what happened, and lets go to `out` what may leave.
    pub(in crate::listener) fn flush(
        &mut self,
        session: &mut Session,
        out: &mut Vec<u8>,
    ) -> Result<(), End> {
        if self.room.is_some() {
            return Ok(());
        }
        self.take(session);
        let Some(notes) = session.notes() else { return Ok(()) };
        if notes.is_empty() && self.changes.is_empty() {
            self.pass(None, out);
            return Ok(());
        }
        let urgent = self.waits || !notes.sent.is_empty() || !self.changes.is_empty();
        {
            let mut live = self.kept.lock();
            let records = [
                Record::Received((&notes.received).into()),
                Record::Done((&notes.done).into()),
                Record::Released((&notes.released).into()),
                Record::Sent((&notes.sent).into()),
            ];
            let changes = std::mem::take(&mut self.changes);
            for record in changes.iter().chain(&records).filter(|record| !record.is_empty()) {
                live.record(&self.client, record);
            }
            live.loans.append(&mut notes.loans);
            if !urgent && live.unlogged.len() < LAZY {
                drop(live);
                notes.clear();
                self.sessions.touch();
                self.pass(None, out);
                return Ok(());
            }
        }
        notes.clear();
        self.sessions.touch();
        self.append(out)
    }

    /// Hands to the log what it does not have yet.
    fn append(&mut self, out: &mut Vec<u8>) -> Result<(), End> {
        let log = &self.sessions.0.log;
        let mut live = self.kept.lock();
        let bytes = live.unlogged.len();
        match live.append(log) {
            Append::Accepted(commit) => {
                drop(live);
                let commit = Some(commit).filter(|_| self.waits);
                self.pass(commit, out);
                Ok(())
            }
            Append::Full | Append::Busy => {
                let log = Arc::clone(log);
                self.room = Some(Box::pin(async move { log.control_room(bytes).await }));
                Ok(())
            }
            Append::Unavailable => Err(End::NotKept),
        }
    }

    /// Lets the output go, behind what waits, and behind `commit`.
    fn pass(&mut self, commit: Option<Commit>, out: &mut Vec<u8>) {
        self.waits = false;
        if commit.is_none() && self.held.is_empty() {
            out.append(&mut self.output);
        } else if commit.is_some() || !self.output.is_empty() {
            self.held_bytes += self.output.len();
            self.held.push_back((commit, std::mem::take(&mut self.output)));
        }
    }

    /// Lets go what has become durable. Ready when there was progress.
    pub(in crate::listener) fn poll(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), End>> {
        let mut progress = false;
        if let Some(room) = &mut self.room
            && room.as_mut().poll(context).is_ready()
        {
            self.room = None;
            self.append(out)?;
            progress = true;
        }
        while let Some((commit, _)) = self.held.front_mut() {
            if let Some(commit) = commit {
                match Pin::new(commit).poll(context) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(End::NotKept)),
                }
            }
            progress = true;
            if let Some((_, mut bytes)) = self.held.pop_front() {
                self.held_bytes -= bytes.len();
                out.append(&mut bytes);
            }
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// The connection ends: what the client said counts; what was about to be sent was not.
    pub(in crate::listener) fn close(&mut self, session: &mut Session) {
        self.take(session);
        let Some(notes) = session.notes() else { return };
        let mut live = self.kept.lock();
        let records = [
            Record::Received((&notes.received).into()),
            Record::Done((&notes.done).into()),
            Record::Released((&notes.released).into()),
        ];
        for record in records.iter().filter(|record| !record.is_empty()) {
            live.record(&self.client, record);
        }
        notes.clear();
    }

    /// Gives back what a quiet connection does not need.
    pub(in crate::listener) fn shrink(&mut self) {
        self.output.shrink_to_fit();
        self.held.shrink_to_fit();
    }
}

impl Notes {
    fn is_empty(&self) -> bool {
        let Self { taken, released, sent, loans: _, received, done } = self;
        sent.is_empty() && [taken, released, received, done].iter().all(|ids| ids.is_empty())
    }

    fn clear(&mut self) {
        self.sent.clear();
        self.loans.clear();
        for ids in [&mut self.taken, &mut self.released, &mut self.received, &mut self.done] {
            ids.clear();
        }
    }
}

impl Record<'_> {
    /// Whether it is a list of nothing.
    fn is_empty(&self) -> bool {
        match self {
            Self::Sent(list) => list.is_empty(),
            Self::Received(ids) | Self::Done(ids) | Self::Released(ids) | Self::Taken(ids) => {
                ids.is_empty()
            }
            _ => false,
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("held", &self.held.len()).finish_non_exhaustive()
    }
}
