//! The demo's line a second.

use std::io::{IsTerminal, Write};

use crate::gateway::Status;
use crate::receiver::Counts;

/// Prints progress on standard output: in place on a terminal, line after line elsewhere.
#[derive(Debug)]
pub(super) struct Progress {
    in_place: bool,
    open: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { in_place: std::io::stdout().is_terminal(), open: false }
    }

    /// Shows how things stand.
    pub(super) fn show(&mut self, gateway: &Status, receiver: &Counts, upstream: bool) {
        let line = line(gateway, receiver, upstream);
        if self.in_place {
            self.write(&format!("\r\x1b[2K{line}"));
            self.open = true;
        } else {
            self.write(&format!("{line}\n"));
        }
    }

    /// Prints something that stays.
    pub(super) fn say(&mut self, text: &str) {
        let end = if std::mem::take(&mut self.open) { "\n" } else { "" };
        self.write(&format!("{end}{text}\n"));
    }

    /// Whoever started the demo need not read it.
    fn write(&self, text: &str) {
        let mut out = std::io::stdout();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn line(gateway: &Status, receiver: &Counts, upstream: bool) -> String {
    format!(
        "in {} | on disk {} | forwarded {} | lag {} | alerts {} open, {} raised | upstream {}: {} events, \
         {} gaps, {} duplicates",
        gateway.received,
        gateway.log.last_lsn,
        gateway.forwarded(),
        gateway.lag(),
        gateway.alerts.open,
        gateway.alerts.raised,
        if upstream { "up" } else { "AWAY" },
        receiver.events,
        receiver.missing,
        receiver.duplicates,
    )
}
