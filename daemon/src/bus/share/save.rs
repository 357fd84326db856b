//! What of a group outlasts the daemon: what it tells the log, and what the state has of it.

use tidegate_event::Lsn;

use super::group::Group;
use super::lend::Next;
use super::records::{Record, Standing};
use super::state::State;
use crate::log::Append;

impl Group {
    /// It stands there. The bus begins behind `applied`.
    pub(super) fn stand(&self, standing: &Standing, applied: Lsn) {
        let mut state = self.lock();
        let next = match standing.waits {
            true => standing.next,
            false => standing.next.max(applied.saturating_add(1)),
        };
        state.behind = (next <= applied).then_some(next);
        state.skipped = applied;
        (state.next, state.live_from) = (next, next);
        let committed = self.log.committed();
        state.returned = standing.owed.iter().copied().filter(|lsn| *lsn <= committed).collect();
        state.taken = standing.taken.range(next..).copied().collect();
    }

    /// QoS 2 for a session that is not kept: nobody else would know after a crash that it was sent.
    pub(super) fn record_taken(&self, lsns: &[Lsn]) -> Next {
        if lsns.is_empty() {
            return Next::Send;
        }
        let mut record = Vec::new();
        Record::Taken(lsns.to_vec()).write(self.key(), &mut record);
        match self.log.append_control(&record) {
            Append::Accepted(commit) => Next::Commit(commit),
            _ => Next::Room(record.len()),
        }
    }

    /// Takes note of a record for the log.
    pub(super) fn note(&self, state: &mut State, record: &Record) {
        record.write(self.key(), &mut state.unlogged);
        // Refused, whoever comes next tries again.
        let _ = self.write_down(state);
    }

    /// Hands to the log what it does not have yet. False if it takes nothing for now.
    pub(super) fn write_down(&self, state: &mut State) -> bool {
        if !state.unlogged.is_empty()
            && let Append::Accepted(_) = self.log.append_control(&state.unlogged)
        {
            state.unlogged.clear();
        }
        state.unlogged.is_empty()
    }

    /// Where it stands, and what the state is to have of it, unless that is what `last` says. The log
    /// is told too.
    pub(super) fn save(&self, seen: Lsn, last: Option<&Standing>) -> (Standing, Option<Vec<u8>>) {
        let mut state = self.lock();
        self.write_down(&mut state);
        let waits_from = state.waits_from();
        let standing = Standing {
            next: waits_from.unwrap_or(state.next),
            waits: waits_from.is_some(),
            owed: state.owed(),
            taken: state.taken.clone(),
        };
        if last == Some(&standing) {
            return (standing, None);
        }
        let next = waits_from.unwrap_or(state.next.max(seen));
        if state.unlogged.is_empty() {
            self.note(
                &mut state,
                &Record::Position { next, waits: true, owed: standing.owed.clone() },
            );
        }
        let encoded = Standing { next, ..standing.clone() }.encode(self.key());
        (standing, Some(encoded))
    }
}
