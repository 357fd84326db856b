//! `$SYS`: what the gateway says about itself over MQTT. Never in the log: it goes to who has
//! subscribed, with QoS 0, and the newest value of each topic to who subscribes, like a retained
//! message. It goes to no shared subscription.

use std::collections::BTreeMap;

use tidegate_event::record::Properties;
use tidegate_event::{Epoch, EventId, EventRef, Filter, Lane, Qos, Received};

use super::event::{Delivery, Event};
use super::task::{Bus, Entry, MAX_PENDING};
use crate::clock::unix_micros;
use crate::memory::{Memory, Sort};

/// A topic below `$SYS`, and what it says now.
pub type SystemValue = (&'static str, String);

/// The newest values.
#[derive(Debug, Default)]
pub(super) struct System(BTreeMap<&'static str, Event>);

impl System {
    /// Takes in a value; answers with its message, if it is another than before.
    fn set(&mut self, (topic, value): SystemValue, memory: &Memory) -> Option<&Event> {
        if self.0.get(topic).is_some_and(|old| old.payload() == value.as_bytes()) {
            return None;
        }
        let event = EventRef {
            lane: Lane(0),
            id: EventId { epoch: Epoch(0), lane: Lane(0), lsn: 0 },
            received: Received::Synced { unix_micros: unix_micros() },
            origin: "",
            topic,
            qos: Qos::AtMostOnce,
            retain: true,
            properties: Properties::default(),
            payload: value.as_bytes(),
        };
        self.0.insert(topic, Event::copy(&event, memory, Sort::Retained));
        self.0.get(topic)
    }

    /// Those whose topics match, in the order of their topics.
    pub(super) fn matching(&self, filter: &Filter) -> impl Iterator<Item = &Event> {
        self.0.iter().filter(|(topic, _)| filter.matches(topic)).map(|(_, event)| event)
    }
}

impl Bus {
    /// Hands out the values that have changed.
    pub(super) fn publish_system(&mut self, values: Vec<SystemValue>) {
        let Self { system, trie, members, touched, next, memory, metrics, .. } = self;
        for value in values {
            let topic = value.0;
            let Some(event) = system.set(value, memory) else { continue };
            trie.matches(topic, |entry| {
                let Entry::Session { id, options, .. } = entry else { return };
                let Some(member) = members.get_mut(id).filter(|member| !member.behind) else {
                    return;
                };
                if member.pending.is_empty() {
                    touched.push(*id);
                }
                let last = member.pending.last();
                if last.is_none_or(|(_, delivery)| delivery.event.topic() != topic) {
                    if member.pending.len() == MAX_PENDING {
                        member.flush(metrics);
                    }
                    member.pending.push((*next, Delivery::new(event.clone())));
                }
                if let Some((_, delivery)) = member.pending.last_mut() {
                    delivery.merge(options);
                }
            });
        }
        self.flush_members();
    }
}
