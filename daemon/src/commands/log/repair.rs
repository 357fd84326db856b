//! `tidegate log repair`

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::lsns;
use crate::commands::Failure;
use crate::commands::lookup::{self, LogDir, size};
use crate::log::{Change, Claim, Engine, Recovery, View};

/// Puts the log in order.
///
/// Starting the gateway does the same: this shows it, or does it before.
#[derive(Debug, clap::Args)]
pub(in crate::commands) struct Options {
    #[command(flatten)]
    log: LogDir,
    /// Say what would be done, and do nothing; the gateway may run
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub(super) fn run(options: &Options) -> Result<String, Failure> {
    let settings = options.log.options()?;
    let dir = settings.dir.clone();
    let view = lookup::view(&settings)?;
    if options.dry_run {
        return Ok(dry_run(&view, &dir));
    }
    check_owner(&dir)?;
    // It may have taken the log.
    drop(view);
    let storage = Engine::Log.storage(&dir);
    let claim = Claim::new(storage, settings).map_err(|error| lookup::refused(&error))?;
    let (log, recovery) = claim.open(None).map_err(|error| lookup::refused(&error))?;
    drop(log);
    let mut report = format!("{}:\n", dir.display());
    done(&recovery, &mut report);
    Ok(report)
}

/// A file that root makes here the gateway could not open.
fn check_owner(dir: &Path) -> Result<(), Failure> {
    let owner = fs::metadata(dir).map_err(|error| lookup::unreadable(&error))?.uid();
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let dir = dir.display();
    Err(Failure::new(
        Failure::EX_NOPERM,
        format!(
            "{dir} belongs to the user with the number {owner}: files made by another one could keep \
             the gateway from starting; run this as that user (sudo -u '#{owner}' …)"
        ),
    ))
}

fn dry_run(view: &View, dir: &Path) -> String {
    let mut report = format!("{}:\n", dir.display());
    if let Some(pid) = lookup::in_use_by(dir) {
        // A String takes everything.
        let _ = writeln!(
            report,
            "  in use by process {pid}, which put it in order when it started: what follows may be a \
             commit under way"
        );
    }
    let before = report.len();
    for change in view.changes() {
        let _ = match change {
            Change::Created(path) => writeln!(report, "  would create {}", path.display()),
            Change::Moved { from, to } => {
                writeln!(report, "  would move {} to {}", from.display(), to.display())
            }
            Change::Cut { path, from, to } => writeln!(
                report,
                "  would cut {} from {from} to {to} bytes: the rest is a commit that nobody was told of",
                path.display()
            ),
            Change::Written { path, offset, bytes } => writeln!(
                report,
                "  would write {} at byte {offset} of {}",
                size(*bytes as u64),
                path.display()
            ),
            Change::Removed(path) => writeln!(report, "  would remove {}", path.display()),
        };
    }
    for lost in &view.recovery().quarantined {
        let _ = writeln!(report, "  would enter in the loss ledger: {}", lsns(lost));
    }
    if report.len() == before {
        report.push_str("  in order: nothing to do\n");
    }
    report
}

fn done(recovery: &Recovery, report: &mut String) {
    let before = report.len();
    for path in &recovery.set_aside {
        let _ = writeln!(report, "  set aside: {}", path.display());
    }
    if recovery.torn_bytes > 0 {
        let torn = size(recovery.torn_bytes);
        let _ = writeln!(report, "  cut: {torn} of a commit that nobody was told of");
    }
    for lost in &recovery.quarantined {
        let _ = writeln!(report, "  entered in the loss ledger: {}", lsns(lost));
    }
    if recovery.control_lost > 0 {
        let places = recovery.control_lost;
        let _ = writeln!(report, "  damaged, without an event: {places}, kept in quarantine/");
    }
    if report.len() == before {
        report.push_str("  in order: nothing was to be done\n");
    }
}
