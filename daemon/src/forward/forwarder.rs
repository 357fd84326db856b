//! The task: it decides when to read, what leaves, and where the cursor stands.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tidegate_event::Lsn;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::deliver::Courier;
use super::inflight::InFlight;
use super::intake::{End, Filled, Intake};
use super::partition::Partitions;
use crate::log::Log;
use crate::state::Cursors;

/// The cursor is saved this often, at most.
const SAVE_EVERY: Duration = Duration::from_millis(100);
/// At the log's end it is read this often, at most, so that a stream of small commits is taken in
/// pieces worth a read.
const READ_EVERY: Duration = Duration::from_millis(10);
/// After a failed read.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// How far, in LSNs, reading may be ahead of the cursor: what a crash repeats at most.
const MAX_AHEAD: u64 = 1 << 20;
/// How long the drain waits for answers.
const GRACE: Duration = Duration::from_secs(5);
/// How often the lag's gauges follow while events wait.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Forwarder {
    pub(super) log: Arc<Log>,
    pub(super) committed: watch::Receiver<Lsn>,
    pub(super) courier: Arc<Courier>,
    pub(super) cursors: Cursors,
    pub(super) in_flight: InFlight,
    /// Bytes of batches in memory beyond which it does not read on.
    pub(super) budget: usize,
    pub(super) read_every: Duration,
    pub(super) drain: CancellationToken,
}

/// Where reading stands.
struct Reading {
    /// Away while a read is under way.
    intake: Option<Box<Intake>>,
    task: Option<JoinHandle<(Box<Intake>, Filled)>>,
    /// Everything is read; a commit makes a read due.
    at_tail: bool,
    /// No read before this.
    at: Instant,
}

/// Writes the cursor to the state, beside the runtime.
struct Saving {
    saved: Lsn,
    /// Not before this.
    at: Instant,
    task: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// How often the log is read at its end, for batches of this age.
    pub(super) fn read_every(max_age: Duration) -> Duration {
        READ_EVERY.min(max_age / 4)
    }

    /// Runs until the drain, and then until what is on disk is delivered, for [`GRACE`] at most and
    /// only while the bus takes it.
    pub(super) async fn run(mut self, intake: Intake) {
        let start = Instant::now();
        let mut reading =
            Reading { intake: Some(Box::new(intake)), task: None, at_tail: false, at: start };
        let mut saving = Saving { saved: self.cursor(), at: start, task: None };
        let mut sends = Sends::default();
        let mut gauges_at = start;
        let mut grace: Option<Instant> = None;
        loop {
            let now = Instant::now();
            // With the disk under way, only what it answers is a step.
            if reading.task.is_none() && saving.task.is_none() {
                self.courier.monitor.step();
            }
            self.advance(&mut reading, now, grace.is_some());
            while let Some(batch) = self.in_flight.next() {
                sends.push(Arc::clone(&self.courier).deliver(batch));
            }
            self.note(&reading);
            saving.begin(&self, now);
            if now >= gauges_at || self.in_flight.is_empty() {
                self.note_lag();
                gauges_at = now + GAUGES_EVERY;
            }
            if let Some(end) = grace
                && (now >= end || self.courier.pacer.is_held_back() || self.is_done(&reading))
            {
                break;
            }

            let lagging = self.cursor() <= self.log.committed();
            let wake = [
                grace,
                reading.wake(now, self.in_flight.partitions()),
                saving.wake(self.cursor()),
                lagging.then_some(gauges_at),
            ];
            let wake = wake.into_iter().flatten().min();
            tokio::select! {
                partitions = sends.next() => self.in_flight.done(partitions),
                filled = reading.changed(&mut self.committed) => {
                    self.courier.monitor.step();
                    if let Some(filled) = filled {
                        self.take(filled, &mut reading);
                    }
                }
                () = saving.finished() => self.courier.monitor.step(),
                () = self.drain.cancelled(), if grace.is_none() => {
                    grace = Some(Instant::now() + GRACE);
                }
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
        // Batches that are not answered go again after the next start, under the same ids.
        drop(sends);
        saving.end(&self).await;
        self.courier.dead_letters.close().await;
    }

    fn cursor(&self) -> Lsn {
        self.courier.monitor.cursor()
    }

    /// Closes the batches that are to leave, and reads on if there is room.
    fn advance(&mut self, reading: &mut Reading, now: Instant, hurry: bool) {
        let Some(mut intake) = reading.intake.take() else {
            return;
        };
        let room = self.budget.saturating_sub(self.in_flight.bytes() + intake.opens.bytes());
        let ahead = intake.next().saturating_sub(self.cursor()) >= MAX_AHEAD;
        let stuck = !reading.at_tail && (room == 0 || ahead);
        // Where nothing more is read, waiting fills no batch.
        let hurry = stuck || (hurry && reading.at_tail);
        for batch in intake.opens.due(now, self.in_flight.partitions(), hurry) {
            self.in_flight.push(batch);
        }
        if reading.at_tail || stuck || now < reading.at {
            reading.intake = Some(intake);
            return;
        }
        // What is committed from here on makes another read due.
        self.committed.mark_unchanged();
        reading.task = Some(tokio::task::spawn_blocking(move || {
            let filled = intake.fill(room, now);
            (intake, filled)
        }));
    }

    /// Takes over what a read brought.
    fn take(&mut self, filled: Filled, reading: &mut Reading) {
        let metrics = &self.courier.metrics;
        let sink = self.courier.monitor.name();
        for batch in filled.closed {
            self.in_flight.push(batch);
        }
        metrics.filtered.inc_by(filled.filtered);
        for lsns in filled.lost {
            let (first, last) = (*lsns.start(), *lsns.end());
            metrics.lost.inc_by(last.saturating_sub(first).saturating_add(1));
            warn!(sink, first, last, "events are no longer in the log and will not be delivered");
        }
        match filled.end {
            End::More | End::Full => {}
            End::Tail => {
                reading.at_tail = true;
                reading.at = Instant::now() + self.read_every;
            }
            End::Failed(error) => {
                error!(sink, "cannot read the log: {error}; trying again every second");
                reading.at = Instant::now() + READ_AGAIN;
            }
        }
    }

    /// Moves the cursor. While a read is under way nobody knows what it leaves open.
    fn note(&self, reading: &Reading) {
        let Courier { monitor, metrics, .. } = &*self.courier;
        metrics.in_flight.set(to_gauge(self.in_flight.flying()));
        let Some(intake) = &reading.intake else {
            return;
        };
        let first = [self.in_flight.first(), intake.opens.first()];
        let cursor = first.into_iter().flatten().min().unwrap_or(intake.next());
        let oldest = [self.in_flight.received(), intake.opens.received()];
        let unread = (intake.next() <= self.log.committed()).then(|| intake.received());
        monitor.moved(cursor, oldest.into_iter().flatten().chain(unread).min());
        metrics.held.set(to_gauge(self.in_flight.bytes() + intake.opens.bytes()));
    }

    fn note_lag(&self) {
        let status = self.courier.monitor.status(self.log.committed());
        let metrics = &self.courier.metrics;
        metrics.lag.set(i64::try_from(status.lag_events).unwrap_or(i64::MAX));
        metrics.oldest.set(i64::try_from(status.lag_seconds).unwrap_or(i64::MAX));
    }

    /// Whether everything committed is read and done with.
    fn is_done(&self, reading: &Reading) -> bool {
        reading.at_tail && self.cursor() > self.log.committed()
    }
}

impl Reading {
    /// When there is something to do, if nothing else happens.
    fn wake(&self, now: Instant, busy: Partitions) -> Option<Instant> {
        let intake = self.intake.as_ref()?;
        // A read that is due and not begun has no room; an answer makes some.
        let read = (!self.at_tail && self.at > now).then_some(self.at);
        intake.opens.deadline(busy).into_iter().chain(read).min()
    }

    /// Waits for the read that is under way; without one, at the log's end, for a commit.
    async fn changed(&mut self, committed: &mut watch::Receiver<Lsn>) -> Option<Filled> {
        if let Some(task) = &mut self.task {
            let (intake, filled) = match task.await {
                Ok(done) => done,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime is being shut down.
                Err(_) => std::future::pending().await,
            };
            self.task = None;
            self.intake = Some(intake);
            return Some(filled);
        }
        // An error says that the log is closed: there will be no more.
        if !self.at_tail || committed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.at_tail = false;
        None
    }
}

impl Saving {
    /// Saves the cursor if it is time to.
    fn begin(&mut self, forwarder: &Forwarder, now: Instant) {
        let cursor = forwarder.cursor();
        if self.task.is_some() || cursor == self.saved || now < self.at {
            return;
        }
        self.saved = cursor;
        self.at = now + SAVE_EVERY;
        let cursors = forwarder.cursors.clone();
        let monitor = Arc::clone(&forwarder.courier.monitor);
        self.task = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = cursors.set(monitor.name(), cursor) {
                let sink = monitor.name();
                warn!(sink, "cannot save the cursor: {error}; a restart sends events again");
            }
        }));
    }

    fn wake(&self, cursor: Lsn) -> Option<Instant> {
        (self.task.is_none() && cursor != self.saved).then_some(self.at)
    }

    /// Waits for the write that is under way; for ever, if there is none.
    async fn finished(&mut self) {
        match &mut self.task {
            // A panic in it is as good as an error: the next write tries again.
            Some(task) => drop(task.await),
            None => std::future::pending().await,
        }
        self.task = None;
    }

    /// Saves the cursor for good.
    async fn end(&mut self, forwarder: &Forwarder) {
        if self.task.is_some() {
            self.finished().await;
        }
        self.begin(forwarder, self.at);
        if self.task.is_some() {
            self.finished().await;
        }
    }
}

/// The deliveries under way. They are polled in the forwarder's own task: what is heavy about them
/// happens elsewhere.
#[derive(Default)]
struct Sends(Vec<Pin<Box<dyn Future<Output = Partitions> + Send>>>);

impl Sends {
    fn push(&mut self, send: impl Future<Output = Partitions> + Send + 'static) {
        self.0.push(Box::pin(send));
    }

    /// The next one that ends; never, if there is none.
    async fn next(&mut self) -> Partitions {
        poll_fn(|context| {
            for index in 0..self.0.len() {
                if let Poll::Ready(partitions) = self.0[index].as_mut().poll(context) {
                    drop(self.0.swap_remove(index));
                    return Poll::Ready(partitions);
                }
            }
            Poll::Pending
        })
        .await
    }
}

fn to_gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
