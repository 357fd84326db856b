//! Where each sink stands.

mod span;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tidegate_event::Lsn;

use super::StateError;
use super::store::{Store, Table, lock};
pub use span::{LaneSet, MAX_SPANS, Span};

/// Their tree.
pub(super) const CURSORS: &str = "cursors";

/// Where each sink stands: by name, which parts of the log it has not got. Kept in memory and written
/// through.
#[derive(Debug, Clone)]
pub struct Cursors {
    table: Table,
    positions: Arc<Mutex<Positions>>,
}

#[derive(Debug)]
struct Positions {
    by_name: BTreeMap<String, Vec<Span>>,
    changes: u64,
}

impl Cursors {
    pub(super) fn open(store: &Store) -> Result<Self, StateError> {
        let table = store.table(CURSORS)?;
        let mut positions =
            Positions { by_name: BTreeMap::new(), changes: table.version()?.unwrap_or_default() };
        table.scan(|name, record| {
            if let (Ok(name), Some(spans)) = (std::str::from_utf8(name), span::decode(record)) {
                positions.by_name.insert(name.to_owned(), spans);
            }
        })?;
        Ok(Self { table, positions: Arc::new(Mutex::new(positions)) })
    }

    /// The lowest LSN that `name` has not got; `None` for one that never had a cursor.
    pub fn get(&self, name: &str) -> Option<Lsn> {
        lock(&self.positions).by_name.get(name)?.iter().map(|span| span.from).min()
    }

    /// All that `name` has not got; empty for one that never had a cursor.
    pub fn spans(&self, name: &str) -> Vec<Span> {
        lock(&self.positions).by_name.get(name).cloned().unwrap_or_default()
    }

    /// Moves the cursor, to all of the log from `next` on; backwards too. On an error it moves in
    /// memory only: after a restart the sink gets again, under the same ids, what it already has.
    pub fn set(&self, name: &str, next: Lsn) -> Result<(), StateError> {
        self.set_spans(name, vec![Span::onward(next)])
    }

    /// The same, to at most [`MAX_SPANS`] ranges, at least one.
    pub fn set_spans(&self, name: &str, spans: Vec<Span>) -> Result<(), StateError> {
        let record = span::encode(&spans);
        let mut positions = lock(&self.positions);
        if positions.by_name.get(name) == Some(&spans) {
            return Ok(());
        }
        positions.by_name.insert(name.to_owned(), spans);
        positions.changes += 1;
        let change = (name.as_bytes().to_vec(), Some(record));
        self.table.apply(vec![change], positions.changes)
    }

    /// The highest LSN that one of them knows of; 0 if there is none.
    pub(super) fn highest(&self) -> Lsn {
        let positions = lock(&self.positions);
        let spans = positions.by_name.values().flatten();
        spans.map(|span| span.from.max(span.to.unwrap_or_default())).max().unwrap_or_default()
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
