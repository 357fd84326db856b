//! All that the gateway keeps on disk stays within `log.max-size`, as `du` sees it, whatever fills up: the log, the
//! dead letters, the quarantine, the state.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use tidegate_tests::bus::{Bus, Mood, POISON};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::packet::{self, CONNACK, DISCONNECT, PUBACK, SUBACK, Version, publish};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::usage::{Watcher, disk_usage};
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

/// All else as it is by default.
const CONFIG: &str = "[log]\nmax-size = \"16MiB\"\n";
const MAX_SIZE: u64 = 16 << 20;
/// A sink's part of an eighth of it is less than 8 of the largest packets.
const DEAD_LETTERS: u64 = 2 << 20;

const QUOTA_EXCEEDED: u8 = 0x97;
/// Topics with a retained message, 2 KB each: more than there is room for.
const RETAINED: usize = 400;
/// So many of them are on their way.
const AT_ONCE: u16 = 16;
const SESSIONS: usize = 200;

/// A thread that is asked to end.
struct Churn {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Churn {
    fn start(mut step: impl FnMut() -> Option<()> + Send + 'static) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        // Without an answer the gateway is gone.
        let thread =
            thread::spawn(move || while !stopped.load(Ordering::SeqCst) && step().is_some() {});
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }

    /// Publishes retained messages over and over; refused or not.
    fn of_retained(gateway: &Gateway, taken: Arc<AtomicU64>) -> Self {
        let mut wire = Wire::client(gateway.mqtt(), Version::V5, "retainer");
        let mut turn = 0;
        Self::start(move || {
            for id in 1..=AT_ONCE {
                turn += 1;
                let topic = format!("retained/{}", turn % RETAINED);
                let mut publish = publish(Version::V5, 1, topic.as_bytes(), id, &[b'x'; 2000]);
                publish[0] |= 1;
                wire.send(&publish);
            }
            for _ in 0..AT_ONCE {
                let (_, body) = wire.try_answer().ok()?.filter(|(first, _)| *first == PUBACK)?;
                let is_taken = body.get(2) != Some(&QUOTA_EXCEEDED);
                taken.fetch_add(u64::from(is_taken), Ordering::SeqCst);
            }
            Some(())
        })
    }

    /// Sessions that come, subscribe and go, over and over.
    fn of_sessions(gateway: &Gateway) -> Self {
        let broker = gateway.mqtt();
        let mut turn = 0;
        Self::start(move || {
            turn += 1;
            let mut connect = packet::connect(Version::V4, &format!("client-{}", turn % SESSIONS));
            // Not clean.
            let flags = connect.iter().position(|byte| *byte == Version::V4 as u8)? + 1;
            connect[flags] = 0;
            let mut wire = Wire::try_open(broker).ok()?;
            wire.send(&connect);
            wire.try_answer().ok()?.filter(|(first, _)| *first == CONNACK)?;
            let filter = format!("setpoints/{turn}/#");
            wire.send(&packet::subscribe(Version::V4, 1, &filter, 1));
            while wire.try_answer().ok()??.0 != SUBACK {}
            wire.send(&[DISCONNECT, 0]);
            Some(())
        })
    }
}

fn is_full(gateway: &Gateway) -> bool {
    let status = gateway.status();
    let lanes = status["log"]["lanes"].as_array().unwrap();
    lanes.iter().any(|lane| lane["name"] == "default" && lane["full"] == true)
}

/// The log's segments, oldest first.
fn segments(gateway: &Gateway) -> Vec<PathBuf> {
    let entries = fs::read_dir(gateway.data_dir().join("log")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    paths.sort();
    paths
}

fn spoil(path: &Path, at: u64, bytes: usize) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0xa5; bytes], at).unwrap();
}

#[test]
fn whatever_fills_up_all_of_it_stays_within_max_size() {
    let mut receiver = Receiver::start();
    let bus = Bus::start(Mood::Away);
    let picky = format!("{}mode = \"binary\"\ntopics = [\"odd/#\"]\n", bus.sink("picky"));
    let mut gateway = Gateway::start(&format!("{CONFIG}{}{picky}", receiver.sink()));
    receiver.stop();
    let watcher = Watcher::start(gateway.data_dir());

    // Both sinks are away: the log fills up with events, half of which one of them will never take.
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "odd");
    let mut poison = POISON.to_vec();
    poison.resize(4000, b' ');
    for id in 0..1_000 {
        let payload = if id % 2 == 0 { &poison[..] } else { b"1" };
        wire.send(&publish(Version::V4, 1, b"odd/a", id + 1, payload));
        assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
    }
    let retained = Arc::<AtomicU64>::default();
    let mut churn =
        [Churn::of_retained(&gateway, Arc::clone(&retained)), Churn::of_sessions(&gateway)];
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    let load = fleet.start(Run::time(LATER));
    eventually("the log is full", LATER, || is_full(&gateway));
    // The dead letters grow while the log is full and can give nothing back.
    bus.becomes(Mood::Picky);
    eventually("the dead letters are full", LATER, || {
        let sinks = &gateway.status()["sinks"];
        let sink = sinks.as_array().unwrap().iter().find(|sink| sink["name"] == "picky").unwrap();
        sink["condition"] == "dead-letters-full"
    });
    let dead_letters = disk_usage(&gateway.data_dir().join("dlq/picky"));
    assert!((DEAD_LETTERS / 2..=DEAD_LETTERS).contains(&dead_letters), "{dead_letters}");

    gateway.kill9();
    (fleet, _) = load.join();
    churn.into_iter().for_each(Churn::stop);
    // Two are set aside as a whole, of others the damaged places are.
    let sealed = segments(&gateway);
    assert!(sealed.len() > 8, "{sealed:?}");
    for path in &sealed[1..3] {
        spoil(path, 0, 1024);
    }
    for path in &sealed[3..7] {
        spoil(path, 100_000, 20_000);
    }
    gateway.restart();
    fleet.reconnect(gateway.mqtt()).unwrap();
    churn = [Churn::of_retained(&gateway, Arc::clone(&retained)), Churn::of_sessions(&gateway)];
    let load = fleet.start(Run::time(LATER));
    eventually("the log is full again", LATER, || is_full(&gateway));
    receiver.restart();
    eventually("the damage is found", LATER, || {
        disk_usage(&gateway.data_dir().join("log/quarantine")) > 500 << 10
    });
    let (was, of_fleet) = (retained.load(Ordering::SeqCst), load.answered());
    // Somebody empties the queue, and the bus takes everything.
    gateway.stop();
    (fleet, _) = load.join();
    churn.into_iter().for_each(Churn::stop);
    fs::remove_dir_all(gateway.data_dir().join("dlq/picky")).unwrap();
    bus.becomes(Mood::Content);
    gateway.restart();
    fleet.reconnect(gateway.mqtt()).unwrap();
    churn = [Churn::of_retained(&gateway, Arc::clone(&retained)), Churn::of_sessions(&gateway)];
    let load = fleet.start(Run::time(LATER));
    eventually("the log takes events and retained messages again", LATER, || {
        load.answered() > of_fleet + 50_000 && retained.load(Ordering::SeqCst) > was + 1_000
    });
    let (_, report) = load.stop();
    churn.into_iter().for_each(Churn::stop);
    assert_eq!(report.broken, None);
    eventually("all are upstream", LATER, || {
        let sinks = gateway.status()["sinks"].clone();
        sinks.as_array().unwrap().iter().all(|sink| sink["lag-events"] == 0)
    });
    let before = receiver.stored();
    wire = Wire::client(gateway.mqtt(), Version::V4, "last");
    wire.send(&publish(Version::V4, 1, b"plant/last", 1, b"1"));
    assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
    eventually("the last one too", SOON, || receiver.stored() > before);

    let most = watcher.stop();
    println!("{} bytes at most in {} looks: {:?}", most.bytes, most.looks, most.parts);
    assert!(most.bytes <= MAX_SIZE, "{most:?}");
    assert!(most.bytes > MAX_SIZE / 2, "it was never full: {most:?}");
    gateway.stop();
}
