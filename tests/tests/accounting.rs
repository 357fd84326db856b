//! Lanes that drop, thin out and expire, under load, outages and kill -9: what arrives upstream and what
//! the loss ledger says account for every event of the log.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::time::Instant;

use serde_json::Value;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::http;
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::tally::Tally;
use tidegate_tests::usage::disk_usage;
use tidegate_tests::wait::{LATER, eventually};

const KILLS: usize = 5;
/// Events a second, from ten devices.
const RATE: u64 = 8_000;

/// `log.max-size`: of all that the daemon keeps on disk.
const MAX_SIZE: u64 = 16 << 20;

const CONFIG: &str = r#"
[limits]
max-packet-size = "16KiB"

[log]
max-size = "16MiB"
segment-size = "128KiB"
ballast = "1MiB"
max-quarantine = "1MiB"
max-ledger = "64KiB"
commit.max-bytes = "32KiB"

[[lane]]
name = "oldest"
topics = ["plant/load-00/#", "plant/load-01/#", "plant/load-02/#"]
max-size = "1MiB"
when-full = "drop-oldest"

[[lane]]
name = "thinned"
topics = ["plant/load-03/#", "plant/load-04/#", "plant/load-05/#"]
max-size = "1MiB"
when-full = "downsample"
downsample = { interval = "1s", keep = "mean", value = "/value" }

[[lane]]
name = "newest"
topics = ["plant/load-06/#"]
max-size = "512KiB"
when-full = "drop-newest"

[[lane]]
name = "brief"
topics = ["plant/load-07/#"]
max-size = "1MiB"
max-age = "2s"

"#;

/// The reason of what was removed before a sink had it.
const REMOVED: u8 = 3;

/// An entry of the ledger, as its format says.
#[derive(Debug, PartialEq)]
struct Entry {
    reason: u8,
    first: u64,
    last: u64,
    count: u64,
}

fn ledger(gateway: &Gateway) -> Vec<Entry> {
    let bytes = fs::read(gateway.data_dir().join("log/ledger")).unwrap_or_default();
    let entry = |bytes: &[u8]| {
        assert_eq!(&bytes[..4], b"TGL1");
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Entry { reason: bytes[5], first: number(8), last: number(16), count: number(24) }
    };
    // What is allocated ahead is zeros.
    bytes.chunks_exact(48).take_while(|bytes| bytes[..4] != [0; 4]).map(entry).collect()
}

/// The numbers in the log of what is upstream.
fn upstream(receiver: &Receiver) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    receiver.each_event(|event| {
        let id = event["logid"].as_str().or(event["id"].as_str()).unwrap();
        numbers.insert(id.rsplit('-').next().unwrap().parse().unwrap());
    });
    numbers
}

/// How many numbers of the log came upstream: also those of events that tell once more, under the same id,
/// what was told before a kill.
fn received(receiver: &Receiver) -> u64 {
    let gaps = http::get_json(receiver.address(), "/api/gaps");
    gaps["logs"].as_array().unwrap().iter().map(|log| log["received"].as_u64().unwrap()).sum()
}

/// Numbers in order, as ranges.
fn ranges(numbers: &[u64]) -> Vec<RangeInclusive<u64>> {
    let touch = |a: &u64, b: &u64| a + 1 == *b;
    numbers.chunk_by(touch).map(|chunk| chunk[0]..=chunk[chunk.len() - 1]).collect()
}

#[test]
fn what_is_upstream_and_the_ledger_account_for_every_event() {
    let mut receiver = Receiver::start();
    let mut gateway = Gateway::start(&format!("{CONFIG}{}", receiver.sink()));
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    let mut most = 0;
    for kill in 0..KILLS {
        // Every other time there is nobody upstream.
        if kill % 2 == 0 {
            receiver.stop();
        }
        let load = fleet.start(Run::time(LATER).at_rate(RATE));
        let moment = load.answered() + 3 * RATE + fastrand::u64(..RATE);
        eventually("acknowledgements", LATER, || {
            most = most.max(disk_usage(&gateway.data_dir()));
            load.answered() >= moment
        });
        gateway.kill9();
        let report;
        (fleet, report) = load.join();
        assert!(report.acknowledged > 0, "kill {kill}: {report:?}");
        gateway.restart();
        fleet.reconnect(gateway.mqtt()).unwrap();
        if kill % 2 == 0 {
            receiver.restart();
        }
    }
    eventually("no lag is left", LATER, || gateway.lag("lag-events") == 0);

    let look = || {
        let last = gateway.status()["log"]["last-lsn"].as_u64().unwrap();
        let (stored, entries) = (upstream(&receiver), ledger(&gateway));
        let in_ledger = |lsn: &u64| entries.iter().any(|it| (it.first..=it.last).contains(lsn));
        let neither = |lsn: &u64| !stored.contains(lsn) && !in_ledger(lsn);
        let neither: Vec<u64> = (1..=last).filter(neither).collect();
        let told_again = received(&receiver) - stored.len() as u64;
        (neither, told_again, last, stored.len() as u64, entries)
    };
    // A look reads everything that is upstream: on a busy machine that takes a while.
    let begin = Instant::now();
    let (mut neither, mut told_again, mut last, mut there, mut entries) = look();
    while neither.len() as u64 > told_again && begin.elapsed() < LATER {
        (neither, told_again, last, there, entries) = look();
    }
    assert!(
        neither.len() as u64 <= told_again,
        "neither upstream nor in the ledger: {:?}; {told_again} were told again; {entries:?}",
        ranges(&neither)
    );
    let lost: u64 = entries.iter().map(|entry| entry.count).sum();
    let of = |reason| entries.iter().filter(move |it| it.reason == reason).map(|it| it.count);
    let removed: u64 = of(REMOVED).sum();
    println!(
        "{last} events, {there} upstream, {lost} in {} entries ({removed} removed), {most} bytes",
        entries.len()
    );
    assert!(
        there + told_again + lost >= last,
        "{there} upstream and {lost} in the ledger, of {last}"
    );
    // Expired, dropped, thinned out.
    for reason in [4, 5, 6] {
        assert!(entries.iter().any(|entry| entry.reason == reason), "no entry says {reason}");
    }
    let tally = Tally::of(&receiver);
    assert_eq!(tally.twice(), 0);
    assert!(tally.missing(&fleet) as u64 <= lost, "{} acknowledged are missing", lost);
    assert!(most <= MAX_SIZE, "{most} bytes on disk");

    // Each entry went out as an event.
    let told = |receiver: &Receiver| {
        let mut told = Vec::new();
        receiver.each_event(|event| {
            if event["type"] == "tidegate.loss" {
                let lsn = |data: &Value| {
                    data.as_str().unwrap().rsplit('-').next().unwrap().parse::<u64>().unwrap()
                };
                let data = &event["data"];
                told.push((
                    lsn(&data["first"]),
                    lsn(&data["last"]),
                    data["count"].as_u64().unwrap(),
                ));
            }
        });
        told
    };
    eventually("every entry is told upstream", LATER, || {
        let told = told(&receiver);
        ledger(&gateway).iter().all(|it| told.contains(&(it.first, it.last, it.count)))
    });
    gateway.stop();
}

#[test]
fn all_that_is_on_disk_stays_under_the_size_of_the_log_while_it_is_full() {
    let mut receiver = Receiver::start();
    let mut gateway = Gateway::start(&format!("{CONFIG}{}", receiver.sink()));
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    let mut most = 0;
    for kill in 0..3 {
        receiver.stop();
        let load = fleet.start(Run::time(LATER));
        // Two lanes drop, one thins out; the others let nobody in.
        let full = |name: &str| {
            let status = gateway.status();
            let lanes = status["log"]["lanes"].as_array().unwrap();
            lanes.iter().any(|lane| lane["name"] == name && lane["full"] == true)
        };
        eventually("the default lane is full", LATER, || {
            most = most.max(disk_usage(&gateway.data_dir()));
            full("default")
        });
        // And it goes on for the others.
        let moment = load.answered() + 4 * RATE;
        eventually("the others go on", LATER, || {
            most = most.max(disk_usage(&gateway.data_dir()));
            load.answered() > moment
        });
        if kill == 1 {
            gateway.kill9();
            (fleet, _) = load.join();
            gateway.restart();
            fleet.reconnect(gateway.mqtt()).unwrap();
            receiver.restart();
        } else {
            receiver.restart();
            let moment = load.answered() + 2 * RATE;
            eventually("events are upstream", LATER, || {
                most = most.max(disk_usage(&gateway.data_dir()));
                load.answered() > moment
            });
            (fleet, _) = load.stop();
        }
        eventually("no lag is left", LATER, || {
            most = most.max(disk_usage(&gateway.data_dir()));
            gateway.lag("lag-events") == 0
        });
    }
    println!("{most} bytes on disk at most, of {MAX_SIZE}");
    assert!(most <= MAX_SIZE, "{most} bytes on disk");
    assert!(most > MAX_SIZE / 2, "{most} bytes: it was not full");
    gateway.stop();
}
