//! A client's will: checked when it connects, published when it is gone without a word.

use tidegate_event::Draft;
use tidegate_event::record::Properties;
use tracing::warn;

use super::codec::{Bad, Connect, Reason, Refused, Version, Will};
use super::{Metrics, Shared};
use crate::gate::Rights;
use crate::log::Append;

impl Will {
    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }

    /// What is published.
    pub(super) fn draft(&self) -> Draft<'_> {
        Draft {
            topic: &self.topic,
            qos: self.qos,
            retain: self.retain,
            properties: Properties::new(&self.properties),
            payload: &self.payload,
        }
    }
}

/// A will that could not be published later is refused now.
pub(super) fn check(
    connect: &Connect,
    rights: &mut Rights,
    shared: &Shared,
) -> Result<(), Refused> {
    let Some(will) = &connect.will else { return Ok(()) };
    if will.retain && shared.limits.max_retained == 0 && connect.version == Version::V5 {
        let bad = Bad(
            Reason::RetainNotSupported,
            "retained will, which limits.max-retained = 0 rules out",
        );
        return Err(Refused::With(connect.version, bad));
    }
    shared.gate.check(rights, &will.draft()).map_err(|denied| {
        shared.metrics.denied(denied.label());
        let bad = Bad(denied.into(), "will with a topic that may not be published to");
        Refused::With(connect.version, bad)
    })
}

/// Hands the will of `client` to the log.
pub(super) fn publish(will: &Will, client: &str, rights: &mut Rights, shared: &Shared) {
    let lost = match shared.gate.publish(client, rights, &will.draft()) {
        // Dropping the commit does not take the event back.
        Ok(Append::Accepted(_)) => return,
        Ok(Append::Full) => "the log, or its lane, has no room".to_owned(),
        Ok(Append::Busy) => "the disk is slower than what comes in".to_owned(),
        Ok(Append::Unavailable) => "the disk takes no writes".to_owned(),
        Err(denied) => denied.to_string(),
    };
    self::lost(client, &will.topic, &lost, &shared.metrics);
}

/// The will of `client` is not published.
pub(super) fn lost(client: &str, topic: &str, why: &str, metrics: &Metrics) {
    metrics.wills_lost.inc();
    warn!(client, topic, "a will is lost: {why}");
}
