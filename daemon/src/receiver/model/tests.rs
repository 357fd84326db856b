use tidegate_event::cloudevents::parse::parse_one;

use super::alert::{MAX_ALERTS, State};
use super::device::RECENT;
use super::*;

fn json(device: &str, more: &str) -> String {
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"x\",\"source\":\"/gateway/g%201/device/{device}\",\
         \"type\":\"t\"{more}}}"
    )
}

fn apply(model: &mut Model, events: &[(Lsn, String)], unix_micros: i64) {
    let parsed: Vec<_> =
        events.iter().map(|(_, json)| parse_one(json.as_bytes()).unwrap()).collect();
    let stored = events.iter().zip(&parsed).map(|((lsn, _), event)| Stored { lsn: *lsn, event });
    model.apply(&stored.collect::<Vec<_>>(), unix_micros);
}

fn alert(kind: &str, name: &str, more: &str) -> String {
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"x\",\"source\":\"/gateway/g/alerts/{name}\",\
         \"type\":\"tidegate.alert.{kind}\",\"subject\":\"alerts/{name}/boiler\"{more}}}"
    )
}

#[test]
fn a_device_shows_its_last_event() {
    let mut model = Model::default();
    let events = [
        (1, json("boiler%207", r#","data":{"unit":"C","t":1.5}"#)),
        (2, json("pump", r#","data":7"#)),
        (3, json("boiler%207", r#","subject":"s","data":{"a":9,"value":2.5}"#)),
    ];
    apply(&mut model, &events, 1_000_000);
    assert_eq!(model.devices.len(), 2);
    let boiler = &model.devices[0];
    assert_eq!((&*boiler.name, boiler.gateway.as_deref()), ("boiler 7", Some("g 1")));
    assert_eq!((boiler.events, boiler.value), (2, Some(2.5)));
    assert_eq!(boiler.recent, [1, 3]);
    let last = boiler.last.as_ref().unwrap();
    assert_eq!(last.subject.as_deref(), Some("s"));
    assert_eq!(last.data.as_deref(), Some(r#"{"a":9,"value":2.5}"#));
    assert_eq!(model.devices[1].value, Some(7.0));
    assert_eq!(model.totals.events, 3);
}

#[test]
fn samples_have_a_distance_and_a_bound() {
    let mut model = Model::default();
    for step in 0..100 {
        let data = format!(",\"data\":{step}");
        apply(&mut model, &[(step + 1, json("a", &data))], step as i64 * 125_000);
    }
    let device = &model.devices[0];
    let samples: Vec<_> = device.samples.iter().copied().collect();
    assert_eq!(samples.len(), 40);
    assert_eq!(samples[38..], [96.0, 98.0]);
    assert_eq!(device.recent.len(), RECENT);
    assert_eq!(model.latest.len(), LATEST);
}

#[test]
fn a_curve_is_of_one_topic_until_that_falls_silent() {
    let mut model = Model::default();
    let event =
        |topic: &str, value: u32| json("a", &format!(",\"subject\":\"{topic}\",\"data\":{value}"));
    apply(&mut model, &[(1, event("temperature", 70))], 0);
    for second in 1..4 {
        let events = [(1, event("temperature", 70)), (2, event("pressure", 5))];
        apply(&mut model, &events, second * 1_000_000);
    }
    let device = &model.devices[0];
    assert_eq!((device.subject.as_deref(), device.value), (Some("temperature"), Some(70.0)));
    assert_eq!(device.samples, [70.0; 4]);
    assert_eq!(device.last.as_ref().unwrap().subject.as_deref(), Some("pressure"));
    for second in [63, 64] {
        apply(&mut model, &[(3, event("pressure", 6))], second * 1_000_000);
    }
    let device = &model.devices[0];
    assert_eq!((device.subject.as_deref(), device.value), (Some("pressure"), Some(6.0)));
    assert_eq!(device.samples, [6.0]);
}

#[test]
fn devices_and_texts_are_bounded() {
    let mut model = Model::default();
    for device in 0..MAX_DEVICES + 3 {
        apply(&mut model, &[(1, json(&format!("d{device}"), ""))], 0);
    }
    apply(&mut model, &[(1, json(&"x".repeat(MAX_SOURCE), ""))], 0);
    assert_eq!(model.devices.len(), MAX_DEVICES);
    assert_eq!(model.totals.without_device, 4);
    assert_eq!(model.totals.events, MAX_DEVICES as u64 + 4);

    let long = "ü".repeat(MAX_SHOWN);
    let more = format!(",\"subject\":\"{long}\",\"data\":\"{long}\"");
    apply(&mut model, &[(1, json("d0", &more))], 0);
    let last = model.devices[0].last.as_ref().unwrap();
    assert!(last.cut);
    assert!(last.data.as_ref().unwrap().len() <= MAX_SHOWN);
    assert!(last.subject.as_ref().unwrap().len() <= MAX_SHOWN);
}

#[test]
fn a_lower_place_of_the_same_source_is_out_of_order() {
    let mut model = Model::default();
    let at = |device: &str, lane: u8, lsn: u64| {
        json(device, "").replace("\"x\"", &format!("\"000000000000beef-{lane}-{lsn}\""))
    };
    let events = [at("a", 0, 1), at("a", 0, 5), at("b", 0, 3), at("a", 1, 1), at("a", 0, 4)];
    let events: Vec<_> = events.into_iter().map(|json| (1, json)).collect();
    apply(&mut model, &events, 0);
    assert_eq!(model.totals.out_of_order, 1);
    assert_eq!(model.devices[0].out_of_order, 1);
}

#[test]
fn alerts_are_raised_and_cleared_by_name_and_device() {
    let mut model = Model::default();
    let raised = alert(
        "raised",
        "hot",
        r#","time":"2026-11-21T08:30:00Z","data":{"alert":"hot","device":"boiler","severity":"critical","value":94.5,"since":"x"}"#,
    );
    apply(&mut model, &[(1, raised.clone()), (2, alert("raised", "door", ""))], 0);
    assert_eq!(model.alerts.raised(), 2);
    let door = &model.alerts.0[0];
    assert_eq!((&*door.name, &*door.device, &*door.severity), ("door", "boiler", "warning"));
    let cleared = alert("cleared", "hot", r#","data":{"alert":"hot","device":"boiler"}"#);
    apply(&mut model, &[(3, cleared), (4, alert("acknowledged", "hot", ""))], 0);
    let hot = &model.alerts.0[0];
    assert_eq!((&*hot.name, hot.state, &*hot.severity), ("hot", State::Cleared, "critical"));
    assert_eq!(hot.raised.as_deref(), Some("2026-11-21T08:30:00Z"));
    apply(&mut model, &[(5, raised)], 0);
    assert_eq!(model.alerts.0[0].count, 2);
    assert_eq!((model.alerts.raised(), model.devices.len()), (2, 0));
}

#[test]
fn hostile_alerts_are_bounded_and_never_a_panic() {
    let mut model = Model::default();
    for data in ["null", "[]", "{\"value\":\"x\"}", "{\"alert\":5}", "\"", "{\"alert\":\"\"}"] {
        let json = alert("raised", "", &format!(",\"data\":{data}"));
        if let Ok(event) = parse_one(json.as_bytes()) {
            model.apply(&[Stored { lsn: 1, event: &event }], 0);
        }
    }
    apply(&mut model, &[(1, alert("raised", "first", "")), (2, alert("cleared", "first", ""))], 0);
    for name in 0..2 * MAX_ALERTS {
        apply(&mut model, &[(1, alert("raised", &format!("n{name}"), ""))], 0);
    }
    assert_eq!(model.alerts.0.len(), MAX_ALERTS);
    assert!(model.alerts.0.iter().all(|alert| &*alert.name != "first"), "a cleared one goes first");
}
