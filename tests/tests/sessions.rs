//! Sessions that outlast their clients' connections, and the gateway: with mosquitto's clients, and
//! packet by packet, across kill -9.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_tests::clients::{Subscriber, mosquitto_pub};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::numbers::{PUBCOMP, PUBREC, PUBREL, Publisher, ack, resume};
use tidegate_tests::packet::{self, PUBLISH, SUBACK, Version};
use tidegate_tests::wait::{SOON, eventually};

const DUP: u8 = 8;
const QOS_2: u8 = 4;

#[test]
fn mosquitto_sub_gets_what_it_missed_across_kills_of_both_sides() {
    let mut gateway = Gateway::start("");
    for (version, lasting) in [("mqttv311", &[][..]), ("mqttv5", &["-x", "3600"])] {
        let arguments =
            [&["-V", version, "-c", "-i", version, "-q", "1", "-t", "plant/#"][..], lasting]
                .concat();
        let publish = |gateway: &Gateway, qos: &str, text: &str| {
            mosquitto_pub(gateway.mqtt(), &["-q", qos, "-t", "plant/x", "-m", text]);
        };
        let mut client = Subscriber::start(gateway.site(), gateway.mqtt(), &arguments);
        // Nothing that the client acknowledges: that could be under way when it is killed.
        publish(&gateway, "0", "live");
        client.receives(&["plant/x live"]);
        client.kill9();
        publish(&gateway, "1", "one");
        gateway.kill9();
        gateway.restart();
        publish(&gateway, "1", "two");
        let mut client = Subscriber::start(gateway.site(), gateway.mqtt(), &arguments);
        client.receives(&["plant/x one", "plant/x two"]);
        client.kill9();
    }
}

/// Takes numbers with QoS 2, and remembers what it has to.
struct Taker {
    total: u32,
    taken: Vec<u32>,
    held: BTreeSet<u16>,
}

impl Taker {
    /// Until it has everything; false if the connection ends before.
    fn run(&mut self, broker: SocketAddr) -> bool {
        let Some(mut wire) = resume(broker, "taker") else { return false };
        while self.taken.len() < self.total as usize || !self.held.is_empty() {
            let Ok(Some((first, body))) = wire.try_answer() else { return false };
            if first & 0xf0 == PUBLISH {
                assert_eq!((first & !DUP, &body[..3]), (PUBLISH | QOS_2, &[0, 1, b'n'][..]));
                let id = u16::from_be_bytes([body[3], body[4]]);
                if self.held.insert(id) {
                    let number = std::str::from_utf8(&body[5..]).unwrap().parse().unwrap();
                    self.taken.push(number);
                }
                wire.send(&ack(PUBREC, id));
            } else {
                assert_eq!(first, PUBREL);
                let id = u16::from_be_bytes([body[0], body[1]]);
                self.held.remove(&id);
                wire.send(&ack(PUBCOMP, id));
            }
        }
        true
    }
}

#[test]
fn qos_2_arrives_once_and_in_order_across_kills() {
    const KILLS: usize = 6;
    const EACH: usize = 300;
    let total = (KILLS * EACH) as u32;
    let mut gateway = Gateway::start("");
    let mut publisher = Publisher::new(2, total);
    let mut taker = Taker { total, taken: Vec::new(), held: BTreeSet::new() };
    let mut wire = resume(gateway.mqtt(), "taker").unwrap();
    wire.send(&packet::subscribe(Version::V4, 1, "n", 2));
    assert_eq!(wire.answer().map(|(first, _)| first), Some(SUBACK));
    drop(wire);
    let progress = AtomicUsize::new(0);
    for kill in 1..=KILLS {
        let broker = gateway.mqtt();
        std::thread::scope(|scope| {
            let publishes = scope.spawn(|| publisher.run(broker, &progress));
            let takes = scope.spawn(|| taker.run(broker));
            if kill < KILLS {
                let moment =
                    progress.load(Ordering::Relaxed) + EACH / 2 + fastrand::usize(..EACH / 3);
                eventually("handshakes", SOON * 3, || progress.load(Ordering::Relaxed) >= moment);
                gateway.kill9();
                let _ended = (publishes.join().unwrap(), takes.join().unwrap());
            } else {
                assert!(publishes.join().unwrap() && takes.join().unwrap());
            }
        });
        if kill < KILLS {
            gateway.restart();
        }
    }
    assert_eq!(taker.taken, (0..total).collect::<Vec<_>>());
    gateway.stop();
}
