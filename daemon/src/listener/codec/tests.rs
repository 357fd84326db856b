//! Every packet, and everything that is none. What each malformed packet leads to is tested with the
//! connection (`listener/tests/bad_input.rs`).

use proptest::prelude::*;
use tidegate_event::record::Properties;
use tidegate_event::{Epoch, EventId, EventRef, Lane, Property, Qos, Received};

use super::*;
use crate::bus::{Delivery, Event};
use crate::memory::{Memory, Sort};

fn whole(bytes: &[u8]) -> Frame<'_> {
    match frame(bytes, usize::MAX) {
        Ok(Framed::Frame(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

fn delivery(qos: Qos, list: &[u8], payload: &[u8]) -> Delivery {
    let event = EventRef {
        lane: Lane(0),
        id: EventId { epoch: Epoch(1), lane: Lane(0), lsn: 1 },
        received: Received::Synced { unix_micros: 0 },
        origin: "sensor",
        topic: "a/ü",
        qos,
        retain: true,
        properties: Properties::new(list),
        payload,
    };
    let event = Event::copy(&event, &Memory::new(0), Sort::Deliveries);
    Delivery { event, lsn: None, qos, retain: true, identifiers: vec![], loan: None }
}

#[test]
fn a_packet_is_framed_when_it_is_whole_and_no_sooner() {
    let bytes = [&[0x30, 0x82, 0x01][..], &[0; 130], &[0xc0, 0]].concat();
    assert_eq!(frame(&[], 200), Ok(Framed::Partial(None)));
    assert_eq!(frame(&bytes[..2], 200), Ok(Framed::Partial(None)));
    for cut in 3..133 {
        assert_eq!(frame(&bytes[..cut], 200), Ok(Framed::Partial(Some(133))));
    }
    let first = whole(&bytes);
    assert_eq!((first.kind, first.body.len(), first.whole.len()), (Kind::Publish, 130, 133));
    assert_eq!(whole(&bytes[133..]).kind, Kind::PingReq);
}

#[test]
fn a_packet_that_is_too_large_is_seen_from_its_length() {
    assert_eq!(frame(&[0x30, 98], 100), Ok(Framed::Partial(Some(100))));
    let bad = frame(&[0x30, 99], 100).unwrap_err();
    assert_eq!(bad.0, Reason::PacketTooLarge);
    let text = "packet larger than limits.max-packet-size (reason code 0x95)";
    assert_eq!(bad.to_string(), text);
}

#[test]
fn a_publish_is_read_field_by_field() {
    let bytes = [&[0x3d, 14, 0, 3][..], b"a/b", &[0, 7, 5, 2, 0, 0, 0, 9], b"x"].concat();
    let mut list = Vec::new();
    let publish = Publish::read(&whole(&bytes), Version::V5, &mut list).unwrap();
    assert_eq!((publish.qos, publish.retain, publish.id), (Qos::ExactlyOnce, true, 7));
    assert_eq!((publish.topic, publish.payload), ("a/b", &b"x"[..]));
    assert!(publish.properties.iter().eq([Property::MessageExpiry(9)]));
}

#[test]
fn an_acknowledgement_with_a_reason_is_three_bytes_long() {
    let mut out = Vec::new();
    write_ack(Kind::PubRel, 0x102, Reason::Success, Version::V5, &mut out);
    write_ack(Kind::PubRel, 3, Reason::PacketIdNotFound, Version::V5, &mut out);
    write_ack(Kind::PubRel, 3, Reason::PacketIdNotFound, Version::V4, &mut out);
    assert_eq!(out, [0x62, 2, 1, 2, 0x62, 3, 0, 3, 0x92, 0x62, 2, 0, 3]);
}

#[test]
fn an_acknowledgement_may_bring_a_reason_and_properties() {
    let with_all = [0x40, 9, 0, 7, 0x97, 5, 0x1f, 0, 2, b'n', b'o'];
    let ack = Ack::read(&whole(&with_all), Version::V5).unwrap();
    assert_eq!((ack.id, ack.is_refusal()), (7, true));
    assert!(Ack::read(&whole(&with_all), Version::V4).is_err());
    assert!(!Ack::read(&whole(&[0x40, 3, 0, 7, 0x10]), Version::V5).unwrap().is_refusal());
}

#[test]
fn a_disconnect_is_read_at_each_length_that_clients_send() {
    let read =
        |bytes: &[u8], version| Disconnect::read(&whole(bytes), version).map(|d| d.with_will);
    assert_eq!(read(&[0xe0, 0], Version::V4), Ok(false));
    assert_eq!(read(&[0xe0, 0], Version::V5), Ok(false));
    assert_eq!(read(&[0xe0, 1, 4], Version::V5), Ok(true));
    assert_eq!(read(&[0xe0, 2, 0, 0], Version::V5), Ok(false));
    assert_eq!(read(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0], Version::V5), Ok(false));
    assert!(read(&[0xe0, 1, 0], Version::V4).is_err());
}

#[test]
fn a_delivery_larger_than_the_client_takes_is_not_written() {
    let delivery = delivery(Qos::AtLeastOnce, &[], &[b'x'; 100]);
    let mut out = Vec::new();
    assert!(PublishWriter::new(Version::V5, 111, 0).write(&delivery, 1, None, &mut out));
    assert_eq!(out.len(), 111);
    out.clear();
    assert!(!PublishWriter::new(Version::V5, 110, 0).write(&delivery, 1, None, &mut out));
    assert!(out.is_empty());
}

#[test]
fn a_suback_has_words_for_both_versions() {
    let granted = [
        Ok(Qos::ExactlyOnce),
        Err(Reason::FilterInvalid),
        Err(Reason::QuotaExceeded),
        Err(Reason::NotAuthorized),
    ];
    let mut out = Vec::new();
    write_suback(5, &granted, Version::V4, &mut out);
    assert_eq!(out, [0x90, 6, 0, 5, 2, 0x80, 0x80, 0x80]);
    out.clear();
    write_suback(5, &granted, Version::V5, &mut out);
    assert_eq!(out, [0x90, 7, 0, 5, 0, 2, 0x8f, 0x97, 0x87]);
}

#[test]
fn every_refusal_can_be_written() {
    for reason in [
        Reason::UnsupportedVersion,
        Reason::ClientIdInvalid,
        Reason::BadLogin,
        Reason::Malformed,
        Reason::Protocol,
        Reason::TopicInvalid,
        Reason::BadAuthenticationMethod,
        Reason::QuotaExceeded,
    ] {
        let mut out = Vec::new();
        write_refused(reason, Version::V5, &mut out);
        assert_eq!(out, [0x20, 3, 0, reason.code(), 0]);
        out.clear();
        write_refused(reason, Version::V4, &mut out);
        assert!(out.is_empty() || out.len() == 4);
    }
}

/// A list of properties of every sort.
fn list(user: &[(String, String)], expiry: u32, data: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    Property::PayloadFormat(1).write(&mut list);
    Property::MessageExpiry(expiry).write(&mut list);
    Property::ContentType("text/plain").write(&mut list);
    Property::ResponseTopic("re/ply").write(&mut list);
    Property::CorrelationData(data).write(&mut list);
    for (name, value) in user {
        Property::User(name, value).write(&mut list);
    }
    list
}

proptest! {
    #[test]
    fn a_publish_reads_back_as_it_was_written(
        qos in 0..3_u8,
        id in 1..=u16::MAX,
        user in prop::collection::vec(("[a-z]{0,9}", "[^\0]{0,40}"), 0..4),
        expiry in 1..u32::MAX,
        payload in prop::collection::vec(any::<u8>(), 0..300),
        five in any::<bool>(),
    ) {
        let version = if five { Version::V5 } else { Version::V4 };
        let qos = Qos::from_number(qos).unwrap();
        let list = list(&user, expiry, &payload);
        let mut out = Vec::new();
        let delivery = delivery(qos, &list, &payload);
        prop_assert!(PublishWriter::new(version, usize::MAX, 0).write(&delivery, id, None, &mut out));
        let frame = whole(&out);
        prop_assert_eq!(frame.whole.len(), out.len());
        let mut read = Vec::new();
        let publish = Publish::read(&frame, version, &mut read).unwrap();
        prop_assert_eq!((publish.topic, publish.qos, publish.retain), ("a/ü", qos, true));
        prop_assert_eq!(publish.payload, &payload[..]);
        prop_assert_eq!(publish.id, if qos == Qos::AtMostOnce { 0 } else { id });
        prop_assert_eq!(publish.properties.as_bytes(), if five { &list[..] } else { &[] });
    }

    // Whatever comes, every reader answers, and says no for a reason.
    #[test]
    fn no_bytes_make_a_reader_panic(
        head in any::<u8>(),
        body in prop::collection::vec(any::<u8>(), 0..120),
        five in any::<bool>(),
    ) {
        let version = if five { Version::V5 } else { Version::V4 };
        let bytes = [&[head, body.len() as u8], &body[..]].concat();
        if let Ok(Framed::Frame(frame)) = frame(&bytes, 200) {
            let _ = Publish::read(&frame, version, &mut Vec::new());
            let _ = Ack::read(&frame, version);
            let _ = Disconnect::read(&frame, version);
            let _ = connect(&frame);
            let _ = subscribe(&frame, version);
            let _ = unsubscribe(&frame, version);
        }
    }

    // What the checks let through, rumqttd's decoder takes too, to the same effect.
    #[test]
    fn a_subscribe_within_the_rules_is_understood(
        filters in prop::collection::vec(("[a-z/+#]{0,20}", 0..3_u8, 0..3_u8, 0..4_u8), 1..9),
        identifier in 1..268_435_456_u32,
    ) {
        let mut body = vec![0, 9];
        let mut number = identifier;
        let mut varint = vec![0x0b];
        while number >= 0x80 {
            varint.push(number as u8 | 0x80);
            number >>= 7;
        }
        varint.push(number as u8);
        body.push(varint.len() as u8);
        body.extend(varint);
        for (text, qos, handling, flags) in &filters {
            body.extend([0, text.len() as u8]);
            body.extend(text.as_bytes());
            body.push(qos | flags << 2 | handling << 4);
        }
        let mut bytes = vec![0x82, (body.len() & 0x7f) as u8 | 0x80, (body.len() >> 7) as u8];
        bytes.extend(body);
        let read = subscribe(&whole(&bytes), Version::V5).unwrap();
        prop_assert_eq!((read.id, read.identifier, read.filters.len()), (9, Some(identifier), filters.len()));
        for (read, (text, qos, _, flags)) in read.filters.iter().zip(&filters) {
            prop_assert_eq!((&read.text, read.qos as u8), (text, *qos));
            prop_assert_eq!((read.no_local, read.retain_as_published), (flags & 1 != 0, flags & 2 != 0));
        }
    }
}
