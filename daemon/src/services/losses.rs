//! Says what is lost: each entry of the log's loss ledger goes out as an event, so that the cloud knows what
//! it will never see.
//!
//! A CloudEvent of type `tidegate.loss` on `alerts/loss/<lane>`, retained for nobody, at least once: which
//! entries were told is noted in the state, and one that is told again has the same `id` and `source`.
//! Entries that were merged, because the ledger had no room, are told again as they are now, unless all
//! of their LSNs were told before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tidegate_event::percent::encode_segment;
use tidegate_event::record::Properties;
use tidegate_event::time::write_rfc3339;
use tidegate_event::{BlockBuilder, Draft, EventId, Property, Qos};
use tokio::time::sleep;
use tracing::{error, warn};

use crate::gate::{Gate, Rights};
use crate::log::{Append, Log, Loss};
use crate::state::{Notes, State, StateError};
use crate::supervise::{Role, Supervisor};

/// Where they are published: a level below says the lane.
const TOPIC: &str = "alerts/loss";
/// Who publishes them.
const ORIGIN: &str = "log";
/// What is lost within this time is told together.
const TOGETHER: Duration = Duration::from_secs(1);
/// Entries told at once.
const MOST: usize = 64;
/// Bytes of a key in the notes: lane, reason, first and last LSN, how many.
const KEY: usize = 26;

/// Tells what is lost.
#[derive(Debug)]
pub struct Losses {
    log: Arc<Log>,
    gate: Arc<Gate>,
    notes: Notes,
    /// The gateway's id.
    gateway: String,
    told: BTreeSet<[u8; KEY]>,
}

/// What is told.
#[derive(Serialize)]
struct Payload<'a> {
    lane: &'a str,
    reason: &'static str,
    /// The ids of the first and the last event.
    first: String,
    last: String,
    /// How many events of the lane are lost between them, at most.
    count: u64,
    noticed: String,
}

impl Losses {
    /// Starts telling. It ends with the drain.
    pub fn start(
        gateway: &str,
        log: &Arc<Log>,
        gate: &Arc<Gate>,
        state: &State,
        supervisor: &Supervisor,
    ) -> Result<(), StateError> {
        let notes = state.notes("losses")?;
        let told = notes.load()?.into_iter().filter_map(|(key, _)| key.try_into().ok()).collect();
        let (log, gate, gateway) = (Arc::clone(log), Arc::clone(gate), gateway.to_owned());
        let losses = Self { log, gate, notes, gateway, told };
        let drain = supervisor.drain().clone();
        supervisor.spawn("losses", Role::Critical, async move {
            tokio::select! {
                () = drain.cancelled() => {}
                () = losses.run() => {}
            }
        });
        Ok(())
    }

    async fn run(mut self) {
        let mut entered = self.log.watch_losses();
        loop {
            entered.mark_unchanged();
            let new = self.untold();
            for losses in new.chunks(MOST) {
                self.tell(losses).await;
            }
            if entered.changed().await.is_err() {
                return;
            }
            sleep(TOGETHER).await;
        }
    }

    /// The entries that were not told.
    fn untold(&mut self) -> Vec<Loss> {
        let entries = self.log.losses();
        let keys: BTreeSet<_> = entries.iter().map(key).collect();
        let (told, merged): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .filter(|loss| !self.told.contains(&key(loss)))
            .partition(|loss| self.was_told(loss));
        // What the ledger does not have any more, nobody has to remember.
        let old: Vec<_> = self.told.difference(&keys).copied().collect();
        self.note(&told.iter().map(key).collect::<Vec<_>>(), &old);
        merged
    }

    /// Whether all its LSNs were told, in other entries.
    fn was_told(&self, loss: &Loss) -> bool {
        let mut next = *loss.lsns.start();
        // They are in the order of lane, reason, first LSN.
        for known in
            self.told.range(prefix(loss, 0)..prefix(loss, loss.lsns.end().saturating_add(1)))
        {
            let lsn =
                |at: usize| u64::from_be_bytes(std::array::from_fn(|index| known[at + index]));
            if lsn(2) <= next {
                next = next.max(lsn(10).saturating_add(1));
            }
        }
        next > *loss.lsns.end()
    }

    async fn tell(&mut self, losses: &[Loss]) {
        loop {
            let mut block = BlockBuilder::new(ORIGIN, self.gate.now());
            for loss in losses {
                self.write(loss, &mut block);
            }
            if block.is_empty() {
                break;
            }
            if let Append::Accepted(commit) = self.gate.submit(&mut block)
                && commit.await.is_ok()
            {
                break;
            }
            self.log.room_for(block.lanes()).await;
        }
        self.note(&losses.iter().map(key).collect::<Vec<_>>(), &[]);
    }

    fn write(&self, loss: &Loss, block: &mut BlockBuilder) {
        let lane = self.log.lanes().name(loss.lane);
        let id = |lsn| EventId { lsn, ..self.log.id(1) };
        let (first, last) = (id(*loss.lsns.start()), id(*loss.lsns.end()));
        let mut noticed = Vec::new();
        write_rfc3339(loss.unix_micros, &mut noticed);
        let noticed = String::from_utf8(noticed).unwrap_or_default();
        let Loss { reason, count, .. } = *loss;
        let payload = Payload {
            lane,
            reason: reason.label(),
            first: first.to_string(),
            last: last.to_string(),
            count,
            noticed: noticed.clone(),
        };
        let number = loss.lane.0;
        let own_id = format!("{first}-{}-{number}-{}-{count}", last.lsn, reason.label());
        let source = format!("/gateway/{}/log", encode_segment(&self.gateway));
        let mut properties = Vec::new();
        for property in [
            Property::ContentType("application/json"),
            Property::PayloadFormat(1),
            Property::User("specversion", "1.0"),
            Property::User("id", &own_id),
            Property::User("source", &source),
            Property::User("type", "tidegate.loss"),
            Property::User("time", &noticed),
        ] {
            property.write(&mut properties);
        }
        let topic = format!("{TOPIC}/{lane}");
        let draft = Draft {
            topic: &topic,
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::new(&properties),
            // Strings and numbers: it cannot fail.
            payload: &serde_json::to_vec(&payload).unwrap_or_default(),
        };
        match self.gate.check(&mut Rights::all(), &draft) {
            Ok(()) => block.push_in(self.log.lanes().of(&topic), &draft),
            Err(why) => error!(topic, %why, "what is lost cannot be told"),
        }
    }

    /// Remembers what was told, and forgets what is no more.
    fn note(&mut self, told: &[[u8; KEY]], old: &[[u8; KEY]]) {
        if told.is_empty() && old.is_empty() {
            return;
        }
        let adds = told.iter().map(|key| (key.to_vec(), Some(Vec::new())));
        let removes = old.iter().map(|key| (key.to_vec(), None));
        if let Err(why) = self.notes.change(removes.chain(adds).collect()) {
            warn!(%why, "what was told of the losses may be told again");
        }
        for key in old {
            self.told.remove(key);
        }
        self.told.extend(told);
    }
}

fn key(loss: &Loss) -> [u8; KEY] {
    let mut key = prefix(loss, *loss.lsns.start());
    key[10..18].copy_from_slice(&loss.lsns.end().to_be_bytes());
    key[18..].copy_from_slice(&loss.count.to_be_bytes());
    key
}

/// Before the keys of losses like this one that begin at `first` or behind it.
fn prefix(loss: &Loss, first: u64) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[0] = loss.lane.0;
    key[1] = loss.reason as u8;
    key[2..10].copy_from_slice(&first.to_be_bytes());
    key
}
