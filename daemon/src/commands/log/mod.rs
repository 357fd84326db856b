//! `tidegate log`: what the log holds, whether all of it can be read, and what opening it would put in
//! order.

mod inspect;
mod repair;
mod verify;

use std::fmt::Write;
use std::ops::RangeInclusive;

use clap::Subcommand;
use tidegate_event::Lsn;

use super::Failure;
use super::lookup::{self, LogDir};
use crate::log::{Loss, Reason, View};

/// The log's segments, losses and quarantine. The gateway may run meanwhile.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show segments, LSNs, times, the loss ledger and the quarantine
    Inspect(inspect::Options),
    /// Read everything, and say what is damaged; the exit status is 65 then
    Verify(LogDir),
    /// Put the log in order as starting the gateway would; the gateway must not run
    Repair(repair::Options),
}

impl Command {
    /// Runs the command: the report for standard output.
    pub(super) fn run(&self) -> Result<String, Failure> {
        match self {
            Self::Inspect(options) => inspect::run(options),
            Self::Verify(log) => verify::run(&log.options()?),
            Self::Repair(options) => repair::run(options),
        }
    }
}

/// `LSN 5 to 9 (5 events)`
fn lsns(lsns: &RangeInclusive<Lsn>) -> String {
    let count = lsns.end().saturating_sub(*lsns.start()).saturating_add(1);
    match count {
        1 => format!("LSN {} (1 event)", lsns.start()),
        _ => format!("LSN {} to {} ({count} events)", lsns.start(), lsns.end()),
    }
}

/// The entries of the loss ledger, a line each.
fn losses(view: &View, entries: &[Loss], report: &mut String) {
    for loss in entries {
        let whole = loss.lsns.end().saturating_sub(*loss.lsns.start()).saturating_add(1);
        let lsns = match loss.count {
            count if count < whole => {
                let (first, last) = (loss.lsns.start(), loss.lsns.end());
                let lane = view.lanes().name(loss.lane);
                format!("{count} events of lane {lane} from LSN {first} to {last}")
            }
            _ => lsns(&loss.lsns),
        };
        let why = match loss.reason {
            Reason::Damaged => "damaged",
            Reason::Missing => "missing",
            Reason::Released => "removed before a sink had them",
            Reason::Expired => "expired",
            Reason::Dropped => "dropped, because their lane was full",
            Reason::Thinned => "thinned out, because their lane was full",
        };
        let noticed = lookup::time(loss.unix_micros);
        // A String takes everything.
        let _ = writeln!(report, "  {lsns}: {why}, noticed {noticed}");
    }
}
