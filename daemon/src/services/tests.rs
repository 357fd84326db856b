use std::path::Path;
use std::sync::Mutex;

use tidegate_config::{Config, Limits};
use tidegate_edge::{Emitted, Output};
use tidegate_event::record::{Properties, Property};
use tidegate_event::{BlockBuilder, Draft, EventRef, Lane, Qos, Received};

use tokio::time::timeout;

use super::*;
use crate::clock::Clock;
use crate::log::{Append, Chunk, FileSystem, Options, Read};
use crate::state::ballast::Ballast;
use crate::state::retention::{Retention, SessionBacklog};

/// The log, the state and the services in one directory.
struct Site {
    services: Services,
}

impl Site {
    fn open(dir: &Path) -> Self {
        let options = Options {
            dir: dir.join("log"),
            lane: Lane(0),
            max_size: 256 << 10,
            segment_size: 64 << 10,
            max_delay: Duration::ZERO,
            max_bytes: 16 << 10,
            ..Options::default()
        };
        let (log, _) = Log::open(Arc::new(FileSystem), options).unwrap();
        let (state, _) = State::open(&dir.join("state")).unwrap();
        state.bind(log.id(0).epoch).unwrap();
        let gate = Arc::new(Gate::new(log.clone(), &Limits::default(), Clock::new()));
        let (metrics, supervisor) = (Metrics::default(), Supervisor::new());
        Self { services: Services { log, gate, state, metrics, supervisor } }
    }

    fn with_rule(dir: &Path) -> Self {
        let site = Self::open(dir);
        site.start_rule();
        site
    }

    fn start_rule(&self) {
        let config = r#"
            [gateway]
            id = "edge-1"
            device-level = 2
            [[listener]]
            type = "mqtt"
            bind = "127.0.0.1:1883"
            [[alert]]
            name = "hot"
            topic = "plant/+/t"
            raise = "> 90"
            clear = "< 85"
        "#;
        let config = Config::from_toml(config, "test.toml").unwrap();
        assert!(self.services.start_alerts(&config.gateway, &config.alerts, 100).unwrap());
    }

    fn submit(&self, topic: &str, payload: &[u8]) -> Append {
        let mut block = BlockBuilder::new("client", self.services.gate.now());
        let (qos, properties) = (Qos::AtLeastOnce, Properties::default());
        block.push(&Draft { topic, qos, retain: false, properties, payload });
        self.services.gate.submit(&mut block)
    }

    async fn publish(&self, topic: &str, payload: &str) -> Lsn {
        match self.submit(topic, payload.as_bytes()) {
            Append::Accepted(commit) => *commit.await.unwrap().start(),
            refused => panic!("{refused:?}"),
        }
    }

    /// Waits until the log holds `lsn`.
    async fn holds(&self, lsn: Lsn) {
        self.services.log.watch().wait_for(|committed| *committed >= lsn).await.unwrap();
    }

    /// Topic, id and payload of the events that services published.
    fn said(&self) -> Vec<(String, String, String)> {
        let mut said = Vec::new();
        let mut reader = self.services.log.reader(1);
        let mut chunk = Chunk::default();
        while reader.read(&mut chunk, 1 << 20).unwrap() != Read::Tail {
            for event in chunk.frames().flat_map(|frame| frame.events()).map(Result::unwrap) {
                if event.origin != "client" {
                    let id = event.properties.iter().find_map(|property| match property {
                        Property::User("id", id) => Some(id.to_owned()),
                        _ => None,
                    });
                    let payload = String::from_utf8(event.payload.to_vec()).unwrap();
                    said.push((event.topic.to_owned(), id.unwrap_or_default(), payload));
                }
            }
        }
        said
    }

    /// The states of the alerts that were published.
    fn alerts(&self) -> Vec<String> {
        let state = |payload: &str| {
            let payload: serde_json::Value = serde_json::from_str(payload).unwrap();
            payload["state"].as_str().unwrap().to_owned()
        };
        self.said().iter().map(|(_, _, payload)| state(payload)).collect()
    }

    async fn stop(self) {
        self.services.supervisor.begin_drain();
        self.services.supervisor.ended().await;
        assert_eq!(self.services.supervisor.failure(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_alert_is_in_the_log_and_its_state_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::with_rule(dir.path());
    site.publish("plant/a/t", "95").await;
    site.holds(2).await;
    assert_eq!(site.alerts(), ["raised"]);
    assert_eq!(site.services.metrics.open_alerts(), 1);
    site.stop().await;
    let site = Site::with_rule(dir.path());
    site.publish("plant/a/t", "96").await;
    site.publish("plant/a/t", "84").await;
    site.holds(5).await;
    assert_eq!(site.alerts(), ["raised", "cleared"]);
    assert_eq!(site.said()[1].0, "alerts/hot/a");
    let metrics = site.services.metrics.clone();
    site.stop().await;
    let mut registry = prometheus_client::registry::Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "tidegate_service_published_total{service=\"alerts\"} 1",
        "tidegate_alerts_cleared_total{alert=\"hot\"} 1",
        "tidegate_alerts_open{alert=\"hot\"} 0",
        "tidegate_alerts_ignored_total{alert=\"hot\",reason=\"no-number\"} 0",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_that_is_lost_is_built_again_and_what_is_said_again_has_the_same_id() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::with_rule(dir.path());
    site.publish("plant/a/t", "95").await;
    site.holds(2).await;
    site.stop().await;
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let site = Site::with_rule(dir.path());
    site.holds(3).await;
    let said = site.said();
    assert_eq!((said.len(), &said[0]), (2, &said[1]));
    site.publish("plant/a/t", "84").await;
    site.holds(5).await;
    assert_eq!(site.alerts(), ["raised", "raised", "cleared"]);
    site.stop().await;
}

#[tokio::test(start_paused = true)]
async fn checkpoint_and_log_bring_back_what_the_database_had_after_the_log_was_freed() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::with_rule(dir.path());
    let Services { log, state, supervisor, .. } = site.services.clone();
    let retention = Retention {
        clock: crate::clock::Clock::new(),
        room: None,
        ballast: Ballast::new(dir.path(), 0),
        log: log.clone(),
        state: state.clone(),
        sessions: SessionBacklog::default(),
        sinks: vec!["cloud".into()],
        max_size: 256 << 10,
        retain: Duration::ZERO,
    };
    retention.start(&supervisor);
    site.publish("plant/a/t", "95").await;
    site.holds(2).await;
    // Twice the log's size: it goes on only because it is freed behind the sink.
    for _ in 0..512 {
        loop {
            let last = match site.submit("noise", &[b'x'; 1000]) {
                Append::Accepted(commit) => *commit.await.unwrap().end(),
                _ => {
                    log.room(1100).await;
                    continue;
                }
            };
            state.cursors().set("cloud", last + 1).unwrap();
            break;
        }
    }
    assert!(log.usage().first > 2, "{:?}", log.usage());
    drop((log, state, supervisor));
    site.stop().await;
    std::fs::remove_dir_all(dir.path().join("state/db")).unwrap();
    let site = Site::with_rule(dir.path());
    assert!(site.services.state.cursors().get("cloud").unwrap() >= site.services.log.usage().first);
    site.publish("plant/a/t", "84").await;
    site.holds(516).await;
    assert_eq!(site.alerts().last().unwrap(), "cleared");
    site.stop().await;
}

/// A log that is full, with an event in front that raises an alert.
async fn full(dir: &Path) -> (Site, Lsn) {
    let site = Site::open(dir);
    let mut last = site.publish("plant/a/t", "95").await;
    for size in [1000, 100] {
        loop {
            if let Append::Accepted(commit) = site.submit("noise", &vec![b'x'; size]) {
                last = *commit.await.unwrap().end();
            } else if timeout(Duration::from_secs(1), site.services.log.room(size + 100))
                .await
                .is_err()
            {
                break;
            }
        }
    }
    (site, last)
}

#[tokio::test(start_paused = true)]
async fn what_a_service_has_to_say_waits_for_room_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (site, last) = full(dir.path()).await;
    site.start_rule();
    // However long that takes.
    tokio::time::sleep(run::FULL_PATIENCE * 10).await;
    assert_eq!(site.services.log.committed(), last);
    site.services.log.release(last / 2);
    site.holds(last + 1).await;
    assert_eq!(site.alerts(), ["raised"]);
    site.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_log_and_a_service_that_is_catching_up_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (site, last) = full(dir.path()).await;
    site.start_rule();
    site.services.state.cursors().set("cloud", last + 1).unwrap();
    let retention = Retention {
        clock: crate::clock::Clock::new(),
        room: None,
        ballast: Ballast::new(dir.path(), 0),
        log: site.services.log.clone(),
        state: site.services.state.clone(),
        sessions: SessionBacklog::default(),
        sinks: vec!["cloud".into()],
        max_size: 256 << 10,
        retain: Duration::ZERO,
    };
    retention.start(&site.services.supervisor);
    let mut looks = tokio::time::interval(Duration::from_secs(1));
    while site.services.log.usage().first == 1 {
        looks.tick().await;
    }
    site.publish("plant/a/t", "84").await;
    site.holds(last + 2).await;
    assert_eq!(site.alerts(), ["cleared"]);
    site.stop().await;
}

/// Repeats every payload on the topic `echo`; panics on `panic`.
struct Echo {
    name: &'static str,
    seen: Arc<Mutex<Vec<Lsn>>>,
}

impl Service for Echo {
    fn name(&self) -> &'static str {
        self.name
    }

    fn restore(&mut self, _: &[u8], _: &[u8]) {}

    fn on_event(&mut self, event: &EventRef<'_>, output: &mut Output) {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(event.lsn());
        if event.origin == "client" {
            output.events.push(Emitted {
                topic: self.name.to_owned(),
                qos: Qos::AtMostOnce,
                retain: false,
                properties: Vec::new(),
                payload: event.payload.to_vec(),
                cause: event.lsn(),
            });
            assert!(self.name != "bad" || event.payload != b"panic");
        }
    }

    fn on_time(&mut self, _: Received, _: &mut Output) {}

    fn wake(&self) -> Option<i64> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_on_which_a_service_panics_costs_that_service_a_moment_and_the_others_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::open(dir.path());
    let seen = Arc::new(Mutex::new(Vec::new()));
    for name in ["bad", "good"] {
        let seen = if name == "bad" { seen.clone() } else { Arc::default() };
        site.services.start(move || Box::new(Echo { name, seen: seen.clone() })).unwrap();
    }
    site.publish("a", "one").await;
    let bad = site.publish("a", "panic").await;
    site.publish("a", "two").await;
    site.holds(3 + 3 + 2).await;
    let mut said: Vec<_> = site.said().into_iter().map(|(t, _, p)| format!("{t} {p}")).collect();
    said.sort();
    assert_eq!(said, ["bad one", "bad two", "good one", "good panic", "good two"]);
    let strikes = seen.lock().unwrap().iter().filter(|lsn| **lsn == bad).count();
    assert_eq!(strikes, STRIKES as usize);
    site.stop().await;
}

#[test]
fn a_service_that_goes_on_failing_is_started_ever_more_rarely() {
    let mut failures = Failures::default();
    let mut pause = |lsn, uptime| failures.panicked(lsn, Duration::from_secs(uptime)).as_secs();
    let pauses: Vec<_> = (0..8).map(|_| pause(None, 0)).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(pause(None, 61), 1);
    assert_eq!(pause(Some(7), 0), 2);
    assert_eq!(pause(Some(8), 0), 4);
    assert_eq!(pause(Some(7), 0), 8);
    assert_eq!(pause(Some(7), 0), 16);
    assert!(failures.passed_over.is_empty());
    failures.panicked(Some(7), Duration::ZERO);
    assert_eq!(failures.passed_over, BTreeSet::from([7]));
}
