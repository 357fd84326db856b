//! The bus's task: reads the log behind the commits, and hands each event to whom it concerns.

mod commands;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate_event::{Filter, Lsn};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::event::{Delivery, Event, Options};
use super::metrics::Metrics;
use super::queue::Queue;
use super::retained::Retained;
use super::share::{Desk, Groups};
use super::system::System;
use super::trie::Trie;
use crate::log::{Chunk, Log, Read, Reader};
use crate::memory::{Memory, Sort};

pub(super) use commands::{Command, Subscribed};

/// Bytes read from the log at once.
const READ_BYTES: usize = 256 * 1024;
/// Deliveries that are put into a queue at once: between the reads each member has room for so many.
pub(super) const MAX_PENDING: usize = 16;
/// Nobody subscribed: only retained messages are looked for, and they may wait this long.
const QUIET_DELAY: Duration = Duration::from_millis(20);
/// After the file system refused to read.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The bus.
#[derive(Debug)]
pub(super) struct Bus {
    log: Arc<Log>,
    reader: Reader,
    chunk: Chunk,
    /// The event that comes next.
    pub(super) next: Lsn,
    /// The same, for others to see.
    position: Arc<AtomicU64>,
    /// Retained messages up to and including this event are in the state.
    retained_to: Lsn,
    pub(super) trie: Trie<Entry>,
    pub(super) members: HashMap<u64, Member>,
    desk: Desk,
    /// Members that have something pending.
    pub(super) touched: Vec<u64>,
    retained: Retained,
    pub(super) system: System,
    pub(super) memory: Memory,
    pub(super) metrics: Metrics,
    committed: watch::Receiver<Lsn>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Asks for the retained messages to be written, so that the log can be freed.
    requests: Option<watch::Receiver<u64>>,
    /// No reading before this, after a failure.
    retry_at: Option<Instant>,
}

/// A subscription in the trie.
#[derive(Debug)]
pub(super) enum Entry {
    Session {
        id: u64,
        options: Options,
        /// The first event that it sees: after a restart the bus begins with earlier ones.
        from: Lsn,
    },
    /// Of sessions that share it.
    Group(u64),
}

/// A session that subscribed.
#[derive(Debug)]
pub(super) struct Member {
    client: Arc<str>,
    queue: Arc<Queue>,
    filters: BTreeSet<Filter>,
    /// It has read the log itself up to here.
    live_from: Lsn,
    /// It reads the log itself for now.
    pub(super) behind: bool,
    /// What the chunk in hand holds for it.
    pub(super) pending: Vec<(Lsn, Delivery)>,
}

impl Member {
    /// Puts what is pending into its queue.
    pub(super) fn flush(&mut self, metrics: &Metrics) {
        let pushed = self.queue.push(&mut self.pending);
        self.behind = pushed.behind;
        if self.behind {
            self.pending = Vec::new();
        }
        metrics.deliveries.inc_by(pushed.queued);
        metrics.dropped.inc_by(pushed.dropped);
        metrics.lagged.inc_by(u64::from(pushed.fell_behind));
    }
}

/// What woke the task.
enum Wake {
    Command(Command),
    Read,
    Write,
    Drain,
}

impl Bus {
    pub(super) fn new(
        log: Arc<Log>,
        retained: Retained,
        memory: Memory,
        metrics: Metrics,
        commands: mpsc::UnboundedReceiver<Command>,
        position: Arc<AtomicU64>,
        groups: Groups,
    ) -> Self {
        let retained_to = retained.applied();
        Self {
            reader: log.reader(retained_to + 1),
            chunk: Chunk::default(),
            next: retained_to + 1,
            position,
            retained_to,
            trie: Trie::new(),
            members: HashMap::new(),
            desk: Desk::new(groups),
            touched: Vec::new(),
            retained,
            system: System::default(),
            memory,
            metrics,
            committed: log.watch(),
            commands,
            requests: None,
            retry_at: None,
            log,
        }
    }

    pub(super) fn save_on(&mut self, requests: watch::Receiver<u64>) {
        self.requests = Some(requests);
    }

    /// Runs until the drain, from the event `from` on, or an earlier one. What was asked before is
    /// done first.
    pub(super) async fn run(mut self, from: Lsn, drain: CancellationToken) {
        if from < self.next {
            self.reader = self.log.reader(from);
            self.next = self.reader.position();
        }
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        self.position.store(self.next, Ordering::Release);
        // Nobody tells of what was committed before: sessions that come back wait for it.
        self.read_up_to(self.log.committed()).await;
        loop {
            let wake = self.wake(&drain).await;
            self.read_up_to(self.log.committed()).await;
            match wake {
                Wake::Command(command) => self.obey(command),
                Wake::Read => {}
                Wake::Write => self.write(),
                Wake::Drain => break,
            }
        }
        self.write();
    }

    async fn wake(&mut self, drain: &CancellationToken) -> Wake {
        let pause = if self.trie.is_empty() { QUIET_DELAY } else { Duration::ZERO };
        let committed = &mut self.committed;
        let retry = self.retry_at;
        let news = async {
            if let Some(at) = retry {
                tokio::time::sleep_until(at.into()).await;
            } else if committed.changed().await.is_err() {
                // The log is closed: nothing new will come.
                std::future::pending::<()>().await;
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        };
        let write = async {
            match self.retained.due(self.next - 1) {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let requests = &mut self.requests;
        let requested = async {
            let asked = match requests {
                Some(requests) => requests.changed().await.is_ok(),
                None => false,
            };
            if !asked {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            Some(command) = self.commands.recv() => Wake::Command(command),
            () = requested => Wake::Write,
            () = news => Wake::Read,
            () = write => Wake::Write,
            () = drain.cancelled() => Wake::Drain,
        }
    }

    /// Hands out the events up to and including `last`, and what comes along in the same reads.
    async fn read_up_to(&mut self, last: Lsn) {
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.retry_at = None;
        while self.next <= last {
            match self.reader.read(&mut self.chunk, READ_BYTES) {
                Ok(Read::Frames) => self.hand_out(),
                Ok(Read::Tail) => break,
                Ok(Read::Lost(lost)) => {
                    let (first, last) = lost.into_inner();
                    warn!(first, last, "the bus missed events: the log had removed them");
                    self.metrics.lost.inc_by(1 + last - first);
                }
                Err(why) => {
                    error!("subscribers wait, the log cannot be read: {why}");
                    self.retry_at = Some(Instant::now() + RETRY_DELAY);
                    return;
                }
            }
            self.next = self.next.max(self.reader.position());
            self.position.store(self.next, Ordering::Release);
            if self.retained.is_full() && self.retained.due(self.next - 1) <= Some(Instant::now()) {
                self.write();
            }
            // Other tasks of this thread get their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Passes the chunk's events to the subscribers, and to the retained messages.
    fn hand_out(&mut self) {
        for frame in self.chunk.frames() {
            if self.trie.is_empty() && !frame.has_retained {
                continue;
            }
            for event in frame.events() {
                let Ok(event) = event else {
                    error!(frame = %frame.first, "a frame of the log cannot be read to its end");
                    break;
                };
                let lsn = event.lsn();
                let mut copy: Option<Event> = None;
                self.trie.matches(event.topic, |entry| {
                    let (id, options, from) = match entry {
                        Entry::Session { id, options, from } => (id, options, from),
                        Entry::Group(group) => {
                            let copied = || Event::copy(&event, &self.memory, Sort::Deliveries);
                            let event = || copy.get_or_insert_with(copied).clone();
                            return self.desk.note(*group, lsn, event, &self.metrics);
                        }
                    };
                    let Some(member) = self.members.get_mut(id) else { return };
                    let late = member.behind || lsn < member.live_from.max(*from);
                    if late || !options.wants(&event, &member.client) {
                        return;
                    }
                    if member.pending.is_empty() {
                        self.touched.push(*id);
                    }
                    if member.pending.last().is_none_or(|(last, _)| *last != lsn) {
                        if member.pending.len() == MAX_PENDING {
                            member.flush(&self.metrics);
                            if member.behind {
                                return;
                            }
                        }
                        let copied = || Event::copy(&event, &self.memory, Sort::Deliveries);
                        let event = copy.get_or_insert_with(copied).clone();
                        member.pending.push((lsn, Delivery::of(event, lsn)));
                    }
                    if let Some((_, delivery)) = member.pending.last_mut() {
                        delivery.merge(options);
                    }
                });
                if event.retain && lsn > self.retained_to {
                    self.retained.apply(&event);
                }
            }
        }
        self.flush_members();
        self.desk.flush(&self.metrics);
    }

    /// Puts what is pending into the queues of the sessions.
    pub(super) fn flush_members(&mut self) {
        for id in self.touched.drain(..) {
            if let Some(member) = self.members.get_mut(&id) {
                member.flush(&self.metrics);
            }
        }
    }

    fn write(&mut self) {
        self.retained.write(self.next.saturating_sub(1));
    }
}
