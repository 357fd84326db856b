mod bus;
mod division;
mod histories;
mod refusals;
mod streams;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bus::{Bus, Reply};
use tempfile::TempDir;
use tidegate_config::sink::{Bus as BusConfig, Compression, Http, Mode};
use tidegate_config::{ByteSize, Span, TopicFilter};
use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Filter, Lane, Lsn, Property, Qos, Received};

use super::*;
use crate::log::{Append, Chunk, Covered, FileSystem, Options, Read, Reason};
use crate::state::State;

/// A log, a state and one forwarder.
struct Gateway {
    dir: TempDir,
    shared: Shared,
    supervisor: Supervisor,
    config: Config,
}

fn options(dir: PathBuf) -> Options {
    Options {
        dir,
        lane: Lane(0),
        max_size: 64 << 20,
        segment_size: 1 << 20,
        max_delay: Duration::ZERO,
        max_bytes: 1 << 20,
        lanes: streams::lanes(),
        ..Options::default()
    }
}

impl Gateway {
    fn new(bus: &Bus, adjust: impl FnOnce(&mut Config, &mut Http)) -> Self {
        Self::with(bus, |_| {}, adjust)
    }

    fn with(
        bus: &Bus,
        adjust_log: impl FnOnce(&mut Options),
        adjust: impl FnOnce(&mut Config, &mut Http),
    ) -> Self {
        let mut http = Http::new(format!("http://{}/in", bus.address));
        let mut config = Config::new("cloud", BusConfig::Http(Http::new("")));
        config.batch.max_events = 50;
        config.batch.max_age = Span::milliseconds(5);
        config.retry.initial = Span::milliseconds(1);
        config.retry.max = Span::milliseconds(20);
        adjust(&mut config, &mut http);
        config.bus = BusConfig::Http(http);

        let dir = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FileSystem);
        let mut options = options(dir.path().join("log"));
        adjust_log(&mut options);
        let (log, _) = Log::open(Arc::clone(&storage), options).unwrap();
        let (state, _) = State::open(&dir.path().join("state")).unwrap();
        let encoder = Encoder::new("g", Vec::new(), "test".into(), None);
        let shared = Shared {
            log,
            encoder: Arc::new(encoder),
            cursors: state.cursors(),
            storage,
            dead_letters: dir.path().join("dlq"),
            metrics: Metrics::default(),
            late_after: None,
        };
        Self { dir, shared, supervisor: Supervisor::new(), config }
    }

    fn start(&self) -> ForwarderHandle {
        ForwarderHandle::start(&self.config, &self.shared, &self.supervisor).unwrap()
    }

    /// Publishes `payloads` from `origin` under the topic `topic`.
    async fn publish_to(&self, topic: &str, origin: &str, payloads: &[String]) {
        let mut block = BlockBuilder::new(origin, Received::Synced { unix_micros: 1 });
        let lane = self.shared.log.lanes().of(topic);
        for payload in payloads {
            let draft = Draft {
                topic,
                qos: Qos::AtLeastOnce,
                retain: false,
                properties: Properties::default(),
                payload: payload.as_bytes(),
            };
            block.push_in(lane, &draft);
        }
        loop {
            match self.shared.log.append(&mut block) {
                Append::Accepted(commit) => {
                    commit.await.unwrap();
                    return;
                }
                Append::Busy => {
                    self.trim();
                    tokio::task::yield_now().await;
                }
                refused => panic!("the log takes no events: {refused:?}"),
            }
        }
    }

    /// Makes room in lanes that drop their oldest events.
    fn trim(&self) {
        let needed = self.saved().unwrap_or(1);
        let covered = Covered { before: Lsn::MAX, control: u64::MAX, needed };
        self.shared.log.trim(&covered).unwrap();
    }

    async fn publish(&self, origin: &str, payloads: impl IntoIterator<Item = String>) {
        let payloads: Vec<String> = payloads.into_iter().collect();
        self.publish_to("t", origin, &payloads).await;
    }

    fn saved(&self) -> Option<Lsn> {
        self.shared.cursors.get("cloud")
    }

    /// Drains, and starts anew with the log and state as they are.
    async fn stop(&mut self) {
        self.supervisor.begin_drain();
        self.supervisor.ended().await;
        assert_eq!(self.supervisor.failure(), None);
        self.supervisor = Supervisor::new();
    }

    fn metrics(&self) -> metrics::SinkMetrics {
        self.shared.metrics.of("cloud")
    }
}

async fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(Duration::from_secs(20), what, condition).await;
}

async fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + limit;
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    while !condition() {
        assert!(tokio::time::Instant::now() < until, "not in {limit:?}: {what}");
        tick.tick().await;
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Each source's data in the order in which it arrived first; and whether something arrived twice.
fn by_source(bus: &Bus) -> (BTreeMap<String, Vec<String>>, bool) {
    let (mut seen, mut sources, mut twice) = (HashSet::new(), BTreeMap::new(), false);
    for event in bus.arrived() {
        if seen.insert(event.id.clone()) {
            sources.entry(event.source).or_insert_with(Vec::new).push(event.data);
        } else {
            twice = true;
        }
    }
    (sources, twice)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_arrives_once_in_order_per_source_over_several_requests_at_once() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.jitter = 8);
    let mut gateway = Gateway::new(&bus, |_, _| {});
    let handle = gateway.start();
    for round in 0..20 {
        for source in 0..20 {
            let payloads = numbers(round * 20..round * 20 + 20);
            gateway.publish(&format!("s{source}"), payloads).await;
        }
    }
    bus.until(8000).await;
    let (sources, twice) = by_source(&bus);
    assert!(!twice);
    assert_eq!(sources.len(), 20);
    for (source, data) in sources {
        assert_eq!(data, numbers(0..400), "{source}");
    }
    assert!((2..=4).contains(&bus.at_once()), "{}", bus.at_once());
    let ids: HashSet<String> = bus.arrived().into_iter().map(|event| event.id).collect();
    assert!((1..=8000).all(|lsn| ids.contains(&gateway.shared.log.id(lsn).to_string())));
    eventually("the cursor is saved", || gateway.saved() == Some(8001)).await;
    let status = handle.status();
    assert_eq!((status.condition, status.cursor, status.lag_events), (Condition::Ok, 8001, 0));
    gateway.stop().await;
}

#[tokio::test]
async fn an_outage_is_named_and_nothing_is_lost_or_repeated() {
    let bus = Bus::closed().await;
    let gateway = Gateway::new(&bus, |_, _| {});
    let handle = gateway.start();
    gateway.publish("s", numbers(0..500)).await;
    eventually("the outage shows", || handle.status().condition == Condition::Retrying).await;
    let status = handle.status();
    assert!(status.last_error.unwrap().contains("Connection refused"));
    assert_eq!((status.cursor, status.lag_events), (1, 500));
    let old = || handle.status().lag_seconds > 1_000_000;
    eventually("the age of the events, which are from 1970", old).await;
    bus.reopen().await;
    bus.until(500).await;
    assert_eq!(bus.data(), numbers(0..500));
    eventually("the cursor moves", || handle.status().cursor == 501).await;
    assert_eq!(handle.status().condition, Condition::Ok);
}

#[tokio::test]
async fn failures_are_retried_as_what_they_are() {
    let bus = Bus::open().await;
    bus.rules(|rules| {
        let replies = [503, 500, 408, 425, 429].map(Reply::Status);
        rules.script.extend(replies);
        rules.script.extend([Reply::Hang, Reply::RetryAfter(503, 1)]);
    });
    // Nobody is so slow but the one that hangs.
    let gateway = Gateway::new(&bus, |_, http| http.timeout = Span::seconds(2));
    gateway.start();
    gateway.publish("s", numbers(0..10)).await;
    let start = tokio::time::Instant::now();
    bus.until(10).await;
    assert!(start.elapsed() >= Duration::from_secs(1), "Retry-After is kept");
    assert_eq!((bus.data(), bus.requests()), (numbers(0..10), 8));
    let mut registry = prometheus_client::registry::Registry::default();
    gateway.shared.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for (reason, count) in [
        ("http-5xx", 2),
        ("http-408", 1),
        ("http-425", 1),
        ("http-429", 1),
        ("timeout", 1),
        ("throttled", 1),
    ] {
        let line =
            format!("tidegate_sink_failures_total{{sink=\"cloud\",reason=\"{reason}\"}} {count}");
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn a_sink_that_refuses_us_is_told_and_loses_nothing() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.always = Some(Reply::Status(401)));
    let gateway = Gateway::new(&bus, |_, _| {});
    let handle = gateway.start();
    gateway.publish("s", numbers(0..100)).await;
    eventually("it shows", || handle.status().condition == Condition::Misconfigured).await;
    assert!(handle.status().last_error.unwrap().contains("401 Unauthorized: as told"));
    bus.rules(|rules| rules.always = None);
    bus.until(100).await;
    assert_eq!(bus.data(), numbers(0..100));
}

#[tokio::test]
async fn a_bus_that_takes_smaller_bodies_gets_smaller_bodies() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.max_body = Some(1500));
    let gateway = Gateway::new(&bus, |_, _| {});
    gateway.start();
    gateway.publish("s", numbers(0..200)).await;
    bus.until(200).await;
    assert_eq!(bus.data(), numbers(0..200));
    assert!(gateway.metrics().splits.get() > 0);
}

#[tokio::test]
async fn poison_events_go_to_the_dead_letter_queue_and_the_rest_goes_on() {
    let bus = Bus::open().await;
    let mut gateway = Gateway::new(&bus, |_, _| {});
    let handle = gateway.start();
    let payloads: Vec<String> =
        (0..120)
            .map(|n| {
                if [7, 8, 60, 119].contains(&n) { format!("\"poison {n}\"") } else { n.to_string() }
            })
            .collect();
    gateway.publish("s", payloads.clone()).await;
    eventually("the cursor moves", || handle.status().cursor == 121).await;
    let healthy: Vec<String> = payloads.into_iter().filter(|p| !p.contains("poison")).collect();
    assert_eq!(bus.data(), healthy);
    assert_eq!(handle.status().condition, Condition::Poison, "the last thing it was given");
    gateway.stop().await;

    let letters = letters(&gateway);
    let expected: Vec<(String, String)> = [7, 8, 60, 119]
        .into_iter()
        .map(|n| (gateway.shared.log.id(n + 1).to_string(), format!("\"poison {n}\"")))
        .collect();
    assert_eq!(letters, expected);
}

/// Id and payload of what is in the dead-letter queue.
fn letters(gateway: &Gateway) -> Vec<(String, String)> {
    let dir = gateway.dir.path().join("dlq").join("cloud");
    let (queue, _) = Log::open(Arc::new(FileSystem), options(dir)).unwrap();
    let (mut reader, mut chunk) = (queue.reader(1), Chunk::default());
    let mut letters = Vec::new();
    while reader.read(&mut chunk, 1 << 20).unwrap() == Read::Frames {
        for event in chunk.frames().flat_map(|frame| frame.events()) {
            let event = event.unwrap();
            assert_eq!((event.origin, event.topic), ("s", "t"));
            let user = |wanted: &str| {
                event.properties.iter().find_map(|property| match property {
                    Property::User(name, value) if name == wanted => Some(value.to_owned()),
                    _ => None,
                })
            };
            let reason = user(dead_letter::REASON).unwrap();
            assert!(reason.ends_with("400 Bad Request: poisonous"), "{reason}");
            let payload = String::from_utf8(event.payload.to_vec()).unwrap();
            letters.push((user(dead_letter::ID).unwrap(), payload));
        }
    }
    letters
}

#[tokio::test]
async fn a_full_dead_letter_queue_holds_its_sink_up_and_drops_nothing() {
    let bus = Bus::open().await;
    let gateway = Gateway::new(&bus, |config, _| config.dead_letter.max_size = ByteSize(1));
    let handle = gateway.start();
    // Each far more than a quarter of the least queue there is (256 KiB).
    let poison = (0..4).map(|_| format!("\"poison {}\"", "x".repeat(150_000)));
    gateway.publish("s", poison).await;
    gateway.publish("s", numbers(0..10)).await;
    eventually("it shows", || handle.status().condition == Condition::DeadLettersFull).await;
    assert!(gateway.metrics().dead_letters.get() < 4);
    assert!(handle.status().cursor < 5, "{}", handle.status().cursor);
}

#[tokio::test]
async fn the_same_events_go_again_under_the_same_ids_after_a_crash() {
    let bus = Bus::open().await;
    let mut gateway = Gateway::new(&bus, |_, _| {});
    gateway.start();
    gateway.publish("s", numbers(0..100)).await;
    bus.until(100).await;
    gateway.stop().await;
    assert_eq!(gateway.saved(), Some(101), "the drain saves the cursor");
    // What a crash leaves: a cursor from before the last answers.
    gateway.shared.cursors.set("cloud", 61).unwrap();
    gateway.start();
    bus.until(140).await;
    let arrived = bus.arrived();
    assert_eq!(arrived[100..], arrived[60..100]);
}

#[tokio::test]
async fn the_drain_delivers_what_is_there_and_waits_for_no_bus_that_is_down() {
    let bus = Bus::open().await;
    let mut gateway = Gateway::new(&bus, |config, _| config.batch.max_age = Span::seconds(3600));
    gateway.start();
    gateway.publish("s", numbers(0..10)).await;
    gateway.stop().await;
    assert_eq!((bus.data(), gateway.saved()), (numbers(0..10), Some(11)));

    let bus = Bus::closed().await;
    let mut gateway = Gateway::new(&bus, |_, _| {});
    let handle = gateway.start();
    gateway.publish("s", numbers(0..10)).await;
    eventually("it shows", || handle.status().condition == Condition::Retrying).await;
    let start = tokio::time::Instant::now();
    gateway.stop().await;
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(gateway.saved(), Some(1));
}

#[tokio::test]
async fn the_cursor_passes_what_the_sink_does_not_want() {
    let bus = Bus::open().await;
    let filter = TopicFilter(Filter::new("plant/#").unwrap());
    let gateway = Gateway::new(&bus, |config, _| config.topics = vec![filter]);
    let handle = gateway.start();
    gateway.publish_to("office/door", "d", &numbers(0..30)).await;
    gateway.publish_to("plant/boiler", "b", &numbers(30..40)).await;
    gateway.publish_to("office/door", "d", &numbers(40..50)).await;
    eventually("the cursor moves", || handle.status().cursor == 51).await;
    assert_eq!(bus.data(), numbers(30..40));
    assert_eq!(gateway.metrics().filtered.get(), 40);
}

#[tokio::test]
async fn memory_does_not_grow_with_the_backlog() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.always = Some(Reply::Hang));
    let gateway = Gateway::new(&bus, |config, _| {
        config.batch.max_bytes = ByteSize::kib(4);
        config.batch.max_events = 1000;
        // Young batches would leave as one, and keep the others from leaving.
        config.batch.max_age = Span::seconds(3600);
    });
    let handle = gateway.start();
    for round in 0..50 {
        for source in 0..20 {
            gateway.publish(&format!("s{source}"), [round.to_string()]).await;
        }
    }
    bus.when(|bus| bus.requests() == 4).await;
    let bound = 5 * 4096 + 400;
    eventually("it is filled", || gateway.metrics().held.get() > 4 * 4096).await;
    assert!(gateway.metrics().held.get() <= bound, "{}", gateway.metrics().held.get());
    assert_eq!((handle.status().cursor, handle.status().lag_events), (1, 1000));
}

#[tokio::test]
async fn one_by_one_in_structured_and_binary_mode_and_compressed() {
    for mode in [Mode::Structured, Mode::Binary] {
        let bus = Bus::open().await;
        bus.rules(|rules| rules.jitter = 2);
        let gateway = Gateway::new(&bus, |_, http| {
            http.mode = mode;
            http.headers.insert("x-tenant".into(), "7".into());
        });
        let handle = gateway.start();
        for source in 0..5 {
            gateway.publish(&format!("s{source}"), numbers(0..20)).await;
        }
        bus.until(100).await;
        let (sources, twice) = by_source(&bus);
        assert!(!twice && sources.len() == 5 && bus.requests() == 100);
        assert!(sources.values().all(|data| *data == numbers(0..20)), "{sources:?}");
        assert!(bus.headers().iter().all(|headers| headers["x-tenant"] == "7"));
        eventually("the cursor moves", || handle.status().cursor == 101).await;
    }
}

#[tokio::test]
async fn a_token_that_was_replaced_is_read_again() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.script.extend([Reply::Status(401)]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old").unwrap();
    let gateway = Gateway::new(&bus, |_, http| {
        http.bearer_token_file = Some(file.path().to_owned());
        http.compression = Compression::None;
    });
    gateway.start();
    std::fs::write(file.path(), "new").unwrap();
    gateway.publish("s", numbers(0..5)).await;
    bus.until(5).await;
    let tokens: Vec<_> = bus.headers().iter().map(|h| h["authorization"].clone()).collect();
    assert_eq!(tokens, ["Bearer old", "Bearer new"]);
}

#[tokio::test]
async fn what_the_log_no_longer_has_is_counted_and_the_rest_goes_on() {
    let bus = Bus::open().await;
    let gateway = Gateway::new(&bus, |config, _| config.batch.max_events = 1000);
    let payload = format!("\"{}\"", "x".repeat(1000));
    for _ in 0..30 {
        gateway.publish("s", std::iter::repeat_n(payload.clone(), 100)).await;
    }
    gateway.shared.log.release(2000);
    let first = gateway.shared.log.usage().first;
    assert!(first > 1 && first <= 2000);
    gateway.shared.cursors.set("cloud", 1).unwrap();
    let handle = gateway.start();
    eventually("the cursor moves", || handle.status().cursor == 3001).await;
    assert_eq!(gateway.metrics().lost.get(), first - 1);
    let losses = gateway.shared.log.losses();
    let entered: Vec<_> = losses.iter().map(|loss| (loss.lsns.clone(), loss.reason)).collect();
    assert_eq!(entered, [(1..=first - 1, Reason::Released)]);
    assert_eq!(bus.arrived().len() as u64, 3001 - first);
}

#[tokio::test]
async fn a_new_sink_begins_with_the_oldest_event_and_holds_it_on_disk() {
    let bus = Bus::closed().await;
    let gateway = Gateway::new(&bus, |_, _| {});
    gateway.publish("s", numbers(0..3)).await;
    assert_eq!(gateway.saved(), None);
    gateway.start();
    assert_eq!(gateway.saved(), Some(1));
}
