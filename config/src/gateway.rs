//! `[gateway]` and `[[event-type]]`: who this is, and what its events are called.

use std::path::PathBuf;

use crate::grammar;
use crate::reader::Section;
use crate::value::{Span, TopicFilter};

/// `[gateway]`
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Names this gateway upstream: part of every event's source. 1 to 64 of `A-Z a-z 0-9 - _ .`.
    /// Default `"tidegate"`.
    pub id: String,
    /// Everything the daemon keeps. Default `"/var/lib/tidegate"`.
    pub data_dir: PathBuf,
    /// The CloudEvents type of an event that no `[[event-type]]` names. Default `"tidegate.event"`.
    pub event_type: String,
    /// Which level of the topic names the device, counted from 1. Default: none, the device is the
    /// MQTT client id.
    pub device_level: Option<usize>,
    /// How often the gateway says under `$SYS` how it is; 0: not at all. 0s to 1d. Default 10s.
    pub sys_interval: Span,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            id: "tidegate".into(),
            data_dir: "/var/lib/tidegate".into(),
            event_type: "tidegate.event".into(),
            device_level: None,
            sys_interval: Span::seconds(10),
        }
    }
}

impl Gateway {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let gateway = Self {
            id: section.or("id", default.id),
            data_dir: section.or("data-dir", default.data_dir),
            event_type: section.or("event-type", default.event_type),
            device_level: section.get("device-level"),
            sys_interval: section.bounded(
                "sys-interval",
                default.sys_interval,
                Span::seconds(0)..=Span::seconds(86_400),
            ),
        };
        section.check("id", grammar::check_name(&gateway.id));
        section.check("event-type", grammar::check_event_type(&gateway.event_type));
        gateway
    }
}

/// `[[event-type]]`
#[derive(Debug, Clone, PartialEq)]
pub struct EventType {
    /// Which topics. The first entry that matches counts.
    pub topic: TopicFilter,
    /// The CloudEvents type.
    pub name: String,
}

impl EventType {
    pub(crate) fn read(section: &Section<'_>) -> Option<Self> {
        let topic = section.require("topic", "\"plant/+/temperature\"");
        let name: Option<String> = section.require("type", "\"com.example.temperature\"");
        if let Some(name) = &name {
            section.check("type", grammar::check_event_type(name));
        }
        Some(Self { topic: topic?, name: name? })
    }
}
