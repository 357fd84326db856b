//! What the admin pages stand: clients that are slow, that say too much, that are many.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tidegate_tests::clients::mosquitto_pub;
use tidegate_tests::gateway::{Gateway, config};
use tidegate_tests::http;
use tidegate_tests::site::Site;
use tidegate_tests::wait::{LATER, SOON, eventually};

/// How long clients may keep others from the pages: the daemon gives each 5 s, the rest is the machine's.
const A_FEW_SECONDS: Duration = Duration::from_secs(15);

fn start(max_connections: usize) -> Gateway {
    let site = Site::new();
    let bounded = format!("[admin]\nmax-connections = {max_connections}\n");
    site.write("tidegate.toml", &config(&site, "").replace("[admin]\n", &bounded));
    Gateway::start_under(site, "env", &[])
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Everything up to the connection's end.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset ends it too.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn slow_clients_hold_the_pages_up_for_a_few_seconds_and_nobody_else() {
    let gateway = start(4);
    let slow: Vec<TcpStream> = (0..4).map(|_| dial(gateway.admin())).collect();
    let begun = Instant::now();
    for mut stream in &slow {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: ").unwrap();
    }
    // A byte a time keeps none of them open.
    let drip = std::thread::spawn(move || {
        let open = |mut stream: &TcpStream| stream.write_all(b"a").is_ok();
        eventually("they are closed", SOON, || !slow.iter().any(open));
    });
    mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", "plant/a", "-m", "1"]);
    let published = begun.elapsed();
    assert_eq!(http::get(gateway.admin(), "/health").status, 200);
    let answered = begun.elapsed();
    assert!(published < Duration::from_secs(4), "{published:?}");
    assert!(published < answered && answered < A_FEW_SECONDS, "{answered:?}");
    drip.join().unwrap();
}

#[test]
fn a_head_without_end_is_refused() {
    let gateway = start(4);
    let mut stream = dial(gateway.admin());
    let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n").unwrap();
    // It is closed before all of that is read.
    let _ = (0..1000).try_for_each(|_| stream.write_all(line.as_bytes()));
    let answer = rest(stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(http::get(gateway.admin(), "/ready").status, 200);
}

#[test]
fn however_many_connect_few_are_open() {
    let mut gateway = start(8);
    let before = gateway.process().open_files();
    let many: Vec<TcpStream> = (0..40).map(|_| dial(gateway.admin())).collect();
    let most = |gateway: &mut Gateway| gateway.process().open_files().saturating_sub(before);
    // Something of the start may have been open before.
    eventually("the first are accepted", SOON, || most(&mut gateway) >= 4);
    assert!(most(&mut gateway) < 16);
    drop(many);
    eventually("the pages are there again", LATER, || {
        http::try_get(gateway.admin(), "/health").is_ok_and(|answer| answer.status == 200)
    });
    assert!(gateway.metric("tidegate_admin_connections") <= 8.0);
}
