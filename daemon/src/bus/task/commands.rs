//! What sessions ask of the bus.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_event::{Filter, Lsn};
use tokio::sync::oneshot;

use super::super::event::{Delivery, Event, Options};
use super::super::queue::Queue;
use super::super::share::{Group, Joining, is_shared};
use super::super::subscriber::Held;
use super::super::system::SystemValue;
use super::super::{RetainHandling, Subscription};
use super::{Bus, Entry, Member};

/// What sessions ask of the bus. A session has one question open at a time, so the channel that
/// carries them needs no bound of its own.
#[derive(Debug)]
pub(in crate::bus) enum Command {
    /// Adds or replaces subscriptions; answers with their retained messages.
    Subscribe {
        id: u64,
        client: Arc<str>,
        queue: Arc<Queue>,
        /// Its session outlasts its connection.
        kept: bool,
        subscriptions: Vec<Subscription>,
        reply: oneshot::Sender<Subscribed>,
    },
    /// Takes up a session that has everything before `live_from`; its client is away.
    Restore { id: u64, client: Arc<str>, queue: Arc<Queue>, subscriptions: Held, live_from: Lsn },
    /// Asks for the retained message of a topic.
    Retained { topic: Box<str>, reply: oneshot::Sender<Option<Event>> },
    /// Ends subscriptions.
    Unsubscribe { id: u64, filters: Vec<Filter>, reply: oneshot::Sender<()> },
    /// The session has read the log up to `from`; answers where the bus takes over.
    Rejoin { id: u64, from: Lsn, reply: oneshot::Sender<Lsn> },
    /// The session has ended.
    Detach { id: u64 },
    /// What the gateway says about itself.
    System(Vec<SystemValue>),
}

/// The answer to [`Command::Subscribe`].
#[derive(Debug)]
pub(in crate::bus) struct Subscribed {
    /// The retained messages.
    pub(in crate::bus) retained: Vec<Delivery>,
    /// The groups of those that are shared, in their order.
    pub(in crate::bus) groups: Vec<Arc<Group>>,
    /// The first event that the subscriptions see.
    pub(in crate::bus) from: Lsn,
}

impl Bus {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Subscribe { id, client, queue, kept, subscriptions, reply } => {
                self.members.entry(id).or_insert_with(|| Member {
                    client,
                    queue,
                    filters: BTreeSet::new(),
                    live_from: 0,
                    behind: false,
                    pending: Vec::new(),
                });
                let (mut retained, mut groups) = (Vec::new(), Vec::new());
                for subscription in subscriptions {
                    if is_shared(&subscription.filter) {
                        let Subscription { filter, options, .. } = subscription;
                        let joining = Joining { id, options, kept, live: true, seen: self.next };
                        groups.extend(self.join(&filter, &joining));
                    } else {
                        self.subscribe(id, subscription, &mut retained);
                    }
                }
                self.metrics.deliveries.inc_by(retained.len() as u64);
                // A session that has gone meanwhile detaches next.
                let _ = reply.send(Subscribed { retained, groups, from: self.next });
            }
            Command::Restore { id, client, queue, subscriptions, live_from } => {
                let behind = queue.unsent().is_some();
                let (filters, pending) = (BTreeSet::new(), Vec::new());
                let member = Member { client, queue, filters, live_from, behind, pending };
                self.members.insert(id, member);
                for (filter, (options, from)) in subscriptions {
                    if is_shared(&filter) {
                        let seen = self.next;
                        let joining = Joining { id, options, kept: true, live: false, seen };
                        self.join(&filter, &joining);
                    } else {
                        self.insert(id, filter, options, from);
                    }
                }
            }
            Command::Retained { topic, reply } => {
                let _ = reply.send(self.retained.get(&topic));
            }
            Command::Unsubscribe { id, filters, reply } => {
                for filter in &filters {
                    if self.members.get_mut(&id).is_some_and(|it| it.filters.remove(filter)) {
                        self.remove(id, filter);
                    }
                }
                let _ = reply.send(());
            }
            Command::Rejoin { id, from, reply } => {
                let takes_over = self.next.max(from);
                if let Some(member) = self.members.get_mut(&id) {
                    member.live_from = takes_over;
                    member.behind = !member.queue.rejoin();
                }
                let _ = reply.send(takes_over);
            }
            Command::Detach { id } => {
                for filter in self.members.remove(&id).into_iter().flat_map(|gone| gone.filters) {
                    self.remove(id, &filter);
                }
            }
            Command::System(values) => self.publish_system(values),
        }
        let (shared, groups) = self.desk.count();
        self.metrics.subscriptions.set((self.trie.len() - groups + shared) as i64);
        self.metrics.shared_subscriptions.set(shared as i64);
    }

    /// Answers whether the session had this subscription before.
    fn insert(&mut self, id: u64, filter: Filter, options: Options, from: Lsn) -> bool {
        let entry = Entry::Session { id, options, from };
        let old = self.trie.insert(&filter, entry, |old| old.is_session(id));
        if let Some(member) = self.members.get_mut(&id) {
            member.filters.insert(filter);
        }
        old.is_some()
    }

    fn subscribe(&mut self, id: u64, wanted: Subscription, retained: &mut Vec<Delivery>) {
        let Subscription { filter, options, retain_handling } = wanted;
        let had = self.insert(id, filter.clone(), options, self.next);
        let wanted = match retain_handling {
            RetainHandling::Always => true,
            RetainHandling::New => !had,
            RetainHandling::Never => false,
        };
        let Some(member) = self.members.get(&id) else { return };
        if !wanted {
            return;
        }
        let own = |origin: &str| options.no_local && *origin == *member.client;
        let published = self.retained.matching(&filter).filter(|message| !own(&message.origin));
        let published = published.map(|message| &message.event);
        for event in published.chain(self.system.matching(&filter)) {
            let mut delivery = Delivery::new(event.clone());
            delivery.merge(&options);
            delivery.retain = true;
            retained.push(delivery);
        }
    }

    /// A session joins the group of a shared subscription.
    fn join(&mut self, filter: &Filter, joining: &Joining) -> Option<Arc<Group>> {
        let member = self.members.get_mut(&joining.id)?;
        let again = !member.filters.insert(filter.clone());
        let (group, new) = self.desk.join(filter, joining, again)?;
        if let Some(number) = new {
            self.trie.insert(group.filter(), Entry::Group(number), |_| false);
        }
        Some(group)
    }

    fn remove(&mut self, id: u64, filter: &Filter) {
        if !is_shared(filter) {
            self.trie.remove(filter, |entry| entry.is_session(id));
        } else if let Some((group, number)) = self.desk.leave(filter, id) {
            self.trie.remove(
                group.filter(),
                |entry| matches!(entry, Entry::Group(gone) if *gone == number),
            );
        }
    }
}

impl Entry {
    fn is_session(&self, session: u64) -> bool {
        matches!(self, Self::Session { id, .. } if *id == session)
    }
}
