//! May it enter: every event, from a client or from an edge service, passes here on its way to the
//! log.
//!
//! A client is let in by [`Gate::authenticate`], before it has a session. Admission of its events is a
//! decision without I/O ([`Gate::check`]); what a client's protocol makes of a refusal is the
//! listener's business. Rates and the deduplication of CloudEvents belong in [`Gate::check`] too, so
//! that no other way into the log needs them again.

mod access;
mod acl;
mod dedup;
mod entry;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod identity;
pub mod login;
mod rights;
mod secret;

use std::sync::Arc;

use tidegate_config::Limits;
use tidegate_event::record::InLanes;
use tidegate_event::{BlockBuilder, Draft, Lsn, Received, topic};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::log::{Append, Log};

pub use access::Access;
pub use dedup::{Arrival, Dedup, Key, Mark, Pending};
pub use entry::{Entry, Place};
pub use identity::{Certificate, Credentials, Identity, Peer};
pub use login::{Present, Rejected};
pub use rights::Rights;
pub use secret::Secret;

/// Admits events to the log.
#[derive(Debug)]
pub struct Gate {
    log: Arc<Log>,
    clock: Clock,
    rules: Rules,
    access: Access,
    dedup: Dedup,
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
    /// The client's rights do not go that far.
    #[error("the client may not publish to the topic")]
    NotAuthorized,
    /// `$SYS` and `$share`: they are reserved.
    #[error("the topic begins with $SYS or $share, which clients may not publish to")]
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
            Self::NotAuthorized => "not-authorized",
            Self::TopicReserved => "topic-reserved",
            Self::TopicTooLong { .. } => "topic-too-long",
            Self::TopicTooDeep { .. } => "topic-too-deep",
        }
    }
}

impl Gate {
    /// A gate before `log`, open to everybody whom a listener lets in without a login.
    pub fn new(log: Arc<Log>, limits: &Limits, clock: Clock) -> Self {
        Self::with_access(log, limits, clock, Access::open())
    }

    /// A gate before `log` for those whom `access` lets in.
    pub fn with_access(log: Arc<Log>, limits: &Limits, clock: Clock, access: Access) -> Self {
        let dedup = Dedup::new(&tidegate_config::Dedup::default());
        Self { log, clock, rules: Rules::new(limits), access, dedup }
    }

    /// The same with other bounds for events that come twice.
    pub fn with_dedup(self, dedup: Dedup) -> Self {
        Self { dedup, ..self }
    }

    /// Tells second copies of CloudEvents from the first.
    pub fn dedup(&self) -> &Dedup {
        &self.dedup
    }

    /// Verifies a client's login. To be called with a limit on its time; it may be dropped.
    ///
    /// # Errors
    /// Why the client is not let in.
    pub async fn authenticate(
        &self,
        peer: &Peer,
        credentials: &Credentials,
    ) -> Result<Identity, Rejected> {
        self.access.authenticator.authenticate(peer, credentials).await
    }

    /// Enters a connection that is to end when its login is no longer right: `stop` is cancelled then,
    /// and [`Gate::holds`] says why.
    pub fn enter(&self, identity: &Identity, stop: &CancellationToken) -> Present {
        self.access.authenticator.enter(identity, stop)
    }

    /// Whether a login that was right still is.
    pub fn holds(&self, identity: &Identity) -> bool {
        self.access.authenticator.holds(identity)
    }

    /// What a client may do: for one connection, or for a few requests of one.
    pub fn rights(&self, identity: &Identity, client: &Arc<str>) -> Rights {
        Rights::new(&self.access.rules, identity, Arc::clone(client))
    }

    /// The time of an event received now.
    pub fn now(&self) -> Received {
        self.clock.now()
    }

    /// Decides about one event of a client with these rights; it costs nothing else.
    pub fn check(&self, rights: &mut Rights, event: &Draft<'_>) -> Result<(), Denied> {
        self.rules.check(event)?;
        if rights.may_publish(event.topic) { Ok(()) } else { Err(Denied::NotAuthorized) }
    }

    /// Hands a block of admitted events to the log.
    pub fn submit(&self, block: &mut BlockBuilder) -> Append {
        self.log.append(block)
    }

    /// The newest event in the log: what is submitted from now on comes behind it.
    pub fn committed(&self) -> Lsn {
        self.log.committed()
    }

    /// Whether the log takes nothing because the disk is full.
    pub fn is_disk_full(&self) -> bool {
        self.log.is_disk_full()
    }

    /// Resolves when it is worth trying [`Gate::submit`] again with a refused block that takes this in
    /// each lane.
    pub async fn room(&self, parts: &InLanes) {
        self.log.room_for(parts).await;
    }

    /// Checks one event from `origin`, which has these rights, and hands it to the log: for wills.
    /// [`Append::Full`] is also what a full lane answers.
    pub fn publish(
        &self,
        origin: &str,
        rights: &mut Rights,
        event: &Draft<'_>,
    ) -> Result<Append, Denied> {
        self.check(rights, event)?;
        let mut block = BlockBuilder::new(origin, self.now());
        Ok(match self.put(&mut block, self.place(event.topic), event) {
            Entry::Kept | Entry::Dropped => self.submit(&mut block),
            Entry::Refused(_) => Append::Full,
        })
    }
}

/// Topics that only the gateway publishes, and the share names of subscriptions. The exception is where
/// a mosquitto bridge says that it is connected, as at mosquitto. Other topics that begin with `$` are
/// like any (MQTT 5.0 section 4.7.2).
fn is_reserved(topic: &str) -> bool {
    let bridge_state = || {
        let id = topic.strip_prefix("$SYS/broker/connection/")?.strip_suffix("/state")?;
        (!id.contains('/')).then_some(())
    };
    matches!(topic.split('/').next(), Some("$SYS" | "$share")) && bridge_state().is_none()
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
        if is_reserved(event.topic) {
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
        for topic in ["$SYS/uptime", "$SYS", "$share/g/a", "$share"] {
            assert_eq!(check(topic), Err(Denied::TopicReserved), "{topic}");
        }
        for topic in ["$other/a", "$SYSTEM", "$"] {
            assert_eq!(check(topic), Ok(()), "{topic}");
        }
        assert!(!is_reserved("$SYS/broker/connection/edge.plant/state"));
        assert!(is_reserved("$SYS/broker/connection/a/b/state"));
        assert!(is_reserved("$SYS/broker/connection//../state"));
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
