//! What a person reads who starts it the wrong way: one line that says what failed, on what, and
//! what to do; and an exit code of sysexits.h.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use tidegate_tests::gateway::{Gateway, config};
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::site::Site;
use tidegate_tests::wait::{SOON, eventually};
use tidegate_tests::wire::Wire;

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const CANT_CREATE: i32 = 73;
const NO_PERMISSION: i32 = 77;
const CONFIG: i32 = 78;
const NO_INPUT: i32 = 66;

fn run(site: &Site, command: &str) -> Output {
    site.tidegate(command.split(' ')).output().unwrap()
}

/// Asserts that `output` is one line that contains all of `parts`, and one of the exit `codes`.
#[track_caller]
fn refused(output: &Output, codes: &[i32], parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(code.is_some_and(|code| codes.contains(&code)), "{:?}: {stderr}", output.status);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "no {part:?} in: {stderr}");
    }
    assert!(!stderr.contains("panicked") && !stderr.contains("src/"), "{stderr}");
}

/// `check` and `run` say the same about a good config with `more`: the file, the line of `place`, and
/// all of `parts`.
#[track_caller]
fn refused_config(more: &str, place: &str, parts: &[&str]) {
    let site = Site::new();
    let text = config(&site, more);
    site.write("tidegate.toml", &text);
    let line = 1 + text.lines().position(|line| line.contains(place)).unwrap();
    let head = format!("tidegate.toml:{line}: ");
    for command in ["check --config tidegate.toml", "run --config tidegate.toml"] {
        let output = run(&site, command);
        refused(&output, &[CONFIG], &[&head]);
        refused(&output, &[CONFIG], parts);
    }
}

#[test]
fn a_good_config_passes_the_check() {
    let site = Site::new();
    site.write("tidegate.toml", &config(&site, ""));
    let output = run(&site, "check --config tidegate.toml");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let site = Site::new();
    let text = config(&site, "").replacen("127.0.0.1:0", &address, 1);
    site.write("tidegate.toml", &text);
    refused(&run(&site, "run --config tidegate.toml"), &[UNAVAILABLE], &[&address, "in use"]);
}

#[test]
fn a_taken_admin_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let site = Site::new();
    let admin = format!("[admin]\nbind = \"{address}\"");
    let text = config(&site, "").replace("[admin]\nbind = \"127.0.0.1:0\"", &admin);
    site.write("tidegate.toml", &text);
    refused(&run(&site, "run --config tidegate.toml"), &[UNAVAILABLE], &[&address, "in use"]);
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let site = Site::new();
    site.write("tidegate.toml", &config(&site, ""));
    // Ordinary users own neither it nor what is in it.
    fs::create_dir(site.path().join("data")).unwrap();
    fs::set_permissions(site.path().join("data"), fs::Permissions::from_mode(0o555)).unwrap();
    let output = run(&site, "run --config tidegate.toml");
    let data = site.path().join("data");
    let codes = [CANT_CREATE, NO_PERMISSION];
    refused(&output, &codes, &[data.to_str().unwrap(), "ermission denied"]);
}

#[test]
fn a_missing_config_file_is_named() {
    let site = Site::new();
    for command in ["check --config no-such.toml", "run --config no-such.toml"] {
        refused(&run(&site, command), &[NO_INPUT, CONFIG], &["no-such.toml", "o such file"]);
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    refused_config("[log]\nmax-sise = \"1GiB\"\n", "max-sise", &["max-sise", "max-size"]);
    refused_config("[logg]\nmax-size = \"1GiB\"\n", "logg", &["logg"]);
}

#[test]
fn a_duration_or_size_without_a_unit_is_explained() {
    let delay = "[log]\ncommit.max-delay = \"30 parsecs\"\n";
    refused_config(delay, "parsecs", &["30 parsecs", "unit", "ms, s, m, h, d"]);
    refused_config("[log]\nmax-size = \"big\"\n", "big", &["big", "MiB"]);
}

#[test]
fn a_bad_url_is_explained() {
    for url in ["nowhere", "ftp://example.com/", "http://"] {
        let sink = format!("[[sink]]\nname = \"cloud\"\ntype = \"http\"\nurl = \"{url}\"\n");
        refused_config(&sink, "url =", &["url", url, "http://"]);
    }
}

#[test]
fn a_bad_alert_is_explained() {
    let alert = "[[alert]]\nname = \"hot\"\ntopic = \"a/#/b\"\nraise = \"> 90\"\n";
    refused_config(alert, "topic =", &["a/#/b", "`#`"]);
    let alert = "[[alert]]\nname = \"hot\"\ntopic = \"a\"\nraise = \"hotter\"\n";
    refused_config(alert, "raise =", &["raise", "hotter", "> 90"]);
}

#[test]
fn an_unknown_command_or_option_is_a_usage_error() {
    let site = Site::new();
    for command in ["fly", "run --no-such-option"] {
        let output = run(&site, command);
        assert_eq!(output.status.code(), Some(USAGE), "{output:?}");
    }
}

#[test]
fn a_receiver_on_a_taken_port_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let site = Site::new();
    let output = run(&site, &format!("receiver --bind {address} --data-dir received"));
    refused(&output, &[UNAVAILABLE], &[&address, "in use"]);
}

/// The second one on a data directory touches nothing there, and the first one notices nothing.
#[test]
fn a_second_gateway_on_one_data_directory_is_refused() {
    let mut gateway = Gateway::start("");
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
    let mut publish_one = |id| {
        wire.send(&publish(Version::V4, 1, b"a", id, b"1"));
        assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
    };
    publish_one(1);
    let listing = |gateway: &Gateway| {
        let mut found = Vec::new();
        let mut dirs = vec![gateway.data_dir()];
        while let Some(dir) = dirs.pop() {
            for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() { dirs.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    };
    // It is made after the start.
    eventually("the ballast is held", SOON, || gateway.metric("tidegate_log_ballast_bytes") > 0.0);
    let before = listing(&gateway);
    for _ in 0..3 {
        let output = run(gateway.site(), "run --config tidegate.toml");
        let lock = gateway.data_dir().join("log/lock");
        let parts = ["in use by another process, which has to stop first", lock.to_str().unwrap()];
        refused(&output, &[UNAVAILABLE], &parts);
    }
    assert_eq!(listing(&gateway), before);
    publish_one(2);
    assert_eq!(gateway.status()["log"]["last-lsn"], 2);
    gateway.stop();
}
