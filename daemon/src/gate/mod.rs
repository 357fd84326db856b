//! May it enter: every event, from a client or from an edge service, passes here on its way to the
//! log.
//!
//! Admission is a decision without I/O ([`Gate::check`]); what a client's protocol makes of a
//! refusal is the listener's business. Identity, rights, rates and the deduplication of CloudEvents
//! belong in [`Gate::check`] too, so that no other way into the log needs them again.

use std::sync::Arc;

use tidegate_config::Limits;
use tidegate_event::{BlockBuilder, Draft, Received, topic};

use crate::clock::Clock;
use crate::log::{Append, Log};

/// Admits events to the log.
#[derive(Debug)]
pub struct Gate {
    log: Arc<Log>,
    clock: Clock,
    rules: Rules,
}

/// What the decision depends on.
#[derive(Debug, Clone, Copy)]
struct Rules {
    max_topic_length: usize,
    max_topic_levels: usize,
}

/// Why an event may not enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Not a topic name at all (`[MQTT-3.3.2-2]`, `[MQTT-4.7.3-1]`, `[MQTT-4.7.3-2]`).
    #[error("the topic name is empty, or contains a wildcard or the null character")]
    TopicInvalid,
    /// Topics that begin with `$` are the gateway's own.
    #[error("the topic begins with $, which clients may not publish to")]
    TopicReserved,
    /// `limits.max-topic-length`.
    #[error("the topic is {length} bytes long, the limit is {limit}")]
    TopicTooLong {
        /// In bytes.
        length: usize,
        /// In bytes.
        limit: usize,
    },
    /// `limits.max-topic-levels`.
    #[error("the topic has {levels} levels, the limit is {limit}")]
    TopicTooDeep {
        /// How many it has.
        levels: usize,
        /// How many it may have.
        limit: usize,
    },
}

impl Denied {
    /// One word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TopicInvalid => "topic-invalid",
            Self::TopicReserved => "topic-reserved",
            Self::TopicTooLong { .. } => "topic-too-long",
            Self::TopicTooDeep { .. } => "topic-too-deep",
        }
    }
}

impl Gate {
    /// A gate before `log`.
    pub fn new(log: Arc<Log>, limits: &Limits, clock: Clock) -> Self {
        Self { log, clock, rules: Rules::new(limits) }
    }

    /// The time of an event received now.
    pub fn now(&self) -> Received {
        self.clock.now()
    }

    /// Decides about one event; it costs nothing else.
    pub fn check(&self, event: &Draft<'_>) -> Result<(), Denied> {
        self.rules.check(event)
    }

    /// Hands a block of admitted events to the log.
    pub fn submit(&self, block: &mut BlockBuilder) -> Append {
        self.log.append(block)
    }

    /// Resolves when it is worth trying [`Gate::submit`] again after it was refused.
    pub async fn room(&self) {
        self.log.room().await;
    }

    /// Checks one event from `origin` and hands it to the log: for edge services and wills.
    pub fn publish(&self, origin: &str, event: &Draft<'_>) -> Result<Append, Denied> {
        self.check(event)?;
        let mut block = BlockBuilder::new(origin, self.now());
        block.push(event);
        Ok(self.submit(&mut block))
    }
}

impl Rules {
    fn new(limits: &Limits) -> Self {
        Self {
            max_topic_length: limits.max_topic_length,
            max_topic_levels: limits.max_topic_levels,
        }
    }

    fn check(&self, event: &Draft<'_>) -> Result<(), Denied> {
        let (length, limit) = (event.topic.len(), self.max_topic_length);
        if length > limit {
            return Err(Denied::TopicTooLong { length, limit });
        }
        if topic::check_name(event.topic).is_err() {
            return Err(Denied::TopicInvalid);
        }
        if event.topic.starts_with('$') {
            return Err(Denied::TopicReserved);
        }
        let levels = 1 + event.topic.bytes().filter(|byte| *byte == b'/').count();
        if levels > self.max_topic_levels {
            return Err(Denied::TopicTooDeep { levels, limit: self.max_topic_levels });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidegate_event::Qos;
    use tidegate_event::record::Properties;

    use super::*;

    fn check(topic: &str) -> Result<(), Denied> {
        let rules = Rules { max_topic_length: 20, max_topic_levels: 3 };
        rules.check(&Draft {
            topic,
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            payload: b"1",
        })
    }

    #[test]
    fn a_topic_within_the_limits_enters() {
        assert_eq!(check("plant/boiler-7/temp"), Ok(()));
        assert_eq!(check("//"), Ok(()));
        assert_eq!(check("a$b"), Ok(()));
    }

    #[test]
    fn what_is_no_topic_name_does_not() {
        for topic in ["", "a/+", "#", "a\0b"] {
            assert_eq!(check(topic), Err(Denied::TopicInvalid), "{topic:?}");
        }
    }

    #[test]
    fn topics_of_the_gateway_itself_are_closed_to_clients() {
        assert_eq!(check("$SYS/uptime"), Err(Denied::TopicReserved));
    }

    #[test]
    fn a_refusal_says_the_figure_and_the_limit() {
        let long = check(&"x".repeat(21));
        assert_eq!(long, Err(Denied::TopicTooLong { length: 21, limit: 20 }));
        let deep = check("a/b/c/d");
        assert_eq!(deep, Err(Denied::TopicTooDeep { levels: 4, limit: 3 }));
        assert_eq!(deep.unwrap_err().to_string(), "the topic has 4 levels, the limit is 3");
    }
}
