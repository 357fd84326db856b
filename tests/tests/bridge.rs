//! A mosquitto that bridges to the gateway with its default settings, as a site that has one already
//! does.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use tidegate_tests::clients::{Subscriber, mosquitto_pub};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::process::Process;
use tidegate_tests::site::{Site, free_port};
use tidegate_tests::wait::{SOON, eventually};

/// A mosquitto whose every topic goes to `upstream`, and comes from there.
fn bridge(site: &Site, upstream: SocketAddr) -> (Process, SocketAddr) {
    let port = free_port();
    let config = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\n\
         connection gateway\naddress {upstream}\ntopic # both 1\nrestart_timeout 1\n"
    );
    let config = site.write("bridge.conf", &config);
    let program = ["/usr/sbin/mosquitto", "mosquitto"]
        .into_iter()
        .find(|program| Command::new(program).arg("-h").output().is_ok())
        .expect("mosquitto is not installed: see tests/run");
    let mut command = Command::new(program);
    command.arg("-c").arg(config);
    let process = Process::start("bridge", command, site.path());
    (process, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

#[test]
fn a_mosquitto_bridge_connects_and_carries_both_ways_once() {
    let gateway = Gateway::start("");
    let state = ["-q", "1", "-t", "$SYS/broker/connection/+/state"];
    let state = Subscriber::start(gateway.site(), gateway.mqtt(), &state);
    let (mut process, local) = bridge(gateway.site(), gateway.mqtt());
    let is_up = || state.messages().last().is_some_and(|message| message.ends_with("/state 1"));
    eventually("the bridge to say that it is up", SOON, is_up);

    let below = Subscriber::start(gateway.site(), local, &["-q", "1", "-t", "#"]);
    let above = Subscriber::start(gateway.site(), gateway.mqtt(), &["-q", "1", "-t", "#"]);
    mosquitto_pub(local, &["-q", "1", "-t", "plant/a", "-m", "up"]);
    above.receives(&["plant/a up"]);
    mosquitto_pub(gateway.mqtt(), &["-q", "1", "-t", "plant/b", "-m", "down"]);
    below.receives(&["plant/a up", "plant/b down"]);
    above.receives(&["plant/a up", "plant/b down"]);

    process.kill9();
    let is_down = || state.messages().last().is_some_and(|message| message.ends_with("/state 0"));
    eventually("the will of the bridge", SOON, is_down);
}
