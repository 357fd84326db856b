//! A member reads the log for its group: what the bus passed over, and what was given back.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_event::{Lsn, Qos};
use tracing::warn;

use super::super::event::Event;
use super::group::Group;
use super::state::State;
use crate::log::{Chunk, Read, ReadError, Reader};
use crate::memory::Room;

/// Bytes read from the log at once.
const READ_BYTES: usize = 64 * 1024;
/// Events that were given back, looked for in one read.
const LOOKED_FOR: usize = 1024;

/// Bytes of events at once, with memory in plenty and without; more than one only as far as they fit.
const PORTION: usize = 128 * 1024;
const SMALL_PORTION: usize = 8 * 1024;

/// Where a group reads on.
#[derive(Debug)]
pub(super) struct Tail {
    reader: Reader,
    chunk: Chunk,
}

impl Tail {
    pub(super) fn memory(&self) -> usize {
        self.chunk.capacity()
    }
}

/// One read, by one member; the others go on meanwhile. Dropping it lets another one read.
#[derive(Debug)]
pub(super) struct Job {
    group: Arc<Group>,
    from: Lsn,
    what: What,
}

#[derive(Debug)]
enum What {
    /// What comes next.
    Behind { tail: Option<Box<Tail>>, back_since: Lsn },
    /// These events.
    Returned(BTreeSet<Lsn>),
}

impl Job {
    /// Reads on where the group is behind.
    pub(super) fn behind(group: &Arc<Group>, state: &mut State) -> Self {
        state.reading = true;
        let from = state.behind.unwrap_or_default();
        let tail = state.tail.take().filter(|tail| tail.reader.position() == from);
        let what = What::Behind { tail, back_since: state.back_since };
        Self { group: Arc::clone(group), from, what }
    }

    /// Reads what was given back.
    pub(super) fn returned(group: &Arc<Group>, state: &mut State) -> Self {
        state.reading = true;
        let lsns: BTreeSet<Lsn> = state.returned.iter().take(LOOKED_FOR).copied().collect();
        let from = lsns.first().copied().unwrap_or_default();
        Self { group: Arc::clone(group), from, what: What::Returned(lsns) }
    }

    /// Puts what is found where the members take it.
    pub(super) fn run(mut self) -> Result<(), ReadError> {
        match &mut self.what {
            What::Behind { tail, back_since } => {
                let (tail, back_since) = (tail.take(), *back_since);
                self.read_on(tail, back_since)
            }
            What::Returned(lsns) => {
                let lsns = std::mem::take(lsns);
                self.read_returned(&lsns)
            }
        }
    }

    fn read_on(&self, tail: Option<Box<Tail>>, back_since: Lsn) -> Result<(), ReadError> {
        let group = &self.group;
        let mut tail = tail.unwrap_or_else(|| {
            let reader = group.log.reader(self.from);
            // It begins with the oldest event that is still there.
            self.note_lost(self.from, reader.position().saturating_sub(1));
            Box::new(Tail { reader, chunk: Chunk::default() })
        });
        let (mut found, mut bytes, mut rest) = (Vec::new(), 0, None);
        let plenty = group.memory.room() == Room::Plenty;
        let portion = if plenty { PORTION } else { SMALL_PORTION };
        let read = if plenty { READ_BYTES } else { SMALL_PORTION };
        match tail.reader.read(&mut tail.chunk, read)? {
            Read::Frames => {
                let events = tail.chunk.frames().flat_map(|frame| frame.events()).flatten();
                for event in events.filter(|event| group.filter().matches(event.topic)) {
                    if event.qos == Qos::AtMostOnce && event.lsn() < back_since {
                        continue;
                    }
                    if bytes >= portion {
                        rest = Some(event.lsn());
                        break;
                    }
                    let copy = group.copy(&event);
                    bytes += copy.size();
                    found.push((event.lsn(), copy));
                }
            }
            Read::Tail => {}
            Read::Lost(lost) => {
                let (first, last) = lost.into_inner();
                self.note_lost(first, last);
            }
        }
        let position = rest.unwrap_or_else(|| tail.reader.position());
        let mut state = group.lock();
        if state.behind != Some(self.from) {
            // Nobody was there any more.
            return Ok(());
        }
        for (lsn, event) in found {
            if !state.taken.remove(&lsn) {
                state.bytes += event.size() + size_of::<(Lsn, Event)>();
                state.queue.push_back((lsn, event));
            }
        }
        if state.skipped < position {
            // Everything that the bus passed over is here: it goes on.
            state.behind = None;
            state.live_from = position;
        } else {
            state.behind = Some(position);
            // What is left of it is read again.
            state.tail = Some(tail).filter(|_| plenty && rest.is_none());
        }
        state.weigh();
        Ok(())
    }

    /// The log had removed these before they were read; none if `last` is before `first`.
    fn note_lost(&self, first: Lsn, last: Lsn) {
        if first <= last {
            let group = &**self.group.key();
            warn!(
                group,
                first, last, "a shared subscription missed events: the log had removed them"
            );
            self.group.metrics.lost.inc_by(1 + last - first);
        }
    }

    /// Reads as far as it takes to have the first one, or to know that it is gone.
    fn read_returned(&self, lsns: &BTreeSet<Lsn>) -> Result<(), ReadError> {
        let group = &self.group;
        let (mut reader, mut chunk) = (group.log.reader(self.from), Chunk::default());
        loop {
            let read = reader.read(&mut chunk, READ_BYTES)?;
            let mut found = Vec::new();
            if read == Read::Frames {
                let events = chunk.frames().flat_map(|frame| frame.events()).flatten();
                let wanted = events.filter(|event| lsns.contains(&event.lsn()));
                found.extend(wanted.map(|event| (event.lsn(), group.copy(&event))));
            }
            let mut state = group.lock();
            for (lsn, event) in found {
                if state.returned.remove(&lsn) {
                    state.fetched.insert(lsn, event);
                }
            }
            if read != Read::Tail && reader.position() <= self.from {
                continue;
            }
            // The first one is there, or it is nowhere; so are others before the reader's place.
            let gone: Vec<Lsn> = lsns
                .range(..reader.position().max(self.from + 1))
                .copied()
                .filter(|lsn| state.returned.remove(lsn))
                .collect();
            state.weigh();
            drop(state);
            if let (Some(first), Some(last)) = (gone.first(), gone.last()) {
                let group = &**group.key();
                warn!(
                    group,
                    first, last, "events of a shared subscription are not in the log any more"
                );
                self.group.metrics.lost.inc_by(gone.len() as u64);
            }
            return Ok(());
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.group.job_done();
    }
}
