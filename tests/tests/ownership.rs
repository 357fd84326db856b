//! What belongs to whom: client ids and their sessions to users, topics to those without a login too.

use std::net::SocketAddr;
use std::process::Stdio;

use tidegate_tests::clients::mosquitto_pub;
use tidegate_tests::curl::curl;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{
    self, CONNACK, CONNECT, DISCONNECT, PUBACK, PUBLISH, SUBACK, Version,
};
use tidegate_tests::site::Site;
use tidegate_tests::wait::{SOON, eventually};
use tidegate_tests::wire::{Answer, Wire};

const NOT_AUTHORIZED: u8 = 0x87;
const LOGINS: &str = "[auth]\npassword-file = \"passwords\"\nmax-verifying = 2\n";
const OPEN: &str = "bind = \"127.0.0.1:0\"\nallow-anonymous = true\n";

/// A site where Anna and Ben have a login, each with the name as password.
fn site() -> Site {
    let site = Site::new();
    for user in ["anna", "ben"] {
        let mut command = site.tidegate(["passwd", "passwords", user]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), user.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
    site
}

/// The listener that lets anonymous clients in.
fn open(gateway: &mut Gateway) -> SocketAddr {
    let lines = gateway.process().lines();
    let last = lines.iter().rev().find_map(|line| line.strip_prefix("listening mqtt "));
    last.unwrap().parse().unwrap()
}

/// Connects as `user` with the client id `pump`; the session is to last an hour.
fn connect(
    broker: SocketAddr,
    version: Version,
    user: Option<&str>,
    clean: bool,
) -> (Wire, Answer) {
    let mut body = packet::text("MQTT");
    let login = if user.is_some() { 0xc0 } else { 0 };
    body.extend([version as u8, login | u8::from(clean) << 1, 0, 60]);
    if version == Version::V5 {
        body.extend([5, 0x11, 0, 0, 0x0e, 0x10]);
    }
    body.extend(packet::text("pump"));
    for text in user.into_iter().flat_map(|user| [user, user]) {
        body.extend(packet::text(text));
    }
    let mut wire = Wire::open(broker);
    wire.send(&packet::packet(CONNECT, &body));
    let answer = wire.answer().unwrap();
    (wire, answer)
}

/// Whether it was let in, and found its session; or the code that it was refused with.
fn connected(broker: SocketAddr, version: Version, user: Option<&str>) -> Result<(Wire, bool), u8> {
    let (wire, (first, body)) = connect(broker, version, user, false);
    assert_eq!(first, CONNACK);
    if body[1] == 0 { Ok((wire, body[0] == 1)) } else { Err(body[1]) }
}

#[test]
fn a_session_belongs_to_its_user_across_a_restart() {
    let mut gateway = Gateway::start_listening(site(), OPEN, LOGINS);
    let broker = open(&mut gateway);
    let (mut anna, present) = connected(broker, Version::V5, Some("anna")).unwrap();
    assert!(!present);
    anna.send(&packet::subscribe(Version::V5, 1, "plant/#", 1));
    assert_eq!(anna.answer().map(|(first, _)| first), Some(SUBACK));

    // While she is connected: nobody takes her place, and she notices nothing.
    assert_eq!(connected(broker, Version::V5, Some("ben")).err(), Some(NOT_AUTHORIZED));
    assert_eq!(connected(broker, Version::V4, Some("ben")).err(), Some(5));
    assert_eq!(connected(broker, Version::V5, None).err(), Some(NOT_AUTHORIZED));
    let publish = |broker, text: &str| {
        mosquitto_pub(broker, &["-q", "1", "-t", "plant/a", "-m", text]);
    };
    publish(broker, "live");
    let (first, body) = anna.answer().unwrap();
    assert_eq!((first & 0xf0, body.ends_with(b"live")), (PUBLISH, true));
    anna.send(&packet::packet(PUBACK, &body[9..11]));
    drop(anna);
    eventually("she is gone", SOON, || gateway.metric("tidegate_connections") == 0.0);

    // While she is away, also after a kill; and nobody clears it.
    publish(broker, "away");
    gateway.kill9();
    gateway.restart();
    let broker = open(&mut gateway);
    for clean in [false, true] {
        let (_, (_, body)) = connect(broker, Version::V5, Some("ben"), clean);
        assert_eq!(body[1], NOT_AUTHORIZED);
    }
    gateway.says(&["\"pump\"", "the client id belongs to another user"]);
    assert_eq!(gateway.metric("tidegate_clients_foreign_total"), 2.0);
    let (mut anna, present) = connected(broker, Version::V5, Some("anna")).unwrap();
    assert!(present);
    // The first acknowledgement may not have come to the log before the kill.
    let away = || anna.answer().is_some_and(|(_, body)| body.ends_with(b"away"));
    eventually("what she missed", SOON, away);
    // Her own new connection takes over, as ever.
    let (again, present) = connected(broker, Version::V5, Some("anna")).unwrap();
    assert!(present);
    assert_eq!(anna.answer().map(|(first, body)| (first, body[0])), Some((DISCONNECT, 0x8e)));
    drop(again);
}

#[test]
fn what_nobody_owns_becomes_the_users_who_takes_it_up() {
    let mut gateway = Gateway::start_listening(site(), OPEN, LOGINS);
    let broker = open(&mut gateway);
    for expected in [false, true] {
        let (_, present) = connected(broker, Version::V5, None).unwrap();
        assert_eq!(present, expected, "anonymous clients among themselves");
    }
    let (_, present) = connected(broker, Version::V5, Some("anna")).unwrap();
    assert!(present);
    gateway.kill9();
    gateway.restart();
    let broker = open(&mut gateway);
    assert_eq!(connected(broker, Version::V5, None).err(), Some(NOT_AUTHORIZED));
    let (mut anna, present) = connected(broker, Version::V5, Some("anna")).unwrap();
    assert!(present);
    // A session that is over leaves the name to anybody.
    anna.send(&packet::packet(DISCONNECT, &[0, 5, 0x11, 0, 0, 0, 0]));
    assert_eq!(anna.answer(), None);
    let (_, present) = connected(broker, Version::V5, Some("ben")).unwrap();
    assert!(!present);
}

#[test]
fn a_rule_may_concern_anonymous_clients_only() {
    let rules = "[[acl]]\nanonymous = true\npublish = [\"floor/%c/#\"]\n\
                 [[acl]]\nusers = [\"anna\"]\npublish = [\"office/#\"]\n";
    let http = "[[listener]]\ntype = \"http\"\nbind = \"127.0.0.1:0\"\nallow-anonymous = true\n";
    let mut gateway = Gateway::start_listening(site(), OPEN, &format!("{http}{LOGINS}{rules}"));
    let (http, broker) = (gateway.listener("http"), open(&mut gateway));
    let login = ["-u", "anna:anna"];
    let posted = |path: &str, login: &[&str]| {
        curl("http", http, path, &[login, &["-d", "1"]].concat()).status
    };
    assert_eq!(posted("/v1/topics/floor/press-3/t?client-id=press-3", &[]), 202);
    assert_eq!(posted("/v1/topics/office/a", &[]), 403);
    assert_eq!(posted("/v1/topics/office/a", &login), 202);
    assert_eq!(posted("/v1/topics/floor/press-3/t?client-id=press-3", &login), 403);

    let publish = |user: Option<&str>, topic: &str| {
        let mut wire = connected(broker, Version::V5, user).unwrap().0;
        wire.send(&packet::publish(Version::V5, 1, topic.as_bytes(), 1, b"1"));
        let reason = wire.answer().unwrap().1.get(2).copied().unwrap_or_default();
        wire.send(&packet::packet(DISCONNECT, &[0, 5, 0x11, 0, 0, 0, 0]));
        assert_eq!(wire.answer(), None);
        reason
    };
    assert_eq!(publish(None, "floor/pump/t"), 0);
    assert_eq!(publish(None, "office/a"), NOT_AUTHORIZED);
    assert_eq!(publish(Some("anna"), "office/a"), 0);
    assert_eq!(publish(Some("anna"), "floor/pump/t"), NOT_AUTHORIZED);
}
