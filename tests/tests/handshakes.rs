//! Handshakes that fail, wait, come in thousands; certificates that are replaced, revoked or unusable.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidegate_tests::clients::Subscriber;
use tidegate_tests::encrypted::{
    LOOPBACK, encrypted, encrypted_within, path, publishes, websocket,
};
use tidegate_tests::gateway::{Gateway, config};
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::packet::{Version, connect};
use tidegate_tests::pki::{Issued, Pki, Wanted};
use tidegate_tests::site::Site;
use tidegate_tests::tls::Connector;
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

fn as_client<'a>(root: &'a Path, issued: &'a Issued) -> Vec<&'a str> {
    vec!["--cafile", path(root), "--cert", path(&issued.certificate), "--key", path(&issued.key)]
}

#[test]
fn a_version_that_is_too_old_is_refused() {
    use rustls::version::{TLS12, TLS13};
    let (mut both, both_root) = encrypted("tcp", "");
    let (mut new, new_root) = encrypted("tcp", "tls.min-version = \"1.3\"\n");
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
    new.says(&["no common version or cipher", "tls.min-version"]);
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
        assert!(!publishes(broker, &["--cafile", path(&root), "--tls-version", tls]));
    }
    gateway.says(&["client connected", "user=\"boiler-7\""]);
    gateway.says(&["client certificate refused: it is revoked"]);
    gateway.says(&["client certificate refused: it has expired"]);
    gateway.says(&["client certificate refused: no root in tls.client-ca-file has signed it"]);
    gateway.says(&["client certificate refused: there is none"]);
    // They are counted a moment after their clients know.
    eventually("all are counted", SOON, || {
        gateway.metric_where("tidegate_handshakes_failed_total", "certificate") >= 8.0
    });
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
    assert!(publishes(broker, &["--cafile", path(&root)]), "a certificate is optional");
    assert!(!publishes(broker, &as_client(&root, &bad)));
    gateway.says(&["it has no usable URI among its alternative names (tls.client-name)"]);
}

#[test]
fn a_session_is_resumed_but_never_in_place_of_a_certificate() {
    use rustls::version::{TLS12, TLS13};
    let site = Site::new();
    let pki = Pki::new(&site, "ca");
    let server = pki.issue("server", Wanted::server());
    let own = pki.issue("client", Wanted::client("boiler-7"));
    let root = pki.root();
    let keys = server.listener();
    let listener = format!(
        "{LOOPBACK}{keys}\
         [[listener]]\ntype = \"mqtt\"\n{LOOPBACK}{keys}tls.client-ca-file = {root:?}\n"
    );
    let mut gateway = Gateway::start_listening(site, &listener, "");
    let addresses: Vec<SocketAddr> = gateway
        .process()
        .lines()
        .iter()
        .filter_map(|line| line.strip_prefix("listening mqtts ")?.parse().ok())
        .collect();
    let [open, mutual] = addresses[..] else { panic!("{addresses:?}") };
    for version in [&TLS12, &TLS13] {
        for (broker, own, resumes) in [(open, None, true), (mutual, Some(&own), false)] {
            let connector = Connector::resuming(&root, version, own);
            let resumed = [0; 2].map(|_| connector.client(broker, "again").unwrap().is_resumed());
            assert_eq!(resumed, [false, resumes], "{version:?}");
        }
    }
}

#[test]
fn who_does_not_trust_the_gateway_goes_and_the_log_says_why() {
    let (mut gateway, root) = encrypted("tcp", "");
    let broker = gateway.listener("mqtts");
    let other = Pki::new(gateway.site(), "other").root();
    assert!(!publishes(broker, &["--cafile", path(&other)]));
    gateway.says(&["the client does not trust this listener's certificate"]);
    assert!(publishes(broker, &["--cafile", path(&root)]));
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
    gateway.says(&["what came is not TLS; does the client speak plain MQTT here?"]);
    assert!(Connector::trusting(&root).connect(plain).is_err());
    gateway.says(&["TLS, which this listener does not speak"]);
    neighbour.ping().unwrap();
}

#[test]
fn slow_handshakes_end_and_keep_nobody_out() {
    let (mut gateway, root) = encrypted_within("tcp", "", "[limits]\nconnect-timeout = \"5s\"\n");
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
    // They are counted a moment after they have ended.
    eventually("none waits", SOON, || gateway.metric("tidegate_connecting") == 0.0);
    eventually("all are counted", SOON, || {
        gateway.metric_where("tidegate_handshakes_failed_total", "slow") >= 500.0
    });
}

#[test]
fn a_flood_of_handshakes_disturbs_nobody() {
    const FLOOD: Duration = Duration::from_secs(3);
    let (mut gateway, root) = encrypted("tcp", "");
    let broker = gateway.listener("mqtts");
    let fleet = Fleet::connect(gateway.mqtt(), &Shape { connections: 2, ..Shape::default() });
    let load = fleet.unwrap().start(Run::time(LATER).at_rate(500));
    eventually("the load", SOON, || load.answered() > 100);
    let before = gateway.process().memory();
    let connector = Connector::trusting(&root);
    let begin = Instant::now();
    let flood = |thread: usize| {
        let mut count = 0;
        while begin.elapsed() < FLOOD {
            connector.client(broker, &format!("flood-{thread}")).unwrap();
            count += 1;
        }
        count
    };
    let shaken: usize = thread::scope(|scope| {
        let flood = &flood;
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || flood(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let (_, report) = load.stop();
    println!("{shaken} handshakes; acknowledged within {:?}", report.latency.percentile(99.0));
    assert_eq!((report.broken, report.sent), (None, report.acknowledged));
    assert!(report.latency.max() < Duration::from_secs(5), "{:?}", report.latency.max());
    let grown = gateway.process().memory().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "{} KiB more", grown / 1024);
}

#[test]
fn one_address_cannot_keep_the_others_out() {
    let limits =
        "[limits]\nmax-connections = 60\nmax-connections-per-address = 50\nmax-connecting = 55\n";
    let (mut gateway, root) = encrypted_within("tcp", "", limits);
    let broker = gateway.listener("mqtts");
    let mut crowd: Vec<Wire> = (0..300).filter_map(|_| Wire::try_open(broker).ok()).collect();
    eventually("the flood is refused", SOON, || {
        gateway.metric_where("tidegate_connections_refused_total", "max-connections-per-address")
            >= 250.0
    });
    assert!(gateway.metric("tidegate_connections") <= 50.0);
    assert!(publishes(broker, &["--cafile", path(&root), "-A", "127.0.0.2"]));
    gateway.says(&["limits.max-connections-per-address is reached"]);
    crowd.clear();
    eventually("the places are free again", SOON, || publishes(broker, &["--cafile", path(&root)]));
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
    let arguments = ["--cafile", path(&old_root), "-t", "#", "-q", "1"];
    let stays = Subscriber::start(gateway.site(), broker, &arguments);

    // A key that does not belong to the certificate: everything stays as it is.
    let key = std::fs::read_to_string(&server.key).unwrap();
    let next = std::fs::read_to_string(&issued.key).unwrap();
    std::fs::write(&server.key, &next).unwrap();
    gateway.process().signal(Signal::HUP);
    gateway
        .says(&["keeps its old certificates: tls.key-file", "is not the key of the certificate"]);
    assert!(publishes(broker, &["--cafile", path(&old_root)]));

    std::fs::copy(&issued.certificate, &server.certificate).unwrap();
    gateway.process().signal(Signal::HUP);
    gateway.says(&["the certificates of the listener on", "were read again"]);
    assert!(!publishes(broker, &["--cafile", path(&old_root)]));
    assert!(publishes(broker, &["--cafile", path(&new_root)]));
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
    site.write("tidegate.toml", &config(&site, &listener));
    for command in ["check", "run"] {
        let output = site.tidegate([command, "--config", "tidegate.toml"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(66), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let line = "tidegate: tidegate.toml:16: listener[2]: tls.key-file ";
        assert!(stderr.starts_with(line), "{stderr}");
        assert!(stderr.contains("is not the key of the certificate in"), "{stderr}");
    }
}

#[test]
fn http_that_is_no_websocket_is_answered_as_http() {
    let mut gateway = websocket();
    let broker = gateway.listener("ws");
    let answer = tidegate_tests::http::get(broker, "/");
    assert_eq!(answer.status, 426, "{answer:?}");
    let mut wire = Wire::open(broker);
    wire.send(&connect(Version::V5, "plain"));
    wire.answers_to_the_end();
    gateway.says(&["does the client speak MQTT without WebSocket here?"]);
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
    site.write("tidegate.toml", &config(&site, ""));
    let mut gateway = Gateway::start_under(site, "prlimit", &["--nofile=64:4000"]);
    let crowd: Vec<Wire> = (0..200)
        .map(|n| Wire::client(gateway.mqtt(), Version::V5, &format!("crowd-{n}")))
        .collect();
    assert_eq!(gateway.metric("tidegate_connections"), 200.0);
    gateway.says(&["limits.max-connections is 4096", "4000", "LimitNOFILE="]);
    drop(crowd);
}
