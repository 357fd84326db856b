use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::datagram;
use super::message::Message;
use super::service::Service;

fn text(received: &UnixDatagram) -> String {
    let mut buffer = [0; 512];
    received.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let len = received.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

#[test]
fn a_message_reaches_a_path_and_an_abstract_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let ready = Message::Ready { status: "3 events\nEXIT_STATUS=1".into() };
    datagram::send(path.as_os_str(), &ready.assignments()).unwrap();
    assert_eq!(text(&manager), "READY=1\nSTATUS=3 events EXIT_STATUS=1");

    let name = format!("tidegate-test-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let address = format!("@{name}");
    datagram::send(address.as_ref(), &Message::Watchdog.assignments()).unwrap();
    assert_eq!(text(&manager), "WATCHDOG=1");
    let stopping = Message::Stopping { status: "stopping".into() };
    datagram::send(address.as_ref(), &stopping.assignments()).unwrap();
    assert_eq!(text(&manager), "STOPPING=1\nSTATUS=stopping");
}

#[test]
fn who_does_not_listen_or_reads_too_slowly_keeps_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let watchdog = Message::Watchdog.assignments();
    datagram::send(path.as_os_str(), &watchdog).unwrap_err();
    datagram::send("relative".as_ref(), &watchdog).unwrap_err();
    let _manager = UnixDatagram::bind(&path).unwrap();
    let full = (0..100_000).find_map(|_| datagram::send(path.as_os_str(), &watchdog).err());
    assert_eq!(full.unwrap().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_reload_says_when_it_began_on_the_monotonic_clock() {
    let micros = |message: Message| {
        let assignments = message.assignments();
        assert_eq!(assignments[0], ("RELOADING", "1".to_owned()));
        assert_eq!(assignments[1].0, "MONOTONIC_USEC");
        assignments[1].1.parse::<u64>().unwrap()
    };
    let (first, second) = (micros(Message::reloading()), micros(Message::reloading()));
    assert!(0 < first && first <= second && second - first < 60_000_000, "{first} {second}");
}

#[test]
fn pings_come_four_times_an_interval_and_not_while_something_stands_still() {
    let start = Instant::now();
    let mut service = Service::new(Some(Duration::from_secs(8)), start);
    assert_eq!(service.tick(), Duration::from_secs(2));
    let mut pings = 0;
    for second in (0..16).step_by(2) {
        let now = start + Duration::from_secs(second);
        let still = (8..12).contains(&second).then_some(("cloud", Duration::from_secs(5)));
        pings += usize::from(service.is_ping_due(still, now));
    }
    assert_eq!(pings, 4 + 2);
    let mut unwatched = Service::new(None, start);
    assert!(!unwatched.is_ping_due(None, start));
}
