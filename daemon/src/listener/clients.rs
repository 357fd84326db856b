//! Who is connected: a client id belongs to one connection, the newest (`[MQTT-3.1.4-3]`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The connected clients, of all listeners. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Clients(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    clients: HashMap<Arc<str>, (u64, CancellationToken)>,
    last: u64,
}

/// A client's entry; dropping it removes it, unless another connection has it by now.
#[derive(Debug)]
pub(super) struct Entry {
    clients: Clients,
    client: Arc<str>,
    number: u64,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters `client`, whose connection ends when `stop` is cancelled: the next one with the same id
    /// does that. Answers whether there was one before.
    pub(super) fn enter(&self, client: Arc<str>, stop: CancellationToken) -> (Entry, bool) {
        let mut table = self.lock();
        table.last += 1;
        let number = table.last;
        let old = table.clients.insert(Arc::clone(&client), (number, stop));
        drop(table);
        if let Some((_, stop)) = &old {
            stop.cancel();
        }
        (Entry { clients: self.clone(), client, number }, old.is_some())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut table = self.clients.lock();
        if table.clients.get(&self.client).is_some_and(|(number, _)| *number == self.number) {
            table.clients.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_connection_has_the_client_id() {
        let clients = Clients::default();
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let (entry, before) = clients.enter("pump".into(), first.clone());
        assert!(!before && !first.is_cancelled());
        let (newer, before) = clients.enter("pump".into(), second.clone());
        assert!(before && first.is_cancelled() && !second.is_cancelled());
        drop(entry);
        assert_eq!(clients.lock().clients.len(), 1, "the older one's end changes nothing");
        drop(newer);
        assert!(clients.lock().clients.is_empty());
    }
}
