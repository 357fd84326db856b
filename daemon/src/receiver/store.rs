//! The events on disk: a [`Log`] of their JSON as it arrived.

use std::io;
use std::path::PathBuf;

use tidegate_event::cloudevents::parse::{CloudEvent, parse_one};
use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, EventRef, Lsn, Qos, Received};
use tracing::warn;

use super::OpenError;
use super::model::{Model, Stored};
use super::seen::{Entered, Seen};
use super::snapshot::{Found, Snapshot};
use crate::log::{Chunk, Log, Read, ReadError, Reader};

/// The topic under which an event lies in the store.
const EVENT: &str = "event";
/// The topic of a note that a place in a gateway's log (the payload: an event id) holds a
/// duplicate, which is not stored.
const DUPLICATE: &str = "duplicate";
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// Who publishes into the store.
const ORIGIN: &str = "receiver";

/// An empty block for the store.
pub(super) fn block(received: Received) -> BlockBuilder {
    BlockBuilder::new(ORIGIN, received)
}

/// Adds `event` to a block.
pub(super) fn push_event(block: &mut BlockBuilder, event: &CloudEvent<'_>) {
    push(block, EVENT, event.raw.as_bytes());
}

/// Adds a note that `event`, which says its place in its gateway's log, was a duplicate.
pub(super) fn push_duplicate(block: &mut BlockBuilder, event: &CloudEvent<'_>) {
    let id = event.log_id.as_deref().unwrap_or(&event.id);
    push(block, DUPLICATE, id.as_bytes());
}

fn push(block: &mut BlockBuilder, topic: &str, payload: &[u8]) {
    let properties = Properties::default();
    block.push(&Draft { topic, qos: Qos::AtLeastOnce, retain: false, properties, payload });
}

/// What a record of the store says.
pub(super) enum Record<'a> {
    /// The JSON of an event.
    Event(&'a [u8]),
    /// The id of a place that holds a duplicate.
    Duplicate(&'a [u8]),
}

/// What `event` of the store says; None for what a newer version wrote.
pub(super) fn record<'a>(event: &EventRef<'a>) -> Option<Record<'a>> {
    match event.topic {
        EVENT => Some(Record::Event(event.payload)),
        DUPLICATE => Some(Record::Duplicate(event.payload)),
        _ => None,
    }
}

/// Reads the store's events from `from` on, in order, until `visit` answers false or there are no
/// more; answers with the LSN that comes next. `lost` hears what cannot be read.
pub(super) fn scan(
    reader: &mut Reader,
    mut lost: impl FnMut(std::ops::RangeInclusive<Lsn>),
    mut visit: impl FnMut(&EventRef<'_>) -> bool,
) -> Result<Lsn, ReadError> {
    let mut chunk = Chunk::default();
    let mut from = reader.position();
    loop {
        match reader.read(&mut chunk, CHUNK)? {
            Read::Tail => return Ok(from),
            Read::Lost(range) => {
                from = from.max(range.end().saturating_add(1));
                lost(range);
            }
            Read::Frames => {
                for event in chunk.frames().flat_map(|frame| frame.events()).flatten() {
                    if !visit(&event) {
                        return Ok(event.lsn());
                    }
                }
                from = reader.position();
            }
        }
    }
}

/// Rebuilds what is known from the snapshot in `dir` and the store's events after it.
pub(super) fn rebuild(
    log: &std::sync::Arc<Log>,
    dir: &std::path::Path,
) -> Result<(Seen, Model), OpenError> {
    let unreadable = |error: io::Error| OpenError::Snapshot { dir: PathBuf::from(dir), error };
    let (mut seen, mut model, applied) = match Snapshot::read(dir).map_err(unreadable)? {
        Found::Whole(snapshot) => {
            let Snapshot { applied, logs, window, model } = *snapshot;
            (Seen::restore(logs, [&window[0].0, &window[1].0]), model, applied)
        }
        Found::None => (Seen::default(), Model::default(), 0),
        Found::Damaged(aside) => {
            warn!(
                "the receiver's snapshot was damaged and is now {}: counts begin anew with what \
                 the store still holds, older events show as gaps",
                aside.display()
            );
            (Seen::default(), Model::default(), 0)
        }
    };
    let mut reader = log.reader(applied + 1);
    let lost = |range: std::ops::RangeInclusive<Lsn>| {
        // What was released before the snapshot's time is in it; without one, it is known lost.
        warn!(
            first = range.start(),
            last = range.end(),
            "events of the receiver's store cannot be read"
        );
    };
    scan(&mut reader, lost, |stored| {
        match record(stored) {
            Some(Record::Event(json)) => match parse_one(json) {
                Ok(event) => {
                    if !matches!(seen.enter(&event), Entered::Duplicate) {
                        let event = Stored { lsn: stored.lsn(), event: &event };
                        model.apply(&[event], stored.received.unix_micros());
                    }
                }
                Err(error) => warn!(lsn = stored.lsn(), "not an event in the store: {error}"),
            },
            Some(Record::Duplicate(id)) => {
                if let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) {
                    seen.enter_duplicate(id);
                }
            }
            None => {}
        }
        true
    })
    .map_err(OpenError::Read)?;
    Ok((seen, model))
}
