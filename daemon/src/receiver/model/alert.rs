//! Alerts: what the gateways' edge services raised and cleared.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tidegate_event::cloudevents::parse::{CloudEvent, Data};

use super::shown;

/// What the type of every event about an alert begins with.
pub(super) const TYPE_PREFIX: &str = "tidegate.alert.";
/// Alerts that are kept, by name and device: beyond it the one that changed longest ago is dropped,
/// a cleared one first.
pub(in crate::receiver) const MAX_ALERTS: usize = 200;
/// Bytes of an alert's data that are looked at.
const MAX_DATA: usize = 16 * 1024;

/// The alerts, the one that changed last first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::receiver) struct Alerts(pub(in crate::receiver) VecDeque<Alert>);

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::receiver) enum State {
    /// It holds.
    Raised,
    /// It no longer holds.
    Cleared,
}

/// One alert of one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::receiver) struct Alert {
    /// The gateway, or whoever else is the source.
    pub(in crate::receiver) source: Box<str>,
    pub(in crate::receiver) name: Box<str>,
    pub(in crate::receiver) device: Box<str>,
    /// `info`, `warning`, `critical`, or what the event says.
    pub(in crate::receiver) severity: Box<str>,
    pub(in crate::receiver) state: State,
    /// The value that raised or cleared it.
    pub(in crate::receiver) value: Option<f64>,
    /// When it was last raised and last cleared, as the events say.
    pub(in crate::receiver) raised: Option<Box<str>>,
    pub(in crate::receiver) cleared: Option<Box<str>>,
    /// How often it was raised.
    pub(in crate::receiver) count: u64,
}

/// The members of an alert event's data that count here; others are passed over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AlertData {
    alert: Option<String>,
    device: Option<String>,
    severity: Option<String>,
    value: Option<f64>,
}

impl Alerts {
    /// Takes in an event whose type begins with [`TYPE_PREFIX`].
    pub(super) fn apply(&mut self, event: &CloudEvent<'_>) {
        let state = match event.kind.strip_prefix(TYPE_PREFIX) {
            Some("raised") => State::Raised,
            Some("cleared") => State::Cleared,
            _ => return,
        };
        let data: AlertData = match event.data {
            Data::Json(text) if text.len() <= MAX_DATA => {
                serde_json::from_str(text).unwrap_or_default()
            }
            _ => AlertData::default(),
        };
        let mut levels = event.subject.as_deref().unwrap_or_default().splitn(3, '/').skip(1);
        let [level_name, level_device] = [levels.next(), levels.next()];
        let pick = |said: Option<String>, level: Option<&str>| -> Box<str> {
            shown(said.as_deref().or(level).unwrap_or_default()).into()
        };
        let name = pick(data.alert, level_name);
        let device = pick(data.device, level_device);
        let source: Box<str> = shown(event.gateway().unwrap_or(&event.source)).into();
        let known = |alert: &Alert| {
            (&alert.source, &alert.name, &alert.device) == (&source, &name, &device)
        };
        let at = self.0.iter().position(known);
        let mut alert = at.and_then(|at| self.0.remove(at)).unwrap_or_else(|| Alert {
            source,
            name,
            device,
            severity: "warning".into(),
            state,
            value: None,
            raised: None,
            cleared: None,
            count: 0,
        });
        alert.state = state;
        alert.value = data.value;
        if let Some(severity) = data.severity {
            alert.severity = shown(&severity).into();
        }
        let time = event.time.as_deref().map(|time| shown(time).into());
        match state {
            State::Raised => {
                alert.count += 1;
                alert.raised = time;
                alert.cleared = None;
            }
            State::Cleared => alert.cleared = time,
        }
        if self.0.len() >= MAX_ALERTS {
            let cleared = self.0.iter().rposition(|alert| alert.state == State::Cleared);
            self.0.remove(cleared.unwrap_or(self.0.len() - 1));
        }
        self.0.push_front(alert);
    }

    /// How many hold.
    pub(in crate::receiver) fn raised(&self) -> usize {
        self.0.iter().filter(|alert| alert.state == State::Raised).count()
    }
}
