//! Sends events to a sink once more, for who asks for it on the command line: as its forwarder would,
//! a batch after the other, and without a cursor.

use std::time::Duration;

use tidegate_config::Sink as Config;
use tidegate_event::cloudevents::Encoder;
use tidegate_event::{EventRef, Filter, Lsn};
use tokio::time::{Instant, sleep};

use super::batch::{Batch, Limits, OpenBatch, Push};
use super::pace::Pacer;
use super::partition::Partitions;
use crate::sinks::{Fate, Outcome, Sink, SinkError};

/// Refused events that are remembered, of any number.
const REMEMBERED: usize = 100;

/// A sink, and what was sent to it.
#[derive(Debug)]
pub struct Replay {
    sink: Sink,
    encoder: Encoder,
    filters: Vec<Filter>,
    pacer: Pacer,
    limits: Limits,
    open: Option<OpenBatch>,
    /// The last trouble, so that it is told once.
    trouble: Option<String>,
    tell: fn(&str),
    delivered: u64,
    refused: u64,
    reasons: Vec<(Lsn, String)>,
    next: Lsn,
}

/// The bus refuses us, not the events: what it said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(String);

impl Replay {
    /// Sets up the sink. What keeps the bus from taking a batch for now goes to `tell`, each once.
    pub fn new(config: &Config, encoder: Encoder, tell: fn(&str)) -> Result<Self, SinkError> {
        let sink = Sink::new(config)?;
        let pacer = Pacer::new(config, sink.timeout());
        let limits = Limits {
            events: config.batch.max_events,
            bytes: config.batch.max_bytes.as_usize(),
            array: sink.takes_batches(),
        };
        Ok(Self {
            sink,
            encoder,
            filters: config.topics.iter().map(|topic| topic.0.clone()).collect(),
            pacer,
            limits,
            open: None,
            trouble: None,
            tell,
            delivered: 0,
            refused: 0,
            reasons: Vec::new(),
            next: 0,
        })
    }

    /// Whether the sink wants events of this topic.
    pub fn wants(&self, topic: &str) -> bool {
        self.filters.iter().any(|filter| filter.matches(topic))
    }

    /// Events that the bus has now.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Events that the bus will never take, and why, up to a hundred of them.
    pub fn refused(&self) -> (u64, &[(Lsn, String)]) {
        (self.refused, &self.reasons)
    }

    /// Everything that was handed over below this LSN is done with; 0 while nothing is.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// Hands over an event; waits for the bus when a batch is full.
    pub async fn push(&mut self, event: &EventRef<'_>) -> Result<(), Misconfigured> {
        let (lsn, received) = (event.lsn(), event.received.unix_micros());
        let (limits, sink, encoder) = (self.limits, &self.sink, &self.encoder);
        let begin = || OpenBatch::new(Partitions::one(0), Instant::now(), 0, limits);
        let open = self.open.get_or_insert_with(begin);
        match open.push(lsn, received, limits, |body| sink.write_event(encoder, event, body)) {
            Push::Room => Ok(()),
            Push::Full => self.flush().await,
            Push::Overflow(bytes) => {
                self.flush().await?;
                let open = self.open.get_or_insert_with(begin);
                match open.push(lsn, received, limits, |body| body.extend_from_slice(&bytes)) {
                    Push::Full | Push::Overflow(_) => self.flush().await,
                    Push::Room => Ok(()),
                }
            }
        }
    }

    /// Sends what is left.
    pub async fn flush(&mut self) -> Result<(), Misconfigured> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let batch = open.close();
        self.deliver(&batch).await?;
        self.next = batch.lsn(batch.count() - 1) + 1;
        Ok(())
    }

    async fn deliver(&mut self, batch: &Batch) -> Result<(), Misconfigured> {
        let all = 0..batch.count();
        let mut parts = match self.limits.array {
            true => vec![all],
            false => all.rev().map(|index| index..index + 1).collect(),
        };
        let mut failures = 0;
        while let Some(part) = parts.pop() {
            let message = self.sink.prepare(batch.body(part.clone())).await;
            self.pacer.turn(part.len(), message.len()).await;
            let sent = Instant::now();
            let outcome = self.sink.send(&message).await;
            match outcome {
                Outcome::Delivered => {
                    self.pacer.arrived(batch.size(&part), sent.elapsed());
                    self.delivered += part.len() as u64;
                    (failures, self.trouble) = (0, None);
                }
                Outcome::Partly { fates, .. } if fates.len() == part.len() => {
                    self.pacer.answered();
                    for (index, fate) in part.zip(fates).rev() {
                        match fate {
                            Fate::Delivered => self.delivered += 1,
                            Fate::Retry => parts.push(index..index + 1),
                            Fate::Poison(reason) => self.refuse(batch.lsn(index), reason),
                        }
                    }
                }
                Outcome::Partly { message: reason, .. } | Outcome::Poison(reason) => {
                    self.pacer.answered();
                    if part.len() == 1 {
                        self.refuse(batch.lsn(part.start), reason);
                        continue;
                    }
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
                Outcome::Throttled(pause) => {
                    self.pacer.throttled(pause);
                    let address = self.sink.address();
                    self.trouble(format!("{address} asks for a pause of {} s", pause.as_secs()));
                    parts.push(part);
                }
                Outcome::Retry(failure) => {
                    failures += 1;
                    self.trouble(failure.message);
                    let pause: Duration = self.pacer.failed(failures);
                    sleep(pause).await;
                    parts.push(part);
                }
                Outcome::Misconfigured(message) => return Err(Misconfigured(message)),
            }
        }
        Ok(())
    }

    fn refuse(&mut self, lsn: Lsn, reason: String) {
        self.refused += 1;
        if self.reasons.len() < REMEMBERED {
            self.reasons.push((lsn, reason));
        }
    }

    fn trouble(&mut self, message: String) {
        if self.trouble.as_ref() != Some(&message) {
            (self.tell)(&message);
            self.trouble = Some(message);
        }
    }
}
