//! Load: connections that publish at QoS 1 as fast as their windows allow, or at a rate, and
//! remember which messages were acknowledged.
//!
//! One thread drives them all over epoll. It writes every packet that a window has room for in one
//! system call and reads acknowledgements in bulk, so that it needs less than the broker it drives.
//!
//! A payload is a JSON object of a fixed size: `{"device":"load-03","seq":        17,"value":21.5,
//! "pad":"…"}`. Device and `seq` (from 0, never used twice, over all connections of a device) name
//! the message.

mod audience;
mod histogram;
mod publisher;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::packet::Version;
use crate::wait::eventually;

pub use audience::Audience;
pub use histogram::Histogram;
pub use publisher::Publisher;

/// Due messages are sent together this often.
const TICK: Duration = Duration::from_millis(1);
const TICKS_A_SECOND: u64 = 1000;
/// Flat out, the thread sleeps this long between two looks: brokers that write each acknowledgement by
/// itself need not wake it each time (mosquitto gains 10 %), and what it does not use is theirs.
const BREATH: Duration = Duration::from_micros(200);
/// How often a run looks whether it is over.
const LOOK_UP: Duration = Duration::from_millis(20);
/// How long the last answers may take.
const GRACE: Duration = Duration::from_secs(10);

/// Publishers that were answered nothing for that long are held back.
const STILL: Duration = Duration::from_millis(500);

/// What the load is like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Connections, each a device of its own.
    pub connections: usize,
    /// Messages of one connection that wait for their acknowledgement.
    pub window: u16,
    /// Bytes of a payload, at least 80.
    pub payload: usize,
    /// Of the protocol.
    pub version: Version,
}

impl Default for Shape {
    fn default() -> Self {
        Self { connections: 10, window: 100, payload: 200, version: Version::V4 }
    }
}

/// When a run stops sending: at the first of these. It ends when what it sent is answered.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// After this many messages.
    pub messages: u64,
    /// After this time.
    pub time: Duration,
    /// Messages a second over all connections; none: as many as the windows allow.
    pub rate: Option<u64>,
}

impl Run {
    /// `messages`, flat out, within `time`.
    pub fn messages(messages: u64, time: Duration) -> Self {
        Self { messages, time, rate: None }
    }

    /// For `time`, flat out.
    pub fn time(time: Duration) -> Self {
        Self { messages: u64::MAX, time, rate: None }
    }

    /// At `rate` messages a second.
    pub fn at_rate(self, rate: u64) -> Self {
        Self { rate: Some(rate), ..self }
    }
}

/// What a run did.
#[derive(Debug)]
pub struct Report {
    /// Messages written.
    pub sent: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages refused with a reason code (MQTT 5); they are not acknowledged.
    pub refused: u64,
    /// From the first write to the last acknowledgement.
    pub elapsed: Duration,
    /// From when a message was due to when its acknowledgement was read.
    pub latency: Histogram,
    /// The driving thread's time on a processor.
    pub cpu: Duration,
    /// Why it ended before its time: a connection broke.
    pub broken: Option<String>,
}

impl Report {
    /// Acknowledgements a second.
    pub fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// The publishers, and what of theirs was acknowledged.
#[derive(Debug)]
pub struct Fleet {
    publishers: Vec<Publisher>,
    epoll: OwnedFd,
    /// Acknowledgements so far, to look at while a run goes on.
    progress: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Fleet {
    /// Connects `shape.connections` clients.
    ///
    /// # Errors
    /// When one is not let in.
    pub fn connect(broker: SocketAddr, shape: &Shape) -> io::Result<Self> {
        let publishers = (0..shape.connections).map(|n| Publisher::new(n, shape)).collect();
        let mut fleet = Self {
            publishers,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            progress: Arc::default(),
            stop: Arc::default(),
        };
        fleet.reconnect(broker)?;
        Ok(fleet)
    }

    /// Connects every client again. Messages that were not acknowledged are not sent again.
    ///
    /// # Errors
    /// When one is not let in.
    pub fn reconnect(&mut self, broker: SocketAddr) -> io::Result<()> {
        self.epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (n, publisher) in self.publishers.iter_mut().enumerate() {
            publisher.connect(broker)?;
            publisher.register(&self.epoll, n as u64)?;
        }
        Ok(())
    }

    /// The publishers.
    pub fn publishers(&self) -> &[Publisher] {
        &self.publishers
    }

    /// Messages acknowledged in all runs.
    pub fn acknowledged(&self) -> u64 {
        self.publishers.iter().map(Publisher::acknowledged).sum()
    }

    /// Runs in a thread of its own.
    pub fn start(mut self, run: Run) -> Running {
        let (progress, stop) = (self.progress.clone(), self.stop.clone());
        let thread = thread::spawn(move || {
            let report = self.run(run);
            (self, report)
        });
        Running { thread, progress, stop }
    }

    /// Publishes, and returns when `run` says so or a connection breaks.
    pub fn run(&mut self, run: Run) -> Report {
        self.stop.store(false, Ordering::Relaxed);
        let begin = Instant::now();
        let cpu = thread_cpu();
        let before = self.totals();
        self.publishers.iter_mut().for_each(|p| p.latency = Histogram::new());
        let broken = self.drive(run, begin).err().map(|error| error.to_string());
        let after = self.totals();
        let mut latency = Histogram::new();
        self.publishers.iter().for_each(|p| latency.add(&p.latency));
        let last = self.publishers.iter().filter_map(Publisher::last_answer).max();
        Report {
            sent: after.0 - before.0,
            acknowledged: after.1 - before.1,
            refused: after.2 - before.2,
            elapsed: last.map_or(begin.elapsed(), |last| last.saturating_duration_since(begin)),
            latency,
            cpu: thread_cpu().saturating_sub(cpu),
            broken,
        }
    }

    fn totals(&self) -> (u64, u64, u64) {
        self.publishers.iter().fold((0, 0, 0), |sum, p| {
            (sum.0 + p.sent(), sum.1 + p.acknowledged(), sum.2 + p.refused())
        })
    }

    fn drive(&mut self, run: Run, begin: Instant) -> io::Result<()> {
        let mut sent = 0;
        let mut turn = 0;
        if run.rate.is_none() {
            for publisher in &mut self.publishers {
                sent += publisher.publish(run.messages - sent, Instant::now());
                publisher.flush(&self.epoll)?;
            }
        }
        loop {
            let elapsed = begin.elapsed();
            let stopped = self.stop.load(Ordering::Relaxed);
            if elapsed >= run.time || stopped || sent >= run.messages {
                return self.collect();
            }
            let mut pause = LOOK_UP;
            if let Some(rate) = run.rate {
                let ticks = (elapsed.as_nanos() / TICK.as_nanos()) as u64;
                let due = (ticks * rate / TICKS_A_SECOND).min(run.messages);
                let due_at = begin + TICK * ticks as u32;
                sent += self.publish_due(due.saturating_sub(sent), due_at, &mut turn)?;
                pause = (due_at + TICK).saturating_duration_since(Instant::now());
            }
            if run.rate.is_none() {
                thread::park_timeout(BREATH);
            }
            for ready in self.ready(pause)? {
                let publisher = &mut self.publishers[ready];
                let answered = publisher.read()?;
                self.progress.fetch_add(answered, Ordering::Relaxed);
                if run.rate.is_none() {
                    sent += publisher.publish(run.messages - sent, Instant::now());
                }
                publisher.flush(&self.epoll)?;
            }
        }
    }

    /// Reads the answers to what was sent, unless they are held back.
    fn collect(&mut self) -> io::Result<()> {
        let begin = Instant::now();
        while self.publishers.iter().any(Publisher::is_waiting) && begin.elapsed() < GRACE {
            for ready in self.ready(LOOK_UP)? {
                let publisher = &mut self.publishers[ready];
                let answered = publisher.read()?;
                self.progress.fetch_add(answered, Ordering::Relaxed);
                publisher.flush(&self.epoll)?;
            }
        }
        Ok(())
    }

    /// Waits for publishers that can be read or written.
    fn ready(&self, pause: Duration) -> io::Result<Vec<usize>> {
        let pause = Timespec { tv_sec: 0, tv_nsec: pause.as_nanos() as _ };
        let mut events = Vec::with_capacity(self.publishers.len());
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&pause)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events.iter().map(|event| event.data.u64() as usize).collect())
    }

    /// Spreads `count` messages over the publishers that have room, in turn.
    fn publish_due(&mut self, count: u64, due: Instant, turn: &mut usize) -> io::Result<u64> {
        let mut left = count;
        let mut refused = 0;
        while left > 0 && refused < self.publishers.len() {
            let at = *turn % self.publishers.len();
            *turn += 1;
            if self.publishers[at].publish(1, due) == 1 {
                left -= 1;
                refused = 0;
            } else {
                refused += 1;
            }
        }
        for publisher in &mut self.publishers {
            publisher.flush(&self.epoll)?;
        }
        Ok(count - left)
    }
}

/// A run in a thread of its own.
#[derive(Debug)]
pub struct Running {
    thread: JoinHandle<(Fleet, Report)>,
    progress: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Running {
    /// Messages answered so far, over all runs of the fleet.
    pub fn answered(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Whether it has ended by itself.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until more than `least` messages are answered and no other has been for half a second.
    ///
    /// # Panics
    /// When that is not so within `limit`.
    #[track_caller]
    pub fn stands_still(&self, least: u64, limit: Duration) {
        let (mut before, mut since) = (self.answered(), Instant::now());
        eventually("the publishers stand still", limit, || {
            let answered = self.answered();
            if std::mem::replace(&mut before, answered) != answered {
                since = Instant::now();
            }
            answered > least && since.elapsed() >= STILL
        });
    }

    /// Its end, by itself.
    ///
    /// # Panics
    /// When the thread did.
    pub fn join(self) -> (Fleet, Report) {
        self.thread.join().unwrap_or_else(|_| panic!("the load's thread panicked"))
    }

    /// Ends it now.
    pub fn stop(self) -> (Fleet, Report) {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
