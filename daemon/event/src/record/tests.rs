use proptest::prelude::*;

use super::*;
use crate::id::{Epoch, Lane};

const FIRST: EventId = EventId { epoch: Epoch(7), lane: Lane(0), lsn: 41 };

fn frame() -> Vec<u8> {
    let mut properties = Vec::new();
    Property::ContentType("text/plain").write(&mut properties);
    Property::User("traceparent", "00-1-2-01").write(&mut properties);
    Property::CorrelationData(&[0, 255]).write(&mut properties);
    Property::MessageExpiry(60).write(&mut properties);
    Property::PacketId(0x1234).write(&mut properties);
    let mut builder = BlockBuilder::new("boiler-7", Received::Synced { unix_micros: 5 });
    let plain = Draft {
        topic: "plant/boiler-7/temperature",
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::default(),
        payload: b"91.5",
    };
    builder.push(&plain);
    builder.push(&Draft { payload: &[7; 300], ..plain });
    builder.push(&Draft {
        topic: "x",
        retain: true,
        qos: Qos::ExactlyOnce,
        properties: Properties::new(&properties),
        payload: b"",
    });
    let mut frame = builder.finish().to_vec();
    write_control(9, b"later", &mut frame);
    builder.restart("pump-1", Received::SinceBoot { unix_micros: -1, boot: 3, nanos: 4 });
    builder.push(&plain);
    frame.extend_from_slice(builder.finish());
    frame
}

#[test]
fn events_read_back_as_they_were_written() {
    let frame = frame();
    let events: Vec<_> = events(&frame, FIRST).collect::<Result<_, _>>().unwrap();
    let lsns: Vec<_> = events.iter().map(EventRef::lsn).collect();
    assert_eq!(lsns, [41, 42, 43, 44]);
    assert_eq!(events[0].topic, "plant/boiler-7/temperature");
    assert_eq!(
        (events[0].qos, events[0].retain, events[0].payload),
        (Qos::AtLeastOnce, false, &b"91.5"[..])
    );
    assert_eq!((events[1].topic, events[1].payload), ("plant/boiler-7/temperature", &[7; 300][..]));
    assert_eq!((events[2].topic, events[2].qos, events[2].retain), ("x", Qos::ExactlyOnce, true));
    let properties: Vec<_> = events[2].properties.iter().collect();
    assert_eq!(
        properties,
        [
            Property::ContentType("text/plain"),
            Property::User("traceparent", "00-1-2-01"),
            Property::CorrelationData(&[0, 255]),
            Property::MessageExpiry(60),
            Property::PacketId(0x1234),
        ]
    );
    assert_eq!(events[0].properties.packet_id(), None);
    assert_eq!(events[2].properties.packet_id(), Some(0x1234));
    assert_eq!(events[2].origin, "boiler-7");
    assert_eq!(
        (events[3].origin, events[3].received),
        ("pump-1", Received::SinceBoot { unix_micros: -1, boot: 3, nanos: 4 })
    );
}

#[test]
fn a_cut_frame_is_malformed_and_never_a_panic() {
    let whole = frame();
    for end in 1..whole.len() {
        let read = events(&whole[..end], FIRST).filter(Result::is_ok).count();
        assert!(read <= 4);
    }
}

#[test]
fn a_flipped_bit_is_never_a_panic() {
    let whole = frame();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        for event in events(&flipped, FIRST).flatten() {
            event.properties.iter().for_each(drop);
        }
    }
}

#[test]
fn a_typical_sensor_event_costs_three_bytes_beside_its_payload() {
    let mut builder = BlockBuilder::new("a", Received::Synced { unix_micros: 0 });
    let event = Draft {
        topic: "t",
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::default(),
        payload: &[1; 200],
    };
    builder.push(&event);
    let before = builder.len();
    builder.push(&event);
    assert_eq!(builder.len() - before, 203);
}

fn draft(topic: &str) -> Draft<'_> {
    let (properties, payload) = (Properties::default(), &b"1"[..]);
    Draft { topic, qos: Qos::AtLeastOnce, retain: false, properties, payload }
}

/// Events in three lanes, and some that are gone.
fn in_lanes() -> BlockBuilder {
    let mut builder = BlockBuilder::new("pump-1", Received::Synced { unix_micros: 9 });
    builder.push(&draft("a"));
    builder.push_gone(Lane(3), 1);
    builder.push_gone(Lane(3), 200);
    builder.push_in(Lane(200), &draft("a"));
    builder.push_gone(Lane(0), 2);
    builder.push_gone(Lane(3), 1);
    builder.push_in(Lane(3), &draft("b"));
    builder
}

#[test]
fn what_is_gone_keeps_its_lsns() {
    let mut builder = in_lanes();
    assert_eq!(builder.count(), 207);
    let block = builder.finish().to_vec();
    let items: Vec<_> = items(&block, FIRST).collect::<Result<_, _>>().unwrap();
    let short: Vec<_> = items
        .iter()
        .map(|item| match item {
            Item::Event(event) => (event.lane.0, event.lsn(), 0, event.topic),
            Item::Gone { lane, first, count } => (lane.0, *first, *count, ""),
        })
        .collect();
    let gone = [(3, 42, 201, ""), (200, 243, 0, "a"), (0, 244, 2, ""), (3, 246, 1, "")];
    assert_eq!(short[0], (0, 41, 0, "a"));
    assert_eq!(short[1..5], gone);
    assert_eq!(short[5..], [(3, 247, 0, "b")]);
    let lsns: Vec<_> = events(&block, FIRST).map(|event| event.unwrap().lsn()).collect();
    assert_eq!(lsns, [41, 243, 247]);
    let mut two = block.clone();
    two.extend_from_slice(&block);
    assert_eq!(events(&two, FIRST).nth(3).unwrap().unwrap().lsn(), 41 + 207);
}

#[test]
fn what_each_lane_takes_is_the_same_written_and_read() {
    let mut builder = in_lanes();
    let mut block = builder.finish().to_vec();
    assert_eq!(&lanes(&block), builder.lanes());
    let bytes: u64 = builder.lanes().iter().map(|lane| lane.bytes).sum();
    assert_eq!(bytes, block.len() as u64);
    assert_eq!(builder.lanes().get(Lane(3)).unwrap().events, 1);
    assert_eq!(builder.lanes().get(Lane(1)), None);
    let received = Received::SinceBoot { unix_micros: 1, boot: 2, nanos: 3 };
    builder.restart("a longer origin", received);
    builder.push_gone(Lane(7), 1);
    assert_eq!(&lanes(builder.finish()), builder.lanes());
    assert_eq!(builder.lanes().get(Lane(7)).unwrap().newest, i64::MAX);
    block.extend_from_slice(builder.finish());
    let whole: u64 = lanes(&block).iter().map(|lane| lane.bytes).sum();
    assert_eq!(whole, block.len() as u64);
}

#[test]
fn a_run_that_claims_more_than_its_block_is_malformed() {
    let mut builder = BlockBuilder::new("", Received::Synced { unix_micros: 0 });
    builder.push_gone(Lane(1), 5);
    let block = builder.finish().to_vec();
    for count in [0, 6, 127] {
        let mut bad = block.clone();
        *bad.last_mut().unwrap() = count;
        assert_eq!(items(&bad, FIRST).next(), Some(Err(Malformed)), "{count}");
    }
}

/// What a block of one event of each of these topics costs, and that it reads back.
fn topics_of(block: &mut BlockBuilder, topics: &[&str]) -> usize {
    block.restart("pump-1", Received::Synced { unix_micros: 9 });
    let head = block.len();
    topics.iter().for_each(|topic| block.push(&draft(topic)));
    let bytes = block.finish().to_vec();
    let read: Vec<_> = events(&bytes, FIRST).map(|event| event.unwrap().topic).collect();
    assert_eq!(read, topics);
    assert_eq!(&lanes(&bytes), block.lanes());
    bytes.len() - head
}

#[test]
fn a_topic_is_written_once_a_block() {
    let mut block = in_lanes();
    let topics: Vec<_> = (0..20).map(|device| format!("plant/boiler-{device}/state")).collect();
    let topics: Vec<_> = topics.iter().map(String::as_str).collect();
    let once = topics_of(&mut block, &topics);
    // The head, the place, the payload.
    let again = topics_of(&mut block, &topics.repeat(5)) - once;
    assert!((80 * (1 + 1 + 2)..=80 * (1 + 2 + 2)).contains(&again), "{again}");
    assert_eq!(topics_of(&mut block, &topics), once, "it knows nothing of the block before");
    // Where a place takes as much as the topic, that is written.
    let long = "x".repeat(200);
    let bytes = topics_of(&mut block, &[&long, "a", "bc", "a", "bc", &long]);
    assert_eq!(bytes, (203 + 2) + 2 * (3 + 2) + (4 + 2) + (3 + 2) + (1 + 1 + 2));
}

#[test]
fn more_topics_than_are_remembered_are_written_again() {
    let mut block = in_lanes();
    let topics: Vec<_> = (0..10_000).map(|device| format!("plant/boiler-{device}/state")).collect();
    let topics: Vec<_> = topics.iter().map(String::as_str).collect();
    let bytes = topics_of(&mut block, &topics.repeat(2));
    let in_full: usize = topics.iter().map(|topic| 1 + 1 + topic.len() + 2).sum();
    assert!(bytes > in_full && bytes <= 2 * in_full, "{bytes} {in_full}");
}

proptest! {
    #[test]
    fn topics_come_back_in_any_order(
        topics in proptest::collection::vec("[ab]{1,3}|[a-c]{1,2}/[a-z]{150}", 0..200),
    ) {
        let topics: Vec<_> = topics.iter().map(String::as_str).collect();
        topics_of(&mut in_lanes(), &topics);
    }
}

#[test]
fn a_topic_that_stands_nowhere_before_is_malformed() {
    let mut block = in_lanes();
    topics_of(&mut block, &["plant/a", "plant/b", "plant/a"]);
    let good = block.bytes().to_vec();
    let at = good.len() - 4;
    assert_eq!(good[at..], [EARLIER_TOPIC | 1, 1, 1, b'1']);
    let third = |head: u8, place: u8| {
        let mut bytes = good.clone();
        (bytes[at], bytes[at + 1]) = (head, place);
        events(&bytes, FIRST).nth(2).unwrap().map(|event| event.topic.to_owned())
    };
    assert_eq!(third(EARLIER_TOPIC | 1, 1), Ok("plant/a".to_owned()));
    assert_eq!(third(EARLIER_TOPIC | SAME_TOPIC | 1, 1), Err(Malformed));
    for place in [22, 23, 24, 25, 26, 27, 127] {
        assert_eq!(third(EARLIER_TOPIC | 1, place), Err(Malformed), "{place}");
    }
}
