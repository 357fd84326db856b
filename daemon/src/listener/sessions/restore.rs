//! The sessions at the start: what the state has of them, and what the log says since.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use tidegate_config::Limits;
use tidegate_event::{Block, Lsn, record};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use super::records::{Detached, Record, What};
use super::{Entry, GROUP, Inner, Kept, Sessions, Stored, TREE, Table, seconds};
use crate::bus::{BusHandle, GroupRecord, Standing, is_shared};
use crate::gate::Gate;
use crate::listener::Metrics;
use crate::log::{Chunk, Frame, Log, Read, ReadError};
use crate::state::{State, StateError};

/// Bytes read from the log at once.
const READ_BYTES: usize = 256 * 1024;

/// What sessions are made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Where events and control records are.
    pub log: &'a Arc<Log>,
    /// The way into it for wills.
    pub gate: &'a Arc<Gate>,
    /// Not started yet: it is told of the sessions' subscriptions first.
    pub bus: &'a BusHandle,
    /// Where the sessions are saved.
    pub state: &'a State,
    /// The bounds.
    pub limits: &'a Limits,
    /// What is counted.
    pub metrics: &'a Metrics,
}

/// Why the sessions cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file system refused.
    #[error(transparent)]
    Log(#[from] ReadError),
}

/// What there was.
#[derive(Debug, Default)]
struct Found {
    /// Sessions by client id, and from where on the log holds something for them.
    sessions: BTreeMap<String, (Stored, Option<Lsn>)>,
    /// Groups of shared subscriptions, by these.
    groups: BTreeMap<String, Standing>,
}

impl Sessions {
    /// Makes the sessions anew that there were when the daemon ended, without a client.
    pub fn restore(parts: &Parts<'_>) -> Result<Self, RestoreError> {
        let tree = parts.state.tree(TREE)?;
        let mut found = Found::default();
        let mut groups = HashSet::new();
        for (key, value) in tree.load()? {
            if let Some(key) = key.strip_prefix(&[GROUP]) {
                let group = String::from_utf8_lossy(key).into_owned();
                found.groups.insert(group.clone(), stand(&value));
                groups.insert(Arc::from(group));
                continue;
            }
            let client = String::from_utf8_lossy(&key).into_owned();
            match Stored::decode(&value) {
                Some(stored) => _ = found.sessions.insert(client, stored),
                None => warn!(client, "a session in the state is damaged and left out"),
            }
        }
        let saved: HashSet<String> = found.sessions.keys().cloned().collect();
        tree.needs_control(0);
        replay(parts.log, tree.applied(), &mut found)?;
        let max_expiry = u32::try_from(parts.limits.max_session_expiry.0.as_secs());
        let sessions = Self(Arc::new(Inner {
            log: Arc::clone(parts.log),
            gate: Arc::clone(parts.gate),
            bus: parts.bus.clone(),
            needed: Arc::default(),
            tree,
            max_sessions: parts.limits.max_sessions,
            max_expiry: max_expiry.unwrap_or(u32::MAX),
            metrics: parts.metrics.clone(),
            table: Table::default().into(),
            earlier: Notify::new(),
            touched: true.into(),
            groups: Mutex::new(groups.into_iter().map(|group| (group, None)).collect()),
        }));
        sessions.restore_groups(&found);
        sessions.take_over(saved, found.sessions);
        Ok(sessions)
    }

    /// Makes the groups anew that have members.
    fn restore_groups(&self, found: &Found) {
        let sessions = found.sessions.values();
        let subscriptions = sessions.flat_map(|(stored, _)| &stored.subscriptions);
        let with_members: HashSet<&str> =
            subscriptions.map(|subscription| subscription.filter.as_str()).collect();
        let groups = found.groups.iter().filter(|(key, _)| with_members.contains(key.as_str()));
        for (key, standing) in groups {
            self.0.bus.groups().restore(key, standing, self.0.tree.applied());
        }
    }

    fn take_over(&self, saved: HashSet<String>, found: BTreeMap<String, (Stored, Option<Lsn>)>) {
        let mut table = self.lock();
        let gone = saved.into_iter().filter(|client| !found.contains_key(client));
        table.ended.extend(gone.map(Arc::from));
        let now = self.now();
        for (client, (mut stored, unsent)) in found {
            let client: Arc<str> = client.into();
            let expiry = stored.expiry;
            let lost = Detached { at: now, expiry, will: None };
            let detached = stored.detached.get_or_insert(lost);
            // By the wall clock, if it is set now and was then.
            let away = if now > 0 && detached.at > 0 { (now - detached.at).max(0) } else { 0 };
            let away = std::time::Duration::from_micros(away.unsigned_abs());
            let at = |expiry| Instant::now() + seconds(expiry).saturating_sub(away);
            let ends = at(expiry.min(self.0.max_expiry));
            let will = detached.will.as_ref().map(|will| at(will.delay.min(expiry)));
            let committed = self.0.log.committed();
            let unsent = unsent.map(|it| it.max(stored.next)).filter(|it| *it <= committed);
            let user = stored.user.as_deref().map(Arc::from);
            let live_from = stored.next;
            let subscriptions = stored.subscriptions.iter();
            let held = subscriptions.map(|it| (it.filter.clone(), (it.options, it.from)));
            let subscriber =
                self.0.bus.restore(Arc::clone(&client), held.collect(), live_from, unsent);
            let kept = Arc::new(Kept::new(stored, subscriber.backlog(), self.memory()));
            let (kept, parked) = (Some(kept), Some(subscriber));
            let entry = Entry { user, kept, parked, ..Entry::default() };
            table.clients.insert(Arc::clone(&client), entry);
            table.kept += 1;
            table.schedule(&client, Some(ends), will);
        }
        self.0.metrics.sessions.set(table.kept as i64);
        if table.kept > 0 {
            info!(sessions = table.kept, "sessions restored");
        }
    }
}

impl Found {
    /// What a session's record says of the groups that it is in.
    fn share(&mut self, record: &Record<'_>) {
        match record {
            Record::Subscribed(list) => {
                for new in list.iter().filter(|new| is_shared(&new.filter)) {
                    let key = new.filter.as_str().to_owned();
                    self.groups.entry(key).or_insert_with(|| Standing::new(new.from));
                }
            }
            Record::Sent(flights) => {
                for flight in flights.iter() {
                    if let What::Shared(group, lsn) = &flight.what
                        && let Some(standing) = self.groups.get_mut(&**group)
                    {
                        standing.take(*lsn);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A group as the state has it.
fn stand(value: &[u8]) -> Standing {
    let mut standing = Standing::default();
    for block in record::blocks(value).map_while(Result::ok) {
        if let Block::Control { control, body } = block
            && let Some((_, record)) = GroupRecord::read(control, body)
        {
            standing.apply(record);
        }
    }
    standing
}

/// Applies what the log says behind `applied`.
fn replay(log: &Arc<Log>, applied: Lsn, found: &mut Found) -> Result<(), ReadError> {
    let mut reader = log.restore(applied.saturating_add(1));
    let mut chunk = Chunk::default();
    loop {
        match reader.read(&mut chunk, READ_BYTES)? {
            Read::Frames => {
                chunk.frames().filter(|frame| frame.has_control).for_each(|it| apply(&it, found));
            }
            Read::Tail => return Ok(()),
            Read::Lost(lost) => {
                let (first, last) = lost.into_inner();
                warn!(first, last, "what sessions did there is lost with a part of the log");
            }
        }
    }
}

/// Applies the control records and packet ids of a frame, in their order.
fn apply(frame: &Frame<'_>, found: &mut Found) {
    for block in frame.blocks() {
        match block {
            Ok(Block::Events(events)) => {
                let Some((stored, _)) = found.sessions.get_mut(events.origin) else { continue };
                let events = events.iter(frame.first).flatten();
                let ids = events.filter_map(|event| event.properties.packet_id());
                stored.apply(&Record::Taken(ids.collect()));
            }
            Ok(Block::Control { control, body }) => match Record::read(control, body) {
                Ok(Some((client, Record::Ended))) => _ = found.sessions.remove(client),
                Ok(Some((client, record @ Record::Opened { .. }))) => {
                    let (stored, unsent) = found.sessions.entry(client.to_owned()).or_default();
                    stored.apply(&record);
                    *unsent = None;
                }
                Ok(Some((client, record))) => {
                    found.share(&record);
                    if let Some((stored, _)) = found.sessions.get_mut(client) {
                        stored.apply(&record);
                    }
                }
                Ok(None) => {
                    if let Some((group, record)) = GroupRecord::read(control, body) {
                        if matches!(record, GroupRecord::Position { .. }) {
                            found.groups.entry(group.to_owned()).or_default().apply(record);
                        } else if let Some(standing) = found.groups.get_mut(group) {
                            standing.apply(record);
                        }
                    }
                }
                Err(why) => warn!(frame = %frame.first, "{why}"),
            },
            Err(why) => warn!(frame = %frame.first, "{why}"),
        }
    }
}
