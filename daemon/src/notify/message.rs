//! Messages, and the two ways on which they go.

use std::io;

use rustix::time::{ClockId, clock_gettime};

/// One message: what is true from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Ready { status: String },
    Status(String),
    Reloading { monotonic_micros: i64 },
    Stopping { status: String },
    Watchdog,
}

impl Message {
    /// A reload begins now.
    pub(super) fn reloading() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self::Reloading { monotonic_micros: now.tv_sec * 1_000_000 + now.tv_nsec / 1_000 }
    }

    /// Its assignments, in order.
    pub(super) fn assignments(&self) -> Vec<(&'static str, String)> {
        let one = || "1".to_owned();
        match self {
            Self::Ready { status } => vec![("READY", one()), ("STATUS", line(status))],
            Self::Status(status) => vec![("STATUS", line(status))],
            Self::Reloading { monotonic_micros } => {
                vec![("RELOADING", one()), ("MONOTONIC_USEC", monotonic_micros.to_string())]
            }
            Self::Stopping { status } => vec![("STOPPING", one()), ("STATUS", line(status))],
            Self::Watchdog => vec![("WATCHDOG", one())],
        }
    }
}

/// A newline would begin another assignment.
fn line(text: &str) -> String {
    text.replace('\n', " ")
}

/// Sends a message to whoever started the daemon. Answers whether anybody asked for it.
#[cfg(feature = "systemd")]
pub(super) fn send(message: &Message) -> io::Result<bool> {
    Ok(systemd::daemon::notify(message.assignments().iter())?)
}

/// Sends a message to whoever started the daemon. Answers whether anybody asked for it.
#[cfg(not(feature = "systemd"))]
pub(super) fn send(message: &Message) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) => super::datagram::send(&socket, &message.assignments()).map(|()| true),
        None => Ok(false),
    }
}
