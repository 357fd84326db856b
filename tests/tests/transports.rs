//! What MQTT travels in: TLS, WebSocket, IPv6, with the clients that people have.

use std::net::Ipv6Addr;
use std::process::Command;

use tidegate_tests::clients::{
    Subscriber, VERSIONS, installed, mosquitto_pub, node, python, succeed,
};
use tidegate_tests::encrypted::{encrypted, path, publishes, websocket};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{CONNACK, Version, connect};
use tidegate_tests::pki::{Pki, Wanted};
use tidegate_tests::site::{Site, crate_dir};
use tidegate_tests::wire::Wire;

fn port(gateway: &mut Gateway, scheme: &str) -> String {
    gateway.listener(scheme).port().to_string()
}

#[test]
fn mosquitto_clients_work_over_tls() {
    let (mut gateway, root) = encrypted("tcp", "");
    let broker = gateway.listener("mqtts");
    for version in VERSIONS {
        let topic = format!("plant/{version}");
        let arguments = ["--cafile", path(&root), "-V", version, "-t", &topic, "-q", "1"];
        let subscriber = Subscriber::start(gateway.site(), broker, &arguments);
        mosquitto_pub(broker, &[&arguments[..], &["-m", "21.5"]].concat());
        subscriber.receives(&[&format!("{topic} 21.5")]);
    }
    // More than any buffer on the way holds.
    let large = "x".repeat(200_000);
    let file = gateway.site().write("large", &large);
    let arguments = ["--cafile", path(&root), "-t", "plant/large", "-q", "2"];
    let subscriber = Subscriber::start(gateway.site(), broker, &arguments);
    mosquitto_pub(broker, &[&arguments[..], &["-f", path(&file)]].concat());
    subscriber.receives(&[&format!("plant/large {large}")]);
}

#[test]
fn paho_mqtt_works_over_tls_and_websocket() {
    let (mut gateway, root) = encrypted("tcp", "");
    python("paho_clients.py", &[&port(&mut gateway, "mqtts"), "tcp", path(&root)]);
    let mut gateway = websocket();
    python("paho_clients.py", &[&port(&mut gateway, "ws"), "websockets"]);
    let (mut gateway, root) = encrypted("websocket", "");
    python("paho_clients.py", &[&port(&mut gateway, "wss"), "websockets", path(&root)]);
}

#[test]
fn mqtt_js_works_over_tls_and_websocket() {
    let url =
        |gateway: &mut Gateway, scheme: &str| format!("{scheme}://{}", gateway.listener(scheme));
    let (mut gateway, root) = encrypted("tcp", "");
    node("mqtt-js-clients.mjs", &[&url(&mut gateway, "mqtts"), path(&root)]);
    let mut gateway = websocket();
    node("mqtt-js-clients.mjs", &[&url(&mut gateway, "ws")]);
    let (mut gateway, root) = encrypted("websocket", "");
    node("mqtt-js-clients.mjs", &[&url(&mut gateway, "wss"), path(&root)]);
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
    let (mut plain, (mut encrypted, _)) = (websocket(), encrypted("websocket", ""));
    let mut test = Command::new("node");
    test.arg("--test").arg("mqtt-page.test.mjs").current_dir(crate_dir().join("browser"));
    test.env("WS_URL", format!("ws://{}", plain.listener("ws")));
    test.env("WSS_URL", format!("wss://{}", encrypted.listener("wss")));
    succeed(&mut test);
    plain.says(&["pages of \"http://scada.example:", "may not connect"]);
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
    assert!(publishes(broker, &["--cafile", path(&root)]));
    let port = gateway.listener("ws").port();
    let v6 = (Ipv6Addr::LOCALHOST, port).into();
    assert_eq!(tidegate_tests::http::get(v6, "/").status, 426);
    node("mqtt-js-clients.mjs", &[&format!("ws://127.0.0.1:{port}")]);
    gateway.says(&["peer=127.0.0.1:"]);
}

#[test]
fn a_packet_may_be_cut_into_frames_and_frames_into_reads() {
    let mut gateway = websocket();
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
