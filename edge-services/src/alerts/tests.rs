use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_config::Config;
use tidegate_event::record::Properties;
use tidegate_event::{Epoch, EventId, Lane, Property, Qos};

use super::*;
use crate::Emitted;

const SECOND: i64 = 1_000_000;
/// 2026-11-21T00:00:00Z
const START: i64 = 1_795_219_200 * SECOND;

fn rules(text: &str) -> Vec<Alert> {
    let listener = "[[listener]]\ntype = \"mqtt\"\nbind = \"127.0.0.1:1883\"\n";
    Config::from_toml(&format!("{listener}{text}"), "test.toml").unwrap().alerts
}

const HOT: &str = r#"
    [[alert]]
    name = "hot"
    topic = "plant/+/t"
    raise = "> 90"
    clear = "< 85"
    for = "10s"
    severity = "critical"
"#;

/// The service and what a runner keeps of it.
struct Bench {
    service: Alerts,
    stats: Arc<Stats>,
    config: Vec<Alert>,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
    emitted: Vec<Emitted>,
    lsn: Lsn,
}

impl Bench {
    fn new(config: &str) -> Self {
        let config = rules(config);
        let stats = Stats::new(&config);
        let service = Alerts::new("edge 1", Some(2), &config, stats.clone());
        let (state, emitted) = Default::default();
        Self { service, stats, config, state, emitted, lsn: 0 }
    }

    fn take(&mut self, output: Output) {
        self.emitted.extend(output.events);
        for (key, value) in output.state {
            match value {
                Some(value) => self.state.insert(key, value),
                None => self.state.remove(&key),
            };
        }
    }

    fn event_at(&mut self, received: Received, topic: &str, payload: &str) {
        self.lsn += 1;
        let event = EventRef {
            lane: tidegate_event::Lane(0),
            id: EventId { epoch: Epoch(1), lane: Lane(0), lsn: self.lsn },
            received,
            origin: "client",
            topic,
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            payload: payload.as_bytes(),
        };
        let mut output = Output::default();
        self.service.on_event(&event, &mut output);
        self.take(output);
    }

    fn event(&mut self, second: i64, topic: &str, payload: &str) {
        let received = Received::Synced { unix_micros: START + second * SECOND };
        self.event_at(received, topic, payload);
    }

    fn time(&mut self, second: i64) {
        let now = Received::Synced { unix_micros: START + second * SECOND };
        let mut output = Output::default();
        if self.service.wake().is_some_and(|at| at <= now.unix_micros()) {
            self.service.on_time(now, &mut output);
        }
        self.take(output);
    }

    fn restart(&mut self, config: &str) {
        self.config = rules(config);
        self.stats = Stats::new(&self.config);
        self.service = Alerts::new("edge 1", Some(2), &self.config, self.stats.clone());
        self.state.iter().for_each(|(key, value)| self.service.restore(key, value));
        let mut output = Output::default();
        self.service.start(Received::Synced { unix_micros: START + 1000 * SECOND }, &mut output);
        self.take(output);
    }

    /// Device and state of each event, in order.
    fn said(&self) -> Vec<String> {
        let said = |event: &Emitted| {
            let payload: Value = serde_json::from_slice(&event.payload).unwrap();
            format!(
                "{} {}",
                payload["device"].as_str().unwrap(),
                payload["state"].as_str().unwrap()
            )
        };
        self.emitted.iter().map(said).collect()
    }
}

#[test]
fn an_alert_is_raised_after_its_time_and_cleared_below_the_lower_threshold() {
    let mut bench = Bench::new(HOT);
    bench.event(0, "plant/a/t", "91");
    bench.event(5, "plant/a/t", "95.5");
    bench.time(9);
    assert_eq!(bench.said(), [] as [&str; 0]);
    bench.time(10);
    assert_eq!(bench.said(), ["a raised"]);
    bench.event(20, "plant/a/t", "86");
    assert_eq!(bench.said(), ["a raised"]);
    bench.event(21, "plant/a/t", "84.5");
    assert_eq!(bench.said(), ["a raised", "a cleared"]);
    assert!(bench.state.is_empty());
    let [raised, cleared] = &bench.emitted[..] else { panic!() };
    assert_eq!(
        (raised.topic.as_str(), raised.qos, raised.retain),
        ("alerts/hot/a", Qos::AtLeastOnce, true)
    );
    let payload = |event: &Emitted| serde_json::from_slice::<Value>(&event.payload).unwrap();
    assert_eq!(
        payload(raised),
        json!({
            "alert": "hot", "device": "a", "state": "raised", "severity": "critical",
            "value": 95.5, "condition": "> 90", "threshold": 90.0, "topic": "plant/a/t",
            "since": "2026-11-21T00:00:00.000000Z", "at": "2026-11-21T00:00:10.000000Z",
        })
    );
    assert_eq!(
        payload(cleared),
        json!({
            "alert": "hot", "device": "a", "state": "cleared", "severity": "critical",
            "value": 84.5, "condition": "< 85", "threshold": 85.0, "topic": "plant/a/t",
            "since": "2026-11-21T00:00:00.000000Z", "at": "2026-11-21T00:00:21.000000Z",
        })
    );
    assert_eq!((raised.cause, cleared.cause), (0, 4));
    let properties: Vec<_> = Properties::new(&raised.properties).iter().collect();
    assert_eq!(
        properties,
        [
            Property::ContentType("application/json"),
            Property::PayloadFormat(1),
            Property::User("specversion", "1.0"),
            Property::User("id", "0000000000000001-0-1.raised"),
            Property::User("source", "/gateway/edge%201/alerts/hot"),
            Property::User("type", "tidegate.alert.raised"),
            Property::User("time", "2026-11-21T00:00:10.000000Z"),
        ]
    );
}

#[test]
fn a_condition_that_does_not_hold_long_enough_raises_nothing() {
    let mut bench = Bench::new(HOT);
    bench.event(0, "plant/a/t", "91");
    bench.event(9, "plant/a/t", "90");
    bench.event(10, "plant/a/t", "91");
    bench.event(19, "plant/a/t", "91");
    assert_eq!(bench.said(), [] as [&str; 0]);
    bench.event(20, "plant/a/t", "91");
    assert_eq!(bench.said(), ["a raised"]);
}

#[test]
fn devices_are_told_apart() {
    let mut bench = Bench::new(&HOT.replace("10s", "0s"));
    bench.event(0, "plant/a/t", "91");
    bench.event(0, "plant/b/t", "92");
    bench.event(1, "plant/a/t", "0");
    assert_eq!(bench.said(), ["a raised", "b raised", "a cleared"]);
    assert_eq!(bench.stats.rules[0].open.load(Relaxed), 1);
}

#[test]
fn what_has_no_number_is_ignored_and_counted() {
    let mut bench = Bench::new(&HOT.replace("10s", "0s"));
    for payload in ["", "on", "\"95\"", "{\"t\":95}", "null"] {
        bench.event(0, "plant/a/t", payload);
    }
    bench.event(0, "elsewhere/a/t", "95");
    assert_eq!(bench.said(), [] as [&str; 0]);
    assert_eq!(bench.stats.rules[0].ignored_values.load(Relaxed), 5);
}

const MAX_DEVICES: usize = 100;

#[test]
fn one_device_too_many_is_ignored_and_counted() {
    let mut bench = Bench::new(&HOT.replace("10s", "0s"));
    bench.service.max_devices = MAX_DEVICES;
    for n in 0..=MAX_DEVICES {
        bench.event(0, &format!("plant/{n}/t"), "91");
    }
    bench.event(0, &format!("plant/{}/t", "x".repeat(MAX_DEVICE_LEN + 1)), "91");
    assert_eq!(bench.emitted.len(), MAX_DEVICES);
    assert_eq!(bench.stats.rules[0].ignored_devices.load(Relaxed), 2);
    bench.event(1, "plant/0/t", "0");
    bench.event(2, "plant/late/t", "91");
    assert_eq!(bench.emitted.len(), MAX_DEVICES + 2);
}

#[test]
fn alerts_are_watched_only_by_rules_that_say_so_and_never_in_a_circle() {
    let config = r##"
        [[alert]]
        name = "all"
        topic = "#"
        value = "/value"
        raise = "> 0"
        [[alert]]
        name = "meta"
        topic = "alerts/#"
        value = "/value"
        raise = "> 100"
    "##;
    let mut bench = Bench::new(config);
    bench.event(0, "alerts/hot/a", "{\"value\": 50}");
    assert_eq!(bench.emitted.len(), 0);
    bench.event(0, "alerts/hot/a", "{\"value\": 101}");
    bench.event(0, "alerts/meta/hot", "{\"value\": 102}");
    bench.event(0, "alerts/meta/hot", "{\"value\": 1}");
    let topics: Vec<_> = bench.emitted.iter().map(|event| event.topic.as_str()).collect();
    assert_eq!(topics, ["alerts/meta/hot"]);
}

#[test]
fn a_rule_that_is_gone_or_another_one_now_leaves_no_open_alert() {
    let mut bench = Bench::new(&HOT.replace("10s", "0s"));
    bench.event(0, "plant/a/t", "91");
    bench.restart(&HOT.replace("10s", "1m").replace("critical", "info"));
    assert_eq!(bench.said(), ["a raised"]);
    bench.restart(&HOT.replace("> 90", "> 95"));
    assert_eq!(bench.said(), ["a raised", "a cleared"]);
    let payload: Value = serde_json::from_slice(&bench.emitted[1].payload).unwrap();
    assert_eq!(payload["reason"], "rule changed");
    assert!(bench.state.is_empty());
    bench.event(0, "plant/b/t", "99");
    bench.time(10);
    bench.event(11, "plant/c/t", "99");
    bench.restart(&HOT.replace("hot", "warm"));
    assert_eq!(bench.said(), ["a raised", "a cleared", "b raised", "b cleared"]);
    let payload: Value = serde_json::from_slice(&bench.emitted[3].payload).unwrap();
    assert_eq!(payload["reason"], "rule removed");
    assert!(bench.state.is_empty());
}

#[test]
fn a_clock_that_was_set_meanwhile_does_not_count_as_time_that_has_passed() {
    let mut bench = Bench::new(HOT);
    let unset = Received::SinceBoot { unix_micros: 5, boot: 1, nanos: 1 };
    bench.event_at(unset, "plant/a/t", "91");
    bench.event(0, "plant/a/t", "91");
    assert_eq!(bench.said(), [] as [&str; 0]);
    bench.event(9, "plant/a/t", "91");
    assert_eq!(bench.said(), [] as [&str; 0]);
    // Set back by an hour.
    bench.event(9 - 3600, "plant/a/t", "91");
    bench.event(12 - 3600, "plant/a/t", "91");
    assert_eq!(bench.said(), [] as [&str; 0]);
    bench.event(19 - 3600, "plant/a/t", "91");
    assert_eq!(bench.said(), ["a raised"]);
}

#[test]
fn a_record_that_is_none_is_passed_over() {
    let mut bench = Bench::new(HOT);
    for (key, value) in [(&b"hot/a"[..], &b"junk"[..]), (b"\xff", b""), (b"hot", b"\xf6")] {
        bench.service.restore(key, value);
    }
    assert_eq!(bench.service.wake(), None);
}

/// What happens to one bench: seconds that pass, and then a value of a device or a look at the clock.
#[derive(Debug, Clone)]
enum Step {
    Event { device: u8, value: i32 },
    Time,
}

fn steps() -> impl Strategy<Value = Vec<(i64, Step)>> {
    let event = (0..3_u8, 80..96_i32).prop_map(|(device, value)| Step::Event { device, value });
    let step = prop_oneof![4 => event, 1 => Just(Step::Time)];
    prop::collection::vec((0..6_i64, step), 0..80)
}

fn run(bench: &mut Bench, second: &mut i64, steps: &[(i64, Step)], clock: bool) {
    for (pause, step) in steps {
        *second += pause;
        match step {
            Step::Event { device, value } => {
                bench.event(*second, &format!("plant/{device}/t"), &value.to_string());
            }
            Step::Time if clock => bench.time(*second),
            Step::Time => {}
        }
    }
}

/// The events as a consumer tells them apart.
fn told(bench: &Bench) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let parts = |e: &Emitted| (e.topic.clone(), e.properties.clone(), e.payload.clone());
    bench.emitted.iter().map(parts).collect()
}

proptest! {
    #[test]
    fn raised_and_cleared_alternate_and_nothing_happens_between_the_thresholds(
        steps in steps(), clock: bool,
    ) {
        let mut bench = Bench::new(HOT);
        let mut second = 0;
        let mut open = BTreeMap::new();
        for step in &steps {
            let before = bench.emitted.len();
            run(&mut bench, &mut second, std::slice::from_ref(step), clock);
            for event in &bench.emitted[before..] {
                let payload: Value = serde_json::from_slice(&event.payload).unwrap();
                let raised = payload["state"] == "raised";
                let value = payload["value"].as_f64().unwrap();
                let beyond = if raised { value > 90.0 } else { value < 85.0 };
                prop_assert!(beyond);
                let device = payload["device"].as_str().unwrap().to_owned();
                prop_assert_eq!(open.insert(device, raised).unwrap_or_default(), !raised);
            }
        }
        let open = open.values().filter(|open| **open).count() as u64;
        prop_assert_eq!(bench.stats.rules[0].open.load(Relaxed), open);
    }

    #[test]
    fn a_restart_at_any_point_changes_nothing(steps in steps(), at in 0..80_usize) {
        let at = at.min(steps.len());
        let (mut plain, mut restarted) = (Bench::new(HOT), Bench::new(HOT));
        run(&mut plain, &mut 0, &steps, true);
        let mut second = 0;
        run(&mut restarted, &mut second, &steps[..at], true);
        restarted.restart(HOT);
        run(&mut restarted, &mut second, &steps[at..], true);
        prop_assert_eq!(&plain.emitted, &restarted.emitted);
        prop_assert_eq!(&plain.state, &restarted.state);
        prop_assert_eq!(plain.service.wake(), restarted.service.wake());
    }

    #[test]
    fn when_the_clock_is_looked_at_changes_nothing_that_is_told(steps in steps()) {
        let (mut with, mut without) = (Bench::new(HOT), Bench::new(HOT));
        let (mut a, mut b) = (0, 0);
        run(&mut with, &mut a, &steps, true);
        run(&mut without, &mut b, &steps, false);
        with.time(a + 60);
        without.time(b + 60);
        let (mut with, mut without) = (told(&with), told(&without));
        // Only the order among devices may differ.
        with.sort();
        without.sort();
        prop_assert_eq!(with, without);
    }
}
