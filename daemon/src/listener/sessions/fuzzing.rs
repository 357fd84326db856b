//! Any bytes, as blocks of the log: events, and what sessions left there.

use tidegate_event::record::{blocks, events};
use tidegate_event::{Block, Epoch, EventId, Lane};

use super::records::Record;
use super::stored::Stored;

/// What can be read is the same when it is written and read again; whatever a session goes through,
/// the state holds it as it is.
pub(crate) fn records(bytes: &[u8]) {
    let first = EventId { epoch: Epoch(1), lane: Lane(0), lsn: 1 };
    let mut stored = Stored::default();
    for block in blocks(bytes) {
        match block {
            Err(_) => break,
            Ok(Block::Events(of)) => {
                for event in of.iter(first).map_while(Result::ok) {
                    let _ = event.properties.iter().count();
                    assert!(bytes.len() >= event.payload.len() + event.topic.len());
                }
            }
            Ok(Block::Control { control, body }) => {
                let Ok(Some((client, record))) = Record::read(control, body) else { continue };
                let mut again = Vec::new();
                record.write(client, &mut again);
                let Some(Ok(Block::Control { control, body })) = blocks(&again).next() else {
                    unreachable!("{record:?} is not written as one");
                };
                assert_eq!(Record::read(control, body), Ok(Some((client, record.clone()))));
                stored.apply(&record);
                let state = stored.encode(Some(7));
                assert_eq!(Stored::decode(&state), Some((stored.clone(), Some(7))));
            }
        }
    }
    let _ = events(bytes, first).take_while(Result::is_ok).count();
}
