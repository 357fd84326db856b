//! The bus after a restart, when sessions are back before it has read anything.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use tidegate_event::record::Properties;
use tidegate_event::{BlockBuilder, Draft, Qos, Received};
use tokio::time::timeout;

use super::*;
use crate::log::{self, Append, FileSystem};
use crate::state::State;

/// How many deliveries a session takes.
const WINDOW: usize = 100;

/// A log with so many events with QoS 1.
async fn log_of(events: usize, dir: &std::path::Path) -> Arc<Log> {
    let options = log::Options { dir: dir.join("log"), ..log::Options::default() };
    let log = Log::open(Arc::new(FileSystem), options).unwrap().0;
    let mut block = BlockBuilder::new("p", Received::Synced { unix_micros: 0 });
    for _ in 0..events {
        block.push(&Draft {
            topic: "t",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            payload: b"x",
        });
    }
    let Append::Accepted(commit) = log.append(&mut block) else { panic!("the log takes nothing") };
    commit.await.unwrap();
    log
}

/// The LSNs of what comes first.
async fn first(subscriber: &mut Subscriber) -> Vec<Option<Lsn>> {
    let mut deliveries = VecDeque::new();
    let wait = async {
        while deliveries.is_empty() {
            poll_fn(|context| subscriber.poll_ready(context, WINDOW)).await;
            subscriber.fill(&mut deliveries, WINDOW).await.unwrap();
        }
    };
    timeout(Duration::from_secs(30), wait).await.expect("nothing comes");
    deliveries.iter().map(|delivery| delivery.lsn).collect()
}

#[tokio::test]
async fn a_session_that_is_back_at_once_gets_nothing_from_before_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = log_of(4, dir.path()).await;
    let (state, _) = State::open(&dir.path().join("state")).unwrap();
    state.bind(log.id(0).epoch).unwrap();
    let limits = Limits::default();
    let memory = Memory::new(limits.max_memory.as_usize());
    let tree = state.tree(TREE).unwrap();
    let (bus, prepared) =
        BusHandle::prepare(Arc::clone(&log), tree, &limits, memory, Metrics::default()).unwrap();
    let held = |qos, from| {
        let options =
            Options { qos, no_local: false, retain_as_published: false, identifier: None };
        Held::from([(Filter::everything(), (options, from))])
    };
    // It subscribed when there were two events.
    let mut late = bus.restore("late".into(), held(Qos::AtLeastOnce, 3), 0, None);
    late.unpark(5);
    // It had these with QoS 0, before it went; one came since it is back.
    let mut zero = bus.restore("zero".into(), held(Qos::AtMostOnce, 1), 0, None);
    zero.unpark(4);
    let supervisor = Supervisor::new();
    prepared.start(1, &supervisor);
    assert_eq!(first(&mut late).await, [Some(3), Some(4)]);
    assert_eq!(first(&mut zero).await, [Some(4)]);
    supervisor.begin_drain();
    supervisor.ended().await;
    log.close().await;
}
