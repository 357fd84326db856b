//! `tidegate status`: what a person reads of a running gateway, and what a health check hears.

use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_tests::clients::mosquitto_pub;
use tidegate_tests::gateway::{Gateway, config};
use tidegate_tests::http;
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::site::{Site, free_port};
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

/// Nothing was taken for that long: what the gateway has on disk has been looked at since, several times.
const SETTLED: Duration = Duration::from_secs(5);

const UNHEALTHY: i32 = 1;
const UNAVAILABLE: i32 = 69;
const NO_INPUT: i32 = 66;
const CONFIG: i32 = 78;

/// `tidegate status` of `gateway`, with further `arguments`.
fn status(gateway: &Gateway, arguments: &[&str]) -> Output {
    let admin = format!("http://{}", gateway.admin());
    let mut command = gateway.site().tidegate(["status", "--admin", &admin]);
    command.args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_healthy_gateway_is_told_in_lines_in_json_and_by_saying_nothing() {
    let receiver = Receiver::start();
    let gateway = Gateway::start(&receiver.sink());
    mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", "a", "-m", "1"]);
    eventually("the event is upstream", SOON, || gateway.lag("lag-events") == 0);

    let output = status(&gateway, &[]);
    let report = stdout(&output);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let parts: Vec<&str> =
        report.lines().skip(1).filter_map(|l| l.split_whitespace().next()).collect();
    assert!(report.starts_with("edge-01 (tidegate ") && report.contains(": healthy\n"), "{report}");
    assert_eq!(
        parts,
        ["events", "disk", "lane", "lane", "clients", "alerts", "losses", "sink"],
        "{report}"
    );
    assert!(report.contains("1 received since the start; 1 on disk"), "{report}");
    assert!(report.contains("cloud: ok for ") && report.contains("; has every event"), "{report}");

    let output = status(&gateway, &["--json"]);
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&json["gateway"], &json["problems"]),
        (&"edge-01".into(), &Value::Array(Vec::new()))
    );
    assert_eq!(json["disk"]["directory"], gateway.data_dir().to_str().unwrap());
    assert!(json["disk"]["free-bytes"].as_u64() > Some(0) && json["log"]["max-bytes"] == 1 << 30);

    let output = status(&gateway, &["--quiet"]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_sink_that_is_away_is_told_and_makes_nobody_unhealthy() {
    let port = free_port();
    let sink = format!(
        "[[sink]]\nname = \"cloud\"\ntype = \"http\"\nurl = \"http://127.0.0.1:{port}/\"\n\
         batch.max-age = \"0s\"\n"
    );
    let gateway = Gateway::start(&sink);
    mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", "a", "-m", "1"]);
    eventually("the sink is told", SOON, || {
        let output = status(&gateway, &[]);
        assert!(output.status.success(), "{output:?}");
        stdout(&output).contains("cloud: CANNOT BE REACHED")
    });
    let report = stdout(&status(&gateway, &[]));
    assert!(report.contains("lags by 1 event") && report.contains("refused"), "{report}");
}

#[test]
fn a_log_that_is_full_is_unhealthy_until_there_is_room() {
    let mut receiver = Receiver::start();
    receiver.kill9();
    let more = format!(
        "[log]\nmax-size = \"4MiB\"\nsegment-size = \"64KiB\"\nballast = \"0B\"\n\
         [log.commit]\nmax-bytes = \"16KiB\"\n[limits]\nmax-packet-size = \"16KiB\"\n\
         max-body-size = \"16KiB\"\n{}",
        receiver.sink()
    );
    let gateway = Gateway::start(&more);
    let mut wire = Wire::client(gateway.mqtt(), Version::V5, "one");
    let payload = [b'x'; 8000];
    // MQTT 5 is told (0x97) what is not taken. What was acknowledged a moment ago may still count twice, and what
    // else there is on disk is looked at once a second: there may be room again until both are settled.
    let mut taken = Instant::now();
    eventually("it is full and stays so", LATER, || {
        wire.send(&publish(Version::V5, 1, b"a", 1, &payload));
        let (first, body) = wire.answer().unwrap();
        assert_eq!(first, PUBACK);
        if body.get(2) != Some(&0x97) {
            taken = Instant::now();
        }
        taken.elapsed() >= SETTLED
    });
    for arguments in [&[][..], &["--quiet"]] {
        let output = status(&gateway, arguments);
        let why = stderr(&output);
        assert_eq!(output.status.code(), Some(UNHEALTHY), "{output:?}");
        assert!(why.starts_with("tidegate: edge-01 is not healthy: the log is full"), "{why}");
        assert_eq!(stdout(&output).contains("NOT HEALTHY"), arguments.is_empty(), "{output:?}");
    }
    receiver.restart();
    eventually("it is healthy again", LATER, || status(&gateway, &["-q"]).status.success());
}

#[test]
fn a_disk_that_hangs_is_unhealthy_and_the_liveness_probe_fails() {
    let hang = "inject=fdatasync:delay_enter=40s:when=10+";
    let mut gateway = Gateway::start_with_strace("", &["-e", "trace=fdatasync", "-e", hang]);
    let admin = gateway.admin();
    assert_eq!(http::get(admin, "/health").status, 200);
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
    // So long no disk takes that only is busy.
    wire.set_patience(Duration::from_secs(5));
    let hangs = (1..100).any(|id| {
        wire.send(&publish(Version::V4, 1, b"a", id, b"payload"));
        wire.try_answer().is_err()
    });
    assert!(hangs);
    eventually("the probe fails", LATER, || http::get(admin, "/health").status == 503);
    let output = status(&gateway, &["-q"]);
    assert_eq!(output.status.code(), Some(UNHEALTHY), "{output:?}");
    assert!(stderr(&output).contains("the log's writer has stood still for 3"), "{output:?}");
    gateway.kill9();
}

#[test]
fn nobody_there_is_told_with_what_was_asked() {
    let site = Site::new();
    let port = free_port();
    let admin = format!("[admin]\nbind = \"0.0.0.0:{port}\"");
    let text = config(&site, "").replace("[admin]\nbind = \"127.0.0.1:0\"", &admin);
    site.write("tidegate.toml", &text);
    let run = |arguments: &str| site.tidegate(arguments.split(' ')).output().unwrap();

    let output = run("status --config tidegate.toml");
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{output:?}");
    let why = stderr(&output);
    assert!(why.contains(&format!("http://127.0.0.1:{port}/")) && why.contains("refused"), "{why}");
    assert_eq!((why.lines().count(), output.stdout.len()), (1, 0), "{output:?}");

    site.write("tidegate.toml", &config(&site, ""));
    let output = run("status --config tidegate.toml");
    assert_eq!(output.status.code(), Some(CONFIG), "{output:?}");
    assert!(stderr(&output).contains("--admin"), "{output:?}");
    assert_eq!(run("status --config no-such.toml").status.code(), Some(NO_INPUT));

    // Somebody else.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let answers = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = other.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    });
    let output = run(&format!("status --admin http://{address}"));
    answers.join().unwrap();
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{output:?}");
    assert!(stderr(&output).contains("not the status of a tidegate"), "{output:?}");
}
