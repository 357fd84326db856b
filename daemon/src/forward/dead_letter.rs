//! The dead-letter queue: events that the bus will never take, kept on disk until somebody looks.
//!
//! A log of its own, in `dlq/<sink>` of the data directory. A letter is the event as it lies in the
//! gateway's log (origin, time, topic, properties, payload), with two user properties behind its own:
//! [`ID`], the id under which it was sent, and [`REASON`], what the bus said. It is durable before
//! the cursor passes the event; after a crash between the two it is there twice, under the same id.
//! When the queue is full the sink waits: nothing is dropped. All its files together stay within
//! `dead-letter.max-size`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_config::Sink;
use tidegate_event::cloudevents::STRUCTURED;
use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Lane, Lsn, Property, Qos, Received};
use tokio::sync::Mutex;
use tokio::time::sleep;
use tracing::debug;

use super::status::{Condition, Monitor};
use crate::clock;
use crate::log::{Append, Chunk, Log, Options, Read, Storage};

/// The user property with the id under which the event was sent.
pub const ID: &str = "deadletterid";
/// The user property with the bus's reason.
pub const REASON: &str = "deadletterreason";
/// The topic of a letter whose event could not be read again: its payload is the CloudEvent as sent.
pub const UNREADABLE: &str = "dead-letter";

/// How long the queue is left alone after it took no letter, unless it says that it has room.
const PAUSE: Duration = Duration::from_secs(30);
/// Bytes of a reason that are kept, about.
const MAX_REASON: usize = 1024;

/// A sink's queue. Opened when there is a first letter.
#[derive(Debug)]
pub(super) struct DeadLetters {
    /// Where the events come from.
    log: Arc<Log>,
    storage: Arc<dyn Storage>,
    options: Options,
    /// `dead-letter.max-size`, in bytes.
    whole: u64,
    monitor: Arc<Monitor>,
    queue: Mutex<Option<Arc<Log>>>,
}

impl DeadLetters {
    /// The queue in `dir`.
    pub(super) fn new(
        log: Arc<Log>,
        storage: Arc<dyn Storage>,
        dir: PathBuf,
        config: &Sink,
        monitor: Arc<Monitor>,
    ) -> Self {
        let whole = config.dead_letter.max_size.0;
        // Three quarters for letters and an eighth for what is damaged; of the last eighth the ledger takes a
        // quarter, twice that while it is written anew, and small files some pages.
        let options = Options {
            dir,
            lane: Lane(0),
            max_size: whole / 4 * 3,
            segment_size: 1 << 20,
            max_delay: Duration::ZERO,
            max_bytes: 64 << 10,
            max_quarantine: whole / 8,
            max_ledger: (whole / 64).min(256 << 10),
            ..Options::default()
        };
        Self { log, storage, options, whole, monitor, queue: Mutex::new(None) }
    }

    /// Puts the event at `lsn` away. Ends when it is on disk. `sent` is the event as the bus was
    /// shown it.
    pub(super) async fn put(&self, lsn: Lsn, reason: &str, sent: &[u8]) {
        // The monitor says it aloud, once in a while.
        debug!(sink = self.monitor.name(), id = %self.log.id(lsn), reason, "a dead letter");
        let mut letter = self.letter(lsn, reason, sent).await;
        while let Err(why) = self.store(&mut letter).await {
            let dir = self.options.dir.display();
            let message =
                format!("dead-letter queue {dir}: {why}; events wait until it is emptied");
            self.monitor.trouble(Condition::DeadLettersFull, "dead-letters", message);
            let queue = self.queue.lock().await.clone();
            match queue {
                Some(queue) => tokio::select! {
                    () = queue.room(letter.len()) => {}
                    () = sleep(PAUSE) => {}
                },
                None => sleep(PAUSE).await,
            }
        }
    }

    /// Commits and closes the queue.
    pub(super) async fn close(&self) {
        if let Some(queue) = self.queue.lock().await.take() {
            queue.close().await;
        }
    }

    async fn letter(&self, lsn: Lsn, reason: &str, sent: &[u8]) -> BlockBuilder {
        let id = self.log.id(lsn).to_string();
        let reason: String =
            reason.char_indices().take_while(|(at, _)| *at < MAX_REASON).map(|(_, c)| c).collect();
        let mut added = Vec::new();
        Property::User(ID, &id).write(&mut added);
        Property::User(REASON, &reason).write(&mut added);
        let log = Arc::clone(&self.log);
        let found = {
            let added = added.clone();
            tokio::task::spawn_blocking(move || find(&log, lsn, &added)).await
        };
        if let Ok(Some(block)) = found {
            return block;
        }
        let mut properties = Vec::new();
        Property::ContentType(STRUCTURED).write(&mut properties);
        properties.extend_from_slice(&added);
        let received = Received::Synced { unix_micros: clock::unix_micros() };
        let mut block = BlockBuilder::new(self.monitor.name(), received);
        block.push(&Draft {
            topic: UNREADABLE,
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::new(&properties),
            payload: sent,
        });
        block
    }

    async fn store(&self, letter: &mut BlockBuilder) -> Result<(), String> {
        let queue = self.open().await?;
        loop {
            return match queue.append(letter) {
                Append::Accepted(commit) => {
                    commit.await.map(drop).map_err(|error| error.to_string())
                }
                Append::Full => Err(format!("full (dead-letter.max-size is {} bytes)", self.whole)),
                Append::Busy => {
                    queue.room(letter.len()).await;
                    continue;
                }
                Append::Unavailable => Err("the disk takes no writes".into()),
            };
        }
    }

    async fn open(&self) -> Result<Arc<Log>, String> {
        let mut queue = self.queue.lock().await;
        if let Some(queue) = &*queue {
            return Ok(Arc::clone(queue));
        }
        let (storage, options) = (Arc::clone(&self.storage), self.options.clone());
        let opened = tokio::task::spawn_blocking(move || Log::open(storage, options))
            .await
            .map_err(|error| error.to_string())?;
        let (opened, _) = opened.map_err(|error| error.to_string())?;
        *queue = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

/// Reads the event at `lsn` and makes a block of it, with the properties in `added` behind its own.
fn find(log: &Arc<Log>, lsn: Lsn, added: &[u8]) -> Option<BlockBuilder> {
    let mut chunk = Chunk::default();
    let Ok(Read::Frames) = log.reader(lsn).read(&mut chunk, 1) else {
        return None;
    };
    let frame = chunk.frames().next()?;
    let event = frame.events().flatten().find(|event| event.lsn() == lsn)?;
    let mut properties = event.properties.as_bytes().to_vec();
    properties.extend_from_slice(added);
    let mut block = BlockBuilder::new(event.origin, event.received);
    block.push(&Draft {
        topic: event.topic,
        qos: event.qos,
        retain: event.retain,
        properties: Properties::new(&properties),
        payload: event.payload,
    });
    Some(block)
}
