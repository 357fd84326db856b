//! What an alert looks like as an event.
//!
//! Topic `alerts/<alert>/<device>`, retained, QoS 1. On the wire it is a CloudEvent in MQTT binary
//! mode (MQTT binding 1.0.2): `type` is `tidegate.alert.raised` or `tidegate.alert.cleared`, `source`
//! `/gateway/<gateway>/alerts/<alert>`, and `id` names the event that began it, so that a repetition
//! after a crash is known as one. The payload:
//!
//! ```json
//! {"alert": "overheating", "device": "boiler-7", "state": "raised", "severity": "critical",
//!  "value": 91.5, "condition": "> 90", "threshold": 90.0, "since": "2026-11-21T08:30:00.000250Z",
//!  "at": "2026-11-21T08:30:10.000250Z", "topic": "plant/boiler-7/temperature"}
//! ```
//!
//! `since` is when the condition began to hold, `at` when the alert was raised or cleared. A cleared
//! one stays retained: whoever subscribes learns that the alert exists and is not open. One that was
//! cleared by the config says so in `reason`, and has no value.

use serde::Serialize;
use tidegate_config::alert::{Comparison, Condition};
use tidegate_event::percent::encode_segment;
use tidegate_event::{Lsn, Property, Qos, time};
use tracing::{info, warn};

use crate::Emitted;

/// The first level of every alert's topic.
pub(super) const TOPIC: &str = "alerts";

/// One transition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notice<'a> {
    pub(super) gateway: &'a str,
    pub(super) alert: &'a str,
    pub(super) device: &'a str,
    pub(super) severity: &'a str,
    /// `"raised"` or `"cleared"`.
    pub(super) state: &'static str,
    pub(super) value: Option<f64>,
    pub(super) condition: Option<Condition>,
    /// The id of the event that began it.
    pub(super) start: &'a str,
    /// In microseconds since 1970.
    pub(super) since: i64,
    /// In microseconds since 1970.
    pub(super) at: i64,
    pub(super) topic: &'a str,
    pub(super) reason: Option<&'static str>,
    pub(super) cause: Lsn,
}

#[derive(Serialize)]
struct Payload<'a> {
    alert: &'a str,
    device: &'a str,
    state: &'a str,
    severity: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f64>,
    since: String,
    at: String,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Notice<'_> {
    /// One line for the operator, with the fields that the journal is filtered by.
    fn tell(&self) {
        let Self { alert, device, severity, state, topic, value, .. } = *self;
        if severity == "critical" {
            warn!(alert, device, severity, topic, value, "alert {alert} of {device} {state}");
        } else {
            info!(alert, device, severity, topic, value, "alert {alert} of {device} {state}");
        }
    }

    pub(super) fn to_event(self) -> Emitted {
        self.tell();
        let at = rfc3339(self.at);
        let payload = Payload {
            alert: self.alert,
            device: self.device,
            state: self.state,
            severity: self.severity,
            value: self.value,
            condition: self.condition.as_ref().map(text),
            threshold: self.condition.map(|condition| condition.threshold),
            since: rfc3339(self.since),
            at: at.clone(),
            topic: self.topic,
            reason: self.reason,
        };
        let gateway = encode_segment(self.gateway);
        let alert = encode_segment(self.alert);
        let mut properties = Vec::new();
        for property in [
            Property::ContentType("application/json"),
            Property::PayloadFormat(1),
            Property::User("specversion", "1.0"),
            Property::User("id", &format!("{}.{}", self.start, self.state)),
            Property::User("source", &format!("/gateway/{gateway}/alerts/{alert}")),
            Property::User("type", &format!("tidegate.alert.{}", self.state)),
            Property::User("time", &at),
        ] {
            property.write(&mut properties);
        }
        Emitted {
            topic: format!("{TOPIC}/{}/{}", self.alert, level(self.device)),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties,
            // Strings and numbers: it cannot fail.
            payload: serde_json::to_vec(&payload).unwrap_or_default(),
            cause: self.cause,
        }
    }
}

/// As it is written in the config.
pub(super) fn text(condition: &Condition) -> String {
    let sign = match condition.comparison {
        Comparison::Above => ">",
        Comparison::AtLeast => ">=",
        Comparison::Below => "<",
        Comparison::AtMost => "<=",
    };
    format!("{sign} {}", condition.threshold)
}

/// `device` as one level of a topic: what cannot stand there, and `%`, is percent-encoded. An empty
/// name becomes `%`, which no other one does.
fn level(device: &str) -> String {
    let mut level = String::with_capacity(device.len());
    for char in device.chars() {
        match char {
            '/' | '+' | '#' | '%' => level.push_str(&format!("%{:02X}", u32::from(char))),
            char if char.is_control() => {
                let mut bytes = [0; 4];
                for byte in char.encode_utf8(&mut bytes).bytes() {
                    level.push_str(&format!("%{byte:02X}"));
                }
            }
            char => level.push(char),
        }
    }
    if level.is_empty() {
        level.push('%');
    }
    level
}

fn rfc3339(unix_micros: i64) -> String {
    let mut text = Vec::with_capacity(27);
    time::write_rfc3339(unix_micros, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_device_name_makes_one_level_and_two_names_never_the_same() {
        let names = ["boiler-7", "a/b", "a%2Fb", "+", "#", "\0", "", "%", "ü 1", "\u{85}"];
        let levels = names.map(level);
        for level in &levels {
            assert_eq!(tidegate_event::topic::check_name(level), Ok(()), "{level}");
            assert!(!level.contains('/'));
        }
        assert_eq!(levels[1], "a%2Fb");
        assert_eq!(levels.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn a_condition_reads_as_it_was_written() {
        for written in ["> 90", ">= 4.5", "< -1", "<= 0"] {
            assert_eq!(text(&written.parse().unwrap()), written);
        }
    }
}
