//! What can be rebuilt from the log: read models in sled, behind a guard, and their checkpoint.

use std::path::Path;

use tidegate_event::{Epoch, Lsn};

/// The state database.
#[derive(Debug, Clone)]
pub struct State {}

/// One read model: keys and values, and the LSN up to which the log was applied to it.
#[derive(Debug, Clone)]
pub struct Tree {}

/// What opening the state found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It was there, or created.
    Fine,
    /// sled's directory could not be opened: it was set aside, and the state restored from the last
    /// checkpoint; the log must be applied from [`Tree::applied`] on.
    Rebuilt,
}

/// Why the state is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum StateError {}

/// A change of one key: a value, or its removal.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

impl State {
    /// Opens or creates the state under `dir`.
    pub fn open(dir: &Path) -> Result<(Self, Opened), StateError> {
        let _ = dir;
        todo!()
    }

    /// The read model `name`, created if missing.
    pub fn tree(&self, name: &str) -> Result<Tree, StateError> {
        let _ = name;
        todo!()
    }

    /// The sinks' cursors.
    pub fn cursors(&self) -> Cursors {
        todo!()
    }

    /// Ties the state to the log that it is built from: with another epoch than last time all LSNs in
    /// it are void (applied 0, no cursors), and none may lie beyond `last`, the log's newest. To be
    /// called once, before anything else.
    pub fn bind(&self, epoch: Epoch, last: Lsn) -> Result<(), StateError> {
        let _ = (epoch, last);
        todo!()
    }

    /// Writes every tree to the checkpoint file, durably. Afterwards the log below the answer (the
    /// lowest `applied` of all trees) is not needed to rebuild the state.
    pub fn checkpoint(&self) -> Result<Lsn, StateError> {
        todo!()
    }
}

/// Where each sink stands: by name, the next LSN it wants. Kept in memory and written through.
#[derive(Debug, Clone)]
pub struct Cursors {}

impl Cursors {
    /// The next LSN that `name` wants; `None` for one that never had a cursor.
    pub fn get(&self, name: &str) -> Option<Lsn> {
        let _ = name;
        todo!()
    }

    /// Moves the cursor; backwards too. On an error it moves in memory only: after a restart the sink
    /// gets again, under the same ids, what it already has.
    pub fn set(&self, name: &str, next: Lsn) -> Result<(), StateError> {
        let _ = (name, next);
        todo!()
    }
}

impl Tree {
    /// The log up to and including this LSN is in the tree; 0 for a new one.
    pub fn applied(&self) -> Lsn {
        todo!()
    }

    /// All keys and values.
    pub fn load(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StateError> {
        todo!()
    }

    /// Makes the changes and moves `applied`, in one atomic step.
    pub fn apply(&self, changes: Vec<Change>, applied: Lsn) -> Result<(), StateError> {
        let _ = (changes, applied);
        todo!()
    }
}
