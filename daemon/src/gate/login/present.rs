//! The connections of those who logged in: they end when the login is no longer right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::gate::Identity;
use crate::gate::identity::Proof;

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    entries: HashMap<u64, Entry>,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    user: Arc<str>,
    proof: Proof,
    stop: CancellationToken,
}

/// A connection's entry; dropping it removes it.
#[derive(Debug)]
pub struct Present(Option<(Table, u64)>);

impl Table {
    pub(super) fn enter(&self, identity: &Identity, stop: CancellationToken) -> Present {
        // What no file proves, no file takes back.
        let Some(user) = identity.user.clone().filter(|_| identity.proof != Proof::None) else {
            return Present(None);
        };
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.last += 1;
        let number = table.last;
        table.entries.insert(number, Entry { user, proof: identity.proof.clone(), stop });
        Present(Some((self.clone(), number)))
    }

    /// Ends the connections for which `end` says so. Answers how many these are.
    pub(super) fn end_those(&self, end: impl Fn(&str, &Proof) -> bool) -> usize {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ending = table.entries.values().filter(|entry| end(&entry.user, &entry.proof));
        ending.inspect(|entry| entry.stop.cancel()).count()
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some((table, number)) = &self.0 {
            table.0.lock().unwrap_or_else(PoisonError::into_inner).entries.remove(number);
        }
    }
}
