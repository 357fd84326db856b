//! Keeps the store within its size, and ends the receiver in order.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::snapshot::{self, Bytes, Snapshot};
use super::{MAX_CONNECTIONS, Receiver};
use crate::log::Usage;

/// How long requests at hand may take when the receiver ends.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// Runs until the drain.
pub(super) async fn keep(receiver: Arc<Receiver>) {
    let drain = receiver.supervisor.drain().clone();
    while drain.run_until_cancelled(receiver.crowded.notified()).await.is_some() {
        make_room(&receiver).await;
    }
    // Every connection holds one; when all are free, all have ended.
    let connections = receiver.connections.acquire_many(MAX_CONNECTIONS as u32);
    if tokio::time::timeout(FINISH_WITHIN, connections).await.is_err() {
        info!("the receiver ends with connections open: their requests are not answered");
    }
    if let Err(why) = write_snapshot(&receiver).await {
        warn!("{why}; the next start reads the store instead");
    }
    receiver.log.close().await;
}

/// Releases the oldest events, an eighth at a time, once a snapshot remembers what they were.
async fn make_room(receiver: &Receiver) {
    while receiver.is_crowded() {
        let before = receiver.log.usage();
        if let Err(why) = write_snapshot(receiver).await {
            warn!("{why}; the store keeps its oldest events until it works");
            return;
        }
        let (log, keep) = (receiver.log.clone(), oldest_to_keep(&before));
        // Unlinking takes its time.
        let _ = tokio::task::spawn_blocking(move || log.release(keep)).await;
        receiver.changed();
        let after = receiver.log.usage();
        if after.bytes >= before.bytes && after.first == before.first {
            return;
        }
    }
}

fn oldest_to_keep(usage: &Usage) -> u64 {
    let count = usage.last.saturating_sub(usage.first) + 1;
    usage.first + count.div_ceil(8)
}

async fn write_snapshot(receiver: &Receiver) -> Result<(), String> {
    let dir = receiver.options.data_dir.clone();
    let snapshot = {
        // No request is under way: all that is known is on disk.
        let _alone = receiver.gate.write().await;
        let applied = receiver.newest();
        let state = receiver.state();
        let window = state.seen.window().map(Bytes);
        let model = state.model.to_keep();
        Snapshot { applied, logs: state.seen.logs(), window, model }
    };
    let written = tokio::task::spawn_blocking(move || {
        let encoded = snapshot.encode().map_err(|error| error.to_string())?;
        snapshot::write(&dir, &encoded).map_err(|error| {
            format!("cannot write the receiver's snapshot in {}: {error}", dir.display())
        })
    });
    written.await.unwrap_or_else(|error| Err(error.to_string()))
}
