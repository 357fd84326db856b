//! What a bus refuses, takes in part, or takes too slowly.

use super::*;

fn count_of(gateway: &Gateway, reason: &str) -> u64 {
    let mut registry = prometheus_client::registry::Registry::default();
    gateway.shared.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let name = format!("tidegate_sink_failures_total{{sink=\"cloud\",reason=\"{reason}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn an_address_that_refuses_everything_gets_no_backlog_into_the_dead_letter_queue() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.always = Some(Reply::Status(400)));
    let mut gateway = Gateway::new(&bus, |_, _| {});
    let handle = gateway.start();
    gateway.publish("s", numbers(0..300)).await;
    eventually("it shows", || handle.status().condition == Condition::Misconfigured).await;
    let status = handle.status();
    let error = status.last_error.unwrap();
    assert!(error.contains("400 Bad Request: as told; it takes no event at all"), "{error}");
    bus.when(|bus| bus.requests() > 500).await;
    assert_eq!((gateway.metrics().dead_letters.get(), handle.status().cursor), (0, 1));

    bus.rules(|rules| rules.always = None);
    bus.until(300).await;
    let mut data = bus.data();
    data.sort_by_key(|number| number.parse::<usize>().unwrap());
    assert_eq!(data, numbers(0..300), "each once, none in the dead-letter queue");
    eventually("the cursor moves", || handle.status().cursor == 301).await;
    assert_eq!(handle.status().condition, Condition::Ok);
    gateway.stop().await;
    assert!(letters(&gateway).is_empty());
}

#[tokio::test]
async fn poison_alone_in_its_batch_goes_to_the_dead_letter_queue_too() {
    let bus = Bus::open().await;
    let gateway = Gateway::new(&bus, |config, _| config.batch.max_events = 1);
    let handle = gateway.start();
    gateway.publish("s", (0..3).map(|n| format!("\"poison {n}\""))).await;
    gateway.publish("s", numbers(0..3)).await;
    bus.until(3).await;
    eventually("the cursor moves", || handle.status().cursor == 7).await;
    assert_eq!((bus.data(), gateway.metrics().dead_letters.get()), (numbers(0..3), 3));
    assert_eq!(handle.status().condition, Condition::Ok);
}

#[tokio::test]
async fn a_batch_that_is_too_slow_for_the_link_goes_in_smaller_ones() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.hang_above = Some(3000));
    let gateway = Gateway::new(&bus, |config, http| {
        config.batch.max_events = 200;
        config.batch.max_age = Span::milliseconds(50);
        http.timeout = Span::milliseconds(500);
    });
    let handle = gateway.start();
    gateway.publish("s", numbers(0..200)).await;
    bus.until(200).await;
    assert_eq!(bus.data(), numbers(0..200), "each once, in order");
    eventually("the cursor moves", || handle.status().cursor == 201).await;
    assert!(gateway.metrics().splits.get() > 0);
    assert!(count_of(&gateway, "timeout") >= 2);
    assert_eq!(gateway.metrics().dead_letters.get(), 0);
}

#[tokio::test]
async fn a_single_time_out_splits_nothing() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.script.extend([Reply::Hang]));
    let gateway = Gateway::new(&bus, |_, http| http.timeout = Span::seconds(1));
    gateway.start();
    gateway.publish("s", numbers(0..10)).await;
    bus.until(10).await;
    assert_eq!((bus.requests(), gateway.metrics().splits.get()), (2, 0));
}

#[tokio::test]
async fn of_a_batch_that_is_taken_in_part_only_the_rest_goes_again() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.parts = true);
    let mut gateway = Gateway::new(&bus, |_, _| {});
    let handle = gateway.start();
    let payloads = ["1", "\"poison a\"", "\"later b\"", "\"later c\"", "5"].map(str::to_owned);
    gateway.publish("s", payloads).await;
    eventually("the cursor moves", || handle.status().cursor == 6).await;
    assert_eq!(bus.data(), ["1", "5", "\"later b\"", "\"later c\""]);
    assert_eq!(bus.requests(), 2);
    assert_eq!(gateway.metrics().events.get(), 4);
    gateway.stop().await;
    assert_eq!(gateway.metrics().dead_letters.get(), 1);
}

#[tokio::test]
async fn a_207_that_says_nothing_about_the_events_is_no_delivery() {
    let bus = Bus::open().await;
    bus.rules(|rules| rules.script.extend([Reply::Status(207)]));
    let gateway = Gateway::new(&bus, |_, _| {});
    let handle = gateway.start();
    gateway.publish("s", numbers(0..10)).await;
    bus.until(10).await;
    assert_eq!((bus.data(), bus.requests()), (numbers(0..10), 3));
    eventually("the cursor moves", || handle.status().cursor == 11).await;
    assert_eq!(gateway.metrics().dead_letters.get(), 0);
}

#[tokio::test]
async fn a_flood_of_user_properties_goes_in_binary_mode() {
    let bus = Bus::open().await;
    let gateway = Gateway::new(&bus, |_, http| http.mode = Mode::Binary);
    let handle = gateway.start();
    let mut properties = Vec::new();
    // More than a table of headers holds.
    for n in 0..25_000 {
        Property::User(&format!("n{n}"), "").write(&mut properties);
    }
    let mut block = BlockBuilder::new("s", Received::Synced { unix_micros: 1 });
    block.push(&Draft {
        topic: "t",
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::new(&properties),
        payload: b"1",
    });
    let Append::Accepted(commit) = gateway.shared.log.append(&mut block) else {
        panic!("the log takes no events");
    };
    commit.await.unwrap();
    // The bus may refuse so long a header; the forwarder goes on.
    eventually("the cursor moves", || handle.status().cursor == 2).await;
    assert_eq!(gateway.supervisor.failure(), None);
}
