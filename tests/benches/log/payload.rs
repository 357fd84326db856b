//! The events that are written: JSON as sensors send it.

use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Qos, Received};

/// Different events, used over and over.
const POOL: usize = 8192;

/// One event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

/// Events of one size.
#[derive(Debug)]
pub(crate) struct Events {
    events: Vec<Event>,
    next: usize,
}

impl Events {
    /// Events whose payload has `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let events = (0..POOL).map(|number| Event::new(number, size, &mut random)).collect();
        Self { events, next: 0 }
    }

    /// The next `count`, which may be no more than there are different ones.
    pub(crate) fn group(&mut self, count: usize) -> &[Event] {
        if self.next + count > self.events.len() {
            self.next = 0;
        }
        self.next += count;
        &self.events[self.next - count..self.next]
    }
}

impl Event {
    fn new(number: usize, size: usize, random: &mut fastrand::Rng) -> Self {
        let device = number % 20;
        let mut text = format!(
            "{{\"device\":\"boiler-{device}\",\"seq\":{number},\"time\":\"2026-03-01T12:{:02}:{:02}.{:03}Z\"",
            number / 60 % 60,
            number % 60,
            random.u32(..1000)
        );
        let mut sensor = 0;
        while text.len() + 40 < size {
            let value = 60.0 + 30.0 * random.f64();
            text.push_str(&format!(",\"sensor-{sensor}\":{{\"value\":{value:.2},\"ok\":true}}"));
            sensor += 1;
        }
        // White space, as in JSON that is made for people.
        while text.len() + 1 < size {
            text.push(' ');
        }
        text.push('}');
        Self { topic: format!("plant/boiler-{device}/state"), payload: text.into_bytes() }
    }
}

/// A block of these events, as the gate makes it of one read from one connection.
pub(crate) fn block(builder: &mut BlockBuilder, group: &[Event]) {
    builder.restart("bench", Received::Synced { unix_micros: 1_767_225_600_000_000 });
    for event in group {
        builder.push(&Draft {
            topic: &event.topic,
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            payload: &event.payload,
        });
    }
}

/// An empty builder.
pub(crate) fn builder() -> BlockBuilder {
    BlockBuilder::new("bench", Received::Synced { unix_micros: 0 })
}
