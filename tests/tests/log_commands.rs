//! What an operator sees of the log: `tidegate log`, `tail` and `replay`, while the gateway runs and
//! while it does not.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tidegate_tests::clients::succeed;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::process::Process;
use tidegate_tests::receiver::Receiver;
use tidegate_tests::wait::{LATER, eventually};
use tidegate_tests::wire::Wire;

/// Keeps what every sink has, in small segments.
const KEPT: &str = r#"
[log]
retain = "1h"
segment-size = "64KiB"
commit.max-bytes = "16KiB"

[limits]
max-packet-size = "16KiB"
"#;

/// Publishes one event for each number, and awaits the acknowledgements.
fn publish_each(gateway: &Gateway, numbers: impl IntoIterator<Item = u16>) {
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "boiler-7");
    for number in numbers {
        let topic = if number % 2 == 0 { "plant/even" } else { "plant/odd" };
        let payload = format!("{{\"number\":{number},\"pad\":\"{}\"}}", "x".repeat(1000));
        wire.send(&publish(Version::V4, 1, topic.as_bytes(), number, payload.as_bytes()));
        assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
    }
}

fn tidegate(gateway: &Gateway, arguments: &[&str]) -> Command {
    let mut command = gateway.site().tidegate(arguments);
    command.args(["--config", "tidegate.toml"]);
    command
}

#[track_caller]
fn run(gateway: &Gateway, arguments: &[&str]) -> String {
    succeed(&mut tidegate(gateway, arguments))
}

/// The exit status and standard error of one that fails.
#[track_caller]
fn fail(gateway: &Gateway, arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = tidegate(gateway, arguments).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{}{stderr}", String::from_utf8_lossy(&stdout));
    (status.code().unwrap(), stderr)
}

fn segments(gateway: &Gateway) -> Vec<PathBuf> {
    let entries = fs::read_dir(gateway.data_dir().join("log")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    paths.sort();
    paths
}

#[test]
fn tail_shows_the_last_events_and_then_each_as_it_comes() {
    let mut gateway = Gateway::start(KEPT);
    publish_each(&gateway, 1..=30);
    let command = tidegate(&gateway, &["tail"]);
    let mut tail = Process::start("tail", command, gateway.site().path());
    tail.line("21 ", LATER);
    tail.line("30 ", LATER);
    assert!(tail.lines()[0].contains(" plant/odd {\"number\":21,"), "{:?}", tail.lines()[0]);
    // More than a segment.
    publish_each(&gateway, 31..=200);
    tail.line("200 ", LATER);
    // The gateway's restart is nothing to it.
    gateway.stop();
    gateway.restart();
    publish_each(&gateway, 201..=202);
    tail.line("202 ", LATER);
    let lsns: Vec<u64> =
        tail.lines().iter().map(|line| line.split_once(' ').unwrap().0.parse().unwrap()).collect();
    assert_eq!(lsns, (21..=202).collect::<Vec<u64>>());
    drop(tail);

    let odd = run(&gateway, &["tail", "--no-follow", "--from", "195", "--topic", "+/odd"]);
    let lsns: Vec<&str> = odd.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    assert_eq!(lsns, ["195", "197", "199", "201"]);
    gateway.stop();
    let all = run(&gateway, &["tail", "--no-follow", "--from", "1h"]);
    assert_eq!(all.lines().count(), 202);
    assert_eq!(run(&gateway, &["tail", "--no-follow", "--from", "2099-01-01"]), "");
}

#[test]
fn replayed_events_arrive_under_the_ids_they_had() {
    let receiver = Receiver::start();
    let mut gateway = Gateway::start(&format!("{KEPT}\n{}", receiver.sink()));
    publish_each(&gateway, 1..=100);
    eventually("all are upstream", LATER, || receiver.stored() == 100);
    let upstream: Vec<String> =
        receiver.events().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    let shown: Vec<String> = run(&gateway, &["tail", "--json", "--no-follow", "--from", "1"])
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].to_string())
        .map(|id| id.trim_matches('"').to_owned())
        .collect();
    assert_eq!(shown, upstream);

    let replay = |gateway: &Gateway, more: &[&str]| {
        let arguments = [&["replay", "--sink", "cloud", "--from"], more].concat();
        run(gateway, &arguments)
    };
    assert_eq!(replay(&gateway, &["1"]), "100 events sent to cloud\n");
    assert_eq!((receiver.stored(), receiver.count("duplicates")), (100, 100));
    gateway.stop();
    assert_eq!(
        replay(&gateway, &["11", "--to", "20", "--topic", "+/even"]),
        "5 events sent to cloud\n"
    );
    assert_eq!((receiver.stored(), receiver.count("duplicates")), (100, 105));
    assert_eq!(replay(&gateway, &["1h", "--dry-run"]), "100 events would be sent to cloud\n");
    assert_eq!(
        replay(&gateway, &["2099-01-01"]),
        "0 events sent to cloud\nno event from there on matches\n"
    );
    assert_eq!((receiver.stored(), receiver.count("duplicates")), (100, 105));
    let (status, said) = fail(&gateway, &["replay", "--sink", "clowd", "--from", "1"]);
    assert_eq!(status, 64);
    assert!(said.contains("no sink \"clowd\"; there is cloud"), "{said}");
}

#[test]
fn damage_is_found_whether_or_not_the_gateway_runs() {
    let mut gateway = Gateway::start(KEPT);
    publish_each(&gateway, 1..=300);
    let pid = gateway.process().pid();
    let shown = run(&gateway, &["log", "inspect"]);
    assert!(shown.contains(&format!("by process {pid}")), "{shown}");
    assert!(shown.contains("300, LSN 1 to 300"), "{shown}");
    let files = segments(&gateway);
    assert_eq!(shown.matches(".seg").count(), files.len());
    // What a full one has and what its file keeps unused is all of its file.
    for path in &files[..files.len() - 1] {
        let name = path.file_name().unwrap().to_str().unwrap();
        let row: Vec<&str> = shown[shown.find(name).unwrap()..].split_whitespace().collect();
        let sum = row[1].parse::<u64>().unwrap() + row[2].parse::<u64>().unwrap();
        assert_eq!(sum, fs::metadata(path).unwrap().len(), "{shown}");
    }
    assert!(shown.contains(" of that unused\n"), "{shown}");
    let frames = run(&gateway, &["log", "inspect", "--frames"]);
    assert_eq!(frames.matches("\n  at ").count(), 300);
    let verified = run(&gateway, &["log", "verify"]);
    assert!(verified.contains(": 300 events in 300 frames and "), "{verified}");
    assert!(verified.ends_with("no damage\n"), "{verified}");

    let damaged = segments(&gateway)[1].clone();
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[20_000] ^= 1;
    fs::write(&damaged, &bytes).unwrap();
    let verify = |gateway: &Gateway| {
        let (status, said) = fail(gateway, &["log", "verify"]);
        assert_eq!(status, 65, "{said}");
        assert!(said.contains("1 damaged place that the loss ledger does not have"), "{said}");
        assert!(said.contains(&damaged.display().to_string()), "{said}");
        assert!(said.contains("(1 event)"), "{said}");
    };
    verify(&gateway);
    let (status, said) = fail(&gateway, &["log", "repair"]);
    assert_eq!(status, 69, "{said}");
    assert!(said.contains("in use by another process, which has to stop first"), "{said}");
    gateway.stop();
    verify(&gateway);
    assert!(run(&gateway, &["log", "inspect"]).contains("in use       no\n"));
}

#[test]
fn a_missing_oldest_segment_is_found_and_told() {
    let receiver = Receiver::start();
    let mut gateway = Gateway::start(KEPT);
    publish_each(&gateway, 1..=300);
    assert!(run(&gateway, &["log", "inspect"]).contains("begins       at LSN 1\n"));
    gateway.stop();
    let [oldest, next] = &segments(&gateway)[..2] else { panic!("too few segments") };
    let name = next.file_name().unwrap().to_string_lossy();
    let last = name[..20].parse::<u64>().unwrap() - 1;
    fs::remove_file(oldest).unwrap();
    let (status, said) = fail(&gateway, &["log", "verify"]);
    assert_eq!(status, 65, "{said}");
    assert!(said.contains(&format!("not there: LSN 1 to {last} ({last} events)")), "{said}");

    // A sink that has no cursor yet goes on behind it.
    let config = format!("{KEPT}\n{}", receiver.sink());
    let config = tidegate_tests::gateway::config(gateway.site(), &config);
    gateway.site().write("tidegate.toml", &config);
    gateway.restart();
    let missing = usize::try_from(last).unwrap();
    let lsn = |id: &serde_json::Value| {
        id.as_str().unwrap().rsplit('-').next().unwrap().parse::<u64>().unwrap()
    };
    eventually("the rest is upstream, and the loss", LATER, || {
        let events = receiver.events();
        let loss = |event: &serde_json::Value| {
            event["type"] == "tidegate.loss"
                && event["data"]["reason"] == "missing"
                && event["data"]["count"] == last
                && lsn(&event["data"]["first"]) == 1
                && lsn(&event["data"]["last"]) == last
        };
        events.len() == 300 - missing + 1 && events.iter().any(loss)
    });
    let shown = run(&gateway, &["log", "inspect"]);
    assert!(shown.contains(&format!("begins       at LSN {}\n", last + 1)), "{shown}");
    let verified = run(&gateway, &["log", "verify"]);
    assert!(verified.ends_with("no damage\n"), "{verified}");
    gateway.stop();
}

#[test]
fn a_repair_is_told_first_and_then_done() {
    let mut gateway = Gateway::start(KEPT);
    publish_each(&gateway, 1..=100);
    gateway.stop();
    let newest = segments(&gateway).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    let torn = [&whole[..], b"TGF1 a commit that did not get further"].concat();
    fs::write(&newest, &torn).unwrap();
    let foreign = gateway.site().write("data/log/notes.txt", "of somebody");

    let told = run(&gateway, &["log", "repair", "--dry-run"]);
    assert!(told.contains(&format!("would move {}", foreign.display())), "{told}");
    assert!(told.contains(&format!("would cut {}", newest.display())), "{told}");
    assert!(foreign.exists());
    assert_eq!(fs::read(&newest).unwrap(), torn);

    let done = run(&gateway, &["log", "repair"]);
    assert!(done.contains("set aside: ") && done.contains("cut: "), "{done}");
    assert!(!foreign.exists());
    assert_eq!(fs::read(&newest).unwrap(), whole);
    assert!(gateway.data_dir().join("log/quarantine/00000001-notes.txt").exists());
    assert!(run(&gateway, &["log", "verify"]).contains("100 events"));
    let again = run(&gateway, &["log", "repair", "--dry-run"]);
    assert!(again.ends_with("in order: nothing to do\n"), "{again}");
    gateway.restart();
    publish_each(&gateway, 1..=1);
    assert_eq!(gateway.status()["log"]["last-lsn"], 101);
    gateway.stop();
}

#[test]
fn where_there_is_no_log_the_command_says_so() {
    let mut gateway = Gateway::start("");
    gateway.stop();
    fs::rename(gateway.data_dir().join("log"), gateway.data_dir().join("away")).unwrap();
    for arguments in [&["log", "inspect"][..], &["log", "verify"], &["log", "repair"]] {
        let (status, said) = fail(&gateway, arguments);
        assert_eq!(status, 66, "{said}");
        assert!(said.contains("data/log: no log there"), "{said}");
    }
    let (status, said) = fail(&gateway, &["tail"]);
    assert_eq!(status, 66, "{said}");
    assert!(said.contains("cannot watch"), "{said}");
    let dir = gateway.data_dir().join("away").display().to_string();
    let shown = run(&gateway, &["log", "inspect", "--dir", &dir]);
    assert!(shown.contains("none; the next one is LSN 1"), "{shown}");
    let (status, said) = fail(&gateway, &["tail", "--from", "yesterday"]);
    assert_eq!(status, 64, "{said}");
    assert!(said.contains("expected an LSN (4711), a time"), "{said}");
}
