//! A listener on a real log in a temporary directory, and a client that says exactly what it is told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidegate_config::Limits;
use tidegate_event::Lane;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::disk::{Disk, Hung};
use crate::bus::{self, BusHandle};
use crate::clock::Clock;
use crate::gate::{Gate, Peer};
use crate::listener::transport::Footprint;
use crate::listener::{Listener, Metrics, Parts, Sessions, Shared, Transport, connect};
use crate::log::{Log, Options, Storage};
use crate::memory::Memory;
use crate::state::{State, StateError};
use crate::supervise::{Role, Supervisor};

/// Whatever a test waits for comes within this time, or never.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Broker {
    pub(super) address: SocketAddr,
    /// First of those with a drop: the log's waits for its writer, and so for the disk.
    pub(super) disk: Hung,
    pub(super) log: Arc<Log>,
    pub(super) metrics: Metrics,
    pub(super) bus_metrics: bus::Metrics,
    pub(super) state: State,
    shared: Shared,
    dir: Arc<TempDir>,
}

impl Broker {
    pub(super) async fn start() -> Self {
        Self::with(Limits::default(), 64 << 20).await
    }

    /// `max_size` is the log's, in bytes.
    pub(super) async fn with(limits: Limits, max_size: u64) -> Self {
        Self::on(Arc::new(tempfile::tempdir().unwrap()), limits, max_size)
    }

    fn on(dir: Arc<TempDir>, limits: Limits, max_size: u64) -> Self {
        let disk = Disk::default();
        let log = open(Arc::new(disk.clone()), dir.path().join("log"), max_size);
        Self { disk: Hung(disk), ..Self::over(log, dir, limits) }
    }

    /// With this log; its state is in `dir`.
    pub(super) fn over(log: Arc<Log>, dir: Arc<TempDir>, limits: Limits) -> Self {
        let state = open_state(&dir.path().join("state"));
        state.bind(log.id(0).epoch).unwrap();
        let supervisor = Supervisor::new();
        let bus_metrics = bus::Metrics::default();
        let tree = state.tree(bus::TREE).unwrap();
        let memory = Memory::new(limits.max_memory.as_usize());
        let (bus, prepared) =
            BusHandle::prepare(Arc::clone(&log), tree, &limits, memory, bus_metrics.clone())
                .unwrap();
        let gate = Arc::new(Gate::new(Arc::clone(&log), &limits, Clock::new()));
        let metrics = Metrics::default();
        let parts = Parts {
            log: &log,
            gate: &gate,
            bus: &bus,
            state: &state,
            limits: &limits,
            metrics: &metrics,
        };
        let sessions = Sessions::restore(&parts).unwrap();
        prepared.start(sessions.position(), &supervisor);
        sessions.start(&state, &supervisor);
        let shared = Shared::new(gate, sessions, limits, metrics.clone(), supervisor.clone());
        let listener =
            Listener::bind("127.0.0.1:0".parse().unwrap(), true, Transport::default()).unwrap();
        let address = listener.local_addr().unwrap();
        listener.serve(shared.clone());
        let disk = Hung(Disk::default());
        Self { address, log, metrics, bus_metrics, disk, state, shared, dir }
    }

    /// Drains, as SIGTERM makes the daemon do.
    pub(super) async fn stop(self) -> Arc<TempDir> {
        let supervisor = &self.shared.supervisor;
        supervisor.begin_drain();
        timeout(LIMIT, supervisor.ended()).await.expect("the drain takes too long");
        assert_eq!(supervisor.failure(), None);
        self.log.close().await;
        self.dir
    }

    pub(super) async fn restart(self) -> Self {
        let dir = self.stop().await;
        Self::on(dir, Limits::default(), 64 << 20)
    }

    /// A connection that has said nothing yet.
    pub(super) async fn dial(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, unread: Vec::new() }
    }

    /// A connection inside the process, which holds `room` bytes each way.
    pub(super) fn pipe(&self, room: usize) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(room);
        let peer = Peer::new(self.address, true);
        let place = self.shared.places.take(self.address.ip(), Footprint::default()).unwrap();
        let deadline = Instant::now() + LIMIT;
        let connection = connect::run(theirs, peer, place, deadline, self.shared.clone());
        self.shared.supervisor.spawn("pipe", Role::Ordinary, connection);
        ours
    }

    /// A connected MQTT 3.1.1 client with a clean session.
    pub(super) async fn client_4(&self, id: &str) -> Client {
        let mut client = self.dial().await;
        client.send(&connect(4, id)).await;
        assert_eq!(client.packet().await, [0x20, 2, 0, 0]);
        client
    }

    /// A connected MQTT 5 client with a clean start.
    pub(super) async fn client_5(&self, id: &str) -> Client {
        let mut client = self.dial().await;
        client.send(&connect(5, id)).await;
        let connack = client.packet().await;
        assert_eq!((connack[0], &connack[2..4]), (0x20, &[0, 0][..]));
        client
    }
}

/// Waits until `holds`.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, wait).await.expect("what is waited for does not come");
}

/// Opens the state, which whoever had it before may take a moment to let go of.
fn open_state(dir: &Path) -> State {
    let until = Instant::now() + LIMIT;
    loop {
        match State::open(dir) {
            Err(StateError::InUse { .. }) if Instant::now() < until => std::thread::yield_now(),
            opened => return opened.unwrap().0,
        }
    }
}

pub(super) fn open(storage: Arc<dyn Storage>, dir: PathBuf, max_size: u64) -> Arc<Log> {
    let options = Options {
        dir,
        lane: Lane(0),
        max_size,
        segment_size: max_size / 8,
        max_delay: Duration::ZERO,
        max_bytes: 256 << 10,
        ..Options::default()
    };
    Log::open(storage, options).unwrap().0
}

pub(super) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends what the other side may not want to read.
    pub(super) async fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next packet; empty at the connection's end.
    pub(super) async fn packet(&mut self) -> Vec<u8> {
        timeout(LIMIT, self.read()).await.expect("no packet and no end")
    }

    async fn read(&mut self) -> Vec<u8> {
        loop {
            if let Some(length) = packet_length(&self.unread) {
                return self.unread.drain(..length).collect();
            }
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) | Err(_) => return Vec::new(),
                Ok(_) => {}
            }
        }
    }

    /// Sends `packet` and takes the answer.
    pub(super) async fn ask(&mut self, packet: &[u8]) -> Vec<u8> {
        self.send(packet).await;
        self.packet().await
    }

    /// Subscribes to `filter` with `options`; nothing may come before the SUBACK.
    pub(super) async fn subscribe(&mut self, version: u8, filter: &str, options: u8) -> u8 {
        let suback = self.ask(&subscribe(version, 10, filter, options)).await;
        assert_eq!((suback[0], &suback[2..4]), (0x90, &[0, 10][..]));
        suback[suback.len() - 1]
    }

    /// Nothing has come, up to an answer to a PINGREQ.
    pub(super) async fn expect_quiet(&mut self) {
        assert_eq!(self.ask(&[0xc0, 0]).await, [0xd0, 0]);
    }
}

pub(super) fn packet_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(at + 2 + length).filter(|total| *total <= bytes.len());
        }
    }
    None
}

/// A packet with this first byte and body.
pub(super) fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    let mut length = body.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(body);
    bytes
}

pub(super) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// CONNECT, clean, keep-alive 0.
pub(super) fn connect(level: u8, id: &str) -> Vec<u8> {
    connect_with(level, id, 2, &[], &[])
}

/// CONNECT with these flags, properties and what follows the client id.
pub(super) fn connect_with(
    level: u8,
    id: &str,
    flags: u8,
    properties: &[u8],
    rest: &[u8],
) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend_from_slice(&[level, flags, 0, 0]);
    if level == 5 {
        body.push(properties.len() as u8);
        body.extend_from_slice(properties);
    }
    body.extend(text(id));
    body.extend_from_slice(rest);
    packet(0x10, &body)
}

/// PUBLISH; no packet id with QoS 0.
pub(super) fn publish(version: u8, flags: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    publish_with(version, flags, id, topic, &[], payload)
}

pub(super) fn publish_with(
    version: u8,
    flags: u8,
    id: u16,
    topic: &str,
    properties: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 6 != 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if version == 5 {
        body.push(properties.len() as u8);
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(payload);
    packet(0x30 | flags, &body)
}

pub(super) fn subscribe(version: u8, id: u16, filter: &str, options: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == 5 {
        body.push(0);
    }
    body.extend(text(filter));
    body.push(options);
    packet(0x82, &body)
}
