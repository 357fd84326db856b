//! A real file system fails under the running daemon, in one way after the other: it survives, refuses
//! events, says why, and with a sound file system serves everything that it acknowledged.

use std::fs;
use std::process::{Child, Command, Stdio};

use tidegate_tests::disk::{Disk, Hog, images, own_mounts};
use tidegate_tests::gateway::{Gateway, config};
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::site::Site;
use tidegate_tests::tally::Tally;
use tidegate_tests::wait::{LATER, SOON, eventually};
use tidegate_tests::wire::Wire;

const EVENTS: u64 = 5_000;
const UNSPECIFIED: u8 = 0x80;
const QUOTA_EXCEEDED: u8 = 0x97;
/// A commit takes at most 256 KiB, a segment 1 MiB; no ballast, which would have to be written first.
const LOG: &str = r#"
[log]
max-size = "64MiB"
segment-size = "1MiB"
commit.max-bytes = "256KiB"
ballast = "0B"

[limits]
max-packet-size = "64KiB"
max-body-size = "64KiB"
"#;

/// A gateway with data on a disk, and a fleet whose events were acknowledged and are not yet upstream.
struct Story {
    receiver: Receiver,
    gateway: Gateway,
    fleet: Fleet,
    /// Events beside the fleet's that were acknowledged.
    others: u64,
}

impl Story {
    fn begin(site: Site) -> Self {
        let mut receiver = Receiver::start();
        site.write("tidegate.toml", &config(&site, &format!("{LOG}{}", receiver.sink())));
        let gateway = Gateway::start_again(site);
        let mut fleet = Fleet::connect(gateway.mqtt(), &Shape::default()).unwrap();
        fleet.run(Run::messages(EVENTS, LATER));
        eventually("the first events are upstream", LATER, || receiver.stored() == EVENTS);
        receiver.stop();
        fleet.run(Run::messages(EVENTS, LATER));
        assert_eq!(fleet.acknowledged(), 2 * EVENTS);
        Self { receiver, gateway, fleet, others: 0 }
    }

    /// Publishes one event over MQTT 5; answers the reason code of its PUBACK.
    fn publish(&mut self) -> u8 {
        let mut wire = Wire::client(self.gateway.mqtt(), Version::V5, "told");
        wire.send(&publish(Version::V5, 1, b"a", 1, &[b'x'; 1000]));
        let Some((PUBACK, body)) = wire.answer() else { panic!("no PUBACK") };
        let reason = body.get(2).copied().unwrap_or_default();
        self.others += u64::from(reason == 0);
        reason
    }

    /// It refuses, says why, and does not stop.
    fn is_refused(&mut self, reason: u8, problem: &str, error: &str) {
        for _ in 0..3 {
            eventually("a refusal", SOON, || self.publish() == reason);
        }
        // Not while one more commit is tried.
        eventually("the status says why", SOON, || {
            self.gateway.status()["problems"].to_string().contains(problem)
        });
        self.gateway.says(&["a commit failed, the segment is abandoned", error]);
        self.gateway.says(&["the disk takes no writes: events are refused"]);
        assert!(self.gateway.process().is_running());
    }

    /// All that was acknowledged is upstream, once, in order, and nothing is in the ledger.
    fn ends_well(mut self) {
        self.receiver.restart();
        Tally::is_complete(&self.receiver, &self.fleet);
        let all = 2 * EVENTS + self.others;
        eventually("the others too", LATER, || self.receiver.stored() >= all);
        eventually("no lag is left", LATER, || self.gateway.lag("lag-events") == 0);
        assert_eq!(self.receiver.missing(), 0);
        assert_eq!(self.gateway.metric("tidegate_log_lost_events"), 0.0);
        eventually("no problem is left", SOON, || {
            self.gateway.status()["problems"] == serde_json::json!([])
        });
        self.gateway.stop();
    }
}

const NO_WRITES: &str = "takes no writes: events are refused";

#[test]
fn a_disk_whose_cable_is_pulled() {
    if !own_mounts("a_disk_whose_cable_is_pulled") {
        return;
    }
    let images = images();
    let disk = Disk::ext4(images.path(), 128 << 20);
    let mut story = Story::begin(disk.site());
    disk.pull();
    assert!(fs::write(disk.path().join("file"), "x").is_err(), "it is gone");
    story.is_refused(UNSPECIFIED, NO_WRITES, "Input/output error");
    // Whether it can stop in order without a disk is not the question here.
    story.gateway.kill9();
    disk.unmount();
    disk.mount();
    story.gateway.restart();
    assert_eq!(story.publish(), 0);
    story.ends_well();
}

#[test]
fn a_file_system_that_turns_read_only() {
    if !own_mounts("a_file_system_that_turns_read_only") {
        return;
    }
    let images = images();
    let disk = Disk::ext4(images.path(), 128 << 20);
    let mut story = Story::begin(disk.site());
    disk.make_read_only();
    story.is_refused(UNSPECIFIED, NO_WRITES, "Read-only file system");
    story.gateway.kill9();
    disk.unmount();
    disk.repair();
    disk.mount();
    story.gateway.restart();
    assert_eq!(story.publish(), 0);
    story.ends_well();
}

/// The kernel takes the writes, and cannot bring them to the device: fdatasync fails once, and the pages
/// count as clean from then on.
#[test]
fn a_device_that_takes_no_more_blocks_and_then_does() {
    if !own_mounts("a_device_that_takes_no_more_blocks_and_then_does") {
        return;
    }
    // The device is a file with holes, on a disk that becomes full.
    let below = Disk::tmpfs(96 << 20);
    let disk = Disk::ext4_without_journal(below.path(), 64 << 20);
    let mut story = Story::begin(disk.site());
    let hog = Hog::fill(below.path());
    story.is_refused(QUOTA_EXCEEDED, "is full: events are refused", "No space left on device");
    hog.remove();
    eventually("it goes on", LATER, || story.publish() == 0);
    // What was acknowledged since then is on the device.
    story.gateway.kill9();
    disk.unmount();
    disk.mount();
    story.gateway.restart();
    story.ends_well();
}

/// Makes the system calls of a process fail that change files, as long as it lives.
struct ReadOnly(Child);

impl ReadOnly {
    fn make(pid: u32) -> Self {
        let calls = "pwrite64,ftruncate,fdatasync,fsync,renameat,rename,unlink,unlinkat";
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:error=EROFS"), "-p", &pid.to_string()]);
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // SIGTERM: it detaches.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// The kernel lets nobody remount a file system read-only in which files are open for writing; so this
/// is what one sees that was turned read-only, and back.
#[test]
fn a_disk_that_is_read_only_for_a_while() {
    let mut story = Story::begin(Site::new());
    let read_only = ReadOnly::make(story.gateway.process().pid());
    eventually("a refusal", SOON, || story.publish() == UNSPECIFIED);
    story.is_refused(UNSPECIFIED, NO_WRITES, "Read-only file system");
    drop(read_only);
    eventually("it goes on by itself", LATER, || story.publish() == 0);
    story.ends_well();
}
