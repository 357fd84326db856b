//! A session's side of the bus.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_event::{EventRef, Filter, Lsn, Qos};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::event::{Delivery, Event, Options};
use super::queue::{Queue, Taken};
use super::task::{Command, Subscribed};
use super::{BusHandle, Subscription};
use crate::log::{Chunk, Read, ReadError, Reader};

/// Bytes read from the log at once while a session catches up.
const CATCH_UP_BYTES: usize = 64 * 1024;

/// Subscriptions: how, and the first event that each sees.
pub type Held = BTreeMap<Filter, (Options, Lsn)>;

/// One session's subscriptions, and what waits for it. Dropping it ends them.
#[derive(Debug)]
pub struct Subscriber {
    bus: BusHandle,
    id: u64,
    client: Arc<str>,
    queue: Arc<Queue>,
    /// What the bus knows too, and the first event that each sees: for catching up.
    subscriptions: Held,
    catch_up: Option<CatchUp>,
    /// Before this event the session was parked: it gets no QoS 0 from there.
    back_since: Lsn,
}

/// What a session still has to get, to be seen from elsewhere.
#[derive(Debug, Clone)]
pub struct Backlog(Arc<Queue>);

impl Backlog {
    /// The first event that may not have been sent; none if everything was that the bus has handed
    /// out.
    pub fn unsent(&self) -> Option<Lsn> {
        self.0.unsent()
    }
}

/// Reads what the bus did not wait for.
#[derive(Debug)]
struct CatchUp {
    reader: Reader,
    chunk: Chunk,
    /// The bus takes over at this LSN, once that is agreed.
    until: Option<Lsn>,
}

/// Why a session gets nothing more.
#[derive(Debug, thiserror::Error)]
pub enum SubscriberError {
    /// The daemon drains.
    #[error("the bus has stopped")]
    Stopped,
    /// What a slow session missed cannot be read.
    #[error("events that the client was too slow for cannot be read from the log: {0}")]
    Read(#[from] ReadError),
}

impl Subscriber {
    pub(super) fn new(bus: BusHandle, id: u64, client: Arc<str>) -> Self {
        let queue = Arc::new(Queue::new(bus.max_queued / 2));
        let (subscriptions, catch_up) = (Held::new(), None);
        Self { bus, id, client, queue, subscriptions, catch_up, back_since: 0 }
    }

    pub(super) fn restore(
        bus: BusHandle,
        id: u64,
        client: Arc<str>,
        subscriptions: Held,
        next: Lsn,
        unsent: Option<Lsn>,
    ) -> Self {
        let queue = Arc::new(Queue::parked(bus.max_queued / 2, unsent));
        let command = Command::Restore {
            id,
            client: Arc::clone(&client),
            queue: Arc::clone(&queue),
            subscriptions: subscriptions
                .iter()
                .map(|(filter, (options, _))| (filter.clone(), *options))
                .collect(),
            live_from: next,
        };
        // A bus that has ended hands nothing out.
        let _ = bus.commands.send(command);
        Self { bus, id, client, queue, subscriptions, catch_up: None, back_since: 0 }
    }

    /// What it still has to get.
    pub fn backlog(&self) -> Backlog {
        Backlog(Arc::clone(&self.queue))
    }

    /// The session is left without a client. Everything before `next` was sent.
    pub fn park(&mut self, next: Lsn) {
        self.catch_up = None;
        self.queue.park(next);
    }

    /// The session's client is back: it gets what it missed, and of the events before `now` only
    /// QoS 1 and 2.
    pub fn unpark(&mut self, now: Lsn) {
        self.back_since = now;
        self.queue.unpark();
    }

    /// How many subscriptions it has.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Whether it has a subscription with exactly this filter.
    pub fn has(&self, filter: &Filter) -> bool {
        self.subscriptions.contains_key(filter)
    }

    /// Adds or replaces subscriptions: they see every event that is committed from now on. Answers
    /// with the retained messages that they are to be sent first.
    pub async fn subscribe(
        &mut self,
        subscriptions: Vec<Subscription>,
    ) -> Result<Vec<Delivery>, SubscriberError> {
        let wanted: Vec<_> =
            subscriptions.iter().map(|wanted| (wanted.filter.clone(), wanted.options)).collect();
        let (reply, answer) = oneshot::channel();
        self.send(Command::Subscribe {
            id: self.id,
            client: Arc::clone(&self.client),
            queue: Arc::clone(&self.queue),
            subscriptions,
            reply,
        })?;
        let Subscribed { retained, from } = answer.await.map_err(|_| SubscriberError::Stopped)?;
        for (filter, options) in wanted {
            self.subscriptions.entry(filter).or_insert((options, from)).0 = options;
        }
        Ok(retained)
    }

    /// The subscription with this filter, and the first event that it sees.
    pub fn held(&self, filter: &Filter) -> Option<(Options, Lsn)> {
        self.subscriptions.get(filter).copied()
    }

    /// The delivery of an event that was sent before with `qos`, and is to be sent again.
    pub fn again(&self, event: &EventRef<'_>, qos: Qos) -> Delivery {
        let delivery = deliver(event, &self.subscriptions, &self.client);
        let lsn = event.lsn();
        Delivery { qos, ..delivery.unwrap_or_else(|| Delivery::of(Event::copy(event), lsn)) }
    }

    /// Ends the subscriptions with these filters. Answers for each whether there was one.
    pub async fn unsubscribe(&mut self, filters: &[Filter]) -> Result<Vec<bool>, SubscriberError> {
        let mut found = Vec::with_capacity(filters.len());
        let mut gone = Vec::new();
        for filter in filters {
            let old = self.subscriptions.remove_entry(filter);
            found.push(old.is_some());
            gone.extend(old.map(|(filter, _)| filter));
        }
        if !gone.is_empty() {
            let (reply, answer) = oneshot::channel();
            self.send(Command::Unsubscribe { id: self.id, filters: gone, reply })?;
            answer.await.map_err(|_| SubscriberError::Stopped)?;
        }
        Ok(found)
    }

    /// The retained message of `topic`, as its subscriptions want it.
    pub async fn retained(&self, topic: &str) -> Result<Option<Delivery>, SubscriberError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Retained { topic: topic.into(), reply })?;
        let event = answer.await.map_err(|_| SubscriberError::Stopped)?;
        Ok(event.map(|event| {
            let mut delivery = Delivery::new(event);
            let held = self.subscriptions.iter();
            for (_, (options, _)) in held.filter(|(filter, _)| filter.matches(topic)) {
                delivery.merge(options);
            }
            delivery.retain = true;
            delivery
        }))
    }

    fn send(&self, command: Command) -> Result<(), SubscriberError> {
        self.bus.commands.send(command).map_err(|_| SubscriberError::Stopped)
    }

    /// Ready when [`Subscriber::fill`] has something to do.
    pub fn poll_ready(&self, context: &Context<'_>) -> Poll<()> {
        match self.catch_up {
            Some(_) => Poll::Ready(()),
            None => self.queue.poll_ready(context),
        }
    }

    /// Puts what comes next into `into`, which is empty. It may stay so.
    pub async fn fill(&mut self, into: &mut VecDeque<Delivery>) -> Result<(), SubscriberError> {
        if self.catch_up.is_none() {
            match self.queue.take(into) {
                Taken::Deliveries => return Ok(()),
                Taken::Behind(from) => {
                    debug!(client = &*self.client, from, "slow subscriber goes on from the log");
                    let reader = self.bus.log.reader(from);
                    let chunk = Chunk::default();
                    self.catch_up = Some(CatchUp { reader, chunk, until: None });
                }
            }
        }
        let Some(catch_up) = &mut self.catch_up else { return Ok(()) };
        self.queue.reads_from(catch_up.reader.position());
        match catch_up.reader.read(&mut catch_up.chunk, CATCH_UP_BYTES)? {
            Read::Frames => {
                let back_since = self.back_since;
                let wanted = |next: &Delivery| {
                    next.qos > Qos::AtMostOnce || next.lsn.is_some_and(|lsn| lsn >= back_since)
                };
                let events = catch_up.deliveries(&self.subscriptions, &self.client);
                into.extend(events.filter(wanted));
            }
            Read::Tail if catch_up.until.is_none() => {
                let (reply, answer) = oneshot::channel();
                let from = catch_up.reader.position();
                let command = Command::Rejoin { id: self.id, from, reply };
                self.bus.commands.send(command).map_err(|_| SubscriberError::Stopped)?;
                catch_up.until = Some(answer.await.map_err(|_| SubscriberError::Stopped)?);
            }
            Read::Tail => catch_up.until = Some(0),
            Read::Lost(lost) => {
                let (first, last) = lost.into_inner();
                let client = &*self.client;
                warn!(
                    client,
                    first, last, "a slow subscriber missed events: the log had removed them"
                );
                self.bus.metrics.lost.inc_by(1 + last - first);
            }
        }
        if catch_up.until.is_some_and(|until| catch_up.reader.position() >= until) {
            self.catch_up = None;
        }
        Ok(())
    }
}

impl CatchUp {
    /// What the chunk holds for the subscriptions.
    fn deliveries(&self, subscriptions: &Held, client: &str) -> impl Iterator<Item = Delivery> {
        let until = self.until.unwrap_or(Lsn::MAX);
        let events = self.chunk.frames().flat_map(|frame| frame.events()).flatten();
        events
            .filter(move |event| event.lsn() < until)
            .filter_map(move |event| deliver(&event, subscriptions, client))
    }
}

/// The delivery of an event to a session with these subscriptions.
fn deliver(event: &EventRef<'_>, subscriptions: &Held, client: &str) -> Option<Delivery> {
    let mut delivery: Option<Delivery> = None;
    let lsn = event.lsn();
    for (filter, (options, from)) in subscriptions {
        if lsn >= *from && filter.matches(event.topic) && options.wants(event, client) {
            let new = || Delivery::of(Event::copy(event), lsn);
            delivery.get_or_insert_with(new).merge(options);
        }
    }
    delivery
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // Once the bus has ended there is nothing to leave.
        let _ = self.bus.commands.send(Command::Detach { id: self.id });
    }
}
