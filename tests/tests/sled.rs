//! `engine = "sled"`: what the log promises it promises over this engine too; where it does less, a test
//! says so by its name.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate_tests::clients::succeed;
use tidegate_tests::gateway::{self, Gateway};
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::tally::Tally;
use tidegate_tests::wait::{LATER, SOON, eventually, wait_for};
use tidegate_tests::wire::Wire;

/// In small segments, so that there are many databases.
const SLED: &str = r#"
[limits]
max-packet-size = "8KiB"
max-body-size = "8KiB"

[log]
engine = "sled"
max-size = "64MiB"
segment-size = "64KiB"
commit.max-bytes = "16KiB"
"#;
/// How often it is killed, unless KILLS says otherwise.
const KILLS: u64 = 10;
/// Events a second.
const RATE: u64 = 5_000;
const QUOTA_EXCEEDED: u8 = 0x97;

/// Publishes so many events, each in a commit of its own.
fn publish_each(gateway: &Gateway, events: u16) {
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "boiler-7");
    for id in 1..=events {
        wire.send(&publish(Version::V4, 1, b"plant/a", id, &[7; 1000]));
        assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
    }
}

/// Writes its config anew.
fn configure(gateway: &Gateway, more: &str) {
    let site = gateway.site();
    site.write("tidegate.toml", &gateway::config(site, more));
}

/// The heads of the segments in databases, oldest first, and their databases.
fn segments(data: &Path) -> Vec<(PathBuf, PathBuf)> {
    let log = data.join("log");
    let database = |head: &Path| {
        let front = fs::read(head).ok()?;
        let number = front.strip_prefix(b"tgsled01")?.first_chunk()?;
        Some(log.join(format!("{:016x}.sled", u64::from_le_bytes(*number))))
    };
    let paths = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|it| it == "seg"))
        .filter_map(|head| database(&head).map(|database| (head, database)))
        .collect();
    segments.sort();
    segments
}

fn databases(data: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(data.join("log")).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|it| it == "sled")).collect()
}

#[test]
fn kills_lose_and_double_nothing() {
    let kills = std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let receiver = Receiver::start();
    let mut gateway = Gateway::start(&format!("{SLED}{}", receiver.sink()));
    let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
    for kill in 0..kills {
        let load = fleet.start(Run::time(LATER).at_rate(RATE));
        let moment = load.answered() + 1 + fastrand::u64(..RATE / 2);
        eventually("acknowledgements", SOON, || load.answered() >= moment);
        gateway.kill9();
        let report;
        (fleet, report) = load.join();
        assert!(report.broken.is_some() && report.acknowledged > 0, "kill {kill}: {report:?}");
        gateway.restart();
        fleet.reconnect(gateway.mqtt()).unwrap();
    }
    Tally::is_complete(&receiver, &fleet);
    assert_eq!(receiver.missing(), 0);
    assert_eq!(gateway.metric("tidegate_log_lost_events"), 0.0);
    gateway.stop();
}

#[test]
fn a_full_log_holds_a_publisher_back_until_there_is_room() {
    let mut receiver = Receiver::start();
    let small = SLED.replace("64MiB", "16MiB");
    let mut gateway = Gateway::start(&format!("{small}{}", receiver.sink()));
    receiver.stop();
    let fleet = Fleet::connect(gateway.mqtt(), &Shape { connections: 3, ..Shape::default() });
    let load = fleet.unwrap().start(Run::messages(40_000, LATER * 3).at_rate(4_000));
    load.stands_still(1_000, LATER);
    // 16 MiB hold less than 21,000 payloads of 200 bytes; and what comes in the second until somebody looks, and
    // as long as that takes.
    assert!(load.answered() < 29_000, "{} acknowledged", load.answered());
    let mut wire = Wire::client(gateway.mqtt(), Version::V5, "told");
    let refused = (1..=1_000).find(|id| {
        wire.send(&publish(Version::V5, 1, b"a", *id, &[b'x'; 1000]));
        matches!(wire.answer(), Some((PUBACK, body)) if body.get(2) == Some(&QUOTA_EXCEEDED))
    });
    let stored_of_wire = u64::from(refused.expect("a refusal") - 1);
    let when_full = databases(&gateway.data_dir()).len();
    receiver.restart();
    let (fleet, report) = load.join();
    assert_eq!((report.broken, report.acknowledged), (None, 40_000));
    eventually("everything upstream", LATER, || receiver.stored() >= 40_000 + stored_of_wire);
    Tally::is_complete(&receiver, &fleet);
    assert_eq!(receiver.missing(), 0);
    // What everybody has may stay for a while when it is little.
    eventually("the databases go with their segments", LATER, || {
        let left = databases(&gateway.data_dir()).len();
        left < when_full && left as f64 == gateway.metric("tidegate_log_segments")
    });
    gateway.stop();
}

#[test]
fn the_acknowledgement_leaves_after_the_fdatasync_of_sleds_file() {
    let calls = "trace=pwrite64,fdatasync,sendto,sendmsg,write,writev";
    let mut gateway = Gateway::start_with_strace(SLED, &["-y", "-e", calls]);
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
    for id in [0x0a0a, 0x0b0b] {
        wire.send(&publish(Version::V4, 1, b"a", id, &[7; 6000]));
        assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
    }
    gateway.stop();
    let path = gateway.site().path().join("trace");
    let trace = wait_for("the end of the trace", SOON, || {
        let trace = fs::read_to_string(&path).ok()?;
        trace.contains("+++ exited with 0 +++").then_some(trace)
    });
    let lines: Vec<&str> = trace.lines().collect();
    let find = |what: &str, from: usize, all: &[&str]| {
        let found =
            lines[from..].iter().position(|line| all.iter().all(|part| line.contains(part)));
        from + found.unwrap_or_else(|| panic!("no {what} after line {from} of\n{trace}"))
    };
    let (first, second) =
        (find("PUBACK", 0, &[r#""@\2\n\n""#]), find("PUBACK", 0, &[r#""@\2\v\v""#]));
    let written = find("write", first, &["pwrite64(", ".sled/db>"]);
    let begun = find("fdatasync", written, &["fdatasync(", ".sled/db>"]);
    let synced = match lines[begun].contains("unfinished") {
        true => find("end of the fdatasync", begun, &["fdatasync resumed"]),
        false => begun,
    };
    assert!(lines[synced].ends_with("= 0"), "{}", lines[synced]);
    assert!(synced < second, "{}", lines[first..=synced.max(second)].join("\n"));
    let late = lines[synced..second]
        .iter()
        .find(|line| line.contains("pwrite64(") && line.contains(".sled/db>"));
    assert_eq!(late, None, "written behind the fdatasync, before the answer");
}

#[test]
fn the_engine_may_be_changed_at_any_time() {
    let mut receiver = Receiver::start();
    let with = |engine: &str| SLED.replace("\"sled\"", &format!("\"{engine}\"")) + &receiver.sink();
    let (sled, log) = (with("sled"), with("log"));
    receiver.stop();
    let mut gateway = Gateway::start(&sled);
    publish_each(&gateway, 200);
    for (config, events) in [(&log, 200), (&sled, 200), (&log, 1)] {
        gateway.stop();
        configure(&gateway, config);
        gateway.restart();
        publish_each(&gateway, events);
    }
    assert!(databases(&gateway.data_dir()).len() > 3);
    receiver.restart();
    eventually("all are upstream", LATER, || receiver.stored() == 601);
    assert_eq!((receiver.missing(), receiver.count("duplicates")), (0, 0));
    eventually("what is upstream is gone", LATER, || {
        publish_each(&gateway, 20);
        databases(&gateway.data_dir()).is_empty()
    });
    gateway.stop();
}

fn tidegate(gateway: &Gateway, arguments: &[&str]) -> Command {
    let mut command = gateway.site().tidegate(arguments);
    command.args(["--config", "tidegate.toml"]);
    command
}

#[track_caller]
fn refused(gateway: &Gateway, arguments: &[&str], words: &str) {
    let output = tidegate(gateway, arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{arguments:?}: {said}");
    assert!(said.contains(words), "{arguments:?}: {said}");
}

#[test]
fn sled_lets_nobody_look_at_the_log_while_the_gateway_runs() {
    let receiver = Receiver::start();
    let retained = SLED.replace("[log]", "[log]\nretain = \"1h\"");
    let mut gateway = Gateway::start(&format!("{retained}{}", receiver.sink()));
    publish_each(&gateway, 300);
    let held = "with engine = \"sled\" nobody else can read it meanwhile: stop the gateway first";
    let replay = ["replay", "--sink", "cloud", "--from", "1"];
    let commands: [&[&str]; 5] =
        [&["log", "inspect"], &["log", "verify"], &["log", "repair"], &["tail"], &replay];
    for command in commands {
        refused(&gateway, command, held);
    }
    publish_each(&gateway, 1);
    eventually("all are upstream", LATER, || receiver.stored() == 301);
    gateway.stop();

    let shown = succeed(&mut tidegate(&gateway, &["log", "inspect"]));
    assert!(shown.contains("301, LSN 1 to 301") && shown.contains("in use       no\n"), "{shown}");
    let verified = succeed(&mut tidegate(&gateway, &["log", "verify"]));
    assert!(verified.contains(": 301 events in 301 frames and "), "{verified}");
    let lines = succeed(&mut tidegate(&gateway, &["tail", "--no-follow", "--from", "1"]));
    assert_eq!(lines.lines().count(), 301);
    refused(
        &gateway,
        &["tail"],
        "nobody can follow the log: the gateway could not start meanwhile",
    );
    assert_eq!(succeed(&mut tidegate(&gateway, &replay)), "301 events sent to cloud\n");
    assert_eq!(receiver.count("duplicates"), 301);
    let repaired = succeed(&mut tidegate(&gateway, &["log", "repair"]));
    assert!(repaired.ends_with("in order: nothing was to be done\n"), "{repaired}");
    gateway.restart();
    publish_each(&gateway, 1);
    eventually("it goes on", LATER, || receiver.stored() == 302);
    assert_eq!(receiver.missing(), 0);
    gateway.stop();
}

/// Each with a commit of its own.
const EVENTS: u16 = 240;
/// No segment holds more of them.
const OF_A_SEGMENT: u64 = 70;
/// Nor could it hold more LSNs: where nothing says how many there were, all of them are given up.
const LSNS_OF_A_SEGMENT: u64 = 32 << 10;

/// What is done to which file, in the data directory, and how many events that may cost.
type Damage = (&'static str, fn(&Path), u64);

/// The database of an older segment.
fn second(data: &Path) -> PathBuf {
    segments(data).swap_remove(1).1
}

/// Its head.
fn second_head(data: &Path) -> PathBuf {
    segments(data).swap_remove(1).0
}

fn newest(data: &Path) -> PathBuf {
    segments(data).pop().unwrap().1
}

fn cut(path: &Path, numerator: u64, denominator: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() * numerator / denominator).unwrap();
}

/// Flips a bit in the middle.
fn flip(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 8], middle).unwrap();
}

const DAMAGES: &[Damage] = &[
    ("nothing", |_| {}, 0),
    ("an older database is cut", |data| cut(&second(data).join("db"), 1, 2), OF_A_SEGMENT),
    ("an older database is emptied", |data| cut(&second(data).join("db"), 0, 1), OF_A_SEGMENT),
    ("an older database has a flipped bit", |data| flip(&second(data).join("db")), OF_A_SEGMENT),
    ("an older database is gone", |data| fs::remove_dir_all(second(data)).unwrap(), OF_A_SEGMENT),
    (
        "an older database has no file",
        |data| fs::remove_file(second(data).join("db")).unwrap(),
        OF_A_SEGMENT,
    ),
    (
        "the settings of an older database are garbage",
        |data| fs::write(second(data).join("conf"), [7; 99]).unwrap(),
        OF_A_SEGMENT,
    ),
    (
        "the settings of an older database are empty",
        |data| cut(&second(data).join("conf"), 0, 1),
        0,
    ),
    (
        "a snapshot of an older database is garbage",
        |data| fs::write(second(data).join("snap.00000000000FFFFF"), [7; 99]).unwrap(),
        0,
    ),
    (
        "a snapshot of an older database was not finished",
        |data| fs::write(second(data).join("snap.00000000000FFFFF.generating"), "x").unwrap(),
        0,
    ),
    (
        "the noted length of the newest segment has a flipped bit",
        |data| flip(&newest(data).join("length")),
        0,
    ),
    (
        "the head of an older segment has a flipped bit",
        |data| flip(&second_head(data)),
        OF_A_SEGMENT,
    ),
    (
        "the head of an older segment does not say which database it has",
        |data| {
            let head = OpenOptions::new().write(true).open(second_head(data)).unwrap();
            head.write_all_at(&[7; 1024], 0).unwrap();
        },
        OF_A_SEGMENT,
    ),
    (
        "a segment is there twice",
        |data| {
            let copy = data.join("log/00000000000000009999-00000fff.seg");
            fs::copy(second_head(data), copy).unwrap();
        },
        0,
    ),
    ("the head of an older segment is emptied", |data| cut(&second_head(data), 0, 1), OF_A_SEGMENT),
    (
        "the head of an older segment is missing",
        |data| fs::remove_file(second_head(data)).unwrap(),
        OF_A_SEGMENT,
    ),
    ("the newest database is cut", |data| cut(&newest(data).join("db"), 1, 2), OF_A_SEGMENT),
    ("the newest database is emptied", |data| cut(&newest(data).join("db"), 0, 1), OF_A_SEGMENT),
    ("the newest database has a flipped bit", |data| flip(&newest(data).join("db")), OF_A_SEGMENT),
    ("the newest database is gone", |data| fs::remove_dir_all(newest(data)).unwrap(), OF_A_SEGMENT),
    (
        "the head of the newest segment is emptied",
        |data| cut(&segments(data).pop().unwrap().0, 0, 1),
        LSNS_OF_A_SEGMENT,
    ),
    (
        "every database has a flipped bit",
        |data| databases(data).iter().for_each(|it| flip(&it.join("db"))),
        EVENTS as u64,
    ),
];

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

#[test]
fn sled_loses_up_to_a_segment_for_one_damaged_place_and_accounts_for_every_event() {
    let mut gateway = Gateway::start(SLED);
    publish_each(&gateway, EVENTS);
    gateway.stop();
    assert!(segments(&gateway.data_dir()).len() > 3);
    let whole = gateway.site().path().join("whole");
    copy(&gateway.data_dir(), &whole);
    for (what, damage, most) in DAMAGES {
        println!("{what}");
        let receiver = Receiver::start();
        let data = gateway.data_dir();
        fs::remove_dir_all(&data).unwrap();
        copy(&whole, &data);
        damage(&data);
        configure(&gateway, &format!("{SLED}{}", receiver.sink()));
        gateway.site().give(&data);
        gateway.restart();
        publish_each(&gateway, 1);
        eventually(&format!("{what}: all is upstream"), LATER, || gateway.lag("lag-events") == 0);
        let (stored, lost) = (receiver.stored(), gateway.metric("tidegate_log_lost_events") as u64);
        let events = u64::from(EVENTS) + 1;
        assert!(stored + lost >= events && lost <= *most, "{what}: {stored} stored, {lost} lost");
        assert_eq!(receiver.count("duplicates"), 0, "{what}");
        let kept = fs::read_dir(data.join("log/quarantine"))
            .map_or(0, |entries| entries.filter(|it| it.as_ref().unwrap().path().is_dir()).count());
        assert!(kept <= 1, "{what}: one database is kept");
        gateway.stop();
    }
}

#[test]
fn sled_takes_more_disk_than_max_size_for_a_moment_and_what_it_takes_counts() {
    let mut receiver = Receiver::start();
    let mut gateway = Gateway::start(&format!("{SLED}{}", receiver.sink()));
    receiver.stop();
    let mut wire = Wire::client(gateway.mqtt(), Version::V5, "told");
    let refused = (1..=u16::MAX).find(|id| {
        wire.send(&publish(Version::V5, 1, b"a", *id, &[b'x'; 6000]));
        matches!(wire.answer(), Some((PUBACK, body)) if body.get(2) == Some(&QUOTA_EXCEEDED))
    });
    assert!(refused.is_some());
    let bytes = |path: PathBuf| fs::metadata(path).unwrap().blocks() * 512;
    let taken: u64 =
        databases(&gateway.data_dir()).into_iter().map(|it| bytes(it.join("db"))).sum();
    let of_log = gateway.metric("tidegate_log_bytes") as u64;
    assert!(taken > 4 * of_log, "{taken} for {of_log}");
    eventually("what it takes is not there for events", SOON, || {
        // There is no more of it.
        let most = gateway.metric("tidegate_log_max_bytes") as u64;
        gateway.metric("tidegate_log_set_aside_bytes") as u64 >= most.min(taken - of_log)
    });
    gateway.stop();
}
