//! Other engines: the LSN is the key, topic and payload are the value, a group is one transaction, and
//! each is durable before it counts.

use std::fs::File;
use std::path::Path;

use crate::engine::Engine;
use crate::payload::Event;

/// What they may keep in memory: as much as a small board can spare.
const CACHE: u64 = 16 << 20;

fn value(event: &Event, bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.extend_from_slice(event.topic.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&event.payload);
}

/// sled 0.34, whose `flush` does not sync: so that is done here.
pub(crate) struct Sled {
    db: sled::Db,
    file: File,
    lsn: u64,
}

impl Sled {
    pub(crate) fn create(dir: &Path) -> Self {
        let path = dir.join("sled");
        let config = sled::Config::new().path(&path).cache_capacity(CACHE).flush_every_ms(None);
        let db = config.open().expect("a sled database");
        Self { db, file: File::open(path.join("db")).expect("sled's file"), lsn: 0 }
    }
}

impl Engine for Sled {
    fn commit(&mut self, group: &[Event]) {
        let mut batch = sled::Batch::default();
        let mut bytes = Vec::new();
        for event in group {
            self.lsn += 1;
            value(event, &mut bytes);
            batch.insert(&self.lsn.to_be_bytes(), bytes.as_slice());
        }
        self.db.apply_batch(batch).expect("a batch");
        self.db.flush().expect("a flush");
        self.file.sync_data().expect("a sync");
    }
}

/// redb, durable transactions.
pub(crate) struct Redb {
    db: redb::Database,
    lsn: u64,
}

const EVENTS: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("events");

impl Redb {
    pub(crate) fn create(dir: &Path) -> Self {
        let db = redb::Database::builder()
            .set_cache_size(CACHE as usize)
            .create(dir.join("redb"))
            .expect("a redb database");
        Self { db, lsn: 0 }
    }
}

impl Engine for Redb {
    fn commit(&mut self, group: &[Event]) {
        let transaction = self.db.begin_write().expect("a transaction");
        let mut bytes = Vec::new();
        {
            let mut table = transaction.open_table(EVENTS).expect("a table");
            for event in group {
                self.lsn += 1;
                value(event, &mut bytes);
                table.insert(self.lsn, bytes.as_slice()).expect("an insert");
            }
        }
        transaction.commit().expect("a commit");
    }
}

/// fjall, its journal synced with each batch.
pub(crate) struct Fjall {
    keyspace: fjall::Keyspace,
    partition: fjall::PartitionHandle,
    lsn: u64,
}

impl Fjall {
    pub(crate) fn create(dir: &Path) -> Self {
        let keyspace = fjall::Config::new(dir.join("fjall"))
            .cache_size(CACHE)
            .open()
            .expect("a fjall keyspace");
        let partition = keyspace
            .open_partition("events", fjall::PartitionCreateOptions::default())
            .expect("a partition");
        Self { keyspace, partition, lsn: 0 }
    }
}

impl Engine for Fjall {
    fn commit(&mut self, group: &[Event]) {
        let mut batch = self.keyspace.batch().durability(Some(fjall::PersistMode::SyncData));
        let mut bytes = Vec::new();
        for event in group {
            self.lsn += 1;
            value(event, &mut bytes);
            batch.insert(&self.partition, self.lsn.to_be_bytes(), bytes.as_slice());
        }
        batch.commit().expect("a commit");
    }
}
