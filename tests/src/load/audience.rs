//! Subscribers that only count what they are sent.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::time::Timespec;

use super::BREATH;
use crate::packet::{self, CONNACK, PUBLISH, SUBACK, Version};
use crate::wire::Wire;

const LOOK_UP: Duration = Duration::from_millis(20);
const INPUT: usize = 256 * 1024;

/// Connections that subscribed to the load's topics at QoS 0, driven by a thread of their own.
#[derive(Debug)]
pub struct Audience {
    thread: Option<JoinHandle<io::Result<()>>>,
    delivered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Listener {
    stream: TcpStream,
    input: Vec<u8>,
    filled: usize,
}

impl Audience {
    /// Connects and subscribes `count` clients.
    ///
    /// # Panics
    /// When one is not let in.
    #[track_caller]
    pub fn connect(broker: SocketAddr, count: usize) -> Self {
        let delivered = Arc::<AtomicU64>::default();
        let stop = Arc::<AtomicBool>::default();
        let listeners = (0..count).map(|n| Listener::connect(broker, n)).collect::<Vec<_>>();
        let (counter, end) = (Arc::clone(&delivered), Arc::clone(&stop));
        let thread = thread::spawn(move || listen(listeners, &counter, &end));
        Self { thread: Some(thread), delivered, stop }
    }

    /// Messages that all of them together were sent so far.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Disconnects.
    ///
    /// # Errors
    /// When a connection broke before.
    pub fn leave(mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => Err(io::Error::other("the subscribers' thread panicked")),
        }
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Listener {
    #[track_caller]
    fn connect(broker: SocketAddr, number: usize) -> Self {
        let mut wire = Wire::open(broker);
        wire.send(&packet::connect(Version::V4, &format!("audience-{number:02}")));
        assert!(matches!(wire.answer(), Some((CONNACK, body)) if body.get(1) == Some(&0)));
        wire.send(&packet::subscribe(Version::V4, 1, "plant/#", 0));
        assert!(matches!(wire.answer(), Some((SUBACK, body)) if body.last() == Some(&0)));
        let (stream, left) = wire.into_parts();
        let mut input = vec![0; INPUT.max(left.len())];
        input[..left.len()].copy_from_slice(&left);
        Self { stream, input, filled: left.len() }
    }

    /// Reads what has come; answers how many messages that was.
    fn read(&mut self) -> io::Result<u64> {
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.filled += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        }
        let mut count = 0;
        let mut rest = &self.input[..self.filled];
        while let Some((packet, after)) = packet::split(rest) {
            rest = after;
            count += u64::from(packet.first & 0xf0 == PUBLISH);
        }
        let left = rest.len();
        self.input.copy_within(self.filled - left..self.filled, 0);
        self.filled = left;
        Ok(count)
    }
}

fn listen(
    mut listeners: Vec<Listener>,
    delivered: &AtomicU64,
    stop: &AtomicBool,
) -> io::Result<()> {
    let epoll: OwnedFd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (n, listener) in listeners.iter().enumerate() {
        listener.stream.set_nonblocking(true)?;
        epoll::add(&epoll, &listener.stream, EventData::new_u64(n as u64), EventFlags::IN)?;
    }
    let pause = Timespec { tv_sec: 0, tv_nsec: LOOK_UP.as_nanos() as _ };
    let mut events = Vec::with_capacity(listeners.len());
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&pause)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let count = listeners[event.data.u64() as usize].read()?;
            delivered.fetch_add(count, Ordering::Relaxed);
        }
        thread::park_timeout(BREATH);
    }
    Ok(())
}
