//! From a request's events to its answer: find the duplicates, store the rest, wait for the disk.

use std::time::Duration;

use tidegate_event::Lsn;
use tidegate_event::cloudevents::parse::{CloudEvent, parse_batch, parse_one};
use tokio::sync::watch;
use tracing::warn;

use super::model::Stored;
use super::seen::{Entered, Mark};
use super::{MAX_EVENTS, Receiver, State, store};
use crate::clock::unix_micros;
use crate::log::{Append, Commit};

pub(super) use tidegate_event::cloudevents::parse::ParseError;

/// How long a request waits for room in the store before it is sent away.
const ROOM_WITHIN: Duration = Duration::from_secs(5);

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// One event, a JSON object.
    One,
    /// A JSON array of events.
    Batch,
}

/// What became of a request's events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// On disk now.
    pub(super) stored: u64,
    /// On disk before.
    pub(super) duplicates: u64,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All of its events are on disk.
    Taken(Taken),
    /// It is not what it says it is: nothing of it was stored.
    Refused(ParseError),
    /// The disk does not take it now: nothing of it was stored.
    Unavailable(&'static str),
}

/// What [`Receiver::enter`] found.
enum Admission {
    /// The new events wait for the disk.
    Waiting(Waiting),
    /// The store has no room for a block of this many bytes.
    Full(usize),
    /// The disk fails.
    Failing,
}

struct Waiting {
    /// Indices of the new events, with their places in the block.
    new: Vec<(usize, u32)>,
    marks: Vec<Mark>,
    commit: Option<Commit>,
    duplicates: u64,
    turn: Turn,
}

/// A request's place in the order in which requests are entered; later ones wait for it.
struct Turn {
    /// Counted from 1.
    number: u64,
    /// The first request that had not ended when this one was entered.
    oldest: u64,
    settled: watch::Sender<u64>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.settled.send_modify(|settled| *settled = self.number.max(*settled));
    }
}

impl Receiver {
    /// Stores the events in `body`. To be run to its end: it is what waits for the disk, so it must
    /// not depend on the client's staying.
    pub(super) async fn ingest(&self, body: &[u8], mode: Mode) -> Outcome {
        let parsed = match mode {
            Mode::Batch => parse_batch(body, MAX_EVENTS),
            Mode::One => parse_one(body).map(|event| vec![event]),
        };
        match parsed {
            Ok(events) => self.store(events).await,
            Err(error) => {
                self.state().model.totals.refused += 1;
                self.changed();
                Outcome::Refused(error)
            }
        }
    }

    async fn store(&self, events: Vec<CloudEvent<'_>>) -> Outcome {
        loop {
            // A snapshot is taken between requests: what it holds is on disk.
            let gate = self.gate.read().await;
            match self.enter(&events) {
                Admission::Waiting(waiting) => return self.finish(&events, waiting).await,
                Admission::Failing => return Outcome::Unavailable("the disk does not take writes"),
                Admission::Full(bytes) => {
                    drop(gate);
                    self.crowded.notify_one();
                    if tokio::time::timeout(ROOM_WITHIN, self.log.room(bytes)).await.is_err() {
                        return Outcome::Unavailable("the store has no room");
                    }
                }
            }
        }
    }

    /// Enters the events and hands the new ones to the store's writer.
    fn enter(&self, events: &[CloudEvent<'_>]) -> Admission {
        let mut block = store::block(self.clock.now());
        let mut new = Vec::with_capacity(events.len());
        let mut marks = Vec::with_capacity(events.len());
        let mut duplicates = 0;
        let mut state = self.state();
        for (index, event) in events.iter().enumerate() {
            match state.seen.enter(event) {
                Entered::New(mark) => {
                    new.push((index, block.count()));
                    store::push_event(&mut block, event);
                    marks.push(mark);
                }
                Entered::Duplicate => duplicates += 1,
                Entered::DuplicateElsewhere(mark) => {
                    duplicates += 1;
                    store::push_duplicate(&mut block, event);
                    marks.push(mark);
                }
            }
        }
        let commit = if block.is_empty() {
            None
        } else {
            let bytes = block.len();
            let refused = match self.log.append(&mut block) {
                Append::Accepted(commit) => Ok(commit),
                Append::Full | Append::Busy => Err(Admission::Full(bytes)),
                Append::Unavailable => Err(Admission::Failing),
            };
            match refused {
                Ok(commit) => Some(commit),
                Err(admission) => {
                    marks.iter().for_each(|mark| state.seen.forget(mark));
                    return admission;
                }
            }
        };
        state.requests += 1;
        let settled = self.settled.clone();
        let oldest = *settled.borrow() + 1;
        let turn = Turn { number: state.requests, oldest, settled };
        Admission::Waiting(Waiting { new, marks, commit, duplicates, turn })
    }

    async fn finish(&self, events: &[CloudEvent<'_>], waiting: Waiting) -> Outcome {
        let Waiting { new, marks, commit, duplicates, turn } = waiting;
        let stored = match commit {
            None => Ok(0),
            Some(commit) => commit.await.map(|lsns| *lsns.start()),
        };
        // Requests count in the order in which they lie in the store. It also means that whatever
        // this one's duplicates are duplicates of has been decided.
        let mut settled = turn.settled.subscribe();
        let _ = settled.wait_for(|settled| *settled + 1 >= turn.number).await;
        let mut state = self.state();
        let first = match stored {
            Ok(first) => first,
            Err(error) => {
                warn!("a request's events were not stored: {error}");
                marks.iter().for_each(|mark| state.seen.forget(mark));
                state.failed = turn.number;
                return Outcome::Unavailable("the disk did not take the events");
            }
        };
        let count = new.len() as u64;
        apply(&mut state, events, &new, first, duplicates);
        state.rate.add(self.started.elapsed().as_secs(), count);
        let original_failed = duplicates > 0 && state.failed >= turn.oldest;
        drop(state);
        self.changed();
        if self.is_crowded() {
            self.crowded.notify_one();
        }
        if original_failed {
            return Outcome::Unavailable("the disk did not take the events");
        }
        Outcome::Taken(Taken { stored: count, duplicates })
    }
}

fn apply(
    state: &mut State,
    events: &[CloudEvent<'_>],
    new: &[(usize, u32)],
    first: Lsn,
    duplicates: u64,
) {
    state.model.totals.duplicates += duplicates;
    let stored = |(index, place): &(usize, u32)| Stored {
        lsn: first + u64::from(*place),
        event: &events[*index],
    };
    let stored: Vec<_> = new.iter().map(stored).collect();
    state.model.apply(&stored, unix_micros());
}
