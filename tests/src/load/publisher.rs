//! One connection of the load, and the memory of its device: what was sent, what was acknowledged.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;

use super::{Histogram, Shape};
use crate::packet::{self, CONNACK, PUBACK, Version};
use crate::wait::SOON;

/// Digits of `seq` in a payload, filled with spaces on the left.
const DIGITS: usize = 12;

/// A device that publishes.
#[derive(Debug)]
pub struct Publisher {
    device: String,
    version: Version,
    /// A PUBLISH packet, but for the packet id and `seq`.
    template: Vec<u8>,
    id_at: usize,
    seq_at: usize,
    stream: Option<TcpStream>,
    /// Packet ids that are free, and what the others carry.
    free: VecDeque<u16>,
    in_flight: Vec<(u64, Instant)>,
    output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
    wants_write: bool,
    key: u64,
    /// By `seq`.
    acknowledged: Vec<bool>,
    acknowledged_count: u64,
    refused: u64,
    last_answer: Option<Instant>,
    pub(super) latency: Histogram,
}

impl Publisher {
    pub(super) fn new(number: usize, shape: &Shape) -> Self {
        let device = format!("load-{number:02}");
        let topic = format!("plant/{device}/temperature");
        let mut payload = format!("{{\"device\":\"{device}\",\"seq\":").into_bytes();
        let seq_in_payload = payload.len();
        payload.extend([b' '; DIGITS]);
        payload.extend(b",\"value\":21.5,\"pad\":\"");
        let pad = shape.payload.saturating_sub(payload.len() + 2);
        payload.extend((0..pad).map(|n| b'a' + (n % 26) as u8));
        payload.extend(b"\"}");
        let template = packet::publish(shape.version, 1, topic.as_bytes(), 0, &payload);
        let payload_at = template.len() - payload.len();
        let properties = usize::from(shape.version == Version::V5);
        Self {
            device,
            version: shape.version,
            id_at: payload_at - properties - 2,
            seq_at: payload_at + seq_in_payload,
            template,
            stream: None,
            free: (1..=shape.window).collect(),
            in_flight: vec![(0, Instant::now()); usize::from(shape.window) + 1],
            output: Vec::new(),
            written: 0,
            input: vec![0; 64 * 1024],
            filled: 0,
            wants_write: false,
            key: 0,
            acknowledged: Vec::new(),
            acknowledged_count: 0,
            refused: 0,
            last_answer: None,
            latency: Histogram::new(),
        }
    }

    /// Its name, and its client id.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Messages sent, over all connections: `seq` 0 up to here.
    pub fn sent(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// How many were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged_count
    }

    /// How many were refused with a reason code.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether the message `seq` was acknowledged.
    pub fn was_acknowledged(&self, seq: u64) -> bool {
        self.acknowledged.get(seq as usize).copied().unwrap_or_default()
    }

    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.last_answer
    }

    /// Whether messages are on their way.
    pub(super) fn is_waiting(&self) -> bool {
        self.free.len() + 1 < self.in_flight.len()
    }

    pub(super) fn connect(&mut self, broker: SocketAddr) -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&broker, SOON)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(&packet::connect(self.version, &self.device))?;
        self.filled = 0;
        loop {
            if let Some((packet, _)) = packet::split(&self.input[..self.filled]) {
                // The reason stands behind the flags; after CONNACK nothing comes by itself.
                if packet.first != CONNACK || packet.body.get(1) != Some(&0) {
                    return Err(io::Error::other(format!("not let in: {packet:?}")));
                }
                break;
            }
            match stream.read(&mut self.input[self.filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.filled += n,
            }
        }
        stream.set_nonblocking(true)?;
        self.stream = Some(stream);
        self.filled = 0;
        self.output.clear();
        self.written = 0;
        self.wants_write = false;
        self.free = (1..self.in_flight.len() as u16).collect();
        Ok(())
    }

    pub(super) fn register(&mut self, epoll: &OwnedFd, key: u64) -> io::Result<()> {
        self.key = key;
        let stream = connected(&self.stream)?;
        Ok(epoll::add(epoll, stream, EventData::new_u64(key), EventFlags::IN)?)
    }

    /// Puts up to `count` messages into the output, as far as the window has room; they were due at
    /// `due`.
    pub(super) fn publish(&mut self, count: u64, due: Instant) -> u64 {
        let mut published = 0;
        while published < count {
            let Some(id) = self.free.pop_front() else { break };
            let seq = self.acknowledged.len() as u64;
            self.acknowledged.push(false);
            self.in_flight[usize::from(id)] = (seq, due);
            let start = self.output.len();
            self.output.extend_from_slice(&self.template);
            let packet = &mut self.output[start..];
            packet[self.id_at..self.id_at + 2].copy_from_slice(&id.to_be_bytes());
            write_right_aligned(seq, &mut packet[self.seq_at..self.seq_at + DIGITS]);
            published += 1;
        }
        published
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        let mut stream = connected(&self.stream)?;
        while self.written < self.output.len() {
            match stream.write(&self.output[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let pending = self.written < self.output.len();
        if !pending {
            self.output.clear();
            self.written = 0;
        }
        if pending != self.wants_write {
            self.wants_write = pending;
            let out = if pending { EventFlags::OUT } else { EventFlags::empty() };
            epoll::modify(epoll, stream, EventData::new_u64(self.key), EventFlags::IN | out)?;
        }
        Ok(())
    }

    /// Reads what has come; answers how many messages it answers.
    pub(super) fn read(&mut self) -> io::Result<u64> {
        let before = self.free.len();
        loop {
            let mut stream = connected(&self.stream)?;
            let room = self.input.len() - self.filled;
            match stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.filled += n;
                    self.take_answers()?;
                    if n < room {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok((self.free.len() - before) as u64)
    }

    fn take_answers(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let mut rest = &self.input[..self.filled];
        while let Some((packet, after)) = packet::split(rest) {
            rest = after;
            let &[high, low, ref reason @ ..] = packet.body else { continue };
            if packet.first != PUBACK {
                return Err(io::Error::other(format!("an unexpected packet: {packet:?}")));
            }
            let id = u16::from_be_bytes([high, low]);
            let Some(&(seq, due)) = self.in_flight.get(usize::from(id)) else {
                return Err(io::Error::other(format!("an answer to {id}, which was never used")));
            };
            if reason.first().is_some_and(|code| *code >= 0x80) {
                self.refused += 1;
            } else {
                let seen = &mut self.acknowledged[seq as usize];
                if *seen {
                    return Err(io::Error::other(format!("two answers to packet id {id}")));
                }
                *seen = true;
                self.acknowledged_count += 1;
                self.latency.record(now.saturating_duration_since(due));
            }
            self.free.push_back(id);
            self.last_answer = Some(now);
        }
        let left = rest.len();
        self.input.copy_within(self.filled - left..self.filled, 0);
        self.filled = left;
        Ok(())
    }
}

fn connected(stream: &Option<TcpStream>) -> io::Result<&TcpStream> {
    stream.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
}

fn write_right_aligned(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_of_the_wanted_size_that_names_the_message() {
        for version in [Version::V4, Version::V5] {
            let mut publisher = Publisher::new(3, &Shape { version, ..Shape::default() });
            assert_eq!(publisher.publish(200, Instant::now()), 100);
            let mut rest = &publisher.output[..];
            for n in 0..100_u64 {
                let (packet, after) = packet::split(rest).unwrap();
                rest = after;
                let payload = &packet.body[packet.body.len() - 200..];
                let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
                assert_eq!(
                    (value["device"].as_str(), value["seq"].as_u64()),
                    (Some("load-03"), Some(n))
                );
            }
            assert!(rest.is_empty());
        }
    }
}
