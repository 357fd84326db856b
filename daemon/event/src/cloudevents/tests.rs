use super::*;
use crate::id::{Epoch, EventId, Lane};
use crate::record::{Properties, Qos};

fn event<'a>(topic: &'a str, payload: &'a [u8], properties: &'a [u8]) -> EventRef<'a> {
    EventRef {
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
fn binary_mode_gives_the_same_attributes() {
    let list = properties(&[Property::User("traceparent", "00-aa-bb-01")]);
    let event = event("plant/a", b"7", &list);
    let encoder = encoder();
    let attributes = encoder.attributes(&event);
    let object = json(&event);
    for (name, value) in &attributes.named {
        assert_eq!(object[name.as_ref()], value.as_ref(), "{name}");
    }
    assert_eq!(attributes.content_type, "application/json");
    assert_eq!(attributes.data, b"7");
}
