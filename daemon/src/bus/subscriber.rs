//! A session's side of the bus.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_event::{EventRef, Filter, Lsn};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::event::{Delivery, Event, Options};
use super::queue::{Queue, Taken};
use super::task::Command;
use super::{BusHandle, Subscription};
use crate::log::{Chunk, Read, ReadError, Reader};

/// Bytes read from the log at once while a session catches up.
const CATCH_UP_BYTES: usize = 64 * 1024;

/// One session's subscriptions, and what waits for it. Dropping it ends them.
#[derive(Debug)]
pub struct Subscriber {
    bus: BusHandle,
    id: u64,
    client: Arc<str>,
    queue: Arc<Queue>,
    /// What the bus knows too: for catching up.
    subscriptions: BTreeMap<Filter, Options>,
    catch_up: Option<CatchUp>,
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
        Self { bus, id, client, queue, subscriptions: BTreeMap::new(), catch_up: None }
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
        for Subscription { filter, options, .. } in &subscriptions {
            self.subscriptions.insert(filter.clone(), *options);
        }
        let (reply, answer) = oneshot::channel();
        self.send(Command::Subscribe {
            id: self.id,
            client: Arc::clone(&self.client),
            queue: Arc::clone(&self.queue),
            subscriptions,
            reply,
        })?;
        answer.await.map_err(|_| SubscriberError::Stopped)
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
        match catch_up.reader.read(&mut catch_up.chunk, CATCH_UP_BYTES)? {
            Read::Frames => catch_up.select(&self.subscriptions, &self.client, into),
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
    /// Appends what the chunk holds for the subscriptions.
    fn select(
        &self,
        subscriptions: &BTreeMap<Filter, Options>,
        client: &str,
        into: &mut VecDeque<Delivery>,
    ) {
        let until = self.until.unwrap_or(Lsn::MAX);
        for event in self.chunk.frames().flat_map(|frame| frame.events()).flatten() {
            if event.lsn() < until {
                into.extend(deliver(&event, subscriptions, client));
            }
        }
    }
}

/// The delivery of an event to a session with these subscriptions.
fn deliver(
    event: &EventRef<'_>,
    subscriptions: &BTreeMap<Filter, Options>,
    client: &str,
) -> Option<Delivery> {
    let mut delivery: Option<Delivery> = None;
    for (filter, options) in subscriptions {
        if filter.matches(event.topic) && options.wants(event, client) {
            delivery.get_or_insert_with(|| Delivery::new(Event::copy(event))).merge(options);
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
