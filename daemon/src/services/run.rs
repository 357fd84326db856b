//! One run of a service: from its saved state to the drain, or to its next panic.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tidegate_edge::{Emitted, Output, Service};
use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Lsn};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, warn};

use super::Services;
use crate::gate::{Entry, Rights};
use crate::log::{Append, Chunk, Frame, Read, Reader};
use crate::state::Tree;

/// How long a service waits for room in a log that only the service keeps from being freed.
pub(super) const FULL_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the end of the log: one read for many commits.
const PAUSE: Duration = Duration::from_millis(5);
/// Changes of the state wait this long for others.
const SAVE_CHANGES: Duration = Duration::from_millis(100);
/// How far it has read is saved this often where nothing else changed,
const SAVE_PROGRESS: Duration = Duration::from_secs(10);
/// or after this many events.
const SAVE_EVENTS: u64 = 20_000;
/// Emitted events that are published together.
const TOGETHER: usize = 64;
/// Read at once: small at the log's end, inline; larger behind it, on a blocking thread.
const CHUNK: usize = 64 * 1024;
const LARGE_CHUNK: usize = 512 * 1024;
/// Events behind the log's end from which on a service is catching up.
const BEHIND: u64 = 5_000;

/// How a run ended.
#[derive(Debug)]
pub(super) enum End {
    /// The daemon stops; everything is saved.
    Drained,
    /// The service panicked, on this event if it was looking at one.
    Panicked(Option<Lsn>),
    /// What it runs on failed.
    Failed(String),
}

/// One run.
pub(super) struct Run<'a> {
    services: &'a Services,
    tree: &'a Tree,
    name: &'static str,
    service: Box<dyn Service>,
    passed_over: &'a BTreeSet<Lsn>,
    output: Output,
    /// Changes of the state that are not saved yet, and since when there are some.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    changed: Option<Instant>,
    /// The newest event that the service has looked at, or never will.
    done: Lsn,
    saved: Lsn,
    saved_at: Instant,
    /// Whether it was said that saving fails.
    complained: bool,
    seen: Counter,
}

/// What the service did with a frame.
enum Fed {
    /// It has seen all of it.
    Whole,
    /// It has said much that is to be published before it goes on.
    Partly,
}

impl<'a> Run<'a> {
    /// Runs `service` to its end.
    pub(super) async fn to_end(
        services: &'a Services,
        tree: &'a Tree,
        service: Box<dyn Service>,
        passed_over: &'a BTreeSet<Lsn>,
    ) -> End {
        let name = service.name();
        let mut run = Self {
            services,
            tree,
            name,
            service,
            passed_over,
            output: Output::default(),
            changes: BTreeMap::new(),
            changed: None,
            done: tree.applied(),
            saved: tree.applied(),
            saved_at: Instant::now(),
            complained: false,
            seen: services.metrics.events(name),
        };
        match run.run().await {
            Ok(()) => End::Drained,
            Err(end) => end,
        }
    }

    async fn run(&mut self) -> Result<(), End> {
        let services = self.services;
        let drain = services.supervisor.drain();
        let mut newest = services.log.watch();
        let mut requests = services.state.save_requests();
        let mut reader = services.log.reader(self.done + 1);
        let mut chunk = Chunk::default();
        self.begin()?;
        self.publish().await?;
        while !drain.is_cancelled() {
            newest.mark_unchanged();
            let behind = services.log.committed().saturating_sub(self.done) > BEHIND;
            let read;
            (reader, chunk, read) = if behind {
                tokio::task::spawn_blocking(move || read_once(reader, chunk, LARGE_CHUNK))
                    .await
                    .map_err(|error| End::Failed(error.to_string()))?
            } else {
                read_once(reader, chunk, CHUNK)
            };
            match read {
                Ok(Read::Frames) => {
                    for frame in chunk.frames() {
                        while let Fed::Partly = self.feed(&frame)? {
                            self.publish().await?;
                        }
                        self.publish().await?;
                        self.save_if_due();
                    }
                    tokio::task::yield_now().await;
                }
                Ok(Read::Lost(lsns)) => {
                    let count = lsns.end() - lsns.start() + 1;
                    warn!(
                        service = self.name,
                        ?lsns,
                        "events were gone before the service saw them"
                    );
                    services.metrics.lost(self.name).inc_by(count);
                    self.done = self.done.max(*lsns.end());
                }
                Ok(Read::Tail) => {
                    self.look_at_the_clock()?;
                    self.publish().await?;
                    self.save_if_due();
                    tokio::select! {
                        () = drain.cancelled() => {}
                        () = sleep_until(self.next_look()) => {}
                        Ok(()) = requests.changed() => self.save(),
                        changed = newest.changed() => match changed {
                            Ok(()) => sleep(PAUSE).await,
                            Err(_) => return Err(End::Failed("the log was closed".into())),
                        }
                    }
                }
                Err(why) => {
                    warn!(service = self.name, %why, "the service cannot read the log; trying again");
                    tokio::select! {
                        () = drain.cancelled() => {}
                        () = sleep(Duration::from_secs(1)) => {}
                    }
                }
            }
        }
        self.save();
        Ok(())
    }

    /// Restores the service.
    fn begin(&mut self) -> Result<(), End> {
        let entries = self.tree.load().unwrap_or_else(|why| {
            error!(service = self.name, %why, "the service begins without its state");
            Vec::new()
        });
        let now = self.services.gate.now();
        self.call(|service, output| {
            entries.iter().for_each(|(key, value)| service.restore(key, value));
            service.start(now, output);
        })
    }

    /// Hands the service what it has not seen of a frame.
    fn feed(&mut self, frame: &Frame<'_>) -> Result<Fed, End> {
        let before = self.done;
        let (service, output, done) = (&mut self.service, &mut self.output, &mut self.done);
        let mut at = None;
        let feed = AssertUnwindSafe(|| {
            for event in frame.events() {
                let Ok(event) = event else {
                    warn!(first = %frame.first, "a malformed event in the log; the rest of its frame is passed over");
                    break;
                };
                if event.lsn() <= *done {
                    continue;
                }
                if !self.passed_over.contains(&event.lsn()) {
                    at = Some(event.lsn());
                    service.on_event(&event, output);
                }
                *done = event.lsn();
                if output.events.len() >= TOGETHER {
                    return Fed::Partly;
                }
            }
            Fed::Whole
        });
        let fed = catch_unwind(feed).map_err(|_| End::Panicked(at))?;
        if let Fed::Whole = fed {
            self.done = self.done.max(frame.first.lsn + u64::from(frame.count).saturating_sub(1));
        }
        self.seen.inc_by(self.done - before);
        Ok(fed)
    }

    fn look_at_the_clock(&mut self) -> Result<(), End> {
        let now = self.services.gate.now();
        if self.service.wake().is_some_and(|wake| wake <= now.unix_micros()) {
            self.call(|service, output| service.on_time(now, output))?;
        }
        Ok(())
    }

    fn call(&mut self, call: impl FnOnce(&mut dyn Service, &mut Output)) -> Result<(), End> {
        let (service, output) = (&mut *self.service, &mut self.output);
        catch_unwind(AssertUnwindSafe(|| call(service, output))).map_err(|_| End::Panicked(None))
    }

    /// When there is something to do at the end of the log without a new event.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let progress = (self.done > self.saved).then(|| self.saved_at + SAVE_PROGRESS);
        let changes = self.changed.map(|since| since + SAVE_CHANGES);
        let wake = self.service.wake().map(|wake| {
            let wait = wake.saturating_sub(self.services.gate.now().unix_micros());
            now + Duration::from_micros(wait.max(0).unsigned_abs())
        });
        // The clock may be set at any time: look again before long.
        let latest = now + SAVE_PROGRESS;
        [progress, changes, wake].into_iter().flatten().fold(latest, Instant::min)
    }

    /// Publishes what the service has said, and then saves its state. Where there is nothing to
    /// publish, the changes of the state wait for others.
    async fn publish(&mut self) -> Result<(), End> {
        let Output { events, state } = std::mem::take(&mut self.output);
        if !state.is_empty() {
            self.changed.get_or_insert_with(Instant::now);
            self.changes.extend(state);
        }
        if events.is_empty() {
            return Ok(());
        }
        for together in events.chunks(TOGETHER) {
            self.publish_together(together).await?;
        }
        self.save();
        Ok(())
    }

    async fn publish_together(&mut self, events: &[Emitted]) -> Result<(), End> {
        let (services, name) = (self.services, self.name);
        let admitted: Vec<Draft<'_>> = events
            .iter()
            .map(draft)
            .filter(|draft| match services.gate.check(&mut Rights::all(), draft) {
                Ok(()) => true,
                Err(why) => {
                    error!(service = name, topic = draft.topic, %why, "an event of the service was denied");
                    services.metrics.denied(name).inc();
                    false
                }
            })
            .collect();
        let deadline = Instant::now() + FULL_PATIENCE;
        let mut requests = services.state.save_requests();
        let mut asked = false;
        // What a full lane refuses stays behind the others, and is tried again.
        let mut left = admitted;
        while !left.is_empty() {
            let (mut block, mut full) = (BlockBuilder::new(name, services.gate.now()), None);
            let mut refused = Vec::new();
            for draft in &left {
                let place = services.gate.place(draft.topic);
                if let Entry::Refused(lane) = services.gate.put(&mut block, place, draft) {
                    full = Some(lane);
                    refused.push(*draft);
                }
            }
            let count = u64::from(block.count());
            if count > 0
                && let Append::Accepted(commit) = services.gate.submit(&mut block)
                && commit.await.is_ok()
            {
                services.metrics.published(name).inc_by(count);
                left = refused;
                continue;
            }
            let room = async {
                match full {
                    Some(lane) if count == 0 => services.gate.lane_room(lane).await,
                    _ => services.gate.room(block.lanes()).await,
                }
            };
            tokio::select! {
                // Said again after the next start: the state is not saved.
                () = services.supervisor.drain().cancelled() => return Err(End::Drained),
                () = room => {}
                Ok(()) = requests.changed() => asked = true,
                () = sleep_until(deadline), if asked => {
                    let count = left.len() as u64;
                    error!(
                        service = name, count,
                        "the full log waits for the service, and the service for room in it; its events are given up"
                    );
                    services.metrics.given_up(name).inc_by(count);
                    full.iter().for_each(|lane| services.gate.count_refused(*lane, count));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn save_if_due(&mut self) {
        let changes = self.changed.is_some_and(|since| since.elapsed() >= SAVE_CHANGES);
        let progress = self.done > self.saved && self.saved_at.elapsed() >= SAVE_PROGRESS;
        if changes || progress || self.done - self.saved >= SAVE_EVENTS {
            self.save();
        }
    }

    fn save(&mut self) {
        if self.done == self.saved && self.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.changes).into_iter().collect();
        match self.tree.apply(changes, self.done) {
            Ok(()) => {}
            Err(_) if self.complained => {}
            Err(why) => {
                self.complained = true;
                error!(service = self.name, %why, "the service's state is not saved");
            }
        }
        (self.saved, self.saved_at, self.changed) = (self.done, Instant::now(), None);
    }
}

fn read_once(
    mut reader: Reader,
    mut chunk: Chunk,
    max_bytes: usize,
) -> (Reader, Chunk, Result<Read, crate::log::ReadError>) {
    let read = reader.read(&mut chunk, max_bytes);
    (reader, chunk, read)
}

fn draft(event: &Emitted) -> Draft<'_> {
    Draft {
        topic: &event.topic,
        qos: event.qos,
        retain: event.retain,
        properties: Properties::new(&event.properties),
        payload: &event.payload,
    }
}
