//! What somebody notes down for itself.

use std::sync::{Arc, Mutex};

use super::store::{Store, Table, lock};
use super::{Change, Entry, StateError};

/// Keys and values that have nothing to do with a place in the log.
#[derive(Debug, Clone)]
pub struct Notes {
    table: Table,
    changes: Arc<Mutex<u64>>,
}

impl Notes {
    pub(super) fn open(store: &Store, name: &str) -> Result<Self, StateError> {
        let table = store.table(name)?;
        Ok(Self { changes: Arc::new(Mutex::new(table.version()?.unwrap_or_default())), table })
    }

    /// Everything in it.
    pub fn load(&self) -> Result<Vec<Entry>, StateError> {
        let mut entries = Vec::new();
        self.table.scan(|key, value| entries.push((key.to_vec(), value.to_vec())))?;
        Ok(entries)
    }

    /// Makes the changes, in one atomic step.
    pub fn change(&self, changes: Vec<Change>) -> Result<(), StateError> {
        let mut number = lock(&self.changes);
        *number += 1;
        self.table.apply(changes, *number)
    }
}
