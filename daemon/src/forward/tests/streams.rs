//! A sink that has fallen behind: what goes first, and what becomes of the rest.

use std::time::Duration;

use tidegate_config::sink::Drain;

use super::bus::Arrived;
use super::*;
use crate::log::{LaneOptions, Rule};
use crate::state::Span as Range;

/// When a sink counts as behind here.
const LATE: Duration = Duration::from_millis(60);

/// Lanes as a gateway has them: lane 0, and `alerts`.
pub(super) fn lanes() -> Vec<LaneOptions> {
    let lane = |name: &str, topics: &[&str], rule| LaneOptions {
        name: name.to_owned(),
        topics: topics.iter().map(|topic| Filter::new(topic).unwrap()).collect(),
        max_size: None,
        rule,
    };
    let urgent = Rule { priority: 9, ..Rule::default() };
    let brief = Rule { max_age: Some(Duration::from_secs(60)), ..Rule::default() };
    vec![
        lane("default", &[], Rule::default()),
        lane("alerts", &["alerts/#"], urgent),
        lane("brief", &["brief/#"], brief),
    ]
}

fn behind(bus: &Bus, drain: Drain, adjust: impl FnOnce(&mut Config)) -> Gateway {
    let mut gateway = Gateway::new(bus, |config, _| {
        config.drain = drain;
        adjust(config);
    });
    gateway.shared.late_after = Some(LATE);
    gateway
}

/// Lets the gateway publish while nothing arrives, for longer than a sink may take.
async fn outage(gateway: &Gateway, handle: &ForwarderHandle, events: usize) {
    for source in 0..4 {
        for chunk in numbers(0..events).chunks(25) {
            gateway.publish(&format!("s{source}"), chunk.to_vec()).await;
        }
    }
    late(handle, LATE).await;
}

/// Waits until what is there has waited for longer than `after`, in an outage.
async fn late(handle: &ForwarderHandle, after: Duration) {
    eventually("the outage shows", || handle.status().condition == Condition::Retrying).await;
    let until = tokio::time::Instant::now() + after * 2;
    eventually("they are late", || tokio::time::Instant::now() > until).await;
}

/// Each source's data in the order of arrival, of the backlog or not.
fn of(arrived: &[Arrived], historical: bool) -> BTreeMap<String, Vec<String>> {
    let mut sources: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in arrived.iter().filter(|event| event.historical == historical) {
        sources.entry(event.source.clone()).or_default().push(event.data.clone());
    }
    sources
}

fn ids(arrived: &[Arrived]) -> HashSet<String> {
    arrived.iter().map(|event| event.id.clone()).collect()
}

pub(super) fn is_one(gateway: &Gateway, next: Lsn) -> bool {
    gateway.shared.cursors.spans("cloud") == [Range::onward(next)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_events_go_first_and_the_backlog_follows_as_history() {
    let bus = Bus::closed().await;
    let mut gateway = behind(&bus, Drain::LiveFirst, |config| {
        config.rate.backlog_events = Some(50);
    });
    let handle = gateway.start();
    outage(&gateway, &handle, 100).await;
    bus.reopen().await;
    eventually("the sink has several streams", || handle.status().streams.len() > 1).await;
    for source in 0..4 {
        gateway.publish(&format!("s{source}"), numbers(100..110)).await;
    }
    let newest = |arrived: &[Arrived]| {
        arrived.iter().filter(|event| event.data.parse::<usize>().unwrap() >= 100).count()
    };
    bus.when(|bus| newest(&bus.arrived()) == 40).await;
    let arrived = bus.arrived();
    assert!(arrived.len() < 440, "the backlog has not gone before them");
    let status = handle.status();
    assert!(status.streams.iter().any(|stream| stream.backlog && stream.lag_events > 0));
    let mut registry = prometheus_client::registry::Registry::default();
    gateway.shared.metrics.register(&mut registry);
    let shown = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.contains("stream_lag_events{sink=\"cloud\",stream=\"backlog\",priority=\"0\"}")
    };
    eventually("the gauges follow", shown).await;

    bus.until(440).await;
    let arrived = bus.arrived();
    assert_eq!((arrived.len(), ids(&arrived).len()), (440, 440), "nothing twice");
    let (live, history) = (of(&arrived, false), of(&arrived, true));
    let flying = live.values().flatten().filter(|n| n.parse::<usize>().unwrap() < 100).count();
    assert!(flying <= 50, "but for the batch that found the bus: {flying}");
    assert_eq!(newest(&arrived), 40);
    for data in live.values().chain(history.values()) {
        let numbers: Vec<usize> = data.iter().map(|n| n.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
    assert!(history.values().flatten().all(|n| n.parse::<usize>().unwrap() < 100));
    eventually("one stream is left", || is_one(&gateway, 441)).await;
    eventually("its gauge is gone", || !shown()).await;
    assert!(handle.status().streams.is_empty());
    assert_eq!(handle.status().lag_events, 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_events_wait_for_what_flies_of_their_sources() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.always = Some(Reply::Status(503)));
    let mut gateway = Gateway::new(&bus, |config, http| {
        config.drain = Drain::LiveFirst;
        config.max_in_flight = 2;
        config.batch.max_events = 10;
        http.timeout = Span::milliseconds(500);
    });
    gateway.shared.late_after = Some(LATE);
    let handle = gateway.start();
    outage(&gateway, &handle, 30).await;
    // One request is answered, and shows that the bus is back; the other one is not, for a while.
    bus.rules(|rules| {
        rules.always = None;
        rules.script.extend([Reply::Status(202), Reply::Hang]);
    });
    eventually("the sink has several streams", || handle.status().streams.len() > 1).await;
    for source in 0..4 {
        gateway.publish(&format!("s{source}"), numbers(30..40)).await;
    }
    bus.until(160).await;
    for (source, data) in of(&bus.arrived(), false) {
        let numbers: Vec<usize> = data.iter().map(|n| n.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "{source}: {numbers:?}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_of_a_higher_priority_go_first_and_the_streams_become_one_again() {
    let bus = Bus::closed().await;
    let mut gateway = behind(&bus, Drain::InOrder, |config| {
        config.rate.max_events = Some(200);
    });
    let handle = gateway.start();
    outage(&gateway, &handle, 300).await;
    gateway.publish_to("alerts/hot/a", "a", &numbers(0..30)).await;
    bus.reopen().await;
    bus.when(|bus| bus.arrived().iter().filter(|event| event.source.ends_with("/a")).count() == 30)
        .await;
    assert!(bus.arrived().len() <= 30 + 5 * 50, "{} went before", bus.arrived().len());
    let priorities =
        || -> Vec<u8> { handle.status().streams.iter().map(|stream| stream.priority).collect() };
    eventually("the sink has two streams", || priorities() == [9, 0]).await;
    assert!(handle.status().streams.iter().all(|stream| !stream.backlog));

    bus.until(1230).await;
    let (sources, twice) = by_source(&bus);
    assert!(!twice && bus.arrived().iter().all(|event| !event.historical));
    for (source, data) in sources {
        let expected = if source.ends_with("/a") { 30 } else { 300 };
        assert_eq!(data, numbers(0..expected), "{source}");
    }
    eventually("one stream is left", || is_one(&gateway, 1231)).await;
    gateway.publish_to("alerts/hot/a", "a", &numbers(30..31)).await;
    gateway.publish("s0", numbers(300..301)).await;
    bus.until(1232).await;
    eventually("the cursor is saved", || is_one(&gateway, 1233)).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_of_several_ranges_goes_on_where_it_stood() {
    let bus = Bus::closed().await;
    let mut gateway = behind(&bus, Drain::LiveFirst, |config| {
        // Some seconds are left of it, on a slow machine too.
        config.rate.backlog_events = Some(20);
    });
    let handle = gateway.start();
    outage(&gateway, &handle, 100).await;
    bus.reopen().await;
    eventually("history arrives", || of(&bus.arrived(), true).values().flatten().count() >= 20)
        .await;
    gateway.publish("s0", numbers(100..130)).await;
    bus.when(|bus| bus.data().contains(&"129".to_owned())).await;
    eventually("its place is saved", || {
        let spans = gateway.shared.cursors.spans("cloud");
        spans.iter().any(|span| span.to.is_none() && span.from == 431)
    })
    .await;
    // What a crash leaves, and another one sees of the drain: nothing.
    let spans = gateway.shared.cursors.spans("cloud");
    assert!(spans.len() > 1 && spans.iter().any(|span| span.to.is_some()), "{spans:?}");
    let before = bus.arrived().len();
    gateway.stop().await;
    let drained = bus.arrived().len();
    gateway.shared.cursors.set_spans("cloud", spans).unwrap();
    // In order from now on: what is a backlog is one all the same.
    gateway.config.drain = Drain::InOrder;
    gateway.config.rate.backlog_events = None;
    gateway.start();
    eventually("all is there", || ids(&bus.arrived()).len() == 430).await;
    eventually("one stream is left", || is_one(&gateway, 431)).await;
    let twice = bus.arrived().len() - 430;
    assert!(twice <= 4 * 50 + (drained - before), "{twice}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cursor_does_not_pass_what_is_to_be_read_again_below_what_flies() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.always = Some(Reply::Status(503)));
    let mut gateway = Gateway::new(&bus, |config, http| {
        config.drain = Drain::LiveFirst;
        // Ranges of the alerts go first, and slowly.
        config.rate.backlog_events = Some(1);
        config.max_in_flight = 2;
        config.batch.max_events = 10;
        http.timeout = Span::milliseconds(100);
    });
    // Not before the bus has refused something, however slow the machine.
    let late_after = LATE * 10;
    gateway.shared.late_after = Some(late_after);
    let handle = gateway.start();
    // Two sources, of two partitions: a batch of each flies.
    gateway.publish("s0", numbers(0..30)).await;
    gateway.publish("s1", numbers(100..130)).await;
    gateway.publish_to("alerts/hot", "s2", &numbers(200..230)).await;
    late(&handle, late_after).await;
    bus.rules(|rules| (rules.always, rules.hang_on) = (None, Some("100")));
    let spans = || gateway.shared.cursors.spans("cloud");
    eventually("there are two ranges of a backlog", || spans().len() == 3).await;
    assert_eq!(bus.data()[..10], numbers(0..10), "the first batch of s0 has arrived");
    let backlog =
        spans().into_iter().find(|span| span.to.is_some() && span.lanes.contains(Lane(0)));
    assert_eq!(backlog.map(|span| span.from), Some(11), "the second one is to be read again");
}

#[tokio::test]
async fn what_is_gone_or_too_old_is_counted_and_stands_in_the_ledger() {
    let bus = Bus::open().await;
    let mut gateway = Gateway::new(&bus, |config, _| {
        config.topics = vec![
            TopicFilter(Filter::new("t").unwrap()),
            TopicFilter(Filter::new("brief/#").unwrap()),
        ];
    });
    let lanes = gateway.shared.log.lanes();
    let brief = lanes.of("brief/x");
    assert_eq!(lanes.name(brief), "brief");
    gateway.publish("s", numbers(0..10)).await;
    gateway.publish_to("other", "s", &numbers(10..14)).await;
    let now = crate::clock::unix_micros();
    let draft = |payload: &'static [u8]| Draft {
        topic: "brief/x",
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::default(),
        payload,
    };
    // Two that are too old, one that is not, and between them two that were not kept.
    for (age, count) in [(61, 2), (0, 1)] {
        let received = Received::Synced { unix_micros: now - age * 1_000_000 };
        let mut block = BlockBuilder::new("s", received);
        (0..count).for_each(|_| block.push_in(brief, &draft(b"77")));
        if age > 0 {
            block.push_gone(brief, 2);
        }
        let Append::Accepted(commit) = gateway.shared.log.append(&mut block) else {
            panic!("the log takes no events");
        };
        commit.await.unwrap();
    }
    let handle = gateway.start();
    eventually("the cursor moves", || handle.status().cursor == 20).await;
    let mut expected = numbers(0..10);
    expected.push("77".into());
    assert_eq!(bus.data(), expected);
    let metrics = gateway.metrics();
    let counted = [&metrics.events, &metrics.filtered, &metrics.expired, &metrics.lost];
    assert_eq!(counted.map(|counter| counter.get()), [11, 4, 2, 2], "19 in all");
    let entered = |gateway: &Gateway| -> Vec<_> {
        let losses = gateway.shared.log.losses();
        losses.into_iter().map(|loss| (loss.lane, loss.lsns, loss.count, loss.reason)).collect()
    };
    // What was not kept the log enters itself, once in a while, by commits.
    gateway.shared.log.enter_gone();
    let all = [(brief, 15..=16, 2, Reason::Expired), (brief, 15..=18, 2, Reason::Dropped)];
    assert_eq!(entered(&gateway), all);
    // Once more: nothing is entered twice.
    gateway.stop().await;
    gateway.shared.cursors.set("cloud", 1).unwrap();
    let handle = gateway.start();
    eventually("the cursor moves", || handle.status().cursor == 20).await;
    assert_eq!(entered(&gateway), all);
    gateway.stop().await;
}
