//! CloudEvents that come over MQTT 5 with a source and an id of their own, and come twice: a second copy
//! is acknowledged once the first is on disk, and not stored (`crate::gate::Dedup`).

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use tidegate_event::record::Properties;
use tidegate_event::{Lane, cloudevents};

use crate::gate::{Arrival, Gate, Mark, Pending};
use crate::log::Commit;

/// What is to be known of the events of one block, and of those that are not in it because they came
/// before.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Of the block's own events, in their lanes.
    marks: Vec<(Lane, Mark)>,
    /// Of those that wait for the disk elsewhere.
    firsts: Vec<First>,
}

/// What becomes of a first copy.
enum First {
    Pending(Pin<Box<dyn Future<Output = bool> + Send>>),
    Known(bool),
}

/// Whether an event with these properties and this payload came before; none for one that has no
/// identity of its own.
pub(super) fn arrival(gate: &Gate, properties: Properties<'_>, payload: &[u8]) -> Option<Arrival> {
    let dedup = gate.dedup();
    if properties.is_empty() || !dedup.is_on() {
        return None;
    }
    let (source, id) = cloudevents::identity(properties, payload)?;
    Some(dedup.enter(dedup.key(&source, &id)))
}

impl Copies {
    /// An event of the block is a first copy.
    pub(super) fn mark(&mut self, lane: Lane, mark: Mark) {
        self.marks.push((lane, mark));
    }

    /// Events of these lanes are not in the block any more.
    pub(super) fn forget(&mut self, lanes: &[Lane]) {
        self.marks.retain(|(lane, _)| !lanes.contains(lane));
    }

    /// An event is a second copy. Answers under which number [`Copies::is_stored`] knows it.
    pub(super) fn wait_for(&mut self, first: Pending) -> u32 {
        self.firsts.push(First::Pending(Box::pin(first.is_stored())));
        self.firsts.len() as u32 - 1
    }

    /// The block is on disk, or never will be.
    pub(super) fn settled(&mut self, stored: bool) {
        let marks = self.marks.drain(..);
        marks.filter(|_| stored).for_each(|(_, mark)| mark.stored());
    }

    /// Whether there are first copies in the block.
    pub(super) fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Ready when everything is known.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for first in &mut self.firsts {
            if let First::Pending(pending) = first {
                match pending.as_mut().poll(context) {
                    Poll::Ready(stored) => *first = First::Known(stored),
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
        Poll::Ready(())
    }

    /// Whether the first copy is on disk; false while that is not known.
    pub(super) fn is_stored(&self, number: u32) -> bool {
        matches!(self.firsts.get(number as usize), Some(First::Known(true)))
    }
}

/// Waits for commits whose connection has ended: what they store is known, should it come again.
pub(super) async fn settle(blocks: Vec<(Commit, Copies)>) {
    for (commit, mut copies) in blocks {
        copies.settled(commit.await.is_ok());
    }
}

impl fmt::Debug for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending(_) => "Pending",
            Self::Known(true) => "Stored",
            Self::Known(false) => "Lost",
        })
    }
}
