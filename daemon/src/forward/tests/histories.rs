//! Random histories: events of some sources in some lanes, a bus that comes and goes, refuses some events,
//! takes others in part or takes them and is not heard; a lane that drops its oldest events; restarts in
//! order, and kills. Whatever happens, everything arrives or stands where it should, and what was promised
//! of the order holds.

mod check;

use std::time::Duration;

use tidegate_config::sink::Drain;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::streams::is_one;
use super::*;
use crate::log::WhenFull;
use crate::state::{MAX_SPANS, Span as Range};

/// The histories of a run, and how many of them at once. `TIDEGATE_HISTORIES` and `TIDEGATE_AT_ONCE` say
/// otherwise, `TIDEGATE_HISTORY` names one.
const HISTORIES: u64 = 12;
const AT_ONCE: u64 = 4;
const STEPS: usize = 40;
/// The last one is of no use to the sink.
const TOPICS: [&str; 4] = ["t", "alerts/x", "brief/x", "other"];
/// The longest that the end of a history may take: a slow backlog, on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(120);

/// What a history may meet.
#[derive(Debug)]
struct Kind {
    /// So many outages that there are as many ranges as a cursor has.
    is_crowded: bool,
    /// A lane drops its oldest events.
    drops: bool,
    /// Some events are poison.
    poison: bool,
    /// The bus answers for each event, and takes some later.
    parts: bool,
    /// Of some outages only the answers are lost.
    unheard: bool,
}

struct History {
    kind: Kind,
    late: Duration,
    random: fastrand::Rng,
    bus: Bus,
    gateway: Gateway,
    handle: ForwarderHandle,
    /// The payload of each event, and its topic.
    published: Vec<(String, &'static str)>,
    /// Starts before the last one.
    life: usize,
    /// Cursors that were saved at some time since the start.
    saved: Vec<Vec<Range>>,
    most_streams: usize,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_everything_arrives_in_the_order_that_was_promised() {
    let mut seeds = match number("TIDEGATE_HISTORY") {
        Some(seed) => vec![seed; number("TIDEGATE_HISTORIES").unwrap_or(1) as usize],
        None => (0..number("TIDEGATE_HISTORIES").unwrap_or(HISTORIES))
            .map(|_| fastrand::u64(..))
            .collect(),
    };
    let at_once = number("TIDEGATE_AT_ONCE").unwrap_or(AT_ONCE) as usize;
    let (mut running, mut seed_of) = (JoinSet::new(), BTreeMap::new());
    let (mut failed, mut crowded) = (Vec::<u64>::new(), 0);
    while !running.is_empty() || !seeds.is_empty() {
        while running.len() < at_once
            && let Some(seed) = seeds.pop()
        {
            let run = async move { History::new(seed).await.run().await };
            seed_of.insert(running.spawn(run).id(), seed);
        }
        match running.join_next().await {
            Some(Ok(most_streams)) => crowded += usize::from(most_streams == MAX_SPANS),
            Some(Err(error)) => {
                failed.extend(seed_of.get(&error.id()));
                println!("so ended TIDEGATE_HISTORY={:?}", seed_of.get(&error.id()));
            }
            None => {}
        }
    }
    println!("{crowded} histories had as many ranges as there can be");
    assert!(failed.is_empty(), "TIDEGATE_HISTORY is one of {failed:?}");
}

impl History {
    async fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let one_in = |random: &mut fastrand::Rng, n| random.u32(..n) == 0;
        let kind = Kind {
            is_crowded: one_in(&mut random, 4),
            drops: one_in(&mut random, 3),
            poison: one_in(&mut random, 3),
            parts: one_in(&mut random, 3),
            unheard: one_in(&mut random, 2),
        };
        let live_first = kind.is_crowded || random.u32(..4) > 0;
        // A crowd is one while the backlog hardly moves.
        let backlog = match kind.is_crowded {
            true => Some(random.u64(20..100)),
            false => random.bool().then(|| random.u64(200..2000)),
        };
        let max_rate = one_in(&mut random, 4).then(|| random.u64(300..3000));
        let max_in_flight = random.usize(1..=4);
        let max_events = random.usize(1..=20);
        let max_bytes = ByteSize(random.u64(1024..20_000));
        let late = Duration::from_millis(random.u64(5..40));
        let bus = Bus::open().await;
        bus.rules(|rules| {
            rules.jitter = random.u64(0..6);
            rules.parts = kind.parts;
        });
        let adjust_log = |options: &mut Options| {
            if kind.drops {
                let brief = options.lanes.iter_mut().find(|lane| lane.name == "brief").unwrap();
                brief.max_size = Some(256 << 10);
                brief.rule.when_full = WhenFull::DropOldest;
                options.segment_size = 64 << 10;
            }
        };
        let mut gateway = Gateway::with(&bus, adjust_log, |config, _| {
            config.drain = if live_first { Drain::LiveFirst } else { Drain::InOrder };
            config.rate.backlog_events = backlog;
            config.rate.max_events = max_rate;
            config.max_in_flight = max_in_flight;
            config.batch.max_events = max_events;
            config.batch.max_bytes = max_bytes;
            let wanted = ["t", "alerts/#", "brief/#"];
            config.topics = wanted.map(|topic| TopicFilter(Filter::new(topic).unwrap())).into();
        });
        gateway.shared.late_after = Some(late);
        let handle = gateway.start();
        Self {
            kind,
            late,
            random,
            bus,
            gateway,
            handle,
            published: Vec::new(),
            life: 0,
            saved: Vec::new(),
            most_streams: 0,
        }
    }

    /// Answers how many streams there were at most.
    async fn run(mut self) -> usize {
        for _ in 0..STEPS {
            self.step().await;
            let spans = self.gateway.shared.cursors.spans("cloud");
            self.most_streams = self.most_streams.max(spans.len());
            self.check_cursor(&spans);
        }
        self.bus.rules(|rules| rules.always = None);
        if self.kind.is_crowded && self.random.bool() {
            self.gateway.config.rate.backlog_events = None;
            self.restart().await;
        }
        let next = self.published.len() as Lsn + 1;
        within(LIMIT, "all is there, and one stream is left", || is_one(&self.gateway, next)).await;
        self.gateway.stop().await;
        self.check();
        self.most_streams
    }

    async fn step(&mut self) {
        match self.random.u32(..24) {
            0..=7 if self.kind.is_crowded => self.outage().await,
            0..=9 => self.publish().await,
            10..=12 => self.take_away(),
            13..=15 => self.bus.rules(|rules| rules.always = None),
            16..=18 => {
                let pause = Duration::from_millis(self.random.u64(1..60));
                sleep(pause).await;
                self.saved.push(self.gateway.shared.cursors.spans("cloud"));
            }
            19 => self.restart().await,
            20..=21 => self.kill().await,
            22 => self.restart_from_an_older_cursor().await,
            _ => self.release(),
        }
    }

    fn take_away(&mut self) {
        let unheard = self.kind.unheard && self.random.bool();
        let reply = if unheard { Reply::Unheard } else { Reply::Status(503) };
        self.bus.rules(|rules| rules.always = Some(reply));
    }

    /// One that makes the sink fall behind, and its end.
    async fn outage(&mut self) {
        self.take_away();
        self.publish().await;
        sleep(self.late * 2).await;
        self.bus.rules(|rules| rules.always = None);
        let pause = Duration::from_millis(self.random.u64(1..40));
        sleep(pause).await;
    }

    async fn publish(&mut self) {
        for _ in 0..self.random.usize(1..6) {
            let topic = TOPICS[self.random.usize(..TOPICS.len())];
            // Lanes have sources of their own: between lanes there is no order.
            let origin = format!("{}-{}", topic.replace('/', "-"), self.random.usize(..3));
            let payloads: Vec<String> =
                (0..self.random.usize(1..30)).map(|index| self.payload(index)).collect();
            self.published.extend(payloads.iter().map(|payload| (payload.trim().into(), topic)));
            self.gateway.publish_to(topic, &origin, &payloads).await;
        }
    }

    /// A number, for the event that is published `index` events from now; some as a string that the bus
    /// does not take, or not at once.
    fn payload(&mut self, index: usize) -> String {
        let number = self.published.len() + index;
        let padding = if self.kind.drops { self.random.usize(..4000) } else { 0 };
        match self.random.u32(..40) {
            0 if self.kind.poison => format!("\"poison {number}\""),
            1..=2 if self.kind.parts => format!("\"later {number}\""),
            _ => format!("{number}{}", " ".repeat(padding)),
        }
    }

    /// Ends in order, and begins again.
    async fn restart(&mut self) {
        self.gateway.stop().await;
        self.start();
    }

    /// A kill: nobody hears of what the forwarder does from now on.
    async fn kill(&mut self) {
        self.bus.rules(|rules| rules.killed = self.life + 1);
        let pause = Duration::from_millis(self.random.u64(0..4));
        sleep(pause).await;
        let spans = self.gateway.shared.cursors.spans("cloud");
        self.gateway.stop().await;
        self.gateway.shared.cursors.set_spans("cloud", spans).unwrap();
        self.start();
    }

    async fn restart_from_an_older_cursor(&mut self) {
        self.gateway.stop().await;
        if !self.saved.is_empty() {
            let spans = self.saved.swap_remove(self.random.usize(..self.saved.len()));
            self.gateway.shared.cursors.set_spans("cloud", spans).unwrap();
        }
        self.start();
    }

    fn start(&mut self) {
        if self.random.u32(..4) == 0 {
            let drains = [Drain::LiveFirst, Drain::InOrder];
            self.gateway.config.drain = drains[usize::from(self.random.u32(..4) == 0)];
        }
        self.life += 1;
        let url = format!("http://{}/in/{}", self.bus.address, self.life);
        self.gateway.config.bus = BusConfig::Http(Http::new(url));
        self.saved.clear();
        self.handle = self.gateway.start();
    }

    /// Nobody needs the log below all cursors.
    fn release(&self) {
        let spans = self.gateway.shared.cursors.spans("cloud");
        let spans = self.saved.iter().flatten().chain(&spans);
        if let Some(before) = spans.map(|span| span.from).min() {
            self.gateway.shared.log.release(before);
        }
    }
}
