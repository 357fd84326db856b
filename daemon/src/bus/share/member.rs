//! A session's side of the groups that it is in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_event::{Filter, Lsn};
use tokio::time::timeout;

use super::super::event::{Delivery, Options};
use super::super::subscriber::SubscriberError;
use super::group::Group;
use super::lend::Next;
use crate::log::Log;

/// How long a member waits for the log to take a record before it looks after its client again.
const ROOM_DELAY: Duration = Duration::from_secs(1);

/// The groups that one session is in.
#[derive(Debug, Default)]
pub(in crate::bus) struct Members {
    id: u64,
    groups: BTreeMap<Filter, Membership>,
    /// Where to begin to look next time.
    turn: usize,
    /// Some groups may call it when there is something.
    waits: bool,
}

#[derive(Debug)]
struct Membership {
    group: Arc<Group>,
    options: Options,
    /// The first event that it may see.
    from: Lsn,
}

impl Members {
    pub(in crate::bus) fn new(id: u64) -> Self {
        Self { id, ..Self::default() }
    }

    pub(in crate::bus) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(in crate::bus) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The session is in this group by now, with these options; it may see events from there on.
    pub(in crate::bus) fn join(&mut self, joined: Option<(Filter, Arc<Group>, Options, Lsn)>) {
        let Some((filter, group, options, from)) = joined else { return };
        let new = Membership { group, options, from };
        self.groups.entry(filter).and_modify(|old| old.options = options).or_insert(new);
    }

    /// It is to leave the group. Whether it was in it.
    pub(in crate::bus) fn remove(&mut self, filter: &Filter) -> bool {
        self.groups.remove(filter).is_some()
    }

    pub(in crate::bus) fn get(&self, filter: &Filter) -> Option<(Options, Lsn)> {
        self.groups.get(filter).map(|it| (it.options, it.from))
    }

    /// What it asked for when it joined the group with this key.
    pub(in crate::bus) fn options(&self, key: &str) -> Option<Options> {
        let mut groups = self.groups.iter();
        groups.find(|(filter, _)| filter.as_str() == key).map(|(_, it)| it.options)
    }

    pub(in crate::bus) fn set_live(&self, live: bool) {
        self.groups.values().for_each(|it| it.group.set_live(self.id, live));
    }

    /// Ready when a group has something for it. It can take something.
    pub(in crate::bus) fn poll_ready(&mut self, context: &Context<'_>) -> Poll<()> {
        for it in self.groups.values() {
            self.waits = true;
            if it.group.poll_ready(self.id, context).is_ready() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// It cannot take anything for now: others are called.
    pub(in crate::bus) fn decline(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.groups.values().for_each(|it| it.group.decline(self.id));
        }
    }

    /// Takes what comes next, at most `window` events, into `into`, which is empty. It may stay so.
    pub(in crate::bus) async fn fill(
        &mut self,
        into: &mut VecDeque<Delivery>,
        window: usize,
        log: &Log,
    ) -> Result<(), SubscriberError> {
        for _ in 0..self.groups.len() {
            self.turn = (self.turn + 1) % self.groups.len();
            let Some(it) = self.groups.values().nth(self.turn) else { continue };
            let group = Arc::clone(&it.group);
            let mut next = group.take(self.id, window, true, into);
            if let Next::Read(job) = next {
                job.run()?;
                next = group.take(self.id, window, false, into);
            }
            match next {
                Next::Read(_) | Next::Send => {}
                Next::Commit(commit) => {
                    if commit.await.is_err() {
                        // They go back.
                        into.clear();
                    }
                }
                Next::Room(bytes) => {
                    let _ = timeout(ROOM_DELAY, log.control_room(bytes)).await;
                }
            }
            if !into.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }
}
