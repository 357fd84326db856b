//! Where each sink stands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tidegate_event::Lsn;

use super::StateError;
use super::store::{Store, Table, lock};

/// Their tree.
pub(super) const CURSORS: &str = "cursors";

/// Where each sink stands: by name, the next LSN it wants. Kept in memory and written through.
#[derive(Debug, Clone)]
pub struct Cursors {
    table: Table,
    positions: Arc<Mutex<Positions>>,
}

#[derive(Debug)]
struct Positions {
    by_name: BTreeMap<String, Lsn>,
    changes: u64,
}

impl Cursors {
    pub(super) fn open(store: &Store) -> Result<Self, StateError> {
        let table = store.table(CURSORS)?;
        let mut positions =
            Positions { by_name: BTreeMap::new(), changes: table.version()?.unwrap_or_default() };
        table.scan(|name, next| {
            if let (Ok(name), Ok(next)) = (std::str::from_utf8(name), next.try_into()) {
                positions.by_name.insert(name.to_owned(), Lsn::from_le_bytes(next));
            }
        })?;
        Ok(Self { table, positions: Arc::new(Mutex::new(positions)) })
    }

    /// The next LSN that `name` wants; `None` for one that never had a cursor.
    pub fn get(&self, name: &str) -> Option<Lsn> {
        lock(&self.positions).by_name.get(name).copied()
    }

    /// Moves the cursor; backwards too. On an error it moves in memory only: after a restart the sink
    /// gets again, under the same ids, what it already has.
    pub fn set(&self, name: &str, next: Lsn) -> Result<(), StateError> {
        let mut positions = lock(&self.positions);
        if positions.by_name.insert(name.to_owned(), next) == Some(next) {
            return Ok(());
        }
        positions.changes += 1;
        let change = (name.as_bytes().to_vec(), Some(next.to_le_bytes().to_vec()));
        self.table.apply(vec![change], positions.changes)
    }

    /// The highest of them; 0 if there is none.
    pub(super) fn highest(&self) -> Lsn {
        lock(&self.positions).by_name.values().copied().max().unwrap_or_default()
    }

    /// Keeps the cursors from moving until the answer is dropped.
    pub(super) fn hold(&self) -> MutexGuard<'_, impl Sized> {
        lock(&self.positions)
    }

    /// Forgets all that `keep` does not name: sinks that are no more.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<(), StateError> {
        let mut positions = lock(&self.positions);
        let all = std::mem::take(&mut positions.by_name);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(name, _)| keep(name));
        positions.by_name = kept;
        if gone.is_empty() {
            return Ok(());
        }
        positions.changes += 1;
        let changes = gone.into_keys().map(|name| (name.into_bytes(), None)).collect();
        self.table.apply(changes, positions.changes)
    }
}
