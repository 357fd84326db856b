//! All groups.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_event::{Filter, Lsn};

use super::super::Metrics;
use super::records::Standing;
use super::{Group, shared_filter};
use crate::log::Log;
use crate::memory::Memory;

/// The groups, by their `$share/NAME/FILTER`. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Groups(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Arc<Log>,
    metrics: Metrics,
    memory: Memory,
    /// Of one group's queue.
    max_bytes: usize,
    /// A group that is kept has changed since the last save.
    touched: Arc<AtomicBool>,
    table: Mutex<HashMap<Arc<str>, Arc<Group>>>,
}

/// What the state is to have of the groups.
#[derive(Debug, Default)]
pub struct Saved {
    /// Each that has changed, as it stands; none once it has ended.
    pub changes: Vec<(Arc<str>, Option<Vec<u8>>)>,
    /// The first event that a group needs of the log.
    pub needed: Option<Lsn>,
}

impl Groups {
    pub(in crate::bus) fn new(
        log: Arc<Log>,
        metrics: Metrics,
        memory: Memory,
        max_bytes: usize,
    ) -> Self {
        let touched = Arc::default();
        Self(Arc::new(Inner { log, metrics, memory, max_bytes, touched, table: Mutex::default() }))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Group>>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group with this `$share/NAME/FILTER`.
    pub(super) fn get(&self, key: &str) -> Option<Arc<Group>> {
        self.table().get(key).cloned()
    }

    /// The same; it begins with the event `from` if there is none yet. None if `key` names none.
    pub(in crate::bus) fn open(&self, key: &Filter, from: Lsn) -> Option<Arc<Group>> {
        if let Some(group) = self.get(key.as_str()) {
            return Some(group);
        }
        self.make(key.as_str(), &Standing::new(from), from.saturating_sub(1))
    }

    /// Takes up a group as it stood when the daemon ended: it has what the bus, which begins behind
    /// `applied`, does not hand out any more.
    pub fn restore(&self, key: &str, standing: &Standing, applied: Lsn) {
        // A key that is none was never written.
        let _ = self.make(key, standing, applied);
    }

    fn make(&self, key: &str, standing: &Standing, applied: Lsn) -> Option<Arc<Group>> {
        let inner = &self.0;
        let key: Arc<str> = key.into();
        let group = Group::new(
            Arc::clone(&key),
            shared_filter(&key)?,
            Arc::clone(&inner.log),
            inner.metrics.clone(),
            inner.memory.clone(),
            inner.max_bytes,
            Arc::clone(&inner.touched),
        );
        group.stand(standing, applied);
        let group = Arc::new(group);
        self.table().insert(key, Arc::clone(&group));
        Some(group)
    }

    /// A group has no members any more.
    pub(super) fn close(&self, key: &str) {
        self.table().remove(key);
        self.0.touched.store(true, Ordering::Release);
    }

    /// A session has ended with these QoS 1 events of the group in flight.
    pub fn give_back(&self, key: &str, lsns: &[Lsn]) {
        if let Some(group) = self.get(key) {
            group.give_back_all(lsns);
        }
    }

    /// Whether there is something to save since the last time it was asked.
    pub fn take_touched(&self) -> bool {
        self.0.touched.swap(false, Ordering::AcqRel)
    }

    /// Writes where each group that is kept stands into the log, if that has changed, and answers what
    /// the state is to have beside what it has (`saved`; none where that is not known). The bus has handed out
    /// everything before `seen`.
    pub fn save(&self, seen: Lsn, saved: &mut HashMap<Arc<str>, Option<Standing>>) -> Saved {
        let groups: HashMap<_, _> = {
            let table = self.table();
            let kept = table.iter().filter(|(_, group)| group.is_kept());
            kept.map(|(key, group)| (Arc::clone(key), Arc::clone(group))).collect()
        };
        let mut answer = Saved::default();
        saved.retain(|key, _| {
            let stays = groups.contains_key(key);
            if !stays {
                answer.changes.push((Arc::clone(key), None));
            }
            stays
        });
        for (key, group) in groups {
            let last = saved.get(&key).and_then(Option::as_ref);
            let (standing, encoded) = group.save(seen, last);
            let first = standing.waits.then_some(standing.next);
            let needed = first.into_iter().chain(standing.owed.first().copied()).min();
            answer.needed = answer.needed.into_iter().chain(needed).min();
            if let Some(encoded) = encoded {
                answer.changes.push((Arc::clone(&key), Some(encoded)));
                saved.insert(key, Some(standing));
            }
        }
        answer
    }
}
