//! Brings one batch to the bus: until it is there, or the part of it that the bus will never take is
//! in the dead-letter queue.

use std::ops::Range;
use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::batch::Batch;
use super::dead_letter::DeadLetters;
use super::metrics::SinkMetrics;
use super::pace::Pacer;
use super::partition::Partitions;
use super::status::{Condition, Monitor};
use crate::sinks::{Outcome, Sink};

/// What the batches of a sink share on their way.
#[derive(Debug)]
pub(super) struct Courier {
    pub(super) sink: Arc<Sink>,
    pub(super) pacer: Pacer,
    pub(super) monitor: Arc<Monitor>,
    pub(super) metrics: SinkMetrics,
    pub(super) dead_letters: DeadLetters,
}

/// What became of a message in the end.
enum Verdict {
    Delivered,
    Poison(String),
}

impl Courier {
    /// Ends when every event of the batch is done with. Answers the batch's partitions.
    pub(super) async fn deliver(self: Arc<Self>, batch: Batch) -> Partitions {
        let all = 0..batch.count();
        // The next part last.
        let mut parts: Vec<Range<usize>> = match self.sink.takes_batches() {
            true => vec![all],
            false => all.rev().map(|index| index..index + 1).collect(),
        };
        while let Some(part) = parts.pop() {
            let Verdict::Poison(reason) = self.send(&batch, part.clone()).await else {
                continue;
            };
            if part.len() > 1 {
                self.metrics.splits.inc();
                let (first, second) = halves(part);
                parts.extend([second, first]);
            } else {
                let (lsn, event) = (batch.lsn(part.start), batch.event(part.start));
                self.dead_letters.put(lsn, &reason, &event).await;
                self.metrics.dead_letters.inc();
            }
        }
        batch.partitions()
    }

    /// Sends some of the batch's events in one message until there is a verdict.
    async fn send(&self, batch: &Batch, part: Range<usize>) -> Verdict {
        let message = self.sink.prepare(batch.body(part.clone())).await;
        let mut failures = 0;
        loop {
            self.pacer.turn(part.len(), message.len()).await;
            let sent = Instant::now();
            let outcome = self.sink.send(&message).await;
            self.metrics.answer_time.observe(sent.elapsed().as_secs_f64());
            match outcome {
                Outcome::Delivered => {
                    self.pacer.answered();
                    self.monitor.delivered();
                    self.metrics.events.inc_by(part.len() as u64);
                    self.metrics.bytes.inc_by(message.len() as u64);
                    return Verdict::Delivered;
                }
                Outcome::Poison(reason) => {
                    self.pacer.answered();
                    self.metrics.failed("poison");
                    return Verdict::Poison(reason);
                }
                Outcome::Throttled(pause) => {
                    self.pacer.throttled(pause);
                    self.metrics.failed("throttled");
                    let address = self.sink.address();
                    let message = format!("{address} asks for a pause of {} s", pause.as_secs());
                    self.monitor.trouble(Condition::Throttled, "throttled", message);
                }
                Outcome::Retry(failure) => {
                    failures += 1;
                    self.metrics.failed(failure.reason);
                    self.monitor.trouble(Condition::Retrying, failure.reason, failure.message);
                    sleep(self.pacer.failed(failures)).await;
                }
                Outcome::Misconfigured(message) => {
                    self.pacer.refused();
                    self.metrics.failed("misconfigured");
                    self.monitor.trouble(Condition::Misconfigured, "misconfigured", message);
                }
            }
        }
    }
}

/// Splits a part of at least two events.
fn halves(part: Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = part.start + part.len() / 2;
    (part.start..middle, middle..part.end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The splitting of [`Courier::deliver`], with a bus that takes no part with a poison event.
        #[test]
        fn splitting_finds_exactly_the_poison_events_and_keeps_the_order(
            poison in prop::collection::vec(any::<bool>(), 1..300),
        ) {
            let all = 0..poison.len();
            let mut parts = vec![all];
            let mut done = Vec::new();
            let mut requests = 0;
            while let Some(part) = parts.pop() {
                requests += 1;
                if !poison[part.clone()].contains(&true) {
                    done.extend(part.map(|index| (index, false)));
                } else if part.len() == 1 {
                    done.push((part.start, true));
                } else {
                    let (first, second) = halves(part);
                    parts.extend([second, first]);
                }
            }
            let expected: Vec<_> = poison.iter().copied().enumerate().collect();
            prop_assert_eq!(done, expected);
            let poisoned = poison.iter().filter(|p| **p).count();
            let depth = poison.len().ilog2() as usize + 2;
            prop_assert!(requests <= 1 + 2 * poisoned * depth);
        }
    }
}
