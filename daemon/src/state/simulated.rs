//! The state on a simulated disk: the checkpoints lie there, the database in memory, as it may come
//! back after a crash.

use super::*;

/// A tree, as it was at some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) entries: Vec<Entry>,
}

impl State {
    /// Opens the state with what the database holds, by tree: nothing, where that is lost.
    pub(crate) fn open_simulated(
        storage: Arc<dyn Storage>,
        dir: &Path,
        trees: &BTreeMap<String, Snapshot>,
    ) -> Result<Self, StateError> {
        storage.create_dir_all(dir)?;
        let store = Store::in_memory();
        for (name, snapshot) in trees {
            let mut filling = store.table(name)?.refill()?;
            for (key, value) in &snapshot.entries {
                filling.put(key.clone(), value.clone())?;
            }
            filling.finish(snapshot.version)?;
        }
        Self::prepare(storage, dir, store, Opened::Fine).map(|(state, _)| state)
    }

    /// What the database holds now.
    pub(crate) fn snapshot(&self) -> Result<BTreeMap<String, Snapshot>, StateError> {
        let mut trees = BTreeMap::new();
        for name in self.inner.store.names()? {
            let table = self.inner.store.table(&name)?;
            let Some(version) = table.version()? else { continue };
            let mut snapshot = Snapshot { version, entries: Vec::new() };
            table.scan(|key, value| snapshot.entries.push((key.to_vec(), value.to_vec())))?;
            trees.insert(name, snapshot);
        }
        Ok(trees)
    }
}
