//! A connection's hold on its client id, from CONNECT to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::super::codec::{Reason, Will};
use super::super::will;
use super::journal::Journal;
use super::{Detached, Entry, Kept, Record, Resumed, SESSION, Sessions, Stored, Table, seconds};
use crate::bus::Subscriber;
use crate::gate::Rights;
use crate::log::{Append, Log};
use crate::memory::Sort;

/// How long the connection that had the client id before may take to end. It only has to hand over
/// its session; its last words to its client come behind that.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a session may take to get to disk.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a CONNECT asks for.
#[derive(Debug, Clone)]
pub(in crate::listener) struct Wish {
    /// Clean session, clean start.
    pub(in crate::listener) clean: bool,
    /// Seconds that the session is to outlast the connection.
    pub(in crate::listener) expiry: u32,
    /// Who it is, with a login.
    pub(in crate::listener) user: Option<Arc<str>>,
}

/// Why a client gets no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::listener) enum Unattached {
    /// Another connection wants the client id by now; or the daemon drains.
    #[error("the same client id connected again")]
    TakenOver,
    /// `MQTT 5.0 section 5.4.2`.
    #[error("the client id belongs to another user")]
    Foreign,
    /// The connection that had it before does not end.
    #[error("the connection that has this client id does not end")]
    Busy,
    /// `limits.max-sessions`.
    #[error("as many sessions are kept as limits.max-sessions allows")]
    TooMany,
    /// `limits.max-memory`.
    #[error("clients hold as much memory as limits.max-memory allows")]
    NoMemory,
    /// The log has no room for it.
    #[error("the log has no room for the session")]
    Full,
    /// The disk takes no writes.
    #[error("the session could not be written to disk")]
    NotStored,
}

impl Unattached {
    /// What CONNACK says.
    pub(in crate::listener) fn reason(self) -> Reason {
        match self {
            Self::Foreign => Reason::NotAuthorized,
            Self::TakenOver | Self::Busy => Reason::ServerBusy,
            Self::TooMany | Self::NoMemory | Self::Full => Reason::QuotaExceeded,
            Self::NotStored => Reason::ServerUnavailable,
        }
    }
}

/// A client id, held by one connection. Dropping it leaves the session to the next one.
#[derive(Debug)]
pub(in crate::listener) struct Hold {
    sessions: Sessions,
    client: Arc<str>,
    ticket: u64,
    kept: Option<Arc<Kept>>,
    /// Seconds that the session outlasts the connection.
    expiry: u32,
    /// What the connection leaves behind.
    will: Option<Will>,
    subscriber: Option<Subscriber>,
}

/// What [`Sessions::attach`] found.
#[derive(Debug)]
pub(in crate::listener) struct Attached {
    pub(in crate::listener) hold: Hold,
    pub(in crate::listener) subscriber: Subscriber,
    /// For a session that outlasts its connection.
    pub(in crate::listener) journal: Option<Journal>,
    /// The session that was there before.
    pub(in crate::listener) resumed: Option<Resumed>,
    /// Whether another connection had the client id.
    pub(in crate::listener) took_over: bool,
    /// Whether the session that was there before has ended.
    ended: bool,
}

impl Sessions {
    /// Takes `client`'s id for a connection that ends when `stop` is cancelled, and its session up
    /// again, or begins one.
    pub(in crate::listener) async fn attach(
        &self,
        client: &Arc<str>,
        wish: Wish,
        stop: &CancellationToken,
    ) -> Result<Attached, Unattached> {
        let (ticket, took_over) = self.reserve(client, &wish)?;
        let deadline = Instant::now() + HANDOVER_TIMEOUT;
        let attached = loop {
            let free = {
                let table = self.lock();
                let entry = table.clients.get(client).filter(|entry| entry.ticket == ticket);
                Arc::clone(&entry.ok_or(Unattached::TakenOver)?.free)
            };
            let changed = free.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(attached) = self.occupy(client, ticket, &wish, stop)? {
                break Attached { took_over, ..attached };
            }
            tokio::select! {
                waited = timeout_at(deadline, changed) => waited.map_err(|_| Unattached::Busy)?,
                () = stop.cancelled() => return Err(Unattached::TakenOver),
            }
        };
        let mut attached = attached;
        if let Some(kept) = attached.hold.kept.clone()
            && let Err(why) = self.store(&kept).await
        {
            if attached.resumed.is_none() {
                attached.hold.expiry = 0;
            }
            attached.hold.subscriber = Some(attached.subscriber);
            return Err(why);
        }
        if attached.hold.kept.is_none() && attached.ended {
            self.store_end(client).await?;
        }
        Ok(attached)
    }

    /// Tells the connection that has the client id to end. Answers with this one's ticket, and whether
    /// there was one.
    fn reserve(&self, client: &Arc<str>, wish: &Wish) -> Result<(u64, bool), Unattached> {
        let mut table = self.lock();
        if table.clients.get(client).is_some_and(|entry| !entry.admits(wish)) {
            self.0.metrics.foreign_clients.inc();
            return Err(Unattached::Foreign);
        }
        table.tickets += 1;
        let ticket = table.tickets;
        let entry = table.clients.entry(Arc::clone(client)).or_default();
        entry.ticket = ticket;
        // Another one that waits has to give up.
        entry.free.notify_waiters();
        if let Some(stop) = &entry.attached {
            stop.cancel();
        }
        Ok((ticket, entry.attached.is_some()))
    }

    /// Takes the client id, if no connection has it.
    fn occupy(
        &self,
        client: &Arc<str>,
        ticket: u64,
        wish: &Wish,
        stop: &CancellationToken,
    ) -> Result<Option<Attached>, Unattached> {
        let inner = &self.0;
        let mut table = self.lock();
        let entry = table.clients.get_mut(client).filter(|entry| entry.ticket == ticket);
        let entry = entry.ok_or(Unattached::TakenOver)?;
        if entry.attached.is_some() {
            return Ok(None);
        }
        let resumes = entry.kept.is_some() && !wish.clean;
        let had = entry.kept.is_some();
        let expiry = wish.expiry.min(inner.max_expiry);
        if !resumes && expiry > 0 && !had && table.kept >= inner.max_sessions {
            table.clients.remove(client);
            inner.metrics.sessions_refused.inc();
            return Err(Unattached::TooMany);
        }
        if !resumes && expiry > 0 && !had && !self.memory().fits(Sort::Sessions, SESSION) {
            table.clients.remove(client);
            return Err(Unattached::NoMemory);
        }
        if had && !resumes {
            self.abandon(&mut table, client);
        }
        let (kept, subscriber, resumed) = self.take(&mut table, client, resumes, expiry);
        if let Some(entry) = table.clients.get_mut(client) {
            entry.attached = Some(stop.clone());
            entry.own(client, wish.user.as_ref());
        }
        inner.metrics.sessions.set(table.kept as i64);
        drop(table);
        self.touch();
        let journal = kept
            .as_ref()
            .map(|kept| Journal::new(self.clone(), Arc::clone(client), Arc::clone(kept)));
        let hold = Hold {
            sessions: self.clone(),
            client: Arc::clone(client),
            ticket,
            kept,
            expiry,
            will: None,
            subscriber: None,
        };
        let ended = had && !resumes;
        Ok(Some(Attached { hold, subscriber, journal, resumed, took_over: false, ended }))
    }

    /// Ends a session that its client does not want to go on with (`[MQTT-3.1.2-4]`). Its will is
    /// published: the session has ended before the delay was over.
    fn abandon(&self, table: &mut Table, client: &Arc<str>) {
        let kept = table.clients.get(client).and_then(|entry| entry.kept.clone());
        let will = kept.and_then(|kept| kept.lock().stored.detached.take()?.will);
        if let Some(will) = will {
            self.publish(&will, client);
        }
        table.end(client, &self.0);
    }

    /// The session for a new connection.
    fn take(
        &self,
        table: &mut Table,
        client: &Arc<str>,
        resumes: bool,
        expiry: u32,
    ) -> (Option<Arc<Kept>>, Subscriber, Option<Resumed>) {
        table.schedule(client, None, None);
        let inner = &self.0;
        let entry = table.clients.entry(Arc::clone(client)).or_default();
        if resumes
            && let (Some(kept), Some(mut subscriber)) = (entry.kept.clone(), entry.parked.take())
        {
            let mut live = kept.lock();
            live.record(client, &Record::Attached { expiry });
            let resumed = live.resumed();
            drop(live);
            subscriber.unpark(inner.log.committed() + 1);
            inner.metrics.sessions_resumed.inc();
            return (Some(kept), subscriber, Some(resumed));
        }
        let subscriber = inner.bus.subscriber(Arc::clone(client), expiry > 0);
        if expiry == 0 {
            return (None, subscriber, None);
        }
        let kept = Arc::new(Kept::new(Stored::new(expiry), subscriber.backlog(), self.memory()));
        let mut live = kept.lock();
        // That earlier ones have ended, perhaps of this client, must not come behind its beginning.
        live.unlogged.append(&mut table.unlogged);
        live.record(client, &Record::Opened { expiry });
        drop(live);
        entry.kept = Some(Arc::clone(&kept));
        table.kept += 1;
        (Some(kept), subscriber, None)
    }

    /// Waits until the log has what is known of the session.
    async fn store(&self, kept: &Kept) -> Result<(), Unattached> {
        let append = |log: &Log| {
            let mut live = kept.lock();
            (live.append(log), live.unlogged.len())
        };
        self.commit(append).await
    }

    /// Waits until the log knows that the client's session has ended: a client that was told so must
    /// not find it again after a power cut (`[MQTT-3.1.2-4]`).
    async fn store_end(&self, client: &str) -> Result<(), Unattached> {
        let mut ended = Vec::new();
        // Once more: the first one may not be on disk yet, or still wait for the log.
        Record::Ended.write(client, &mut ended);
        self.commit(|log| (log.append_control(&ended), ended.len())).await
    }

    /// Waits until what `append` hands to the log is on disk; it answers with its bytes, too.
    async fn commit(
        &self,
        mut append: impl FnMut(&Log) -> (Append, usize),
    ) -> Result<(), Unattached> {
        let log = &self.0.log;
        let stored = async {
            loop {
                let (append, bytes) = append(log);
                match append {
                    Append::Accepted(commit) => {
                        return commit.await.map(drop).map_err(|_| Unattached::NotStored);
                    }
                    Append::Busy => log.control_room(bytes).await,
                    Append::Full => return Err(Unattached::Full),
                    Append::Unavailable => return Err(Unattached::NotStored),
                }
            }
        };
        timeout(STORE_TIMEOUT, stored).await.unwrap_or(Err(Unattached::NotStored))
    }

    /// Publishes a will. False if it could not be, for now.
    pub(super) fn try_publish(&self, will: &Will, client: &str) -> bool {
        // Its rights were looked at when the client connected.
        let published = self.0.gate.publish(client, &mut Rights::all(), &will.draft());
        match published {
            Ok(Append::Accepted(_)) => true,
            Ok(_) => false,
            Err(why) => {
                will::lost(client, &will.topic, &why.to_string(), &self.0.metrics);
                true
            }
        }
    }

    fn publish(&self, will: &Will, client: &str) {
        if !self.try_publish(will, client) {
            will::lost(client, &will.topic, "the log takes no events", &self.0.metrics);
        }
    }
}

impl Hold {
    /// Seconds that the session outlasts the connection.
    pub(in crate::listener) fn expiry(&self) -> u32 {
        self.expiry
    }

    /// The client asks for another expiry. False if it may not: a session that ends with the
    /// connection cannot be kept after all (`[MQTT-3.1.2-23]`, section 3.14.2.2.2).
    pub(in crate::listener) fn set_expiry(&mut self, expiry: u32) -> bool {
        if self.expiry == 0 && expiry > 0 {
            return false;
        }
        self.expiry = expiry.min(self.sessions.0.max_expiry);
        true
    }

    /// The connection ends, and leaves this. Answers with the will if it is to be published now.
    pub(in crate::listener) fn leave(
        mut self,
        subscriber: Subscriber,
        will: Option<Will>,
    ) -> Option<Will> {
        self.subscriber = Some(subscriber);
        match will {
            Some(will) if will.delay > 0 && self.kept.is_some() && self.expiry > 0 => {
                self.will = Some(will);
                None
            }
            now => now,
        }
    }

    /// Parks the session. Answers when it ends, and when its will is due.
    fn park(&mut self, kept: &Kept) -> (Subscriber, Instant, Option<Instant>) {
        let sessions = &self.sessions;
        let (expiry, will) = (self.expiry, self.will.take());
        let now = Instant::now();
        let due = will.as_ref().map(|will| now + seconds(will.delay.min(expiry)));
        let mut live = kept.lock();
        let at = sessions.now();
        live.record(&self.client, &Record::Detached(Detached { at, expiry, will }));
        live.floor = None;
        let next = live.stored.next;
        let mut subscriber = self.subscriber.take().unwrap_or_else(|| {
            // The connection's task panicked: the session is as its records say.
            let client = Arc::clone(&self.client);
            sessions.0.bus.restore(client, live.held(), next, Some(next))
        });
        subscriber.park(next);
        live.backlog = subscriber.backlog();
        if !matches!(live.append(&sessions.0.log), Append::Accepted(_)) {
            debug!(client = &*self.client, "the log takes the end of a connection later");
        }
        (subscriber, now + seconds(expiry), due)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let sessions = self.sessions.clone();
        let client = Arc::clone(&self.client);
        let mut table = sessions.lock();
        let Some(kept) = self.kept.take() else {
            return leave(&mut table, &client, self.ticket);
        };
        if self.expiry == 0 {
            table.end(&client, &sessions.0);
        } else {
            let (subscriber, ends, will) = self.park(&kept);
            if let Some(entry) = table.clients.get_mut(&client) {
                entry.parked = Some(subscriber);
            }
            table.schedule(&client, Some(ends), will);
            sessions.0.earlier.notify_one();
        }
        leave(&mut table, &client, self.ticket);
        sessions.0.metrics.sessions.set(table.kept as i64);
        sessions.touch();
    }
}

impl Entry {
    /// Whether it may be had by whoever wishes so.
    fn admits(&self, wish: &Wish) -> bool {
        self.user.is_none() || self.user == wish.user
    }

    /// It is this user's now.
    fn own(&mut self, client: &str, user: Option<&Arc<str>>) {
        self.user = user.cloned();
        if let (Some(kept), Some(user)) = (&self.kept, user) {
            let mut live = kept.lock();
            if live.stored.user.as_deref() != Some(user) {
                live.record(client, &Record::Owned((&**user).into()));
            }
        }
    }
}

/// The client id is free.
fn leave(table: &mut Table, client: &Arc<str>, ticket: u64) {
    let Some(entry) = table.clients.get_mut(client) else { return };
    entry.attached = None;
    if entry.kept.is_none() {
        entry.user = None;
    }
    entry.free.notify_waiters();
    if entry.kept.is_none() && entry.ticket == ticket {
        table.clients.remove(client);
    }
}
