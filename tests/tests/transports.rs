//! What MQTT travels in: TLS, mutual TLS, WebSocket, IPv6; and what happens when it does not.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tidegate_tests::clients::{
    Subscriber, VERSIONS, installed, mosquitto_pub, node, python, succeed,
};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{CONNACK, Version, connect};
use tidegate_tests::pki::{Issued, Pki, Wanted};
use tidegate_tests::site::{Site, crate_dir};
use tidegate_tests::tls::Connector;
use tidegate_tests::wait::{SOON, eventually};
use tidegate_tests::wire::Wire;

const LOOPBACK: &str = "bind = \"127.0.0.1:0\"\n";

/// A gateway with a listener that speaks TLS, and the root to trust.
fn encrypted(transport: &str, more: &str) -> (Gateway, std::path::PathBuf) {
    let site = Site::new();
    let pki = Pki::new(&site, "ca");
    let server = pki.issue("server", Wanted::server());
    let root = pki.root();
    let listener = format!("{LOOPBACK}transport = \"{transport}\"\n{}", server.listener());
    (Gateway::start_listening(site, &listener, more), root)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Whether mosquitto_pub gets a message through, with these arguments beside the message's.
fn publishes(broker: std::net::SocketAddr, arguments: &[&str]) -> bool {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", &broker.ip().to_string(), "-p", &broker.port().to_string()]);
    command.args(["-q", "1", "-t", "plant/a", "-m", "1"]).args(arguments);
    command.output().unwrap().status.success()
}

fn as_client<'a>(root: &'a Path, issued: &'a Issued) -> Vec<&'a str> {
    vec!["--cafile", text(root), "--cert", text(&issued.certificate), "--key", text(&issued.key)]
}

/// Waits for a line on the gateway's standard error that has all of these words.
#[track_caller]
fn says(gateway: &mut Gateway, words: &[&str]) {
    eventually(&format!("{words:?} in the log"), SOON, || {
        let log = gateway.process().stderr();
        log.lines().any(|line| words.iter().all(|word| line.contains(word)))
    });
}

#[test]
fn mosquitto_clients_speak_tls_of_both_versions() {
    let (mut gateway, root) = encrypted("tcp", "");
    let broker = gateway.listener("mqtts");
    for tls in ["tlsv1.2", "tlsv1.3"] {
        for version in VERSIONS {
            let topic = format!("plant/{tls}/{version}");
            let arguments = [
                "--cafile",
                text(&root),
                "--tls-version",
                tls,
                "-V",
                version,
                "-t",
                &topic,
                "-q",
                "1",
            ];
            let subscriber = Subscriber::start(gateway.site(), broker, &arguments);
            mosquitto_pub(broker, &[&arguments[..], &["-m", "21.5"]].concat());
            subscriber.receives(&[&format!("{topic} 21.5")]);
        }
    }
    // More than any buffer on the way holds.
    let large = "x".repeat(200_000);
    let file = gateway.site().write("large", &large);
    let arguments = ["--cafile", text(&root), "-t", "plant/large", "-q", "2"];
    let subscriber = Subscriber::start(gateway.site(), broker, &arguments);
    mosquitto_pub(broker, &[&arguments[..], &["-f", text(&file)]].concat());
    subscriber.receives(&[&format!("plant/large {large}")]);
}

#[test]
fn a_version_that_is_too_old_is_refused() {
    use rustls::version::{TLS12, TLS13};
    let (mut both, both_root) = encrypted("tcp", "");
    let (mut new, new_root) = encrypted("tcp\"\ntls.min-version = \"1.3", "");
    let (both_address, new_address) = (both.listener("mqtts"), new.listener("mqtts"));
    for (broker, root, version, taken) in [
        (both_address, &both_root, &TLS12, true),
        (both_address, &both_root, &TLS13, true),
        (new_address, &new_root, &TLS12, false),
        (new_address, &new_root, &TLS13, true),
    ] {
        let connector = Connector::of_versions(root, &[version]);
        let client = connector.client(broker, "version");
        assert_eq!(client.is_ok(), taken, "{version:?}: {client:?}");
    }
    says(&mut new, &["no common version or cipher", "tls.min-version"]);
}

#[test]
fn clients_are_known_by_their_certificates_and_nobody_else_comes_in() {
    let site = Site::new();
    let (servers, clients) = (Pki::new(&site, "servers"), Pki::new(&site, "clients"));
    let strangers = Pki::new(&site, "strangers");
    let server = servers.issue("server", Wanted::server());
    let good = clients.issue("good", Wanted::client("boiler-7"));
    let lost = clients.issue("lost", Wanted::client("boiler-8"));
    let old = clients.issue("old", Wanted { expired: true, ..Wanted::client("boiler-6") });
    let foreign = strangers.issue("foreign", Wanted::client("boiler-7"));
    let crl = clients.revoke(&lost);
    let (root, ca) = (servers.root(), clients.root());
    let listener = format!(
        "{LOOPBACK}{}tls.client-ca-file = {ca:?}\ntls.client-crl-file = {crl:?}\n",
        server.listener()
    );
    let mut gateway = Gateway::start_listening(site, &listener, "");
    let broker = gateway.listener("mqtts");
    for tls in ["tlsv1.2", "tlsv1.3"] {
        let with = |issued| [as_client(&root, issued), vec!["--tls-version", tls]].concat();
        assert!(publishes(broker, &with(&good)));
        assert!(!publishes(broker, &with(&lost)));
        assert!(!publishes(broker, &with(&old)));
        assert!(!publishes(broker, &with(&foreign)));
        assert!(!publishes(broker, &["--cafile", text(&root), "--tls-version", tls]));
    }
    says(&mut gateway, &["client certificate refused: it is revoked"]);
    says(&mut gateway, &["client certificate refused: it has expired"]);
    says(
        &mut gateway,
        &["client certificate refused: no root in tls.client-ca-file has signed it"],
    );
    says(&mut gateway, &["client certificate refused: there is none"]);
    let refused = gateway.metric_where("tidegate_handshakes_failed_total", "certificate");
    assert!(refused >= 8.0, "{refused}");
}

#[test]
fn a_certificate_without_the_name_that_counts_is_refused() {
    let site = Site::new();
    let pki = Pki::new(&site, "ca");
    let server = pki.issue("server", Wanted::server());
    let named = Wanted { alternative: "URI:urn:device:7", ..Wanted::client("boiler-7") };
    let (good, bad) = (pki.issue("good", named), pki.issue("bad", Wanted::client("boiler-7")));
    let root = pki.root();
    let listener = format!(
        "{LOOPBACK}{}tls.client-ca-file = {root:?}\ntls.client-name = \"uri\"\n\
         tls.client-certificate = \"optional\"\n",
        server.listener()
    );
    let mut gateway = Gateway::start_listening(site, &listener, "");
    let broker = gateway.listener("mqtts");
    assert!(publishes(broker, &as_client(&root, &good)));
    assert!(publishes(broker, &["--cafile", text(&root)]), "a certificate is optional");
    assert!(!publishes(broker, &as_client(&root, &bad)));
    says(&mut gateway, &["it has no usable URI among its alternative names (tls.client-name)"]);
}

#[test]
fn who_does_not_trust_the_gateway_goes_and_the_log_says_why() {
    let (mut gateway, root) = encrypted("tcp", "");
    let broker = gateway.listener("mqtts");
    let other = Pki::new(gateway.site(), "other").root();
    assert!(!publishes(broker, &["--cafile", text(&other)]));
    says(&mut gateway, &["the client does not trust this listener's certificate"]);
    assert!(publishes(broker, &["--cafile", text(&root)]));
}

#[test]
fn paho_mqtt_works_over_tls_and_websocket() {
    let (mut gateway, root) = encrypted("tcp", "");
    python("paho_clients.py", &[&port(&mut gateway, "mqtts"), "tcp", text(&root)]);
    let mut gateway = plain_websocket("");
    python("paho_clients.py", &[&port(&mut gateway, "ws"), "websockets"]);
    let (mut gateway, root) = encrypted("websocket", "");
    python("paho_clients.py", &[&port(&mut gateway, "wss"), "websockets", text(&root)]);
}

#[test]
fn mqtt_js_works_over_tls_and_websocket() {
    let url =
        |gateway: &mut Gateway, scheme: &str| format!("{scheme}://{}", gateway.listener(scheme));
    let (mut gateway, root) = encrypted("tcp", "");
    node("mqtt-js-clients.mjs", &[&url(&mut gateway, "mqtts"), text(&root)]);
    let mut gateway = plain_websocket("");
    node("mqtt-js-clients.mjs", &[&url(&mut gateway, "ws")]);
    let (mut gateway, root) = encrypted("websocket", "");
    node("mqtt-js-clients.mjs", &[&url(&mut gateway, "wss"), text(&root)]);
}

fn plain_websocket(more: &str) -> Gateway {
    let listener = format!("{LOOPBACK}transport = \"websocket\"\n");
    Gateway::start_listening(Site::new(), &listener, more)
}

fn port(gateway: &mut Gateway, scheme: &str) -> String {
    gateway.listener(scheme).port().to_string()
}

#[test]
fn rumqttc_works_over_tls() {
    use rumqttc::{Client, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
    let (mut gateway, root) = encrypted("tcp", "");
    let broker = gateway.listener("mqtts");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut options = MqttOptions::new("rumqttc", "127.0.0.1", broker.port());
    let ca = std::fs::read(root).unwrap();
    let tls = TlsConfiguration::Simple { ca, alpn: None, client_auth: None };
    options.set_transport(Transport::tls_with_config(tls));
    let (client, mut connection) = Client::new(options, 10);
    client.subscribe("plant/#", QoS::AtLeastOnce).unwrap();
    client.publish("plant/a", QoS::ExactlyOnce, false, "21.5").unwrap();
    let received = connection.iter().find_map(|event| match event.unwrap() {
        Event::Incoming(Packet::Publish(publish)) => Some(publish),
        _ => None,
    });
    let received = received.unwrap();
    assert_eq!((&*received.topic, &*received.payload), ("plant/a", &b"21.5"[..]));
    client.disconnect().unwrap();
}

#[test]
fn a_page_in_a_browser_speaks_mqtt() {
    installed(crate_dir().join("browser/node_modules"));
    installed(crate_dir().join("node/node_modules/mqtt"));
    let (mut plain, (mut encrypted, _)) = (plain_websocket(""), encrypted("websocket", ""));
    let mut test = Command::new("node");
    test.arg("--test").arg("mqtt-page.test.mjs").current_dir(crate_dir().join("browser"));
    test.env("WS_URL", format!("ws://{}", plain.listener("ws")));
    test.env("WSS_URL", format!("wss://{}", encrypted.listener("wss")));
    succeed(&mut test);
    says(&mut plain, &["pages of \"http://scada.example:", "may not connect"]);
}

#[test]
fn ipv6_is_listened_on_and_brings_ipv4_along() {
    let site = Site::new();
    let pki = Pki::new(&site, "ca");
    let server = pki.issue("server", Wanted::server());
    let root = pki.root();
    let listener = format!(
        "bind = \"[::1]:0\"\n{}\n[[listener]]\ntype = \"mqtt\"\nbind = \"[::]:0\"\n\
         allow-anonymous = true\ntransport = \"websocket\"\n",
        server.listener()
    );
    let mut gateway = Gateway::start_listening(site, &listener, "");
    let broker = gateway.listener("mqtts");
    assert!(broker.is_ipv6(), "{broker}");
    assert!(publishes(broker, &["--cafile", text(&root)]));
    let port = gateway.listener("ws").port();
    let v6 = (std::net::Ipv6Addr::LOCALHOST, port).into();
    assert_eq!(tidegate_tests::http::get(v6, "/").status, 426);
    node("mqtt-js-clients.mjs", &[&format!("ws://127.0.0.1:{port}")]);
    says(&mut gateway, &["peer=127.0.0.1:"]);
}

#[test]
fn the_wrong_protocol_on_a_port_costs_only_itself() {
    let (mut gateway, root) = encrypted("tcp", "");
    let (plain, tls) = (gateway.mqtt(), gateway.listener("mqtts"));
    let neighbour = Connector::trusting(&root);
    let mut neighbour = neighbour.client(tls, "neighbour").unwrap();
    let mut wire = Wire::open(tls);
    wire.send(&connect(Version::V5, "plain"));
    // An alert, no MQTT.
    wire.answers_to_the_end();
    says(&mut gateway, &["what came is not TLS; does the client speak plain MQTT here?"]);
    assert!(Connector::trusting(&root).connect(plain).is_err());
    says(&mut gateway, &["TLS, which this listener does not speak"]);
    neighbour.ping().unwrap();
}

#[test]
fn slow_handshakes_end_and_keep_nobody_out() {
    let (mut gateway, root) = encrypted("tcp", "[limits]\nconnect-timeout = \"2s\"\n");
    let broker = gateway.listener("mqtts");
    // The beginning of a ClientHello, and silence.
    let hello = [0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3];
    let slow: Vec<Wire> = (0..500)
        .map(|_| {
            let mut wire = Wire::open(broker);
            wire.send(&hello);
            wire
        })
        .collect();
    eventually("they wait", SOON, || gateway.metric("tidegate_connecting") >= 400.0);
    let connector = Connector::trusting(&root);
    let mut neighbours: Vec<_> =
        (0..10).map(|n| connector.client(broker, &format!("neighbour-{n}")).unwrap()).collect();
    for mut wire in slow {
        wire.answers_to_the_end();
    }
    neighbours.iter_mut().for_each(|neighbour| neighbour.ping().unwrap());
    assert_eq!(gateway.metric("tidegate_connecting"), 0.0);
    assert!(gateway.metric_where("tidegate_handshakes_failed_total", "slow") >= 500.0);
}

#[test]
fn one_address_cannot_keep_the_others_out() {
    let limits =
        "[limits]\nmax-connections = 60\nmax-connections-per-address = 50\nmax-connecting = 55\n";
    let (mut gateway, root) = encrypted("tcp", limits);
    let broker = gateway.listener("mqtts");
    let mut crowd: Vec<Wire> = (0..300).filter_map(|_| Wire::try_open(broker).ok()).collect();
    eventually("the flood is refused", SOON, || {
        gateway.metric_where("tidegate_connections_refused_total", "max-connections-per-address")
            >= 250.0
    });
    assert!(gateway.metric("tidegate_connections") <= 50.0);
    assert!(publishes(broker, &["--cafile", text(&root), "-A", "127.0.0.2"]));
    says(&mut gateway, &["limits.max-connections-per-address is reached"]);
    crowd.clear();
    eventually("the places are free again", SOON, || publishes(broker, &["--cafile", text(&root)]));
}

#[test]
fn certificates_are_read_again_and_no_connection_notices() {
    let site = Site::new();
    let (old, new) = (Pki::new(&site, "old"), Pki::new(&site, "new"));
    let server = old.issue("server", Wanted::server());
    let issued = new.issue("next", Wanted::server());
    let (old_root, new_root) = (old.root(), new.root());
    let listener = format!("{LOOPBACK}{}", server.listener());
    let mut gateway = Gateway::start_listening(site, &listener, "");
    let broker = gateway.listener("mqtts");
    let arguments = ["--cafile", text(&old_root), "-t", "#", "-q", "1"];
    let stays = Subscriber::start(gateway.site(), broker, &arguments);

    // A key that does not belong to the certificate: everything stays as it is.
    let key = std::fs::read_to_string(&server.key).unwrap();
    let next = std::fs::read_to_string(&issued.key).unwrap();
    std::fs::write(&server.key, &next).unwrap();
    gateway.process().signal(Signal::HUP);
    says(
        &mut gateway,
        &["keeps its old certificates: tls.key-file", "is not the key of the certificate"],
    );
    assert!(publishes(broker, &["--cafile", text(&old_root)]));

    std::fs::copy(&issued.certificate, &server.certificate).unwrap();
    gateway.process().signal(Signal::HUP);
    says(&mut gateway, &["the certificates of the listener on", "were read again"]);
    assert!(!publishes(broker, &["--cafile", text(&old_root)]));
    assert!(publishes(broker, &["--cafile", text(&new_root)]));
    stays.receives(&["plant/a 1", "plant/a 1"]);
    assert_eq!(gateway.metric("tidegate_clients_taken_over_total"), 0.0);

    // What a key is made of is nowhere to be read.
    let log = gateway.process().stderr();
    for line in key.lines().chain(next.lines()).filter(|line| !line.contains("-----")) {
        assert!(!log.contains(line), "{log}");
    }
    gateway.stop();
}

#[test]
fn a_certificate_that_cannot_be_used_is_one_clear_line_for_check_and_run() {
    let site = Site::new();
    let pki = Pki::new(&site, "ca");
    let (one, other) = (pki.issue("one", Wanted::server()), pki.issue("other", Wanted::server()));
    let mixed = Issued { certificate: one.certificate, key: other.key };
    let listener = format!("[[listener]]\ntype = \"mqtt\"\n{LOOPBACK}{}", mixed.listener());
    site.write("tidegate.toml", &tidegate_tests::gateway::config(&site, &listener));
    for command in ["check", "run"] {
        let output = site.tidegate([command, "--config", "tidegate.toml"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let line = "tidegate: tidegate.toml:16: listener[2]: tls.key-file ";
        assert!(stderr.starts_with(line), "{stderr}");
        assert!(stderr.contains("is not the key of the certificate in"), "{stderr}");
    }
}

#[test]
fn http_that_is_no_websocket_is_answered_as_http() {
    let mut gateway = plain_websocket("");
    let broker = gateway.listener("ws");
    let answer = tidegate_tests::http::get(broker, "/");
    assert_eq!(answer.status, 426, "{answer:?}");
    let mut wire = Wire::open(broker);
    wire.send(&connect(Version::V5, "plain"));
    wire.answers_to_the_end();
    says(&mut gateway, &["does the client speak MQTT without WebSocket here?"]);
}

#[test]
fn a_packet_may_be_cut_into_frames_and_frames_into_reads() {
    let mut gateway = plain_websocket("");
    let mut wire = Wire::open(gateway.listener("ws"));
    wire.send(
        b"GET /mqtt HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
          Sec-WebSocket-Protocol: mqtt\r\n\r\n",
    );
    // Masked with zeroes, one byte a frame, each frame in two writes.
    for byte in connect(Version::V4, "cut") {
        wire.send(&[0x82, 0x81, 0, 0]);
        wire.send(&[0, 0, byte]);
    }
    let (mut stream, mut answer) = wire.into_parts();
    let connack = [0x82, 4, CONNACK, 2, 0, 0];
    while !answer.ends_with(&connack) {
        let mut byte = [0];
        std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
        answer.extend(byte);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
}

#[test]
fn a_thousand_idle_tls_connections_take_little_memory() {
    const CLIENTS: usize = 1000;
    let (mut gateway, root) = encrypted("tcp", "");
    let broker = gateway.listener("mqtts");
    let connector = Connector::trusting(&root);
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|n| connector.client(broker, &format!("idle-{n}")).unwrap()).collect();
    let memory = gateway.process().memory();
    println!("{CLIENTS} idle TLS connections: {} KiB", memory / 1024);
    assert!(memory < 64 * 1024 * 1024, "{} KiB", memory / 1024);
    clients.iter_mut().for_each(|client| client.ping().unwrap());
}

#[test]
fn the_number_of_open_files_is_raised_to_what_is_allowed() {
    let site = Site::new();
    site.write("tidegate.toml", &tidegate_tests::gateway::config(&site, ""));
    let mut gateway = Gateway::start_under(site, "prlimit", &["--nofile=64:4000"]);
    let crowd: Vec<Wire> = (0..200)
        .map(|n| Wire::client(gateway.mqtt(), Version::V5, &format!("crowd-{n}")))
        .collect();
    assert_eq!(gateway.metric("tidegate_connections"), 200.0);
    says(&mut gateway, &["limits.max-connections is 4096", "4000", "LimitNOFILE="]);
    drop(crowd);
}
