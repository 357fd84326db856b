//! The brokers, each started fresh for a round.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::rumqttd;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::process::Process;
use tidegate_tests::site::{Site, free_port};
use tidegate_tests::wait::{SOON, eventually};

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It acknowledges what is in memory.
    Mosquitto,
    /// It acknowledges what is in memory.
    Rumqttd,
    /// It acknowledges what is on disk.
    Tidegate,
}

/// The gateway and mosquitto, in the order of a round: the next round turns it around.
pub(crate) fn order(round: usize) -> [Kind; 2] {
    match round % 2 {
        0 => [Kind::Mosquitto, Kind::Tidegate],
        _ => [Kind::Tidegate, Kind::Mosquitto],
    }
}

/// All three, in the order of a round: each is first, second and last in turn.
pub(crate) fn rotate(round: usize) -> [Kind; 3] {
    let mut kinds = [Kind::Mosquitto, Kind::Tidegate, Kind::Rumqttd];
    kinds.rotate_left(round % 3);
    kinds
}

/// A log that no measurement fills, and nothing else beside the defaults.
pub(crate) const ROOMY: &str = "[log]\nmax-size = \"16GiB\"\n";

/// A running broker with its data in a directory of its own.
#[derive(Debug)]
pub(crate) enum Broker {
    Peer { process: Process, address: SocketAddr, _site: Site },
    Tidegate(Box<Gateway>),
}

impl Broker {
    pub(crate) fn start(kind: Kind, dir: &Path) -> Self {
        match kind {
            Kind::Mosquitto => mosquitto(dir),
            Kind::Rumqttd => rumqttd(dir),
            Kind::Tidegate => Self::Tidegate(Box::new(Gateway::start_at(Site::below(dir), ROOMY))),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Peer { address, .. } => *address,
            Self::Tidegate(gateway) => gateway.mqtt(),
        }
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        match self {
            Self::Peer { process, .. } => process,
            Self::Tidegate(gateway) => gateway.process(),
        }
    }
}

/// As fast as it gets while it keeps what it must keep: persistence as Debian ships it, no logging,
/// no Nagle, windows wide open.
pub(crate) fn start_mosquitto(site: &Site, more: &str) -> (Process, SocketAddr) {
    let port = free_port();
    let config = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n\
         persistence_location {}/\nset_tcp_nodelay true\nlog_type none\n\
         max_inflight_messages 0\nmax_queued_messages 0\n{more}",
        site.path().display()
    );
    let config = site.write("mosquitto.conf", &config);
    let program = ["/usr/sbin/mosquitto", "mosquitto"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("mosquitto");
    let mut command = site.ordinary(program);
    command.arg("-c").arg(config);
    started("mosquitto", command, port, site)
}

fn mosquitto(dir: &Path) -> Broker {
    let site = Site::below(dir);
    let (process, address) = start_mosquitto(&site, "");
    Broker::Peer { process, address, _site: site }
}

fn rumqttd(dir: &Path) -> Broker {
    let site = Site::below(dir);
    let port = free_port();
    let program = std::env::current_exe().unwrap_or_else(|error| panic!("this program: {error}"));
    let mut command = site.ordinary(program);
    command.arg(rumqttd::ARGUMENT).arg(port.to_string());
    let (process, address) = started("rumqttd", command, port, &site);
    Broker::Peer { process, address, _site: site }
}

fn started(name: &str, command: Command, port: u16, site: &Site) -> (Process, SocketAddr) {
    let process = Process::start(name, command, site.path());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the peer listens", SOON, || std::net::TcpStream::connect(address).is_ok());
    (process, address)
}
