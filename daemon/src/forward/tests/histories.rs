//! Random histories: events of some sources in some lanes, a bus that comes and goes, restarts in order and
//! crashes. Whatever happens, everything arrives, what was promised of the order holds, and without a crash
//! or a restart nothing arrives twice.

use std::time::Duration;

use tidegate_config::sink::Drain;

use super::bus::Arrived;
use super::streams::is_one;
use super::*;
use crate::state::Span as Range;

/// The histories of a run; `TIDEGATE_HISTORIES` says otherwise, `TIDEGATE_HISTORY` names one.
const HISTORIES: u64 = 12;
const STEPS: usize = 40;
const TOPICS: [&str; 4] = ["t", "alerts/x", "brief/x", "other"];

struct History {
    random: fastrand::Rng,
    bus: Bus,
    gateway: Gateway,
    /// Payloads of each source and topic.
    published: usize,
    unwanted: u64,
    restarts: usize,
    /// How much had arrived before each start.
    starts: Vec<usize>,
    /// Cursors that were saved at some time since the start.
    saved: Vec<Vec<Range>>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_everything_arrives_in_the_order_that_was_promised() {
    let seeds = match number("TIDEGATE_HISTORY") {
        Some(seed) => vec![seed],
        None => (0..number("TIDEGATE_HISTORIES").unwrap_or(HISTORIES))
            .map(|_| fastrand::u64(..))
            .collect(),
    };
    for seed in seeds {
        println!("TIDEGATE_HISTORY={seed}");
        History::new(seed).await.run().await;
    }
}

impl History {
    async fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let bus = Bus::open().await;
        let drain = random.bool();
        let backlog = random.bool().then(|| random.u64(200..2000));
        let max_in_flight = random.usize(1..=4);
        let max_events = random.usize(1..=20);
        let max_bytes = ByteSize(random.u64(1024..20_000));
        let late = Duration::from_millis(random.u64(5..40));
        bus.rules(|rules| rules.jitter = random.u64(0..6));
        let mut gateway = Gateway::new(&bus, |config, _| {
            config.drain = if drain { Drain::LiveFirst } else { Drain::InOrder };
            config.rate.backlog_events = backlog;
            config.max_in_flight = max_in_flight;
            config.batch.max_events = max_events;
            config.batch.max_bytes = max_bytes;
            let wanted = ["t", "alerts/#", "brief/#"];
            config.topics = wanted.map(|topic| TopicFilter(Filter::new(topic).unwrap())).into();
        });
        gateway.shared.late_after = Some(late);
        gateway.start();
        let (saved, starts) = (Vec::new(), vec![0]);
        Self { random, bus, gateway, published: 0, unwanted: 0, restarts: 0, starts, saved }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            self.step().await;
        }
        self.bus.rules(|rules| rules.always = None);
        let next = self.published as Lsn + 1;
        eventually("all is there, and one stream is left", || is_one(&self.gateway, next)).await;
        self.check();
        self.gateway.stop().await;
    }

    async fn step(&mut self) {
        match self.random.u32(..20) {
            0..=9 => self.publish().await,
            10..=12 => self.bus.rules(|rules| rules.always = Some(Reply::Status(503))),
            13..=15 => self.bus.rules(|rules| rules.always = None),
            16..=17 => {
                let pause = Duration::from_millis(self.random.u64(1..60));
                tokio::time::sleep(pause).await;
                self.saved.push(self.gateway.shared.cursors.spans("cloud"));
            }
            18 => self.restart(None).await,
            _ => {
                let index = self.random.usize(..self.saved.len().max(1));
                let spans = self.saved.get(index).cloned();
                self.restart(spans).await;
            }
        }
    }

    async fn publish(&mut self) {
        for _ in 0..self.random.usize(1..6) {
            let topic = TOPICS[self.random.usize(..TOPICS.len())];
            // Lanes have sources of their own: between lanes there is no order.
            let origin = format!("{}-{}", topic.replace('/', "-"), self.random.usize(..3));
            let count = self.random.usize(1..30);
            let payloads = numbers(self.published..self.published + count);
            self.published += count;
            if topic == "other" {
                self.unwanted += count as u64;
            }
            self.gateway.publish_to(topic, &origin, &payloads).await;
        }
    }

    /// Starts again, with the cursor as it is, or as it was.
    async fn restart(&mut self, spans: Option<Vec<Range>>) {
        self.gateway.stop().await;
        // What was under way comes before what is sent again.
        self.bus.when(|bus| bus.now() == 0).await;
        if let Some(spans) = spans {
            self.gateway.shared.cursors.set_spans("cloud", spans).unwrap();
        }
        if self.random.u32(..4) == 0 {
            self.gateway.config.drain =
                if self.random.bool() { Drain::LiveFirst } else { Drain::InOrder };
        }
        self.restarts += 1;
        self.starts.push(self.bus.arrived().len());
        self.saved.clear();
        self.gateway.start();
    }

    fn check(&self) {
        let arrived = self.bus.arrived();
        let ids: HashSet<&str> = arrived.iter().map(|event| event.id.as_str()).collect();
        let wanted = self.published - self.unwanted as usize;
        assert_eq!(ids.len(), wanted, "of {}", self.published);
        if self.restarts == 0 {
            assert_eq!(arrived.len(), wanted, "without a restart nothing comes twice");
            let metrics = self.gateway.metrics();
            assert_eq!(metrics.events.get(), wanted as u64);
            assert_eq!(metrics.filtered.get(), self.unwanted);
            assert_eq!((metrics.lost.get(), metrics.expired.get()), (0, 0));
        }
        let ends = self.starts.iter().skip(1).copied().chain([arrived.len()]);
        for (start, end) in self.starts.iter().zip(ends) {
            in_order(&arrived[*start..end]);
        }
    }
}

/// Between two starts each source's events are in order: those of the backlog, and the others.
fn in_order(arrived: &[Arrived]) {
    let mut last: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    for event in arrived {
        let number: usize = event.data.parse().unwrap();
        let before = last.insert((&event.source, event.historical), number);
        assert!(before.is_none_or(|before| before < number), "{event:?} behind {before:?}");
    }
}
