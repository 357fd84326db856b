//! Events over HTTP, as curl sends them: what is taken, what is refused, what arrives upstream.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tidegate_tests::clients::{Subscriber, mosquitto_pub, succeed};
use tidegate_tests::curl::{Answer, curl};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::pki::{Pki, Wanted};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::site::{Site, crate_dir};
use tidegate_tests::wait::{LATER, SOON, eventually};

const LISTENER: &str = "[[listener]]\ntype = \"http\"\nbind = \"127.0.0.1:0\"\n";
const STRUCTURED: &str = "content-type: application/cloudevents+json";
const BATCH: &str = "content-type: application/cloudevents-batch+json";

fn start(more: &str) -> (Gateway, SocketAddr) {
    let mut gateway = Gateway::start(&format!("{LISTENER}{more}"));
    let http = gateway.listener("http");
    (gateway, http)
}

#[track_caller]
fn post(http: SocketAddr, path: &str, header: &str, body: &str) -> Answer {
    curl("http", http, path, &["-H", header, "--data-binary", body])
}

fn event(id: &str, subject: &str, data: &Value) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/press/3", "type": "com.example.pressed",
        "subject": subject, "data": data
    })
}

/// The stored event of this id, once it is there.
#[track_caller]
fn upstream(receiver: &Receiver, count: u64) -> Vec<Value> {
    eventually("the events arrive upstream", SOON, || receiver.stored() >= count);
    receiver.events()
}

#[test]
fn a_raw_body_goes_to_its_topic_and_upstream_from_its_device() {
    let receiver = Receiver::start();
    let (gateway, http) = start(&receiver.sink());
    let subscriber = Subscriber::start(gateway.site(), gateway.mqtt(), &["-t", "plant/#"]);
    let answer = curl("http", http, "/v1/topics/plant/boiler%207/temp", &["-d", "{\"t\": 91.50}"]);
    assert_eq!((answer.status, answer.json()), (202, json!({"stored": 1, "duplicates": 0})));
    let from = "/v1/topics/plant/note?client-id=press-3";
    assert_eq!(post(http, from, "content-type: text/plain; charset=utf-8", "wärm").status, 202);
    subscriber.receives(&["plant/boiler 7/temp {\"t\": 91.50}", "plant/note wärm"]);
    let events = upstream(&receiver, 2);
    let find = |subject: &str| events.iter().find(|e| e["subject"] == subject).unwrap();
    let temp = find("plant/boiler 7/temp");
    assert_eq!(temp["source"], "/gateway/edge-01/device/http");
    assert_eq!(
        (&temp["data"]["t"], &temp["datacontenttype"]),
        (&json!(91.5), &json!("application/json"))
    );
    let note = find("plant/note");
    assert_eq!(note["source"], "/gateway/edge-01/device/press-3");
    assert_eq!(note["data"], "wärm");
    assert_eq!(note["datacontenttype"], "text/plain; charset=utf-8");
}

#[test]
fn cloudevents_keep_their_source_and_id_in_every_content_mode() {
    let receiver = Receiver::start();
    let (gateway, http) = start(&receiver.sink());
    let subscriber = Subscriber::start(gateway.site(), gateway.mqtt(), &["-t", "plant/#"]);
    let one = event("s-1", "plant/a", &json!({"n": 1}))
        .to_string()
        .replace("\"n\":1", "\"n\":12345678901234567890123");
    assert_eq!(post(http, "/v1/events", STRUCTURED, &one).status, 202);
    let batch = json!([event("b-1", "plant/b", &json!(1)), event("b-2", "plant/c", &json!([2]))]);
    let answer = post(http, "/v1/events", BATCH, &batch.to_string());
    assert_eq!(answer.json(), json!({"stored": 2, "duplicates": 0}));
    let binary = [
        "-H",
        "ce-specversion: 1.0",
        "-H",
        "ce-id: bin-1",
        "-H",
        "ce-source: /press/4",
        "-H",
        "ce-type: t",
        "-H",
        "ce-subject: Euro%20%E2%82%AC",
        "-H",
        "ce-severity: high",
        "-H",
        "content-type: image/png",
        "--data-binary",
        "\u{7f}PNG",
    ];
    assert_eq!(curl("http", http, "/v1/topics/plant/d", &binary).status, 202);
    subscriber.receives(&[
        "plant/a {\"n\":12345678901234567890123}",
        "plant/b 1",
        "plant/c [2]",
        "plant/d \u{7f}PNG",
    ]);
    let events = upstream(&receiver, 4);
    let find = |id: &str| events.iter().find(|event| event["id"] == id).unwrap();
    assert_eq!(find("s-1")["source"], "/press/3");
    assert_eq!(find("b-2")["data"], json!([2]));
    let binary = find("bin-1");
    assert_eq!((&binary["source"], &binary["severity"]), (&json!("/press/4"), &json!("high")));
    assert_eq!((&binary["subject"], &binary["mqtttopic"]), (&json!("Euro €"), &json!("plant/d")));
    assert_eq!(binary["data_base64"], "f1BORw==");
}

#[test]
fn a_second_copy_is_acknowledged_and_not_stored_also_after_a_kill() {
    let (mut gateway, http) = start("");
    let one = event("1", "plant/a", &json!(1)).to_string();
    let twice = format!("[{one},{one}]");
    let stored = |answer: &Answer| (answer.status, answer.json()["stored"].as_u64().unwrap());
    assert_eq!(stored(&post(http, "/v1/events", BATCH, &twice)), (202, 1));
    assert_eq!(stored(&post(http, "/v1/events", STRUCTURED, &one)), (202, 0));
    let other = one.replace("/press/3", "/press/4");
    assert_eq!(stored(&post(http, "/v1/events", STRUCTURED, &other)), (202, 1));
    gateway.kill9();
    gateway.restart();
    let http = gateway.listener("http");
    assert_eq!(stored(&post(http, "/v1/events", STRUCTURED, &one)), (202, 0));
    assert_eq!(gateway.metric("tidegate_dedup_duplicates_total"), 1.0);
    assert_eq!(gateway.status()["log"]["last-lsn"], 2);
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let receiver = Receiver::start();
    let (mut gateway, http) = start("");
    for n in 0..50 {
        assert_eq!(curl("http", http, "/v1/topics/n", &["-d", &n.to_string()]).status, 202);
    }
    gateway.kill9();
    let config = std::fs::read_to_string(gateway.site().path().join("tidegate.toml")).unwrap();
    gateway.site().write("tidegate.toml", &format!("{config}{}", receiver.sink()));
    gateway.restart();
    let events = upstream(&receiver, 50);
    let mut data: Vec<u64> = events.iter().map(|event| event["data"].as_u64().unwrap()).collect();
    data.sort_unstable();
    assert_eq!(data, (0..50).collect::<Vec<_>>());
}

#[test]
fn what_is_malformed_is_refused_with_the_reason_and_nothing_of_it_is_stored() {
    let (gateway, http) = start("[limits]\nmax-packet-size = \"2KiB\"\nmax-body-size = \"8KiB\"\n");
    let good = event("1", "plant/a", &json!(1)).to_string();
    let long = "x".repeat(3000);
    for (path, header, body, status, words) in [
        ("/v1/events", STRUCTURED, "{".into(), 400, "not valid JSON"),
        ("/v1/events", STRUCTURED, good.replace("1.0", "0.3"), 400, "specversion"),
        ("/v1/events", STRUCTURED, good.replace("plant/a", "plant/+"), 400, "wildcard"),
        (
            "/v1/events",
            STRUCTURED,
            good.replace("\"subject\"", "\"topic\""),
            400,
            "names the topic",
        ),
        ("/v1/events", BATCH, format!("[{good},{{}}]"), 400, "event 1: "),
        ("/v1/events", BATCH, good.clone(), 400, "JSON array"),
        ("/v1/events", "content-type: text/plain", good.clone(), 415, "takes CloudEvents"),
        ("/v1/events", "ce-specversion: 1.0", String::new(), 400, "is missing"),
        ("/v1/topics/$SYS/x", "x: y", "1".into(), 400, "begins with $"),
        ("/v1/topics/a%2", "x: y", "1".into(), 400, "percent-encoded"),
        ("/v1/topics/", "x: y", "1".into(), 400, "topic name is empty"),
        ("/v1/topics/a?retain=maybe", "x: y", "1".into(), 400, "retain is true or false"),
        ("/v1/topics/a?client-id=", "x: y", "1".into(), 400, "client-id has 1 to 256 characters"),
        ("/v1/topics/a", "content-encoding: br", "1".into(), 415, "content encoding"),
        ("/v1/topics/a", "content-encoding: gzip", "1".into(), 400, "not valid gzip"),
        ("/v1/topics/a", "x: y", long.clone(), 413, "limits.max-packet-size"),
        ("/v1/topics/a", "x: y", long.repeat(3), 413, "larger than 8192 bytes"),
        ("/elsewhere", "x: y", "1".into(), 404, "/v1/events"),
    ] {
        let answer = post(http, path, header, &body);
        let problem = answer.json();
        assert_eq!(answer.status, status, "{path} {header}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(problem["status"], status);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{path} {header}: {detail}");
    }
    let get = curl("http", http, "/v1/events", &[]);
    assert_eq!((get.status, get.header("allow")), (405, Some("post")));
    let problem =
        post(http, "/v1/events", BATCH, &format!("[{good},{}]", good.replace("/press/3", "")));
    assert_eq!(
        (&problem.json()["index"], &problem.json()["attribute"]),
        (&json!(1), &json!("source"))
    );
    assert_eq!(gateway.status()["log"]["last-lsn"], 0);
    assert!(gateway.metric_where("tidegate_http_requests_total", "413") >= 2.0);
}

#[test]
fn a_full_log_says_when_to_try_again() {
    let (gateway, http) = start(
        "[log]\nmax-size = \"4MiB\"\nsegment-size = \"256KiB\"\ncommit.max-bytes = \"64KiB\"\n\
         [limits]\nmax-packet-size = \"32KiB\"\nmax-body-size = \"64KiB\"\n\
         [[sink]]\nname = \"cloud\"\ntype = \"http\"\nurl = \"http://127.0.0.1:9/\"\n",
    );
    let body = "x".repeat(30_000);
    let refused = (0..200).map(|_| post(http, "/v1/topics/a", "x: y", &body));
    let refused = refused.into_iter().find(|answer| answer.status != 202).unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert!(refused.json()["detail"].as_str().unwrap().contains("log is full"), "{refused:?}");
    assert!(gateway.metric("tidegate_publishes_refused_total") >= 1.0);
}

#[test]
fn logins_are_verified_and_rights_hold() {
    let site = Site::new();
    let passwd = site.path().join("passwords");
    let mut command = site.tidegate(["passwd", passwd.to_str().unwrap(), "press"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    assert!(child.wait().unwrap().success());
    let key = site.write("jwt.key", "0123456789abcdef0123456789abcdef");
    let more = format!(
        "{LISTENER}[auth]\npassword-file = {passwd:?}\n[auth.jwt]\nalgorithm = \"HS256\"\n\
         key-file = {key:?}\naudience = \"edge-01\"\n\
         [[acl]]\npublish = [\"plant/%u/#\"]\n"
    );
    let mut gateway = Gateway::start_at(site, &more);
    let http = gateway.listener("http");
    let status = |topic: &str, arguments: &[&str]| {
        let path = format!("/v1/topics/{topic}");
        let answer = curl("http", http, &path, &[&["-d", "1"], arguments].concat());
        if answer.status == 401 {
            assert!(answer.header("www-authenticate").unwrap().starts_with("basic"), "{answer:?}");
        }
        answer.status
    };
    assert_eq!(status("plant/press/a", &["-u", "press:secret"]), 202);
    assert_eq!(status("plant/other/a", &["-u", "press:secret"]), 403);
    assert_eq!(status("plant/press/a", &["-u", "press:wrong"]), 401);
    assert_eq!(status("plant/press/a", &[]), 401);
    assert_eq!(status("plant/press/a", &["-H", "Authorization: Digest x"]), 401);
    let token = token(&gateway, "{\"sub\":\"boiler\",\"aud\":\"edge-01\",\"exp\":4102444800}");
    let bearer = format!("Authorization: Bearer {token}");
    assert_eq!(status("plant/boiler/a", &["-H", &bearer]), 202);
    assert_eq!(status("plant/press/a", &["-H", &bearer]), 403);
    assert_eq!(status("plant/boiler/a", &["-H", &bearer.replace('.', "x")]), 401);
    let failures: Vec<u16> =
        (0..12).map(|_| status("plant/press/a", &["-u", "press:wrong"])).collect();
    assert!(failures.contains(&429), "{failures:?}");
}

/// A token signed with the key in the site.
fn token(gateway: &Gateway, claims: &str) -> String {
    let base64url = |bytes: &[u8]| {
        let mut command = Command::new("openssl");
        let encoded = filter(command.args(["base64", "-A"]), bytes);
        String::from_utf8(encoded).unwrap().replace('+', "-").replace('/', "_").replace('=', "")
    };
    let signed = format!("{}.{}", base64url(b"{\"alg\":\"HS256\"}"), base64url(claims.as_bytes()));
    let key = std::fs::read_to_string(gateway.site().path().join("jwt.key")).unwrap();
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-hmac", &key, "-binary"]);
    format!("{signed}.{}", base64url(&filter(&mut command, signed.as_bytes())))
}

/// What a program makes of its input.
fn filter(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn a_client_certificate_is_a_login() {
    let site = Site::new();
    let (servers, clients) = (Pki::new(&site, "servers"), Pki::new(&site, "clients"));
    let server = servers.issue("server", Wanted::server());
    let client = clients.issue("press", Wanted::client("press-3"));
    let (root, ca) = (servers.root(), clients.root());
    let more = format!(
        "{LISTENER}{}tls.client-ca-file = {ca:?}\n[[acl]]\npublish = [\"plant/%u/#\"]\n",
        server.listener()
    );
    let mut gateway = Gateway::start_at(site, &more);
    let http = gateway.listener("https");
    let with = ["--cacert", root.to_str().unwrap(), "--cert", client.certificate.to_str().unwrap()];
    let with = [&with[..], &["--key", client.key.to_str().unwrap(), "-d", "1"]].concat();
    assert_eq!(curl("https", http, "/v1/topics/plant/press-3/a", &with).status, 202);
    assert_eq!(curl("https", http, "/v1/topics/plant/press-4/a", &with).status, 403);
    let mut without = Command::new("curl");
    without.args(["-s", "--cacert", root.to_str().unwrap(), "-d", "1"]);
    without.arg(format!("https://{http}/v1/topics/plant/a"));
    assert!(!without.status().unwrap().success(), "no certificate, no connection");
}

#[test]
fn slow_and_oversized_clients_cost_their_own_connection_only() {
    let (gateway, http) =
        start("[limits]\nconnect-timeout = \"500ms\"\nrequest-timeout = \"1s\"\n");
    let read = |mut stream: TcpStream| {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let open = |request: &str| {
        let mut stream = TcpStream::connect(http).unwrap();
        stream.set_read_timeout(Some(LATER)).unwrap();
        let _ = stream.write_all(request.as_bytes());
        stream
    };
    let head = open("POST /v1/topics/a HTTP/1.1\r\nhost: x\r\n");
    let body = open("POST /v1/topics/a HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n12");
    let silent = open("");
    let huge = open(&format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(1 << 20)));
    let garbage = open("\u{10}\u{0}MQTT\r\n\r\n");
    let claimed =
        open("POST /v1/topics/a HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n");
    assert_eq!(curl("http", http, "/v1/topics/a", &["-d", "1"]).status, 202);
    assert!(read(body).starts_with("HTTP/1.1 408 "));
    // What it sent beyond the bound may cost it the answer.
    let refused = read(huge);
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 431 "), "{refused}");
    assert!(read(garbage).starts_with("HTTP/1.1 400 "));
    assert!(read(claimed).starts_with("HTTP/1.1 413 "));
    assert!(!read(head).starts_with("HTTP/1.1 2"));
    assert_eq!(read(silent), "");
    eventually("their places are free", SOON, || gateway.metric("tidegate_connections") < 1.0);
    assert_eq!(gateway.status()["log"]["last-lsn"], 1);
}

#[test]
fn a_connection_goes_at_the_pace_of_its_limit() {
    let (gateway, http) = start("[limits]\nmax-events-per-second = 10\n");
    let numbers: Vec<Value> =
        (0..20).map(|n| event(&n.to_string(), "plant/n", &json!(n))).collect();
    let batch = Value::from(numbers).to_string();
    let began = std::time::Instant::now();
    // Two requests over one connection; the second waits.
    let next = format!("http://{http}/v1/topics/after");
    let arguments = ["-H", BATCH, "--data-binary", &batch, &next];
    assert_eq!(curl("http", http, "/v1/events", &arguments).status, 202);
    assert!(began.elapsed().as_millis() >= 900, "{:?}", began.elapsed());
    assert_eq!(gateway.status()["log"]["last-lsn"].as_u64(), Some(20), "the second are copies");
}

#[test]
fn retain_and_gzip_do_what_they_say() {
    let (gateway, http) = start("");
    let mut command = Command::new("gzip");
    let compressed = filter(command.arg("-c"), b"{\"open\": true}");
    let file = gateway.site().path().join("body.gz");
    std::fs::write(&file, compressed).unwrap();
    let data = format!("@{}", file.display());
    let arguments = ["-H", "content-encoding: gzip", "--data-binary", &data];
    assert_eq!(curl("http", http, "/v1/topics/door?retain=true", &arguments).status, 202);
    let late = Subscriber::start(gateway.site(), gateway.mqtt(), &["-t", "#"]);
    late.receives(&["retained door {\"open\": true}"]);
    mosquitto_pub(gateway.mqtt(), &["-t", "bell", "-m", "ring", "-q", "1"]);
    late.receives(&["retained door {\"open\": true}", "bell ring"]);
}

/// schemathesis makes requests of the document, valid and not, and compares the answers with it.
#[test]
fn the_openapi_document_holds_for_what_a_fuzzer_makes_of_it() {
    let (gateway, http) = start("");
    let document = curl("http", http, "/openapi.json", &[]);
    assert_eq!(document.header("content-type"), Some("application/json"));
    assert_eq!(document.json()["openapi"], "3.1.0");
    let mut command = Command::new(crate_dir().join(".cache/venv/bin/schemathesis"));
    command.current_dir(gateway.site().path());
    command.args([
        "run",
        "--phases",
        "coverage,fuzzing",
        "--checks",
        "all",
        "--max-examples",
        "25",
        "--seed",
        "20261121",
    ]);
    command.args(["--exclude-checks", "ignored_auth,unsupported_method"]);
    command.args(["--generation-database", "none", "--suppress-health-check", "all", "--no-color"]);
    command.arg(format!("http://{http}/openapi.json"));
    succeed(&mut command);
    assert!(gateway.metric_where("tidegate_http_requests_total", "202") > 20.0);
    assert!(gateway.metric_where("tidegate_http_requests_total", "code=\"5") < 1.0);
}
