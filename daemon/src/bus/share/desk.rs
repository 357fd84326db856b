//! The bus's side of the groups.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_event::{Filter, Lsn};

use super::super::Metrics;
use super::super::event::{Event, Options};
use super::{Group, Groups, is_shared};

/// Events that are put into a group's queue at once.
const MAX_PENDING: usize = 64;

/// The groups that are in the bus's trie, each with a number.
#[derive(Debug)]
pub(in crate::bus) struct Desk {
    groups: Groups,
    numbers: HashMap<Arc<str>, u64>,
    open: HashMap<u64, Open>,
    last: u64,
    /// Groups that have something pending.
    touched: Vec<u64>,
    /// Subscriptions of all sessions.
    memberships: usize,
}

#[derive(Debug)]
struct Open {
    group: Arc<Group>,
    /// What the chunk in hand holds for it.
    pending: Vec<(Lsn, Event)>,
}

/// A session that joins.
#[derive(Debug)]
pub(in crate::bus) struct Joining {
    pub(in crate::bus) id: u64,
    pub(in crate::bus) options: Options,
    /// Its session outlasts its connection.
    pub(in crate::bus) kept: bool,
    /// It has a connection.
    pub(in crate::bus) live: bool,
    /// The event that comes next.
    pub(in crate::bus) seen: Lsn,
}

impl Desk {
    pub(in crate::bus) fn new(groups: Groups) -> Self {
        Self {
            groups,
            numbers: HashMap::new(),
            open: HashMap::new(),
            last: 0,
            touched: Vec::new(),
            memberships: 0,
        }
    }

    /// How many subscriptions are shared ones, and how many groups they make.
    pub(in crate::bus) fn count(&self) -> (usize, usize) {
        (self.memberships, self.open.len())
    }

    /// A session joins the group of `filter`, a shared subscription, or changes its options there
    /// (`again`). Answers with it, and with its number if it is to be put in the trie, under the filter
    /// of [`Group::filter`].
    pub(in crate::bus) fn join(
        &mut self,
        filter: &Filter,
        joining: &Joining,
        again: bool,
    ) -> Option<(Arc<Group>, Option<u64>)> {
        let group = self.groups.open(filter, joining.seen)?;
        let Joining { id, options, kept, live, seen } = *joining;
        group.join(id, options, kept, live, seen);
        self.memberships += usize::from(!again);
        if self.numbers.contains_key(group.key()) {
            return Some((group, None));
        }
        self.last += 1;
        self.numbers.insert(Arc::clone(group.key()), self.last);
        self.open.insert(self.last, Open { group: Arc::clone(&group), pending: Vec::new() });
        Some((group, Some(self.last)))
    }

    /// A session leaves the group of `filter`. Answers with the group and its number if nobody is left:
    /// it goes from the trie.
    pub(in crate::bus) fn leave(&mut self, filter: &Filter, id: u64) -> Option<(Arc<Group>, u64)> {
        debug_assert!(is_shared(filter));
        let number = *self.numbers.get(filter.as_str())?;
        self.memberships -= 1;
        let group = Arc::clone(&self.open.get(&number)?.group);
        if !group.leave(id) {
            return None;
        }
        self.numbers.remove(filter.as_str());
        self.open.remove(&number);
        self.groups.close(filter.as_str());
        Some((group, number))
    }

    /// The event `lsn` matches the group `number`.
    pub(in crate::bus) fn note(
        &mut self,
        number: u64,
        lsn: Lsn,
        event: impl FnOnce() -> Event,
        metrics: &Metrics,
    ) {
        let Some(open) = self.open.get_mut(&number) else { return };
        if open.pending.is_empty() {
            self.touched.push(number);
        } else if open.pending.len() == MAX_PENDING {
            open.flush(metrics);
        }
        open.pending.push((lsn, event()));
    }

    /// Passes on what was noted.
    pub(in crate::bus) fn flush(&mut self, metrics: &Metrics) {
        for number in self.touched.drain(..) {
            if let Some(open) = self.open.get_mut(&number) {
                open.flush(metrics);
            }
        }
    }
}

impl Open {
    fn flush(&mut self, metrics: &Metrics) {
        let pushed = self.group.push(&mut self.pending);
        metrics.dropped.inc_by(pushed.dropped);
        metrics.lagged.inc_by(u64::from(pushed.fell_behind));
    }
}
