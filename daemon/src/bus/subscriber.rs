//! A session's side of the bus.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_event::{EventRef, Filter, Lsn, Qos};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::catch_up::{CatchUp, Reading, deliver};
use super::event::{Delivery, Event, Options};
use super::queue::{Queue, Taken};
use super::share::{Members, is_shared};
use super::task::{Command, Subscribed};
use super::{BusHandle, Subscription};
use crate::log::{Read, ReadError};
use crate::memory::{Claim, Room, Sort};

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
    shared: Members,
    /// Whether the groups come first next time.
    shared_first: bool,
    /// The session outlasts its connection.
    kept: bool,
    catch_up: Option<CatchUp>,
    /// What the subscriptions take.
    own: Claim,
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

/// Bytes that a subscription takes, about: in the trie, with the bus, here, and with a session that is kept.
fn cost(filter: &Filter) -> usize {
    let text = filter.as_str();
    512 + 4 * text.len() + 400 * (1 + text.bytes().filter(|byte| *byte == b'/').count())
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
    pub(super) fn new(bus: BusHandle, id: u64, client: Arc<str>, kept: bool) -> Self {
        let queue = Queue::new(bus.max_queued / 2, bus.memory.clone());
        Self::with(bus, id, client, kept, queue.into())
    }

    fn with(bus: BusHandle, id: u64, client: Arc<str>, kept: bool, queue: Arc<Queue>) -> Self {
        Self {
            own: bus.memory.claim(Sort::Subscriptions, 0),
            bus,
            id,
            client,
            queue,
            subscriptions: Held::new(),
            shared: Members::new(id),
            shared_first: false,
            kept,
            catch_up: None,
            back_since: 0,
        }
    }

    pub(super) fn restore(
        bus: BusHandle,
        id: u64,
        client: Arc<str>,
        subscriptions: Held,
        next: Lsn,
        unsent: Option<Lsn>,
    ) -> Self {
        let queue = Arc::new(Queue::parked(bus.max_queued / 2, bus.memory.clone(), unsent));
        let command = Command::Restore {
            id,
            client: Arc::clone(&client),
            queue: Arc::clone(&queue),
            subscriptions: subscriptions.clone(),
            live_from: next,
        };
        // A bus that has ended hands nothing out.
        let _ = bus.commands.send(command);
        let mut this = Self::with(bus, id, client, true, queue);
        this.own.set(subscriptions.keys().map(cost).sum());
        for (filter, (options, from)) in subscriptions {
            if is_shared(&filter) {
                let Some(group) = this.bus.groups.open(&filter, from) else { continue };
                // Before the bus comes to it: the client may be back first.
                group.join(id, options, true, false, from);
                this.shared.join(Some((filter, group, options, from)));
            } else {
                this.subscriptions.insert(filter, (options, from));
            }
        }
        this
    }

    /// What it still has to get.
    pub fn backlog(&self) -> Backlog {
        Backlog(Arc::clone(&self.queue))
    }

    /// The session is left without a client. Everything before `next` was sent.
    pub fn park(&mut self, next: Lsn) {
        self.catch_up = None;
        self.queue.park(next);
        self.shared.set_live(false);
    }

    /// The session's client is back: it gets what it missed, and of the events before `now` only
    /// QoS 1 and 2.
    pub fn unpark(&mut self, now: Lsn) {
        self.back_since = now;
        self.queue.unpark();
        self.shared.set_live(true);
    }

    /// How many subscriptions it has.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len() + self.shared.len()
    }

    /// Whether it has a subscription with exactly this filter.
    pub fn has(&self, filter: &Filter) -> bool {
        self.held(filter).is_some()
    }

    /// Whether there is memory for one more, with this filter, and for what it brings.
    pub fn fits(&self, filter: &Filter) -> bool {
        let memory = &self.bus.memory;
        memory.fits(Sort::Subscriptions, cost(filter)) && memory.room() < Room::None
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
            kept: self.kept,
            subscriptions,
            reply,
        })?;
        let follows = self.catch_up.is_none() && !self.queue.is_behind();
        let answer = answer.await.map_err(|_| SubscriberError::Stopped)?;
        let Subscribed { retained, groups, from } = answer;
        let mut groups = groups.into_iter();
        for (filter, options) in wanted {
            if !self.has(&filter) {
                self.own.set(self.own.bytes() + cost(&filter));
            }
            if is_shared(&filter) {
                let group = groups.next();
                self.shared.join(group.map(|group| (filter, group, options, from)));
                continue;
            }
            let held = self.subscriptions.entry(filter).or_insert((options, from));
            // What it got with QoS 0 is no gap that the log would have to fill.
            let raised = held.0.qos == Qos::AtMostOnce && options.qos > Qos::AtMostOnce;
            if raised && follows {
                held.1 = from;
            }
            held.0 = options;
        }
        Ok(retained)
    }

    /// The subscription with this filter, and the first event that it sees.
    pub fn held(&self, filter: &Filter) -> Option<(Options, Lsn)> {
        self.subscriptions.get(filter).copied().or_else(|| self.shared.get(filter))
    }

    /// The delivery of an event that was sent before with `qos`, and is to be sent again; `group` is
    /// the shared subscription that it was sent for.
    pub fn again(&self, event: &EventRef<'_>, qos: Qos, group: Option<&str>) -> Delivery {
        let (lsn, memory) = (event.lsn(), &self.bus.memory);
        let alone = || Delivery::of(Event::copy(event, memory, Sort::Deliveries), lsn);
        let delivery = match group {
            None => deliver(event, &self.subscriptions, &self.client, memory),
            Some(group) => self.shared.options(group).map(|options| {
                let mut delivery = alone();
                delivery.merge(&options);
                delivery
            }),
        };
        Delivery { qos, ..delivery.unwrap_or_else(alone) }
    }

    /// Ends the subscriptions with these filters. Answers for each whether there was one.
    pub async fn unsubscribe(&mut self, filters: &[Filter]) -> Result<Vec<bool>, SubscriberError> {
        let mut found = Vec::with_capacity(filters.len());
        let mut gone = Vec::new();
        for filter in filters {
            let had = self.subscriptions.remove(filter).is_some() || self.shared.remove(filter);
            found.push(had);
            gone.extend(had.then(|| filter.clone()));
        }
        self.own.set(self.own.bytes() - gone.iter().map(cost).sum::<usize>());
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

    /// Ready when [`Subscriber::fill`] has something to do. Events of shared subscriptions come only
    /// where there is room in the client's window for at least one.
    pub fn poll_ready(&mut self, context: &mut Context<'_>, window: usize) -> Poll<()> {
        let own = match &mut self.catch_up {
            Some(catch_up) => catch_up.poll_ready(context),
            None => self.queue.poll_ready(context),
        };
        if window == 0 {
            self.decline();
        } else if own.is_pending() && !self.shared.is_empty() {
            return self.shared.poll_ready(context);
        }
        own
    }

    /// Whether it is none of the QoS 0 events of the time without a client.
    fn wants(&self, delivery: &Delivery) -> bool {
        delivery.qos > Qos::AtMostOnce || delivery.lsn.is_none_or(|lsn| lsn >= self.back_since)
    }

    /// It can take nothing for now: events of shared subscriptions go to other members.
    pub fn decline(&mut self) {
        self.shared.decline();
    }

    /// Puts what comes next into `into`, which is empty. It may stay so. Of shared subscriptions there
    /// are at most `window`.
    pub async fn fill(
        &mut self,
        into: &mut VecDeque<Delivery>,
        window: usize,
    ) -> Result<(), SubscriberError> {
        if window == 0 || self.shared.is_empty() {
            return self.fill_own(into).await;
        }
        // In turn: neither waits for the other to be empty.
        self.shared_first = !self.shared_first;
        if self.shared_first {
            self.shared.fill(into, window, &self.bus.log).await?;
            if !into.is_empty() {
                return Ok(());
            }
        }
        self.fill_own(into).await?;
        if into.is_empty() && !self.shared_first {
            self.shared.fill(into, window, &self.bus.log).await?;
        }
        Ok(())
    }

    /// From its own queue, or the log.
    async fn fill_own(&mut self, into: &mut VecDeque<Delivery>) -> Result<(), SubscriberError> {
        if self.catch_up.is_none() {
            match self.queue.take(into) {
                Taken::Deliveries => {
                    // After a restart the bus begins with what may have been sent before.
                    into.retain(|delivery| self.wants(delivery));
                    return Ok(());
                }
                Taken::Behind(from) => {
                    debug!(client = &*self.client, from, "slow subscriber goes on from the log");
                    self.catch_up = Some(CatchUp::new(&self.bus, from));
                }
            }
        }
        let Some(catch_up) = &mut self.catch_up else { return Ok(()) };
        self.queue.reads_from(catch_up.position());
        let session = Reading {
            bus: &self.bus,
            subscriptions: &self.subscriptions,
            client: &self.client,
            back_since: self.back_since,
        };
        match catch_up.read(&session, into)? {
            Read::Frames => {}
            Read::Tail if catch_up.until.is_none() => {
                let (reply, answer) = oneshot::channel();
                let from = catch_up.position();
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
        if catch_up.until.is_some_and(|until| catch_up.position() >= until) {
            self.catch_up = None;
        }
        Ok(())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // Once the bus has ended there is nothing to leave.
        let _ = self.bus.commands.send(Command::Detach { id: self.id });
    }
}
