//! Gateways whose second listener speaks TLS or WebSocket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::gateway::Gateway;
use crate::pki::{Pki, Wanted};
use crate::site::Site;

/// A free port on loopback.
pub const LOOPBACK: &str = "bind = \"127.0.0.1:0\"\n";

/// A gateway with a listener that speaks TLS, over `transport` and with `more` keys; and the root to trust.
#[track_caller]
pub fn encrypted(transport: &str, more: &str) -> (Gateway, PathBuf) {
    encrypted_within(transport, more, "")
}

/// The same, with further `sections`.
#[track_caller]
pub fn encrypted_within(transport: &str, more: &str, sections: &str) -> (Gateway, PathBuf) {
    let site = Site::new();
    let pki = Pki::new(&site, "ca");
    let server = pki.issue("server", Wanted::server());
    let root = pki.root();
    let listener = format!("{LOOPBACK}transport = {transport:?}\n{}{more}", server.listener());
    (Gateway::start_listening(site, &listener, sections), root)
}

/// A gateway with a listener that speaks WebSocket.
#[track_caller]
pub fn websocket() -> Gateway {
    let listener = format!("{LOOPBACK}transport = \"websocket\"\n");
    Gateway::start_listening(Site::new(), &listener, "")
}

/// Whether mosquitto_pub gets `1` to `plant/a`, with these arguments beside the message's.
///
/// # Panics
/// When it cannot be run.
#[track_caller]
pub fn publishes(broker: SocketAddr, arguments: &[&str]) -> bool {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", &broker.ip().to_string(), "-p", &broker.port().to_string()]);
    command.args(["-q", "1", "-t", "plant/a", "-m", "1"]).args(arguments);
    match command.output() {
        Ok(output) => output.status.success(),
        Err(error) => panic!("mosquitto_pub: {error}"),
    }
}

/// A path as an argument.
///
/// # Panics
/// When it is not UTF-8.
pub fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("{} is not UTF-8", path.display()))
}
