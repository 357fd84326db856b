//! Writes blocks.

use super::lanes::{InLane, InLanes};
use super::property::write_bytes;
use super::topics::{Place, Topics};
use super::{
    BLOCK_HEADER, Draft, EARLIER_TOPIC, GONE, HAS_PROPERTIES, IN_LANE, KIND_CONTROL, KIND_EVENTS,
    RETAIN, SAME_TOPIC,
};
use crate::id::Lane;
use crate::time::Received;
use crate::varint;

/// Builds one block of events in a buffer that can be used again.
#[derive(Debug)]
pub struct BlockBuilder {
    bytes: Vec<u8>,
    count: u32,
    has_retained: bool,
    has_packet_id: bool,
    payload_bytes: u64,
    received: Received,
    lanes: InLanes,
    /// Where the records begin in `bytes`,
    records_at: usize,
    /// and the topics in them.
    topics: Topics,
    /// The end of `bytes` is a run of LSNs that are gone: where it begins, its lane, how many.
    last_gone: Option<(usize, Lane, u32)>,
}

/// Where the count lies: behind the block's header.
const COUNT_AT: usize = BLOCK_HEADER;

impl BlockBuilder {
    /// An empty block of events from `origin` (at most 65,535 bytes, as an MQTT string), received at
    /// `received`.
    pub fn new(origin: &str, received: Received) -> Self {
        let mut builder = Self {
            bytes: Vec::new(),
            count: 0,
            has_retained: false,
            has_packet_id: false,
            payload_bytes: 0,
            received,
            lanes: InLanes::default(),
            records_at: 0,
            topics: Topics::default(),
            last_gone: None,
        };
        builder.restart(origin, received);
        builder
    }

    /// Empties the block and begins it anew, keeping the buffer.
    pub fn restart(&mut self, origin: &str, received: Received) {
        self.bytes.clear();
        self.count = 0;
        (self.has_retained, self.has_packet_id) = (false, false);
        self.payload_bytes = 0;
        self.received = received;
        self.lanes.clear();
        self.topics.clear();
        self.last_gone = None;
        self.bytes.push(KIND_EVENTS);
        self.bytes.extend_from_slice(&[0; 8]);
        match received {
            Received::Synced { unix_micros } => {
                self.bytes.push(0);
                self.bytes.extend_from_slice(&unix_micros.to_le_bytes());
            }
            Received::SinceBoot { unix_micros, boot, nanos } => {
                self.bytes.push(1);
                self.bytes.extend_from_slice(&unix_micros.to_le_bytes());
                self.bytes.extend_from_slice(&boot.to_le_bytes());
                self.bytes.extend_from_slice(&nanos.to_le_bytes());
            }
        }
        write_bytes(origin.as_bytes(), &mut self.bytes);
        self.records_at = self.bytes.len();
    }

    /// Appends one event, in lane 0.
    pub fn push(&mut self, event: &Draft<'_>) {
        self.push_in(Lane(0), event);
    }

    /// Appends one event.
    pub fn push_in(&mut self, lane: Lane, event: &Draft<'_>) {
        let before = if self.count == 0 { 0 } else { self.bytes.len() };
        let place = match self.topics.find(&self.bytes[self.records_at..], event.topic) {
            // A short topic may take no more than its place.
            Place::Earlier(at) if varint::len(at) > event.topic.len() => Place::New,
            place => place,
        };
        let mut head = event.qos as u8;
        if event.retain {
            head |= RETAIN;
            self.has_retained = true;
        }
        match place {
            Place::Last => head |= SAME_TOPIC,
            Place::Earlier(_) => head |= EARLIER_TOPIC,
            Place::New => {}
        }
        if !event.properties.is_empty() {
            head |= HAS_PROPERTIES;
            self.has_packet_id |= event.properties.packet_id().is_some();
        }
        if lane == Lane(0) {
            self.bytes.push(head);
        } else {
            self.bytes.extend_from_slice(&[head | IN_LANE, lane.0]);
        }
        match place {
            Place::Last => {}
            Place::Earlier(at) => varint::write(at as u64, &mut self.bytes),
            Place::New => {
                let at = self.bytes.len() - self.records_at;
                write_bytes(event.topic.as_bytes(), &mut self.bytes);
                self.topics.wrote(&self.bytes[self.records_at..], at);
            }
        }
        if !event.properties.is_empty() {
            write_bytes(event.properties.as_bytes(), &mut self.bytes);
        }
        write_bytes(event.payload, &mut self.bytes);
        self.payload_bytes += event.payload.len() as u64;
        self.count += 1;
        self.last_gone = None;
        self.lanes.add(InLane::of(lane, (1, 0), self.bytes.len() - before, self.received));
    }

    /// Appends so many LSNs of `lane` whose events are not kept.
    pub fn push_gone(&mut self, lane: Lane, lsns: u32) {
        let before = if self.count == 0 { 0 } else { self.bytes.len() };
        let mut run = lsns;
        if let Some((at, of, so_far)) = self.last_gone
            && of == lane
        {
            self.bytes.truncate(at);
            run += so_far;
        }
        self.last_gone = Some((self.bytes.len(), lane, run));
        self.bytes.extend_from_slice(&[GONE | IN_LANE, lane.0]);
        varint::write(u64::from(run), &mut self.bytes);
        self.count += lsns;
        let grown = self.bytes.len().saturating_sub(before);
        self.lanes.add(InLane::of(lane, (0, lsns), grown, self.received));
    }

    /// What it takes in each lane.
    pub fn lanes(&self) -> &InLanes {
        &self.lanes
    }

    /// How many LSNs it takes.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether one of them is to be retained.
    pub fn has_retained(&self) -> bool {
        self.has_retained
    }

    /// Whether one of them has a [`super::Property::PacketId`].
    pub fn has_packet_id(&self) -> bool {
        self.has_packet_id
    }

    /// Bytes so far, headers included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of its events' payloads.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Bytes that its buffers take.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity() + self.topics.capacity()
    }

    /// Whether it takes no LSN.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The block, as [`BlockBuilder::finish`] left it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The finished block. More events may follow; then finish it again.
    pub fn finish(&mut self) -> &[u8] {
        let length = (self.bytes.len() - BLOCK_HEADER) as u32;
        self.bytes[1..BLOCK_HEADER].copy_from_slice(&length.to_le_bytes());
        self.bytes[COUNT_AT..COUNT_AT + 4].copy_from_slice(&self.count.to_le_bytes());
        &self.bytes
    }
}

/// Appends a control block of type `control` to `out`.
pub fn write_control(control: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(KIND_CONTROL);
    out.extend_from_slice(&(1 + body.len() as u32).to_le_bytes());
    out.push(control);
    out.extend_from_slice(body);
}
