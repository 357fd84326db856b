//! A service manager as the gateway sees one: the socket it talks to.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;

use crate::wait::wait_for;

/// Hears what is sent to an abstract socket of its own.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    /// Begins to listen.
    ///
    /// # Panics
    /// When there can be no such socket.
    pub fn new() -> Self {
        let name = format!("tidegate-manager-{:016x}", fastrand::u64(..));
        let socket =
            SocketAddr::from_abstract_name(&name).and_then(|a| UnixDatagram::bind_addr(&a));
        let socket = socket.unwrap_or_else(|error| panic!("@{name}: {error}"));
        if let Err(error) = socket.set_nonblocking(true) {
            panic!("@{name}: {error}");
        }
        Self { socket, name }
    }

    /// Lets `command` notify it.
    pub fn invite(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", format!("@{}", self.name));
    }

    /// The next message that came, if there is one: its lines.
    pub fn heard(&self) -> Option<Vec<String>> {
        let mut buffer = [0; 4096];
        let len = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).lines().map(str::to_owned).collect())
    }

    /// Waits for a message with a line that begins with `start`, passing over others.
    ///
    /// # Panics
    /// When it does not come within `limit`.
    #[track_caller]
    pub fn hear(&self, start: &str, limit: Duration) -> Vec<String> {
        wait_for(&format!("a message with {start}"), limit, || {
            let heard = std::iter::from_fn(|| self.heard());
            heard.into_iter().find(|lines| lines.iter().any(|line| line.starts_with(start)))
        })
    }
}

impl Default for Manager {
    fn default() -> Self {
        Self::new()
    }
}
