//! Each kind of file in the data directory, damaged in each way: the gateway starts, takes events, sends
//! upstream what is left, and what is not left stands in the loss ledger.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tidegate_tests::bus::{Bus, Mood, POISON};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::wait::{LATER, eventually};
use tidegate_tests::wire::Wire;

/// Each with a commit of its own, so that a damaged place costs few of them.
const EVENTS: u16 = 240;
const LOG: &str = r#"
[limits]
max-packet-size = "8KiB"
max-body-size = "8KiB"

[log]
max-size = "4MiB"
segment-size = "64KiB"
commit.max-bytes = "16KiB"
"#;

/// What is left.
enum Left {
    /// Everything, and nothing is in the ledger.
    All,
    /// What is not there is in the ledger: at most so many events.
    AllBut(u64),
    /// As after a release: who never had an event of it reads on behind it.
    Newer,
}

/// What is done to which file, in the data directory.
type Damage = (&'static str, fn(&Path), Left);

fn segments(data: &Path) -> Vec<PathBuf> {
    let segments = segments_in(&data.join("log"));
    assert!(segments.len() > 3);
    segments
}

fn segments_in(log: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|it| it == "seg")).collect();
    segments.sort();
    segments
}

fn second(data: &Path) -> PathBuf {
    segments(data).swap_remove(1)
}

fn newest(data: &Path) -> PathBuf {
    segments(data).pop().unwrap()
}

fn checkpoints(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("state")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains("checkpoint")).collect()
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
    ("nothing", |_| {}, Left::All),
    ("an older segment is cut", |data| cut(&second(data), 1, 2), Left::AllBut(70)),
    ("an older segment is emptied", |data| cut(&second(data), 0, 1), Left::AllBut(70)),
    ("an older segment has a flipped bit", |data| flip(&second(data)), Left::AllBut(1)),
    (
        "an older segment is missing",
        |data| fs::remove_file(second(data)).unwrap(),
        Left::AllBut(70),
    ),
    (
        "an older segment is there twice",
        |data| {
            let copy = data.join("log/00000000000000009999-00000fff.seg");
            fs::copy(second(data), copy).unwrap();
        },
        Left::All,
    ),
    (
        "the oldest segment is missing",
        |data| fs::remove_file(&segments(data)[0]).unwrap(),
        Left::AllBut(70),
    ),
    ("the oldest segment is emptied", |data| cut(&segments(data)[0], 0, 1), Left::AllBut(70)),
    (
        "the oldest segment is missing, and what says where the log begins",
        |data| {
            fs::remove_file(&segments(data)[0]).unwrap();
            fs::remove_file(data.join("log/beginning")).unwrap();
        },
        Left::Newer,
    ),
    ("where the log begins has a flipped bit", |data| flip(&data.join("log/beginning")), Left::All),
    ("where the log begins is emptied", |data| cut(&data.join("log/beginning"), 0, 1), Left::All),
    ("where the log begins is cut", |data| cut(&data.join("log/beginning"), 1, 20), Left::All),
    (
        "where the log begins is missing",
        |data| fs::remove_file(data.join("log/beginning")).unwrap(),
        Left::All,
    ),
    (
        "where the log begins is another file",
        |data| fs::write(data.join("log/beginning"), [7; 99_999]).unwrap(),
        Left::All,
    ),
    (
        "where the log begins is a directory",
        |data| {
            fs::remove_file(data.join("log/beginning")).unwrap();
            fs::create_dir(data.join("log/beginning")).unwrap();
        },
        Left::All,
    ),
    ("the newest segment is cut", |data| cut(&newest(data), 1, 2), Left::AllBut(70)),
    ("the newest segment is emptied", |data| cut(&newest(data), 0, 1), Left::AllBut(70)),
    ("the newest segment has a flipped bit", |data| flip(&newest(data)), Left::AllBut(1)),
    (
        "foreign files lie in the log",
        |data| {
            fs::write(data.join("log/notes.txt"), "to do").unwrap();
            fs::write(data.join("log/00000000000000000007-00000abc.seg"), [7; 5000]).unwrap();
        },
        Left::AllBut(2500),
    ),
    (
        "the ledger is another file",
        |data| fs::write(data.join("log/ledger"), [7; 999]).unwrap(),
        Left::All,
    ),
    (
        "the ledger is a directory, so is what it is written anew as, and the quarantine is a file",
        |data| {
            fs::write(data.join("log/quarantine"), "x").unwrap();
            fs::remove_file(data.join("log/ledger")).unwrap();
            fs::create_dir(data.join("log/ledger")).unwrap();
            fs::create_dir(data.join("log/ledger.new")).unwrap();
        },
        Left::All,
    ),
    (
        "a segment that is being created is a directory",
        |data| fs::create_dir(data.join("log/segment.new")).unwrap(),
        Left::All,
    ),
    ("the ledger is empty", |data| fs::write(data.join("log/ledger"), []).unwrap(), Left::All),
    ("the lock is missing", |data| fs::remove_file(data.join("log/lock")).unwrap(), Left::All),
    (
        "the lock has a content",
        |data| fs::write(data.join("log/lock"), "4711\n").unwrap(),
        Left::All,
    ),
    (
        "the quarantine is a file",
        |data| fs::write(data.join("log/quarantine"), "x").unwrap(),
        Left::All,
    ),
    ("the database has a flipped bit", |data| flip(&data.join("state/db/db")), Left::All),
    ("the database is cut", |data| cut(&data.join("state/db/db"), 1, 3), Left::All),
    ("the database is emptied", |data| cut(&data.join("state/db/db"), 0, 1), Left::All),
    (
        "the database's settings are emptied",
        |data| cut(&data.join("state/db/conf"), 0, 1),
        Left::All,
    ),
    (
        "the database is missing",
        |data| fs::remove_dir_all(data.join("state/db")).unwrap(),
        Left::All,
    ),
    (
        "the database is a file",
        |data| {
            fs::remove_dir_all(data.join("state/db")).unwrap();
            fs::write(data.join("state/db"), "x").unwrap();
        },
        Left::All,
    ),
    ("the state is missing", |data| fs::remove_dir_all(data.join("state")).unwrap(), Left::All),
    (
        "checkpoints have flipped bits",
        |data| checkpoints(data).iter().for_each(|it| flip(it)),
        Left::All,
    ),
    (
        "a checkpoint is foreign",
        |data| {
            fs::write(data.join("state/checkpoint-0000000777"), "x").unwrap();
        },
        Left::All,
    ),
    (
        "the lanes' names are emptied",
        |data| fs::write(data.join("log/lanes"), []).unwrap(),
        Left::All,
    ),
    ("the lanes' names have a flipped bit", |data| flip(&data.join("log/lanes")), Left::All),
    (
        "the lanes' names are missing",
        |data| fs::remove_file(data.join("log/lanes")).unwrap(),
        Left::All,
    ),
    (
        "the lanes' names are another file",
        |data| fs::write(data.join("log/lanes"), [7; 99_999]).unwrap(),
        Left::All,
    ),
    (
        "the ballast is another file",
        |data| fs::write(data.join("ballast"), "x").unwrap(),
        Left::All,
    ),
    (
        "the ballast is a directory",
        |data| {
            let _ = fs::remove_file(data.join("ballast"));
            fs::create_dir_all(data.join("ballast/x")).unwrap();
        },
        Left::All,
    ),
    (
        "a checkpoint was not finished",
        |data| {
            fs::write(data.join("state/checkpoint.tmp"), "x").unwrap();
        },
        Left::All,
    ),
];

/// Publishes an event and awaits its acknowledgement.
fn publish_one(wire: &mut Wire, id: u16) {
    wire.send(&publish(Version::V4, 1, b"plant/a", id, &[7; 1000]));
    assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
}

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
fn whatever_is_damaged_it_starts_and_accounts_for_every_event() {
    let mut gateway = Gateway::start(LOG);
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
    (1..=EVENTS).for_each(|id| publish_one(&mut wire, id));
    drop(wire);
    gateway.stop();
    let whole = gateway.site().path().join("whole");
    copy(&gateway.data_dir(), &whole);
    for (what, damage, left) in DAMAGES {
        println!("{what}");
        let receiver = Receiver::start();
        let data = gateway.data_dir();
        fs::remove_dir_all(&data).unwrap();
        copy(&whole, &data);
        damage(&data);
        let site = gateway.site();
        let config = tidegate_tests::gateway::config(site, &format!("{LOG}{}", receiver.sink()));
        site.write("tidegate.toml", &config);
        site.give(&data);
        gateway.restart();
        let mut wire = Wire::client(gateway.mqtt(), Version::V4, "two");
        publish_one(&mut wire, 1);
        drop(wire);
        eventually(&format!("{what}: all is upstream"), LATER, || gateway.lag("lag-events") == 0);
        let (stored, lost) = (receiver.stored(), gateway.metric("tidegate_log_lost_events") as u64);
        let events = u64::from(EVENTS) + 1;
        match left {
            Left::All => assert_eq!((stored, lost), (events, 0), "{what}"),
            Left::AllBut(most) => {
                assert!(stored < events || lost > 0, "{what}: nothing was damaged");
                assert!(stored + lost >= events && lost <= *most, "{what}: {stored}, {lost} lost");
            }
            Left::Newer => assert!(stored < events && lost == 0, "{what}: {stored}, {lost}"),
        }
        assert_eq!(receiver.count("duplicates"), 0, "{what}");
        gateway.stop();
    }
}

/// What is done to which file, in the directory of the queue.
type QueueDamage = (&'static str, fn(&Path));

/// What is done to the queue of dead letters.
const QUEUE_DAMAGES: &[QueueDamage] = &[
    ("nothing", |_| {}),
    ("its segment is cut", |queue| cut(&segments_in(queue)[0], 1, 2)),
    ("its segment is emptied", |queue| cut(&segments_in(queue)[0], 0, 1)),
    ("its segment has a flipped bit", |queue| flip(&segments_in(queue)[0])),
    ("its segment is missing", |queue| fs::remove_file(&segments_in(queue)[0]).unwrap()),
    ("its segment is there twice", |queue| {
        fs::copy(&segments_in(queue)[0], queue.join("00000000000000000999-00000fff.seg")).unwrap();
    }),
    ("a foreign file is in it", |queue| fs::write(queue.join("notes.txt"), "to do").unwrap()),
    ("its ledger is another file", |queue| fs::write(queue.join("ledger"), [7; 999]).unwrap()),
    ("it is missing", |queue| fs::remove_dir_all(queue).unwrap()),
];

#[test]
fn dead_letters_are_put_away_whatever_is_damaged_of_those_before() {
    let sink = Bus::start(Mood::Picky).sink("cloud");
    let mut gateway = Gateway::start(&format!("{LOG}{sink}"));
    let put_away = |gateway: &Gateway, first: u16, events: u16| {
        let before = gateway.metric("tidegate_sink_dead_letters_total");
        let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
        for id in first..first + events {
            for payload in [POISON, b"1"] {
                wire.send(&publish(Version::V4, 1, b"plant/a", id, payload));
                assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
            }
        }
        eventually("they are put away", LATER, || {
            gateway.metric("tidegate_sink_dead_letters_total") == before + f64::from(events)
        });
        eventually("the sink goes on", LATER, || gateway.lag("lag-events") == 0);
    };
    put_away(&gateway, 1, 20);
    gateway.stop();
    let (data, whole) = (gateway.data_dir(), gateway.site().path().join("whole"));
    copy(&data, &whole);
    for (what, damage) in QUEUE_DAMAGES {
        println!("{what}");
        fs::remove_dir_all(&data).unwrap();
        copy(&whole, &data);
        damage(&data.join("dlq/cloud"));
        gateway.site().give(&data);
        gateway.restart();
        put_away(&gateway, 21, 3);
        gateway.stop();
    }
}
