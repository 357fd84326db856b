//! Whether a sink's next message may go now: the breaker, the pause that the bus asked for, the limits
//! of the uplink, and what the link carries, together. Shared by the batches in flight.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_config::Sink;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::breaker::{Breaker, Permit};
use super::rate::Bucket;
use super::width::Width;

/// The decision, without waiting.
#[derive(Debug)]
struct Pace {
    breaker: Breaker,
    throttled: Option<Instant>,
    events: Bucket,
    bytes: Bucket,
    width: Width,
    /// Messages that were told to go and not reported.
    sending: usize,
    /// Messages that wait, and that those of a backlog do not go ahead of.
    ahead: usize,
}

impl Pace {
    fn permit(&mut self, now: Instant, events: usize, bytes: usize) -> Permit {
        if !self.width.has_room(self.sending) {
            return Permit::AfterAnswer;
        }
        if let Some(until) = self.throttled
            && now < until
        {
            return Permit::At(until);
        }
        self.throttled = None;
        let paid = self.events.ready(now).max(self.bytes.ready(now));
        if now < paid {
            return Permit::At(paid);
        }
        // Last: who is told to go by the breaker goes.
        let permit = self.breaker.permit(now);
        if permit == Permit::Go {
            self.events.take(events);
            self.bytes.take(bytes);
            self.sending += 1;
        }
        permit
    }

    /// Whoever was told to go reports.
    fn reported(&mut self) {
        self.sending = self.sending.saturating_sub(1);
    }
}

/// A message that waits, and that those of a backlog do not go ahead of.
struct Ahead<'p>(&'p Pacer);

impl<'p> Ahead<'p> {
    fn new(pacer: &'p Pacer) -> Self {
        pacer.pace().ahead += 1;
        Self(pacer)
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        let mut pace = self.0.pace();
        pace.ahead = pace.ahead.saturating_sub(1);
        self.0.changed.notify_waiters();
    }
}

/// Lets messages go at the sink's pace.
#[derive(Debug)]
pub(super) struct Pacer {
    pace: Mutex<Pace>,
    changed: Notify,
    healed: Notify,
    backoff: Backoff,
}

impl Pacer {
    /// For messages of which each may take `timeout`.
    pub(super) fn new(config: &Sink, timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            pace: Mutex::new(Pace {
                breaker: Breaker::new(),
                throttled: None,
                events: Bucket::new(config.rate.max_events, now),
                bytes: Bucket::new(config.rate.max_bytes.map(|size| size.0), now),
                width: Width::new(config.max_in_flight, timeout),
                sending: 0,
                ahead: 0,
            }),
            changed: Notify::new(),
            healed: Notify::new(),
            backoff: Backoff::new(&config.retry),
        }
    }

    /// Waits until a message of so many events and bytes may go. Whoever returns from here sends, and
    /// reports with one of the methods below.
    pub(super) async fn turn(&self, events: usize, bytes: usize) {
        let mut ahead = None;
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // Before the question, so that a report between question and wait is not missed.
            changed.as_mut().enable();
            let permit = self.pace().permit(Instant::now(), events, bytes);
            if permit == Permit::Go {
                return;
            }
            ahead.get_or_insert_with(|| Ahead::new(self));
            Self::wait(permit, changed).await;
        }
    }

    /// The same for a message of a backlog, once none of newer events waits.
    pub(super) async fn turn_of_backlog(&self, events: usize, bytes: usize) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let permit = {
                let mut pace = self.pace();
                match pace.ahead {
                    0 => pace.permit(Instant::now(), events, bytes),
                    _ => Permit::AfterAnswer,
                }
            };
            if permit == Permit::Go {
                return;
            }
            Self::wait(permit, changed).await;
        }
    }

    /// Waits until it is worth asking again.
    async fn wait(permit: Permit, changed: Pin<&mut Notified<'_>>) {
        match permit {
            Permit::Go => {}
            Permit::At(when) => tokio::select! {
                () = sleep_until(when) => {}
                () = changed => {}
            },
            Permit::AfterAnswer => changed.await,
        }
    }

    /// Whether a body of so many bytes, if it holds more than one event, is one that the link carries.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.pace().width.fits(bytes)
    }

    /// A body of so many bytes arrived.
    pub(super) fn arrived(&self, bytes: usize, took: Duration) {
        self.pace().width.arrived(bytes, took);
        self.answered();
    }

    /// The bus answered, whatever it said.
    pub(super) fn answered(&self) {
        let mut pace = self.pace();
        pace.reported();
        if pace.breaker.has_failed() {
            self.healed.notify_one();
        }
        pace.breaker.answered();
        self.changed.notify_waiters();
    }

    /// Waits until the bus answers again after a failure; not, if it has since the last call. For one
    /// task.
    pub(super) async fn heals(&self) {
        self.healed.notified().await;
    }

    /// No answer, or none that counts; the message's `attempts` so far failed. Answers how long this
    /// message waits before it asks for its turn again.
    pub(super) fn failed(&self, attempts: u32) -> Duration {
        let mut pace = self.pace();
        pace.reported();
        let failures = pace.breaker.failures();
        let until = Instant::now() + self.backoff.delay(failures, fastrand::f64());
        pace.breaker.failed(until);
        self.changed.notify_waiters();
        // An open breaker makes it wait anyway.
        match pace.breaker.is_closed() {
            true => self.backoff.delay(attempts, fastrand::f64()),
            false => Duration::ZERO,
        }
    }

    /// A message timed out; it is to be reported as failed, too.
    pub(super) fn timed_out(&self) {
        self.pace().width.timed_out();
    }

    /// Bodies of so many bytes are too large for the link.
    pub(super) fn too_slow(&self, bytes: usize) {
        self.pace().width.too_slow(bytes);
    }

    /// The bus asked for a pause.
    pub(super) fn throttled(&self, pause: Duration) {
        let mut pace = self.pace();
        pace.reported();
        pace.breaker.answered();
        pace.throttled = pace.throttled.max(Some(Instant::now() + pause));
        self.changed.notify_waiters();
    }

    /// The bus refuses us: try rarely.
    pub(super) fn refused(&self) {
        let mut pace = self.pace();
        pace.reported();
        pace.breaker.open(Instant::now() + self.backoff.max());
        self.changed.notify_waiters();
    }

    /// As [`Pacer::refused`], where the messages that show it were reported already.
    pub(super) fn mistrusted(&self) {
        let mut pace = self.pace();
        pace.breaker.open(Instant::now() + self.backoff.max());
        self.changed.notify_waiters();
    }

    /// Whether the bus, by what was heard of it last, takes nothing now.
    pub(super) fn is_held_back(&self) -> bool {
        let pace = self.pace();
        pace.breaker.has_failed() || pace.throttled.is_some_and(|until| Instant::now() < until)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tidegate_config::sink::{Bus, Http};
    use tidegate_config::{ByteSize, Span};

    use super::*;

    fn pacer(adjust: impl FnOnce(&mut Sink)) -> Pacer {
        let mut config = Sink::new("cloud", Bus::Http(Http::new("http://localhost")));
        config.retry.initial = Span::seconds(10);
        adjust(&mut config);
        Pacer::new(&config, Duration::from_secs(30))
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_sink_waits_as_long_as_it_was_asked_to() {
        let pacer = pacer(|_| {});
        let start = Instant::now();
        pacer.throttled(Duration::from_secs(20));
        pacer.throttled(Duration::from_secs(5));
        assert!(pacer.is_held_back());
        pacer.turn(1, 1).await;
        assert_eq!(start.elapsed().as_secs(), 20);
        assert!(!pacer.is_held_back());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_messages_go_together_once_the_probe_is_answered() {
        let pacer = pacer(|_| {});
        for attempt in 1..=3 {
            pacer.failed(attempt);
        }
        assert!(pacer.is_held_back());
        pacer.turn(1, 1).await;
        let probe_sent = Instant::now();
        let others = async { tokio::join!(pacer.turn(1, 1), pacer.turn(1, 1)) };
        tokio::join!(others, async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            pacer.answered();
        });
        assert_eq!(probe_sent.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_is_refused_is_tried_at_the_longest_interval() {
        let pacer = pacer(|config| config.retry.max = Span::seconds(90));
        let start = Instant::now();
        for _ in 0..3 {
            pacer.turn(1, 1).await;
            pacer.refused();
        }
        assert_eq!(start.elapsed().as_secs(), 180);
    }

    #[tokio::test(start_paused = true)]
    async fn the_uplinks_limits_hold() {
        let pacer = pacer(|config| {
            config.rate.max_events = Some(100);
            config.rate.max_bytes = Some(ByteSize(10_000));
        });
        let start = Instant::now();
        for _ in 0..11 {
            pacer.turn(100, 10).await;
            pacer.answered();
        }
        // The first second's allowance is there at the start.
        assert!((9..=10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        let start = Instant::now();
        for _ in 0..6 {
            pacer.turn(0, 10_000).await;
            pacer.answered();
        }
        assert!((4..=6).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        assert!(!pacer.is_held_back());
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_takes_what_the_newest_events_leave() {
        let pacer = pacer(|config| config.rate.max_events = Some(100));
        // What there is for the first second, and the one after it.
        pacer.turn(200, 10).await;
        pacer.answered();
        let start = Instant::now();
        let backlog = async {
            pacer.turn_of_backlog(100, 10).await;
            start.elapsed().as_secs()
        };
        let newest = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for _ in 0..3 {
                pacer.turn(100, 10).await;
                pacer.answered();
            }
            // One that is taken back holds nothing up.
            let waiting = pacer.turn(100, 10);
            assert!(tokio::time::timeout(Duration::from_millis(100), waiting).await.is_err());
            start.elapsed().as_secs()
        };
        assert_eq!(tokio::join!(backlog, newest), (4, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn after_time_outs_fewer_messages_go_at_once() {
        let pacer = pacer(|config| config.max_in_flight = 4);
        pacer.timed_out();
        tokio::join!(pacer.turn(1, 1), pacer.turn(1, 1));
        let start = Instant::now();
        tokio::join!(pacer.turn(1, 1), async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            pacer.answered();
        });
        assert_eq!(start.elapsed().as_secs(), 3);
    }
}
