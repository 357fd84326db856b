//! The disk is full, because of somebody else, or because of a quota: events are refused, what was
//! acknowledged drains through the full disk, and then it goes on. On real file systems.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use tidegate_tests::clients::succeed;
use tidegate_tests::disk::{Disk, Hog, free, images, own_mounts};
use tidegate_tests::gateway::{Gateway, config};
use tidegate_tests::http;
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::packet::{CONNACK, PUBACK, Version, connect, publish};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::site::Site;
use tidegate_tests::tally::Tally;
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

const QUOTA_EXCEEDED: u8 = 0x97;
const EVENTS: u64 = 10_000;
/// Never full: the disk is, before.
const LOG: &str = r#"
[log]
max-size = "64MiB"
min-free = "0B"
segment-size = "512KiB"
commit.max-bytes = "64KiB"
ballast = "1MiB"

[limits]
max-packet-size = "64KiB"
max-body-size = "64KiB"

[[listener]]
type = "http"
bind = "127.0.0.1:0"
"#;

/// A gateway, and the service manager that starts it again where it stops by itself: a state database
/// that has no room is lost, and built anew by the next start.
struct Story {
    gateway: Gateway,
    /// Events that were acknowledged,
    taken: u64,
    /// and that nobody was told about.
    unsure: u64,
}

impl Story {
    fn gateway(&mut self) -> &mut Gateway {
        if !self.gateway.process().is_running() {
            self.gateway.restart();
        }
        &mut self.gateway
    }

    /// Publishes one event over MQTT 5; answers the reason code of its PUBACK, if one came.
    fn publish(&mut self) -> Option<u8> {
        let mut wire = Wire::try_open(self.gateway().mqtt()).ok()?;
        wire.send(&connect(Version::V5, "told"));
        let (first, body) = wire.try_answer().ok()??;
        assert_eq!((first, body[1]), (CONNACK, 0));
        wire.send(&publish(Version::V5, 1, b"a", 1, &[b'x'; 1000]));
        let reason = match wire.try_answer() {
            Ok(Some((PUBACK, body))) => Some(body.get(2).copied().unwrap_or_default()),
            _ => None,
        };
        self.count(reason.map(|reason| reason == 0));
        assert!([None, Some(0), Some(QUOTA_EXCEEDED)].contains(&reason), "{reason:02x?}");
        reason
    }

    /// Posts one event over HTTP; answers the status, if there is one.
    fn post(&mut self) -> Option<u16> {
        let gateway = self.gateway();
        let mut stream = TcpStream::connect(gateway.listener("http")).ok()?;
        let (head, body) = ("POST /v1/topics/b HTTP/1.1\r\nHost: edge", "x".repeat(1000));
        let length = body.len();
        write!(stream, "{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
            .ok()?;
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        let status = read.ok().and_then(|_| answer.split(' ').nth(1)?.parse().ok());
        self.count(status.map(|status| status == 202));
        let tells_when = answer.to_lowercase().contains("\nretry-after: ");
        assert!(status.is_none() || (status == Some(503)) == tells_when, "{answer}");
        status
    }

    fn count(&mut self, is_taken: Option<bool>) {
        match is_taken {
            Some(true) => self.taken += 1,
            Some(false) => {}
            None => self.unsure += 1,
        }
    }

    /// Whether its status has a problem with this text.
    fn complains(&mut self, text: &str) -> bool {
        let answer = http::try_get(self.gateway().admin(), "/status");
        answer.is_ok_and(|answer| answer.body.contains(text))
    }
}

/// The whole story, with the data of `site` in `data`, which somebody else fills.
fn it_refuses_drains_and_goes_on(site: Site, data: &Path, log: &str) {
    let mut receiver = Receiver::start();
    site.write("tidegate.toml", &config(&site, &format!("{log}{}", receiver.sink())));
    let mut story = Story { gateway: Gateway::start_again(site), taken: 0, unsure: 0 };
    let mut fleet = Fleet::connect(story.gateway().mqtt(), &Shape::default()).unwrap();
    eventually("the ballast is held", LATER, || {
        story.gateway.metric("tidegate_log_ballast_bytes") == f64::from(1 << 20)
    });
    receiver.stop();
    fleet.run(Run::messages(EVENTS, LATER));
    assert_eq!(fleet.acknowledged(), EVENTS);

    // Somebody else fills the disk. What has room in half-used blocks is taken all the same.
    let hog = Hog::fill(data);
    eventually("MQTT 5 is told", SOON, || story.publish() == Some(QUOTA_EXCEEDED));
    hog.grow();
    eventually("HTTP is told", SOON, || story.post() == Some(503));
    eventually("the status says why", SOON, || {
        story.complains("is full: events are refused until there is room")
    });
    story.gateway().says(&["the disk takes no writes: events are refused"]);
    eventually("and still", SOON, || story.publish() == Some(QUOTA_EXCEEDED));

    // It drains, and what it frees it uses.
    receiver.restart();
    eventually("it drains through the full disk", LATER, || {
        story.gateway();
        receiver.stored() >= EVENTS + story.taken
    });
    eventually("it takes events on the full disk", LATER, || story.publish() == Some(0));
    eventually("and bodies", LATER, || story.post() == Some(202));
    // A kill, with the disk as full as can be.
    hog.grow();
    story.gateway().kill9();
    eventually("the kill cost nothing", LATER, || {
        story.gateway();
        receiver.stored() >= EVENTS + story.taken
    });

    hog.remove();
    eventually("there is room again", LATER, || story.publish() == Some(0));
    eventually("for bodies too", LATER, || story.post() == Some(202));
    eventually("no problem is left", LATER, || story.complains("\"problems\":[]"));
    Tally::is_complete(&receiver, &fleet);
    eventually("all is upstream", LATER, || story.gateway().lag("lag-events") == 0);
    let promised = EVENTS + story.taken;
    assert!((promised..=promised + story.unsure).contains(&receiver.stored()));
    assert_eq!((receiver.missing(), story.gateway().metric("tidegate_log_lost_events")), (0, 0.0));
    story.gateway().stop();
}

#[test]
fn a_small_disk_that_somebody_else_fills() {
    if !own_mounts("a_small_disk_that_somebody_else_fills") {
        return;
    }
    let disk = Disk::tmpfs(24 << 20);
    it_refuses_drains_and_goes_on(disk.site(), disk.path(), LOG);
}

#[test]
fn a_small_disk_under_sled_that_somebody_else_fills() {
    if !own_mounts("a_small_disk_under_sled_that_somebody_else_fills") {
        return;
    }
    let disk = Disk::tmpfs(24 << 20);
    let log = LOG.replace("[log]", "[log]\nengine = \"sled\"");
    it_refuses_drains_and_goes_on(disk.site(), disk.path(), &log);
}

#[test]
fn what_stays_free_for_others_is_not_used() {
    if !own_mounts("what_stays_free_for_others_is_not_used") {
        return;
    }
    let disk = Disk::tmpfs(256 << 20);
    let (site, mut receiver) = (disk.site(), Receiver::start());
    let log = LOG.replace("\"0B\"", "\"16MiB\"");
    // A sixteenth of this disk, too.
    let least = 16 << 20;
    site.write("tidegate.toml", &config(&site, &format!("{log}{}", receiver.sink())));
    let mut story = Story { gateway: Gateway::start_again(site), taken: 0, unsure: 0 };
    let mut fleet = Fleet::connect(story.gateway().mqtt(), &Shape::default()).unwrap();
    eventually("the ballast is held", LATER, || {
        story.gateway.metric("tidegate_log_ballast_bytes") == f64::from(1 << 20)
    });
    receiver.stop();
    fleet.run(Run::messages(EVENTS, LATER));
    let hog = Hog::but_for(disk.path(), least + (2 << 20));
    // Less than that is free by what comes until somebody looks.
    let mut full = false;
    while !full {
        full = story.publish() == Some(QUOTA_EXCEEDED);
        assert!(free(disk.path()) >= least / 4, "{} bytes are free", free(disk.path()));
    }
    let left = free(disk.path());
    for _ in 0..1000 {
        story.publish();
    }
    assert!(free(disk.path()) >= left - (256 << 10), "{left}, then {}", free(disk.path()));
    eventually("the status says why", SOON, || {
        story.complains("is full: events are refused until there is room")
    });
    hog.remove();
    eventually("there is room again", LATER, || story.publish() == Some(0));
    receiver.restart();
    let taken = EVENTS + story.taken;
    eventually("nothing is lost", LATER, || receiver.stored() >= taken);
    story.gateway().stop();
}

#[test]
fn a_quota_that_somebody_else_uses_up() {
    if !own_mounts("a_quota_that_somebody_else_uses_up") {
        return;
    }
    let images = images();
    let disk = Disk::btrfs(images.path(), 256 << 20);
    let btrfs = |arguments: &[&str], path: &Path| {
        succeed(Command::new("btrfs").args(arguments).arg(path));
    };
    let data = disk.path().join("data");
    btrfs(&["-q", "subvolume", "create"], &data);
    btrfs(&["quota", "enable"], disk.path());
    btrfs(&["qgroup", "limit", "24M"], &data);
    let site = Site::new();
    disk.hold(&site, &data);
    it_refuses_drains_and_goes_on(site, &data, LOG);
}
