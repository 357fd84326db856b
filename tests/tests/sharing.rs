//! Shared subscriptions: with mosquitto's clients and paho, and packet by packet across kill -9, while
//! members come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tidegate_tests::clients::{Subscriber, VERSIONS, mosquitto_pub, python};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::numbers::{PUBCOMP, PUBREC, PUBREL, Publisher, ack, resume};
use tidegate_tests::packet::{self, PUBACK, PUBLISH, SUBACK, Version};
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

const DUP: u8 = 8;
/// How often a member looks up from its connection.
const PATIENCE: Duration = Duration::from_millis(100);
const PINGREQ: [u8; 2] = [0xc0, 0];
const PINGRESP: u8 = 0xd0;
const SHARED: &str = "$share/g/n";

#[test]
fn two_mosquitto_subs_share_what_is_published() {
    let mut gateway = Gateway::start("");
    for version in VERSIONS {
        let start = |name: &str| {
            let id = format!("{version}-{name}");
            let arguments = ["-V", version, "-i", &id, "-q", "1", "-t", "$share/g/#"];
            Subscriber::start(gateway.site(), gateway.mqtt(), &arguments)
        };
        let mut members = [start("one"), start("two")];
        for number in 0..40 {
            mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", "plant", "-m", &number.to_string()]);
        }
        let count = || members.iter().map(|it| it.messages().len()).sum::<usize>();
        eventually("40 messages at two subscribers", SOON, || count() >= 40);
        let got: BTreeSet<_> = members.iter().flat_map(Subscriber::messages).collect();
        assert_eq!((count(), got.len()), (40, 40), "each comes once");
        for member in &mut members {
            assert!(member.messages().len() >= 10, "it takes its share");
            member.kill9();
        }
    }
    gateway.stop();
}

#[test]
fn paho_shares_too() {
    let mut gateway = Gateway::start("");
    python("paho_sharing.py", &[&gateway.mqtt().port().to_string()]);
    gateway.stop();
}

/// One of those that share the numbers.
struct Member {
    id: String,
    /// Its session ends with each connection, and it subscribes again.
    clean: bool,
    /// QoS 2 packet ids that are begun.
    held: BTreeSet<u16>,
}

/// What all of them got.
#[derive(Default)]
struct Got {
    /// How often, by number.
    numbers: Mutex<BTreeMap<u32, usize>>,
    enough: AtomicBool,
}

/// Says that it is enough, also where the test fails: then nobody waits for the members.
struct Enough<'a>(&'a AtomicBool);

impl Enough<'_> {
    fn now(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.now();
        }
    }
}

impl Member {
    fn connect(&mut self, broker: SocketAddr) -> Option<Wire> {
        let mut wire = match self.clean {
            false => resume(broker, &self.id)?,
            true => {
                let mut wire = Wire::try_open(broker).ok()?;
                wire.send(&packet::connect(Version::V4, &self.id));
                wire.try_answer().ok()??;
                wire
            }
        };
        if self.clean {
            self.held.clear();
            wire.send(&packet::subscribe(Version::V4, 1, SHARED, 2));
        }
        Some(wire)
    }

    /// Takes numbers, now and then over a new connection, until there are enough and it is quiet; or
    /// until the gateway is gone.
    fn run(&mut self, broker: SocketAddr, got: &Got) {
        while let Some(mut wire) = self.connect(broker) {
            let stays = fastrand::usize(5..150);
            wire.set_patience(PATIENCE);
            let mut packets = 0;
            let mut quiet = false;
            loop {
                if got.enough.load(Ordering::Relaxed) && !quiet {
                    wire.send(&PINGREQ);
                    quiet = true;
                } else if packets > stays {
                    // It goes without a word, in the middle of what it has begun.
                    break;
                }
                let (first, body) = match wire.try_answer() {
                    Ok(Some(answer)) => answer,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Ok(None) | Err(_) => break,
                };
                packets += 1;
                match first & !DUP {
                    SUBACK => {}
                    PINGRESP if self.held.is_empty() => return,
                    PINGRESP => quiet = false,
                    PUBREL => {
                        let id = u16::from_be_bytes([body[0], body[1]]);
                        self.held.remove(&id);
                        wire.send(&ack(PUBCOMP, id));
                    }
                    publish if publish & 0xf0 == PUBLISH => {
                        self.take(&mut wire, publish, &body, got)
                    }
                    other => panic!("{other:02x} {body:02x?}"),
                }
            }
        }
    }

    fn take(&mut self, wire: &mut Wire, first: u8, body: &[u8], got: &Got) {
        assert_eq!(&body[..3], &[0, 1, b'n'][..]);
        let id = u16::from_be_bytes([body[3], body[4]]);
        let number = std::str::from_utf8(&body[5..]).unwrap().parse().unwrap();
        let twice = first == PUBLISH | 4;
        if !twice || self.held.insert(id) {
            *got.numbers.lock().unwrap().entry(number).or_default() += 1;
        }
        wire.send(&ack(if twice { PUBREC } else { PUBACK }, id));
    }
}

/// Numbers are published with this QoS to members that come and go, and the gateway is killed. How often
/// each arrived.
fn across_kills(qos: u8, clean: usize) -> BTreeMap<u32, usize> {
    const KILLS: usize = 4;
    const EACH: usize = 250;
    let total = (KILLS * EACH) as u32;
    let mut gateway = Gateway::start("");
    let mut publisher = Publisher::new(qos, total);
    let mut members: Vec<Member> = (0..3)
        .map(|number| Member {
            id: format!("member-{number}"),
            clean: number < clean,
            held: BTreeSet::new(),
        })
        .collect();
    for member in members.iter().filter(|member| !member.clean) {
        let mut wire = resume(gateway.mqtt(), &member.id).unwrap();
        wire.send(&packet::subscribe(Version::V4, 1, SHARED, 2));
        assert_eq!(wire.answer().map(|(first, _)| first), Some(SUBACK));
    }
    let (progress, got) = (AtomicUsize::new(0), Got::default());
    for kill in 1..=KILLS {
        let broker = gateway.mqtt();
        thread::scope(|scope| {
            let mut enough = Enough(&got.enough);
            let publishes = scope.spawn(|| publisher.run(broker, &progress));
            for member in &mut members {
                scope.spawn(|| member.run(broker, &got));
            }
            if kill < KILLS {
                let moment =
                    progress.load(Ordering::Relaxed) + EACH / 2 + fastrand::usize(..EACH / 3);
                eventually("handshakes", LATER, || progress.load(Ordering::Relaxed) >= moment);
                gateway.kill9();
            } else {
                assert!(publishes.join().unwrap());
                let arrived = || got.numbers.lock().unwrap().len() >= total as usize;
                eventually("every number at some member", LATER, arrived);
                enough.now();
            }
        });
        if kill < KILLS {
            gateway.restart();
        }
    }
    gateway.stop();
    let numbers = got.numbers.into_inner().unwrap();
    assert_eq!(numbers.keys().copied().collect::<Vec<_>>(), (0..total).collect::<Vec<_>>());
    numbers
}

#[test]
fn qos_2_arrives_once_over_the_group_across_kills() {
    let numbers = across_kills(2, 0);
    assert_eq!(numbers.into_values().filter(|times| *times != 1).count(), 0);
}

#[test]
fn qos_1_arrives_over_the_group_across_kills_though_a_members_sessions_end() {
    across_kills(1, 1);
}
