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
use tracing::{error, info, warn};

use super::behind::Behind;
use super::deliver::Courier;
use super::inflight::{FlightId, InFlight};
use super::intake::{End, Filled};
use super::rate::BacklogRate;
use super::streams::{Back, Streams};
use crate::log::{Log, Reason};
use crate::state::{Cursors, Span};

/// The cursor is saved this often, at most.
const SAVE_EVERY: Duration = Duration::from_millis(100);
/// At the log's end it is read this often, at most, so that a stream of small commits is taken in
/// pieces worth a read.
const READ_EVERY: Duration = Duration::from_millis(10);
/// How long the drain waits for answers.
const GRACE: Duration = Duration::from_secs(5);
/// How often the lag's gauges follow while events wait, and it is asked whether the sink is behind.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Forwarder {
    pub(super) log: Arc<Log>,
    pub(super) committed: watch::Receiver<Lsn>,
    pub(super) courier: Arc<Courier>,
    pub(super) cursors: Cursors,
    pub(super) in_flight: InFlight,
    pub(super) behind: Behind,
    pub(super) backlog_rate: BacklogRate,
    pub(super) drain: CancellationToken,
}

/// The read that is under way.
type Reading = Option<JoinHandle<(Back, Filled)>>;

/// Writes the cursor to the state, beside the runtime.
struct Saving {
    saved: Vec<Span>,
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
    pub(super) async fn run(mut self, mut streams: Streams) {
        let start = Instant::now();
        let mut reading: Reading = None;
        let mut saving = Saving { saved: streams.spans(), at: start, task: None };
        let mut sends = Sends::default();
        let mut gauges_at = start;
        let mut grace: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let committed = self.log.committed();
            // With the disk under way, only what it answers is a step.
            if reading.is_none() && saving.task.is_none() {
                self.courier.monitor.step();
            }
            self.behind.note(now, committed);
            let held_back = self.courier.pacer.is_held_back();
            if streams.arrange(&mut self.in_flight, &self.behind, held_back, committed, now) {
                let (sink, from) = (self.courier.monitor.name(), streams.cursor());
                info!(sink, from, newest = committed, "is behind: {}", streams.order());
                sends.keep(&self.in_flight);
            }
            streams.close(&mut self.in_flight, committed, now, grace.is_some());
            if reading.is_none() {
                reading = streams
                    .turn(&self.in_flight, committed, now)
                    .map(|turn| tokio::task::spawn_blocking(move || turn.read(now)));
            }
            let pause = self.depart(&mut sends, now, grace.is_some());
            self.note(&mut streams, committed, now >= gauges_at);
            if now >= gauges_at {
                gauges_at = now + GAUGES_EVERY;
            }
            saving.begin(&self, &streams, now);
            if let Some(end) = grace
                && (now >= end || held_back || self.is_done(&streams, committed))
            {
                break;
            }

            let lagging = streams.cursor() <= committed;
            let wake = [
                grace,
                pause,
                streams.wake(&self.in_flight, committed, now),
                saving.wake(&streams),
                lagging.then_some(gauges_at),
            ];
            let wake = wake.into_iter().flatten().min();
            let at_tail = streams.is_at_tail(committed);
            tokio::select! {
                id = sends.next() => self.in_flight.done(id),
                (back, mut filled) = finished(&mut reading) => {
                    self.courier.monitor.step();
                    streams.back(back, &mut filled, &mut self.in_flight);
                    self.tell(filled);
                }
                () = changed(&mut self.committed), if at_tail => {}
                () = self.courier.pacer.heals() => {}
                () = saving.finished() => self.courier.monitor.step(),
                () = self.drain.cancelled(), if grace.is_none() => {
                    grace = Some(Instant::now() + GRACE);
                }
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
        // Batches that are not answered go again after the next start, under the same ids.
        drop(sends);
        saving.end(&self, &streams).await;
        self.courier.dead_letters.close().await;
    }

    /// Sends what may go. Answers when something of a backlog may go that waits for its rate only.
    fn depart(&mut self, sends: &mut Sends, now: Instant, drains: bool) -> Option<Instant> {
        let waits = drains && self.backlog_rate.is_limited();
        loop {
            let ready = self.backlog_rate.ready(now);
            let Some(departure) = self.in_flight.next(ready <= now && !waits) else {
                return (ready > now && self.in_flight.has_history()).then_some(ready);
            };
            if departure.is_historical {
                self.backlog_rate.take(departure.batch.count(), departure.batch.len());
            }
            sends.push(departure.id, Arc::clone(&self.courier).deliver(departure));
        }
    }

    /// Counts what a read brought beside batches.
    fn tell(&self, filled: Filled) {
        let metrics = &self.courier.metrics;
        let sink = self.courier.monitor.name();
        metrics.filtered.inc_by(filled.filtered);
        metrics.lost.inc_by(filled.gone);
        let (mut lost, mut first, mut last) = (0, Lsn::MAX, 0);
        for loss in &filled.lost {
            if loss.reason == Reason::Expired {
                metrics.expired.inc_by(loss.count);
                continue;
            }
            metrics.lost.inc_by(loss.count);
            lost += loss.count;
            for run in &loss.runs {
                (first, last) = (first.min(*run.start()), last.max(*run.end()));
            }
        }
        if lost > 0 {
            warn!(
                sink,
                first, last, lost, "events are no longer in the log and will not be delivered"
            );
        }
        if let End::Failed(error) = filled.end {
            error!(sink, "cannot read the log: {error}; trying again every second");
        }
    }

    /// Moves the cursor, and the gauges with it, if it is time or there is nothing to do.
    fn note(&self, streams: &mut Streams, committed: Lsn, gauges: bool) {
        let Courier { monitor, metrics, .. } = &*self.courier;
        streams.note(&self.in_flight, committed);
        monitor.moved(streams.iter().map(|stream| stream.standing(committed)).collect());
        metrics.in_flight.set(to_gauge(self.in_flight.flying()));
        metrics.held.set(to_gauge(self.in_flight.bytes() + streams.bytes()));
        if gauges || self.in_flight.is_empty() {
            metrics.lag(&monitor.status(committed));
        }
    }

    /// Whether everything committed is read and done with, but for what is sent slowly on purpose.
    fn is_done(&self, streams: &Streams, committed: Lsn) -> bool {
        self.in_flight.flying() == 0 && streams.are_done(committed, !self.backlog_rate.is_limited())
    }
}

/// Waits for the read that is under way; for ever, if there is none.
async fn finished(reading: &mut Reading) -> (Back, Filled) {
    let Some(task) = reading else { return std::future::pending().await };
    let done = task.await;
    *reading = None;
    match done {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is being shut down.
        Err(_) => std::future::pending().await,
    }
}

/// Waits for a commit.
async fn changed(committed: &mut watch::Receiver<Lsn>) {
    // An error says that the log is closed: there will be no more.
    if committed.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Saving {
    /// Saves the cursor if it is time to.
    fn begin(&mut self, forwarder: &Forwarder, streams: &Streams, now: Instant) {
        if self.task.is_some() || now < self.at || streams.are_at(&self.saved) {
            return;
        }
        let spans = streams.spans();
        self.saved.clone_from(&spans);
        self.at = now + SAVE_EVERY;
        let cursors = forwarder.cursors.clone();
        let monitor = Arc::clone(&forwarder.courier.monitor);
        self.task = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = cursors.set_spans(monitor.name(), spans) {
                let sink = monitor.name();
                warn!(sink, "cannot save the cursor: {error}; a restart sends events again");
            }
        }));
    }

    fn wake(&self, streams: &Streams) -> Option<Instant> {
        (self.task.is_none() && !streams.are_at(&self.saved)).then_some(self.at)
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
    async fn end(&mut self, forwarder: &Forwarder, streams: &Streams) {
        if self.task.is_some() {
            self.finished().await;
        }
        self.begin(forwarder, streams, self.at);
        if self.task.is_some() {
            self.finished().await;
        }
    }
}

/// The deliveries under way. They are polled in the forwarder's own task: what is heavy about them
/// happens elsewhere.
#[derive(Default)]
struct Sends(Vec<Sending>);

struct Sending {
    id: FlightId,
    delivery: Pin<Box<dyn Future<Output = FlightId> + Send>>,
}

impl Sends {
    fn push(&mut self, id: FlightId, send: impl Future<Output = FlightId> + Send + 'static) {
        self.0.push(Sending { id, delivery: Box::pin(send) });
    }

    /// Drops those of batches that were taken back.
    fn keep(&mut self, in_flight: &InFlight) {
        self.0.retain(|sending| in_flight.flies(sending.id));
    }

    /// The next one that ends; never, if there is none.
    async fn next(&mut self) -> FlightId {
        poll_fn(|context| {
            for index in 0..self.0.len() {
                if let Poll::Ready(id) = self.0[index].delivery.as_mut().poll(context) {
                    drop(self.0.swap_remove(index));
                    return Poll::Ready(id);
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
