//! Events that were appended as gone, until they stand in the ledger.
//!
//! Where a full lane drops its newest events, one entry says what was dropped in a second or so. Until then
//! the records themselves say it, which are as durable; who reads them meanwhile can ask here. They are in the
//! newest segment: no other is begun before the entry is on disk. So whoever opens the log finds them there,
//! though some sink may have passed them.

use std::io;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_event::record::{InLane, InLanes};
use tidegate_event::{Lane, Lsn};

use super::ledger::{Ledger, Loss, Reason};
use super::{Log, Reader};

/// What was appended as gone.
#[derive(Debug, Default)]
pub(super) struct Gone {
    state: Mutex<State>,
    /// Whether the ledger has what the disk does not. Held by the one who enters: what is on its way is his.
    owed: Mutex<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// By lane: between which LSNs, and how many.
    new: Vec<Part>,
    /// They are on their way into the ledger.
    leaving: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    lane: Lane,
    lsns: RangeInclusive<Lsn>,
    count: u64,
}

impl Gone {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owed(&self) -> MutexGuard<'_, bool> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what of a commit with these LSNs is gone.
    pub(super) fn note(&self, parts: &InLanes, lsns: &RangeInclusive<Lsn>) {
        for part in parts.iter().filter(|part| part.gone > 0) {
            let (lane, count) = (part.lane, u64::from(part.gone));
            let mut state = self.lock();
            match state.new.iter_mut().find(|known| known.lane == lane) {
                Some(known) => {
                    known.lsns = *known.lsns.start()..=*lsns.end();
                    known.count += count;
                }
                None => state.new.push(Part { lane, lsns: lsns.clone(), count }),
            }
        }
    }

    /// The same, but for what the ledger says already: that may be in memory only.
    pub(super) fn note_unknown(
        &self,
        parts: &InLanes,
        lsns: &RangeInclusive<Lsn>,
        ledger: &Ledger,
    ) {
        let (known, unknown): (Vec<InLane>, Vec<InLane>) = parts
            .iter()
            .filter(|part| part.gone > 0)
            .partition(|part| ledger.knows_dropped(part.lane, lsns));
        *self.owed() |= !known.is_empty();
        self.note(&unknown.into_iter().collect(), lsns);
    }

    fn covers(&self, lane: Lane, lsns: &RangeInclusive<Lsn>) -> bool {
        let state = self.lock();
        let covers = |part: &Part| {
            part.lane == lane && part.lsns.start() <= lsns.start() && part.lsns.end() >= lsns.end()
        };
        state.new.iter().chain(&state.leaving).any(covers)
    }

    /// Puts all that was noted into the ledger. Answers what that was, and whether all of it, and all that was
    /// before, is on disk. Waits for the disk.
    pub(super) fn enter(&self, ledger: &Ledger) -> (Vec<(Lane, u64)>, io::Result<()>) {
        let mut owed = self.owed();
        let mut state = self.lock();
        state.leaving = std::mem::take(&mut state.new);
        let leaving = state.leaving.clone();
        drop(state);
        let of = |Part { lane, lsns, count }: Part| Loss {
            count,
            ..Loss::now(lane, lsns, Reason::Dropped)
        };
        let entered = match &*leaving {
            [] if !*owed => Ok(()),
            // It was said when it could not be written.
            [] => ledger.catch_up(),
            some => ledger.record_all(some.iter().cloned().map(of)),
        };
        self.lock().leaving.clear();
        *owed = entered.is_err();
        (leaving.into_iter().map(|part| (part.lane, part.count)).collect(), entered)
    }
}

impl Log {
    /// Enters in the ledger what was appended as gone since the last time. Waits for the disk.
    pub fn enter_gone(&self) {
        // If the disk does not take it, it is tried again; the ledger has said so.
        let _ = self.shared.enter_gone();
    }
}

impl Reader {
    /// Whether the ledger says of all these events of a lane that they were dropped, thinned out or have
    /// expired, or is about to say so.
    pub fn knows_gone(&self, lane: Lane, lsns: &RangeInclusive<Lsn>) -> bool {
        let shared = self.shared();
        shared.gone.covers(lane, lsns) || shared.ledger.knows_gone(lane, lsns)
    }

    /// What of these LSNs, none of which is in the log any more, the ledger does not say that it was dropped,
    /// thinned out or has expired, in whatever lane.
    pub fn not_gone(&self, lsns: &RangeInclusive<Lsn>) -> Vec<RangeInclusive<Lsn>> {
        self.shared().ledger.not_gone(lsns)
    }
}
