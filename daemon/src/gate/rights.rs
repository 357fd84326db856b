//! What one client may do: decides without a lock, and without an allocation once it has seen a few
//! topics.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_event::Filter;

use super::Identity;
use super::acl::{Acl, Granted, Topics};

/// Topics whose decisions are remembered, for each direction; a power of two.
const REMEMBERED: usize = 16;

/// The rules that are in force.
#[derive(Debug, Default)]
pub(super) struct Current {
    /// Counts how often they changed.
    version: AtomicU64,
    acl: Mutex<Arc<Acl>>,
}

/// One connection's rights. They follow the rules when these change.
#[derive(Clone)]
pub struct Rights {
    /// None is every right for ever.
    source: Option<Source>,
    /// None is every right as long as the rules do not change.
    granted: Option<Box<Known>>,
}

#[derive(Clone)]
struct Source {
    current: Arc<Current>,
    version: u64,
    identity: Identity,
    client: Arc<str>,
}

/// What was granted, and what that meant for the last topics.
#[derive(Clone)]
struct Known {
    granted: Arc<Granted>,
    published: Decisions,
    received: Decisions,
}

/// A table of the last decisions: a topic has one place in it.
#[derive(Clone, Default)]
struct Decisions(Vec<(String, bool)>);

impl Current {
    pub(super) fn new(acl: Acl) -> Self {
        Self { version: AtomicU64::new(0), acl: Mutex::new(Arc::new(acl)) }
    }

    /// Puts other rules in force, for connected clients too.
    pub(super) fn replace(&self, acl: Acl) {
        *self.acl.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(acl);
        self.version.fetch_add(1, Ordering::Release);
    }

    fn acl(&self) -> Arc<Acl> {
        Arc::clone(&self.acl.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Rights {
    /// Every right, for what is part of the gateway itself.
    pub fn all() -> Self {
        Self { source: None, granted: None }
    }

    pub(super) fn new(current: &Arc<Current>, identity: &Identity, client: Arc<str>) -> Self {
        let source =
            Source { current: Arc::clone(current), version: 0, identity: identity.clone(), client };
        let mut rights = Self { source: Some(source), granted: None };
        rights.read();
        rights
    }

    /// Whether the client may publish to `topic`, a valid topic name.
    pub fn may_publish(&mut self, topic: &str) -> bool {
        self.follow();
        let Some(known) = &mut self.granted else { return true };
        known.published.decide(topic, &known.granted.publish)
    }

    /// Whether the client may subscribe to `filter`; of a shared subscription, to the filter in it.
    pub fn may_subscribe(&mut self, filter: &Filter) -> bool {
        self.follow();
        self.granted.as_ref().is_none_or(|known| known.granted.subscribe.cover(filter))
    }

    /// Whether an event with this topic may be delivered to the client: what [`Rights::may_subscribe`]
    /// allowed may hold topics that are denied, and rules change.
    pub fn may_receive(&mut self, topic: &str) -> bool {
        self.follow();
        let Some(known) = &mut self.granted else { return true };
        known.received.decide(topic, &known.granted.subscribe)
    }

    /// Whether there are rules at all: otherwise a topic need not even be looked up.
    pub fn is_limited(&mut self) -> bool {
        self.follow();
        self.granted.is_some()
    }

    fn follow(&mut self) {
        let Some(source) = &self.source else { return };
        if source.current.version.load(Ordering::Acquire) != source.version {
            self.read();
        }
    }

    fn read(&mut self) {
        let Some(source) = &mut self.source else { return };
        // First: rules that come in between are read next time.
        source.version = source.current.version.load(Ordering::Acquire);
        let granted = source.current.acl().granted(&source.identity, &source.client);
        self.granted = granted.map(|granted| {
            let (published, received) = (Decisions::default(), Decisions::default());
            Box::new(Known { granted: Arc::new(granted), published, received })
        });
    }
}

impl Decisions {
    fn decide(&mut self, topic: &str, topics: &Topics) -> bool {
        if self.0.is_empty() {
            self.0.resize_with(REMEMBERED, Default::default);
        }
        let place = crc32c::crc32c(topic.as_bytes()) as usize % REMEMBERED;
        let Some((known, decision)) = self.0.get_mut(place) else { return topics.hold(topic) };
        // No topic is empty.
        if known != topic {
            known.clear();
            known.push_str(topic);
            *decision = topics.hold(topic);
        }
        *decision
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let granted = self.granted.as_ref().map(|known| &known.granted);
        f.debug_struct("Rights").field("granted", &granted).finish_non_exhaustive()
    }
}
