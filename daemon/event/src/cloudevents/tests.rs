use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::*;
use crate::id::{Epoch, EventId, Lane};
use crate::record::{Properties, Property, Qos};

fn event<'a>(topic: &'a str, payload: &'a [u8], properties: &'a [u8]) -> EventRef<'a> {
    EventRef {
        lane: Lane(0),
        id: EventId { epoch: Epoch(0xe), lane: Lane(0), lsn: 12 },
        received: Received::Synced { unix_micros: 1 },
        origin: "boiler 7",
        topic,
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::new(properties),
        payload,
    }
}

fn encoder() -> Encoder {
    let types = vec![(Filter::new("plant/#").unwrap(), "com.example.plant".to_owned())];
    Encoder::new("edge-01", types, "tidegate.event".into(), None)
}

fn json(event: &EventRef<'_>) -> Value {
    let mut out = Vec::new();
    encoder().write_json(event, &mut out);
    serde_json::from_slice(&out).unwrap()
}

fn properties(list: &[Property<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    list.iter().for_each(|property| property.write(&mut out));
    out
}

#[test]
fn a_plain_json_event() {
    assert_eq!(
        json(&event("plant/a", b"{\"t\": 91.5}", &[])),
        serde_json::json!({
            "specversion": "1.0",
            "id": "000000000000000e-0-12",
            "source": "/gateway/edge-01/device/boiler%207",
            "type": "com.example.plant",
            "subject": "plant/a",
            "time": "1970-01-01T00:00:00.000001Z",
            "datacontenttype": "application/json",
            "data": {"t": 91.5}
        })
    );
}

#[test]
fn what_is_not_json_travels_as_base64() {
    for payload in [&b"\xff\x00"[..], b"{\"t\": 91.5", b"\"\xff\"", b"on"] {
        let object = json(&event("a", payload, &[]));
        assert_eq!(object["type"], "tidegate.event");
        assert_eq!(object["datacontenttype"], "application/octet-stream");
        assert_eq!(object["data_base64"], BASE64.encode(payload), "{payload:?}");
    }
    let object = json(&event("a", b"", &[]));
    assert_eq!(object.get("data").or(object.get("data_base64")), None);
}

#[test]
fn topics_and_names_are_escaped() {
    let object = json(&event("a\"b\\c\u{1}\u{2028}ü", b"1", &[]));
    assert_eq!(object["subject"], "a\"b\\c\u{1}\u{2028}ü");
}

#[test]
fn the_device_can_be_a_level_of_the_topic() {
    let encoder = Encoder::new("g", vec![], "t".into(), Some(2));
    assert_eq!(encoder.device(&event("plant/pump-3/flow", b"", &[])), "pump-3");
    assert_eq!(encoder.device(&event("plant", b"", &[])), "boiler 7");
    assert_eq!(encoder.device(&event("plant//flow", b"", &[])), "boiler 7");
}

#[test]
fn mqtt_properties_become_extension_attributes() {
    let list = properties(&[
        Property::ContentType("text/plain; charset=utf-8"),
        Property::User("traceparent", "00-aa-bb-01"),
        Property::User("traceparent", "again"),
        Property::User("Content-Encoding", "x"),
        Property::CorrelationData(&[1, 2]),
        Property::ResponseTopic("answers"),
        Property::MessageExpiry(9),
        Property::User("id", "not the id"),
    ]);
    let object = json(&event("a", b"warm", &list));
    assert_eq!(object["id"], "000000000000000e-0-12");
    assert_eq!(object["data"], "warm");
    assert_eq!(object["datacontenttype"], "text/plain; charset=utf-8");
    assert_eq!(object["traceparent"], "00-aa-bb-01");
    assert_eq!(object["mqttcorrelationdata"], "AQI=");
    assert_eq!(object["mqttresponsetopic"], "answers");
    assert_eq!(object["mqttexpiry"], "9");
    let others: Value =
        serde_json::from_str(object["mqttuserproperties"].as_str().unwrap()).unwrap();
    assert_eq!(
        others,
        serde_json::json!([
            ["traceparent", "again"],
            ["Content-Encoding", "x"],
            ["id", "not the id"]
        ])
    );
}

#[test]
fn a_publisher_that_speaks_cloudevents_keeps_its_id_in_binary_mode() {
    let list = properties(&[
        Property::User("specversion", "1.0"),
        Property::User("id", "own-1"),
        Property::User("source", "/sensor/9"),
        Property::User("type", "com.example.own"),
        Property::User("datacontenttype", "application/json"),
        Property::User("severity", "high"),
    ]);
    let object = json(&event("a", b"{}", &list));
    assert_eq!(
        (&object["id"], &object["source"], &object["type"]),
        (&"own-1".into(), &"/sensor/9".into(), &"com.example.own".into())
    );
    assert_eq!(object["logid"], "000000000000000e-0-12");
    assert_eq!(object["subject"], "a");
    assert_eq!(object["severity"], "high");
    assert_eq!(object["data"], serde_json::json!({}));
}

#[test]
fn a_publisher_that_speaks_cloudevents_keeps_its_id_in_structured_mode() {
    let list = properties(&[Property::ContentType("application/cloudevents+json; charset=utf-8")]);
    let payload = br#"{"specversion":"1.0","id":"own-2","source":"s","type":"t","data":[1,2]}"#;
    let object = json(&event("a", payload, &list));
    assert_eq!(object["id"], "own-2");
    assert_eq!(object["data"], serde_json::json!([1, 2]));
    assert_eq!(object["logid"], "000000000000000e-0-12");

    let broken = json(&event("a", br#"{"specversion":"1.0","id":""}"#, &list));
    assert_eq!(broken["id"], "000000000000000e-0-12", "not a CloudEvent: an ordinary event");
}

#[test]
fn a_clock_that_was_not_set_is_said() {
    let unset = EventRef {
        received: Received::SinceBoot { unix_micros: 0, boot: 0xab, nanos: 77 },
        ..event("a", b"1", &[])
    };
    let object = json(&unset);
    assert_eq!(
        (&object["timequality"], &object["bootnanos"]),
        (&"since-boot".into(), &"77".into())
    );
    assert_eq!(object["bootid"], "00000000000000ab");
}

#[test]
fn an_event_of_a_backlog_says_so_whatever_the_publisher_says() {
    let encoder = encoder().historical();
    let object = |list: &[u8]| {
        let mut out = Vec::new();
        encoder.write_json(&event("a", b"1", list), &mut out);
        serde_json::from_slice::<Value>(&out).unwrap()
    };
    assert_eq!(object(&[])["historical"], true);
    let named = properties(&[Property::User("historical", "no")]);
    assert_eq!(object(&named)["historical"], true);
    assert_eq!(json(&event("a", b"1", &[])).get("historical"), None);
    assert_eq!(json(&event("a", b"1", &named)).get("historical"), None);
    let event = event("a", b"1", &[]);
    let attributes = encoder.attributes(&event);
    let found = attributes.named.iter().find(|attribute| attribute.name == HISTORICAL);
    assert_eq!(found.unwrap().value, "true");
}

#[test]
fn binary_mode_gives_the_same_attributes() {
    let list = properties(&[Property::User("traceparent", "00-aa-bb-01")]);
    let event = event("plant/a", b"7", &list);
    let encoder = encoder();
    let attributes = encoder.attributes(&event);
    let object = json(&event);
    for attribute in &attributes.named {
        assert_eq!(object[attribute.name.as_ref()], attribute.value.as_ref(), "{attribute:?}");
    }
    assert_eq!(attributes.content_type, "application/json");
    assert_eq!(&*attributes.data, b"7");
}

#[test]
fn a_structured_event_keeps_its_data_byte_for_byte() {
    let list = properties(&[
        Property::ContentType("application/cloudevents+json"),
        Property::User("traceparent", "00-aa-bb-01"),
    ]);
    let data =
        r#"{"n": 123456789012345678901234567890, "f": 1.10, "e":"\u00fc", "a":{"b":[1 ,2]}}"#;
    let payload = format!(
        r#"{{"specversion":"1.0","id":"own-2","source":"s","type":"t","flag":true,"n":-7,"w":1.2e1,"none":null,"data":{data}}}"#
    );
    let event = event("a", payload.as_bytes(), &list);
    let mut out = Vec::new();
    encoder().write_json(&event, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains(&format!(r#""data":{data}"#)), "{text}");
    assert!(text.contains(r#""flag":true,"n":-7,"w":12"#), "{text}");
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(object["traceparent"], "00-aa-bb-01", "what MQTT carried beside it travels along");
    assert_eq!((object.get("none"), object.get("datacontenttype")), (None, None));
    assert_eq!(object["time"], "1970-01-01T00:00:00.000001Z", "where it has none itself");

    let encoder = encoder();
    let attributes = encoder.attributes(&event);
    assert_eq!(
        (&*attributes.data, &*attributes.content_type),
        (data.as_bytes(), "application/json")
    );
    let flag = attributes.named.iter().find(|attribute| attribute.name == "flag").unwrap();
    assert_eq!(flag.value, "true");
}

#[test]
fn a_structured_event_goes_on_in_binary_mode_with_its_data_as_it_is() {
    let list = properties(&[Property::ContentType("application/cloudevents+json")]);
    let encoder = encoder();
    for (members, content_type, data) in [
        (r#""datacontenttype":"text/plain","data":"a\n\"b""#, "text/plain", &b"a\n\"b"[..]),
        (r#""datacontenttype":"image/png","data_base64":"AP8=""#, "image/png", &[0, 255]),
        (r#""data":"text""#, "application/json", b"\"text\""),
        (r#""data":null"#, "application/json", b"null"),
        (r#""data_base64":"""#, "application/octet-stream", b""),
    ] {
        let payload =
            format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t",{members}}}"#);
        let attributes = encoder.attributes(&event("a", payload.as_bytes(), &list));
        assert_eq!((&*attributes.data, &*attributes.content_type), (data, content_type));
    }
}

#[test]
fn an_event_of_another_gateway_keeps_what_that_one_said() {
    let list = properties(&[
        Property::User("specversion", "1.0"),
        Property::User("id", "first-0-1"),
        Property::User("source", "/gateway/first/device/d"),
        Property::User("type", "t"),
        Property::User("subject", "plant/a"),
        Property::User("time", "2026-01-01T00:00:00Z"),
        Property::User("timequality", "since-boot"),
        Property::User("logid", "first-0-1"),
    ]);
    let object = json(&event("site/plant/a", b"1", &list));
    assert_eq!(
        (&object["subject"], &object["mqtttopic"]),
        (&"plant/a".into(), &"site/plant/a".into())
    );
    assert_eq!(
        (&object["time"], &object["timequality"]),
        (&"2026-01-01T00:00:00Z".into(), &"since-boot".into())
    );
    assert_eq!(object["logid"], "000000000000000e-0-12");
    assert_eq!(object["mqttuserproperties"], r#"[["logid","first-0-1"]]"#);
}

#[test]
fn what_claims_to_be_a_cloudevent_and_is_not_is_an_ordinary_event() {
    let structured = properties(&[Property::ContentType("application/cloudevents+json")]);
    for payload in [
        r#"{"specversion":"1.0","id":"1","source":"s","type":"t","list":[1]}"#,
        r#"{"specversion":"1.0","id":"1","id":"2","source":"s","type":"t"}"#,
        r#"{"specversion":"1.0","id":"1","source":"s","type":"t","time":"now"}"#,
        "{",
    ] {
        let object = json(&event("a", payload.as_bytes(), &structured));
        assert_eq!(object["id"], "000000000000000e-0-12", "{payload}");
    }
    let binary = properties(&[
        Property::User("specversion", "1.0"),
        Property::User("id", "1"),
        Property::User("source", ""),
        Property::User("type", "t"),
    ]);
    let object = json(&event("a", b"1", &binary));
    assert_eq!(object["source"], "/gateway/edge-01/device/boiler%207");
    assert!(parse::parse_one(&serde_json::to_vec(&object).unwrap()).is_ok());
}

#[test]
fn a_flood_of_properties_costs_its_length_and_names_few_attributes() {
    let names: Vec<String> = (0..30_000).map(|n| format!("n{n}")).collect();
    let mut list = Vec::new();
    names.iter().for_each(|name| Property::User(name, "v").write(&mut list));
    let began = std::time::Instant::now();
    let object = json(&event("a", b"1", &list));
    // Quadratic, it takes minutes.
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    let named = object.as_object().unwrap().keys().filter(|name| name.starts_with('n')).count();
    assert_eq!(named, MAX_EXTENSIONS);
    let others: Vec<(String, String)> =
        serde_json::from_str(object["mqttuserproperties"].as_str().unwrap()).unwrap();
    assert_eq!(others.len(), 30_000 - MAX_EXTENSIONS);
}

proptest::proptest! {
    /// Whatever a publisher says, the bus gets a CloudEvent.
    #[test]
    fn whatever_the_properties_are_the_result_is_a_cloudevent(
        user in proptest::collection::vec(("[a-zA-Z0-9 ü]{0,8}|id|source|type|time|subject|data|logid|specversion|mqttuserproperties", "1\\.0|.{0,6}"), 0..12),
        content_type in proptest::option::of("application/(cloudevents\\+)?json|text/plain|.{0,4}"),
        payload in proptest::collection::vec(proptest::num::u8::ANY, 0..20),
        retain: bool,
    ) {
        let mut list = Vec::new();
        user.iter().for_each(|(name, value)| Property::User(name, value).write(&mut list));
        content_type.iter().for_each(|text| Property::ContentType(text).write(&mut list));
        let event = EventRef { retain, ..event("a/b", &payload, &list) };
        let mut out = Vec::new();
        encoder().write_json(&event, &mut out);
        let parsed = parse::parse_one(&out);
        proptest::prop_assert!(parsed.is_ok(), "{:?} {}", parsed, String::from_utf8_lossy(&out));
        let encoder = encoder();
        let attributes = encoder.attributes(&event);
        let names: std::collections::HashSet<_> = attributes.named.iter().map(|a| &a.name).collect();
        proptest::prop_assert_eq!(names.len(), attributes.named.len());
    }
}
