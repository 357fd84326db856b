//! Alerts: threshold rules over the events, each for every device on its own.
//!
//! A rule looks at the events whose topic its filter matches, takes one number from the payload, and
//! raises and clears an alert for the device that published it (`phase` says when, `notice` what
//! is published). An event without a number at that place is ignored and counted.
//!
//! Topics under `alerts/` are watched only by rules whose filter begins with that very level, and
//! what such a rule publishes is watched by none, so that no alert feeds itself.
//!
//! A rule that was removed, or now watches for something else, leaves no open alert behind: at the
//! next start its alerts are cleared with a reason; what still holds is raised again by the next
//! event.
//!
//! Memory: only devices whose alert is pending or raised take any. A rule has at most
//! [`Alerts::with_max_devices`] of them, and a device's name at most [`MAX_DEVICE_LEN`] bytes; events of others
//! are ignored and counted.

mod notice;
mod phase;
mod pointer;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};
use tidegate_config::{Alert, Limits};
use tidegate_event::{EventRef, Filter, Lsn, Received};

use crate::{Output, Service};
use notice::Notice;
use phase::{Active, Sample, Thresholds, Transitions};
pub use pointer::Pointer;
pub use stats::{RuleStats, Stats};

/// Bytes of a device's name.
pub const MAX_DEVICE_LEN: usize = 256;

/// The alerts service.
#[derive(Debug)]
pub struct Alerts {
    gateway: String,
    device_level: Option<usize>,
    rules: Vec<Rule>,
    /// When pending alerts are due: time, rule, device.
    due: BTreeSet<(i64, usize, Box<str>)>,
    /// What the config of last time left: name, device, state, and why it ends.
    leftovers: Vec<(String, String, Record, &'static str)>,
    stats: Arc<Stats>,
    max_devices: usize,
}

#[derive(Debug)]
struct Rule {
    name: String,
    filter: Filter,
    /// Whether it watches alerts.
    on_alerts: bool,
    pointer: Option<Pointer>,
    thresholds: Thresholds,
    severity: &'static str,
    /// What it watches for, to know whether that has changed.
    watch: String,
    /// The devices that are not clear.
    active: HashMap<Box<str>, Active>,
}

/// What is kept of a device that is not clear, under `<alert>/<device>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    watch: String,
    severity: String,
    active: Active,
}

impl Alerts {
    /// The service for the rules `config`, whose names differ. `gateway` and `device_level` are as
    /// in the section `[gateway]`; `stats` is [`Stats::new`] of the same rules.
    pub fn new(
        gateway: &str,
        device_level: Option<usize>,
        config: &[Alert],
        stats: Arc<Stats>,
    ) -> Self {
        let rules = config.iter().map(Rule::new).collect();
        let gateway = gateway.to_owned();
        stats.rules.iter().for_each(|rule| rule.open.store(0, Relaxed));
        Self {
            gateway,
            device_level,
            rules,
            due: BTreeSet::new(),
            leftovers: Vec::new(),
            stats,
            max_devices: Limits::default().max_alert_devices,
        }
    }

    /// The same for at most so many devices of one rule that are pending or raised
    /// (`limits.max-alert-devices`).
    pub fn with_max_devices(self, max_devices: usize) -> Self {
        Self { max_devices, ..self }
    }

    /// Looks at `event` with one rule, whose filter matches.
    fn look(&mut self, index: usize, event: &EventRef<'_>, output: &mut Output) {
        let (rule, stats) = (&mut self.rules[index], &self.stats.rules[index]);
        let number = rule.pointer.as_ref().and_then(|pointer| pointer.number(event.payload));
        let Some(value) = number else {
            stats.ignored_values.fetch_add(1, Relaxed);
            return;
        };
        let device = event.device(self.device_level);
        let sample = Sample { value, at: event.received, topic: event.topic };
        let Some((device, mut active)) = rule.active.remove_entry(device) else {
            let Some(active) = rule.thresholds.begin(sample, || event.id.to_string()) else {
                return;
            };
            if device.len() > MAX_DEVICE_LEN || rule.active.len() >= self.max_devices {
                stats.ignored_devices.fetch_add(1, Relaxed);
                return;
            }
            let raised = active.raised.then_some(active.since);
            self.announce(index, device, &active, raised, event.lsn(), output);
            self.keep(index, device.into(), active, output);
            return;
        };
        let was_pending = !active.raised;
        if was_pending {
            let due = rule.thresholds.due(&active);
            self.due.remove(&(due, index, device.clone()));
        }
        let Transitions { raised, clear } = rule.thresholds.next(&mut active, sample);
        self.announce(index, &device, &active, raised, event.lsn(), output);
        let rule = &mut self.rules[index];
        if !clear {
            if was_pending {
                self.keep(index, device, active, output);
            } else {
                rule.active.insert(device, active);
            }
            return;
        }
        if active.raised {
            let stats = &self.stats.rules[index];
            stats.cleared.fetch_add(1, Relaxed);
            stats.open.fetch_sub(1, Relaxed);
            let notice = Notice {
                state: "cleared",
                value: Some(value),
                condition: Some(rule.thresholds.clear.unwrap_or(rule.thresholds.raise)),
                at: sample.at.unix_micros(),
                topic: event.topic,
                cause: event.lsn(),
                ..rule.notice(&self.gateway, &device, &active)
            };
            output.events.push(notice.to_event());
        }
        output.state.push((key(&rule.name, &device), None));
    }

    /// Publishes that an alert was raised, where it was.
    fn announce(
        &self,
        index: usize,
        device: &str,
        active: &Active,
        raised: Option<i64>,
        cause: Lsn,
        output: &mut Output,
    ) {
        let Some(at) = raised else { return };
        let stats = &self.stats.rules[index];
        stats.raised.fetch_add(1, Relaxed);
        stats.open.fetch_add(1, Relaxed);
        let notice = self.rules[index].notice(&self.gateway, device, active);
        output.events.push(Notice { at, cause, ..notice }.to_event());
    }

    /// Keeps a device that is not clear, in memory and in the state.
    fn keep(&mut self, index: usize, device: Box<str>, active: Active, output: &mut Output) {
        let rule = &mut self.rules[index];
        if !active.raised {
            self.due.insert((rule.thresholds.due(&active), index, device.clone()));
        }
        let record = Record {
            watch: rule.watch.clone(),
            severity: rule.severity.to_owned(),
            active: active.clone(),
        };
        // Strings and numbers: it cannot fail.
        let value = serde_cbor::to_vec(&record).unwrap_or_default();
        output.state.push((key(&rule.name, &device), Some(value)));
        rule.active.insert(device, active);
    }
}

impl Service for Alerts {
    fn name(&self) -> &'static str {
        "alerts"
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) {
        let Ok(record) = serde_cbor::from_slice::<Record>(value) else { return };
        let Some((name, device)) = std::str::from_utf8(key).ok().and_then(|k| k.split_once('/'))
        else {
            return;
        };
        let index = self.rules.iter().position(|rule| rule.name == name);
        match index {
            Some(index) if self.rules[index].watch == record.watch => {
                let rule = &mut self.rules[index];
                let active = record.active;
                if active.raised {
                    self.stats.rules[index].open.fetch_add(1, Relaxed);
                } else {
                    self.due.insert((rule.thresholds.due(&active), index, device.into()));
                }
                rule.active.insert(device.into(), active);
            }
            _ => {
                let reason = if index.is_some() { "rule changed" } else { "rule removed" };
                self.leftovers.push((name.to_owned(), device.to_owned(), record, reason));
            }
        }
    }

    fn start(&mut self, now: Received, output: &mut Output) {
        for (name, device, record, reason) in std::mem::take(&mut self.leftovers) {
            output.state.push((key(&name, &device), None));
            if record.active.raised {
                let notice = Notice {
                    gateway: &self.gateway,
                    alert: &name,
                    device: &device,
                    severity: &record.severity,
                    state: "cleared",
                    value: None,
                    condition: None,
                    start: &record.active.start,
                    since: record.active.since,
                    at: now.unix_micros(),
                    topic: &record.active.topic,
                    reason: Some(reason),
                    cause: 0,
                };
                output.events.push(notice.to_event());
            }
        }
    }

    fn on_event(&mut self, event: &EventRef<'_>, output: &mut Output) {
        let alert = event.topic.strip_prefix(notice::TOPIC).and_then(|rest| rest.strip_prefix('/'));
        if let Some(alert) = alert {
            let name = alert.split('/').next();
            if self.rules.iter().any(|rule| rule.on_alerts && Some(rule.name.as_str()) == name) {
                return;
            }
        }
        for index in 0..self.rules.len() {
            let rule = &self.rules[index];
            if (alert.is_none() || rule.on_alerts) && rule.filter.matches(event.topic) {
                self.look(index, event, output);
            }
        }
    }

    fn on_time(&mut self, now: Received, output: &mut Output) {
        while self.wake().is_some_and(|due| due <= now.unix_micros()) {
            let Some((_, index, device)) = self.due.pop_first() else { return };
            let rule = &mut self.rules[index];
            let Some((device, mut active)) = rule.active.remove_entry(&device) else { continue };
            let raised = rule.thresholds.tick(&mut active, now);
            self.announce(index, &device, &active, raised, 0, output);
            self.keep(index, device, active, output);
        }
    }

    fn wake(&self) -> Option<i64> {
        self.due.first().map(|(due, ..)| *due)
    }
}

impl Rule {
    fn new(config: &Alert) -> Self {
        let filter = config.topic.0.clone();
        let first = filter.as_str().split('/').next();
        let thresholds =
            Thresholds { raise: config.raise, clear: config.clear, hold: config.hold.0 };
        let clear = config.clear.as_ref().map(notice::text);
        let watch = [
            filter.as_str(),
            &config.value,
            &notice::text(&config.raise),
            clear.as_deref().unwrap_or_default(),
        ];
        Self {
            name: config.name.clone(),
            on_alerts: first == Some(notice::TOPIC),
            pointer: Pointer::new(&config.value),
            thresholds,
            severity: config.severity.as_str(),
            watch: watch.join("\n"),
            active: HashMap::new(),
            filter,
        }
    }

    /// What is to be said when the device's alert is raised.
    fn notice<'a>(&'a self, gateway: &'a str, device: &'a str, active: &'a Active) -> Notice<'a> {
        Notice {
            gateway,
            alert: &self.name,
            device,
            severity: self.severity,
            state: "raised",
            value: Some(active.value),
            condition: Some(self.thresholds.raise),
            start: &active.start,
            since: active.since,
            at: active.since,
            topic: &active.topic,
            reason: None,
            cause: 0,
        }
    }
}

fn key(alert: &str, device: &str) -> Vec<u8> {
    format!("{alert}/{device}").into_bytes()
}
