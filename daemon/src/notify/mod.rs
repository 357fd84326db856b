//! What the daemon says to the service manager that started it, and what it is handed by it: the
//! protocol of `sd_notify(3)` and `sd_listen_fds(3)`.
//!
//! | said | when |
//! |---|---|
//! | `READY=1` | every listener is bound and recovery is done |
//! | `STATUS=` | with it, then every few seconds when it changed: events, lag, open alerts |
//! | `RELOADING=1`, `MONOTONIC_USEC=` | on SIGHUP; `READY=1` afterwards |
//! | `WATCHDOG=1` | four times a watchdog interval, while nothing stands still ([`crate::progress`]) |
//! | `STOPPING=1` | when the drain begins |
//!
//! What stands still for half the interval stops the pings, so it costs at most one and a half
//! intervals until the service manager starts the daemon again.
//!
//! Nobody listens where `NOTIFY_SOCKET` is not set: then nothing is said. With the cargo feature
//! `systemd` the messages go through libsystemd, without it through a socket of ours; they are the
//! same.

#[cfg(any(test, not(feature = "systemd")))]
mod datagram;
mod message;
mod service;
mod sockets;
#[cfg(test)]
mod tests;

pub use service::Service;
pub use sockets::{Sockets, SocketsProblem};
