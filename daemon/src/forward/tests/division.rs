//! When the streams of a sink divide, step by step.

use tidegate_config::sink::Drain;

use super::super::inflight::Departure;
use super::super::streams::Turn;
use super::super::{behind::Behind, streams::Streams};
use super::*;
use crate::state::Span as Range;

/// A sink that has fallen behind, without its task.
struct Late {
    gateway: Gateway,
    streams: Streams,
    in_flight: InFlight,
    behind: Behind,
    now: Instant,
}

impl Late {
    /// Events of one source, in batches of ten, have waited for too long, and are in memory.
    async fn new(events: usize) -> Self {
        let gateway = Gateway::new(&Bus::closed().await, |config, _| {
            config.drain = Drain::LiveFirst;
            config.batch.max_events = 10;
        });
        gateway.publish("s", numbers(0..events)).await;
        let source = source(&gateway);
        let spans = vec![Range::onward(1)];
        let every = Duration::ZERO;
        let streams = Streams::new(Arc::new(source), spans, true, every, (1 << 20, 1 << 20));
        let mut behind = Behind::new(Duration::from_secs(1));
        let now = Instant::now();
        behind.note(now, gateway.shared.log.committed());
        let now = now + Duration::from_secs(2);
        behind.note(now, gateway.shared.log.committed());
        let mut late = Self { gateway, streams, in_flight: InFlight::new(4), behind, now };
        late.read();
        late
    }

    fn committed(&self) -> Lsn {
        self.gateway.shared.log.committed()
    }

    fn turn(&mut self) -> Turn {
        self.streams.turn(&self.in_flight, self.committed(), self.now).unwrap()
    }

    fn read(&mut self) {
        let turn = self.turn();
        self.take_over(turn);
    }

    fn take_over(&mut self, turn: Turn) {
        let (back, mut filled) = turn.read(self.now);
        self.streams.back(back, &mut filled, &mut self.in_flight);
        self.streams.note(&self.in_flight, self.committed());
    }

    /// Whether something is divided, now that the bus takes events or not.
    fn arrange(&mut self, is_held_back: bool) -> bool {
        let committed = self.committed();
        let Self { streams, in_flight, behind, now, .. } = self;
        streams.arrange(in_flight, behind, is_held_back, committed, *now)
    }

    fn next(&mut self) -> Option<Departure> {
        self.in_flight.next(true)
    }

    /// Where the ranges of its cursor are.
    fn places(&self) -> Vec<(Lsn, Option<Lsn>)> {
        self.streams.spans().iter().map(|span| (span.from, span.to)).collect()
    }
}

fn source(gateway: &Gateway) -> Source {
    let config = &gateway.config;
    let limits = Limits { events: config.batch.max_events, bytes: 1 << 20, array: true };
    Source {
        log: Arc::clone(&gateway.shared.log),
        encoder: Arc::clone(&gateway.shared.encoder),
        historical: Arc::new(Encoder::clone(&gateway.shared.encoder).historical()),
        sink: Arc::new(Sink::new(config).unwrap()),
        filters: vec![Filter::new("#").unwrap()],
        rules: Rules::of(&gateway.shared.log),
        limits,
        backlog_limits: limits,
        max_age: Duration::from_secs(1),
        partitions: 1,
        clock: Clock::new(),
    }
}

#[tokio::test]
async fn nothing_leaves_while_a_read_keeps_a_late_sink_from_being_divided() {
    let mut late = Late::new(100).await;
    late.gateway.publish("s", numbers(100..110)).await;
    let turn = late.turn();
    assert!(!late.arrange(false), "not while the read is under way");
    assert!(late.next().is_none());
    assert!(!late.arrange(true) && late.next().is_some(), "a bus that takes nothing is tried");
    late.take_over(turn);
    assert!(late.arrange(false));
    let backlog = (1, Some(111));
    assert_eq!(late.places(), [(111, None), backlog, backlog], "of alerts, and of the rest");
    assert!(late.next().is_none(), "all of it is to be read again");
}

#[tokio::test]
async fn what_is_on_the_wire_stays_and_what_waits_for_its_turn_is_read_again() {
    let mut late = Late::new(30).await;
    let flight = late.next().unwrap();
    assert_eq!(flight.batch.count(), 10);
    flight.contact.ask();
    assert!(late.next().is_none(), "there is one partition");
    assert!(late.arrange(false));
    assert_eq!(late.places(), [(31, None), (1, Some(31)), (1, Some(31))]);
    assert!(late.in_flight.flies(flight.id));
    late.in_flight.done(flight.id);
    late.streams.note(&late.in_flight, late.committed());
    assert_eq!(late.places(), [(31, None), (11, Some(31)), (11, Some(31))]);

    // Nothing of this one was sent, or all that was has failed.
    for is_sent in [false, true] {
        let mut late = Late::new(30).await;
        let flight = late.next().unwrap();
        if is_sent {
            flight.contact.ask();
            flight.contact.failed();
        }
        assert!(late.arrange(false));
        assert!(!late.in_flight.flies(flight.id));
        let mut historical = Vec::new();
        while historical.len() < 30 {
            late.arrange(false);
            late.read();
            while let Some(departure) = late.next() {
                assert!(departure.is_historical);
                historical.extend(departure.batch.lsns());
                late.in_flight.done(departure.id);
            }
        }
        assert_eq!(historical, (1..=30).collect::<Vec<Lsn>>());
    }
}
