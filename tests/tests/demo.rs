//! What a new user sees first.

use std::time::Duration;

use rustix::process::Signal;
use tidegate_tests::http;
use tidegate_tests::process::Process;
use tidegate_tests::site::Site;
use tidegate_tests::wait::{LATER, SOON, eventually};

/// A number of the latest progress line: what stands behind `label`.
fn latest(demo: &Process, label: &str) -> Option<u64> {
    let lines = demo.lines();
    let line = lines.iter().rev().find(|line| line.starts_with("in "))?;
    let text = line.split([' ', '|', ':', ',']).collect::<Vec<_>>().join(" ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let label: Vec<&str> = label.split(' ').collect();
    let at = words.windows(label.len()).position(|window| *window == label[..])?;
    words.get(at + label.len())?.parse().ok()
}

fn is_at_least(demo: &Process, label: &str, bound: u64) -> bool {
    latest(demo, label).is_some_and(|number| number >= bound)
}

fn start(site: &Site, arguments: &[&str]) -> Process {
    let mut command = site.tidegate(["demo"]);
    command.args(arguments).env("TMPDIR", site.path());
    Process::start("demo", command, site.path())
}

/// What the demo says when it has ended after `signal`.
#[track_caller]
fn end(demo: &mut Process, signal: Signal) -> String {
    demo.signal(signal);
    let status = demo.wait(LATER);
    assert!(status.success(), "{status}");
    // Its output is read by a thread.
    demo.line("the receiver: ", SOON);
    demo.lines().join("\n")
}

#[test]
fn the_demo_shows_events_arriving_and_ends_in_order() {
    let site = Site::new();
    let mut demo = start(&site, &["--rate", "100"]);
    let page = demo.line("see the events arrive", SOON);
    let address = page.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    let html = http::get(address, "/");
    assert_eq!(html.status, 200);
    assert!(html.head.contains("text/html"), "{}", html.head);
    eventually("events forwarded", LATER, || is_at_least(&demo, "forwarded", 100));
    let summary = http::get_json(address, "/api/summary");
    assert!(summary["devices"].as_u64().is_some_and(|devices| devices >= 2), "{summary}");
    eventually("an alert", LATER, || {
        is_at_least(&demo, "open,", 1) || {
            http::get_json(address, "/api/alerts")["alerts"]
                .as_array()
                .is_some_and(|alerts| !alerts.is_empty())
        }
    });

    let farewell = end(&mut demo, Signal::INT);
    assert!(farewell.contains(" 0 gaps, 0 duplicates"), "{farewell}");
    assert!(farewell.contains("removed"), "{farewell}");
    let left = std::fs::read_dir(site.path()).unwrap().filter_map(Result::ok);
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("demo-")), "{left:?}");
}

#[test]
fn an_outage_in_the_demo_shows_a_lag_that_drains() {
    let site = Site::new();
    let mut demo = start(&site, &["--outage", "3s", "--rate", "100"]);
    demo.line("the upstream is away", Duration::from_secs(20));
    eventually("the lag grows", SOON, || is_at_least(&demo, "lag", 100));
    demo.line("the upstream is back", SOON);
    eventually("the backlog drains", LATER, || latest(&demo, "lag").is_some_and(|lag| lag < 100));
    let farewell = end(&mut demo, Signal::INT);
    assert!(farewell.contains(" 0 gaps, 0 duplicates"), "{farewell}");
}

#[test]
fn a_signal_takes_the_demos_upstream_away_and_brings_it_back() {
    let site = Site::new();
    let mut demo = start(&site, &["--rate", "100"]);
    eventually("events forwarded", LATER, || is_at_least(&demo, "forwarded", 50));
    demo.signal(Signal::USR1);
    demo.line("the upstream is away", SOON);
    eventually("the lag grows", SOON, || is_at_least(&demo, "lag", 50));
    demo.signal(Signal::USR1);
    demo.line("the upstream is back", SOON);
    eventually("the backlog drains", LATER, || latest(&demo, "lag").is_some_and(|lag| lag < 50));
    let farewell = end(&mut demo, Signal::TERM);
    assert!(farewell.contains(" 0 gaps, 0 duplicates"), "{farewell}");
}
