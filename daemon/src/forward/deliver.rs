//! Brings one batch to the bus: until it is there, or the part of it that the bus will never take is
//! in the dead-letter queue.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tracing::debug;

use super::batch::Batch;
use super::dead_letter::DeadLetters;
use super::inflight::{Contact, Departure, FlightId};
use super::metrics::SinkMetrics;
use super::pace::Pacer;
use super::status::{Condition, Monitor};
use super::trust::{MAX_SUSPECTS, Trust};
use crate::sinks::{Failure, Fate, Message, Outcome, Sink};

/// A message of several events that times out so often in a row is split.
const TIMEOUTS: u32 = 2;

/// What the batches of a sink share on their way.
#[derive(Debug)]
pub(super) struct Courier {
    pub(super) sink: Arc<Sink>,
    pub(super) pacer: Pacer,
    pub(super) trust: Trust,
    pub(super) monitor: Arc<Monitor>,
    pub(super) metrics: SinkMetrics,
    pub(super) dead_letters: DeadLetters,
}

/// What became of a message in the end.
enum Verdict {
    Delivered,
    /// It is to go in halves: too slow for the link, or the bus took it in part and does not say which.
    Split,
    /// For each event.
    Partly(Vec<Fate>),
    Poison(String),
}

/// An event that the bus refused, while it is open whether the event or the bus is the wrong one.
struct Suspect {
    index: usize,
    reason: String,
}

/// Where a batch stands.
struct Delivery<'b> {
    batch: &'b Batch,
    contact: &'b Contact,
    /// Newer events go ahead of it.
    is_historical: bool,
    /// What is still to be sent; the next part last.
    parts: Vec<Range<usize>>,
    suspects: VecDeque<Suspect>,
    /// Deliveries of the sink before the first of them was refused.
    since: u64,
    /// The bus refused everything: what it refused then is not held against an event.
    is_mistrusted: bool,
}

impl Courier {
    /// Ends when every event of the batch is done with. Answers the batch's number. Dropping it takes the
    /// batch back.
    pub(super) async fn deliver(self: Arc<Self>, departure: Departure) -> FlightId {
        let Departure { id, batch, contact, is_historical } = departure;
        let all = 0..batch.count();
        let parts = match self.sink.takes_batches() {
            true => vec![all],
            false => all.rev().map(|index| index..index + 1).collect(),
        };
        let (suspects, since) = (VecDeque::new(), self.trust.deliveries());
        let mut delivery = Delivery {
            batch: &batch,
            contact: &contact,
            is_historical,
            parts,
            suspects,
            since,
            is_mistrusted: false,
        };
        while let Some(part) = delivery.parts.pop() {
            if part.len() > 1 && !self.pacer.fits(batch.size(&part)) {
                delivery.halve(part);
                continue;
            }
            match self.send(&delivery, part.clone()).await {
                Verdict::Delivered => {}
                Verdict::Split => self.split(&mut delivery, part),
                Verdict::Poison(_) if part.len() > 1 => self.split(&mut delivery, part),
                Verdict::Poison(reason) => delivery.suspect(part.start, reason),
                Verdict::Partly(fates) => delivery.sort(part, fates),
            }
            let heals = delivery.is_mistrusted && self.trust.deliveries() != delivery.since;
            if heals || delivery.suspects.len() > MAX_SUSPECTS || delivery.parts.is_empty() {
                self.decide(&mut delivery).await;
            }
        }
        id
    }

    fn split(&self, delivery: &mut Delivery<'_>, part: Range<usize>) {
        self.metrics.splits.inc();
        delivery.halve(part);
    }

    /// Puts the suspects into the dead-letter queue, or takes them up again, much later.
    async fn decide(&self, delivery: &mut Delivery<'_>) {
        let Some(last) = delivery.suspects.back() else { return };
        if delivery.is_mistrusted && self.trust.deliveries() != delivery.since {
            // It is another bus than the one that refused them.
            delivery.is_mistrusted = false;
            delivery.take_up_suspects();
        } else if self.trust.are_poison(delivery.suspects.len(), delivery.since) {
            while let Some(Suspect { index, reason }) = delivery.suspects.pop_front() {
                let (lsn, event) = (delivery.batch.lsn(index), delivery.batch.event(index));
                self.dead_letters.put(lsn, &reason, &event).await;
                self.metrics.dead_letters.inc();
            }
        } else {
            let message = format!("{}; it takes no event at all: check url and mode", last.reason);
            self.monitor.trouble(Condition::Misconfigured, "misconfigured", message);
            self.metrics.failed("misconfigured");
            self.pacer.mistrusted();
            delivery.is_mistrusted = true;
            delivery.take_up_suspects();
        }
        delivery.since = self.trust.deliveries();
    }

    /// Sends some of the batch's events in one message until there is a verdict.
    async fn send(&self, delivery: &Delivery<'_>, part: Range<usize>) -> Verdict {
        let Delivery { batch, contact, is_historical, .. } = delivery;
        let message = self.sink.prepare(batch.body(part.clone())).await;
        let (mut failures, mut timeouts) = (0, 0);
        loop {
            match is_historical {
                true => self.pacer.turn_of_backlog(part.len(), message.len()).await,
                false => self.pacer.turn(part.len(), message.len()).await,
            }
            contact.ask();
            let sent = Instant::now();
            let outcome = self.sink.send(&message).await;
            let took = sent.elapsed();
            self.metrics.answer_time.observe(took.as_secs_f64());
            match &outcome {
                Outcome::Delivered | Outcome::Partly { .. } | Outcome::Poison(_) => {
                    contact.answered()
                }
                Outcome::Throttled(_) | Outcome::Retry(_) | Outcome::Misconfigured(_) => {
                    contact.failed()
                }
            }
            match outcome {
                Outcome::Delivered => {
                    self.pacer.arrived(batch.size(&part), took);
                    self.delivered(part.len(), &message);
                    return Verdict::Delivered;
                }
                Outcome::Partly { fates, message: said } => {
                    self.metrics.failed("partly");
                    return self.partly(&message, part.len(), fates, said).await;
                }
                Outcome::Poison(reason) => {
                    self.pacer.answered();
                    self.metrics.failed("poison");
                    self.monitor.trouble(Condition::Poison, "poison", reason.clone());
                    return Verdict::Poison(reason);
                }
                Outcome::Throttled(pause) => {
                    self.pacer.throttled(pause);
                    self.metrics.failed("throttled");
                    let address = self.sink.address();
                    let message = format!("{address} asks for a pause of {} s", pause.as_secs());
                    self.monitor.trouble(Condition::Throttled, "throttled", message);
                }
                Outcome::Retry(Failure { reason, message, timed_out }) => {
                    failures += 1;
                    timeouts = if timed_out { timeouts + 1 } else { 0 };
                    self.metrics.failed(reason);
                    self.monitor.trouble(Condition::Retrying, reason, message);
                    if timed_out {
                        self.pacer.timed_out();
                    }
                    sleep(self.pacer.failed(failures)).await;
                    if timeouts >= TIMEOUTS && part.len() > 1 {
                        self.pacer.too_slow(batch.size(&part));
                        return Verdict::Split;
                    }
                }
                Outcome::Misconfigured(message) => {
                    self.pacer.refused();
                    self.metrics.failed("misconfigured");
                    self.monitor.trouble(Condition::Misconfigured, "misconfigured", message);
                }
            }
        }
    }

    fn delivered(&self, events: usize, message: &Message) {
        self.trust.delivered();
        self.monitor.delivered();
        self.metrics.events.inc_by(events as u64);
        self.metrics.bytes.inc_by(message.len() as u64);
    }

    async fn partly(
        &self,
        message: &Message,
        count: usize,
        fates: Vec<Fate>,
        said: String,
    ) -> Verdict {
        if fates.len() != count {
            debug!(sink = self.monitor.name(), "{said}: does not say which events arrived");
            self.pacer.answered();
            let said = format!("{said}; it does not say which events it took");
            self.monitor.trouble(Condition::Poison, "partly", said.clone());
            return if count > 1 { Verdict::Split } else { Verdict::Poison(said) };
        }
        let delivered = fates.iter().filter(|fate| **fate == Fate::Delivered).count();
        if delivered > 0 {
            self.delivered(delivered, message);
        }
        if fates.contains(&Fate::Retry) {
            self.monitor.trouble(Condition::Retrying, "partly", said);
            sleep(self.pacer.failed(1)).await;
        } else {
            self.pacer.answered();
        }
        Verdict::Partly(fates)
    }
}

impl Delivery<'_> {
    fn halve(&mut self, part: Range<usize>) {
        let (first, second) = halves(part);
        self.parts.extend([second, first]);
    }

    /// They are sent again, before all else.
    fn take_up_suspects(&mut self) {
        while let Some(Suspect { index, .. }) = self.suspects.pop_back() {
            self.parts.push(index..index + 1);
        }
    }

    fn suspect(&mut self, index: usize, reason: String) {
        self.suspects.push_back(Suspect { index, reason });
    }

    /// Takes up what a part's events came to. Those to be sent again go in one message where they
    /// stand side by side.
    fn sort(&mut self, part: Range<usize>, fates: Vec<Fate>) {
        let mut again: Vec<Range<usize>> = Vec::new();
        for (index, fate) in part.zip(fates) {
            match fate {
                Fate::Delivered => {}
                Fate::Poison(reason) => self.suspect(index, reason),
                Fate::Retry => match again.last_mut() {
                    Some(last) if last.end == index => last.end = index + 1,
                    _ => again.push(index..index + 1),
                },
            }
        }
        self.parts.extend(again.into_iter().rev());
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
