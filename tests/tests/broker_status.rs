//! `$SYS/broker`, as mosquitto's own client sees it.

use tidegate_tests::clients::{Subscriber, mosquitto_pub};
use tidegate_tests::gateway::{Gateway, config};
use tidegate_tests::site::Site;
use tidegate_tests::wait::{SOON, eventually};

#[test]
fn who_subscribes_is_told_at_once_and_then_what_changes() {
    let site = Site::new();
    let config = config(&site, "");
    let every_second = config.replace("[gateway]\n", "[gateway]\nsys-interval = \"1s\"\n");
    site.write("tidegate.toml", &every_second);
    let mut gateway = Gateway::start_under(site, "env", &[]);
    let broker = gateway.mqtt();
    let says = |subscriber: &Subscriber, what: &str| {
        let said = || subscriber.messages().iter().any(|message| message == what);
        eventually(what, SOON, said);
    };
    // What changes while they subscribe: live, or retained where it was said just before.
    let says_either_way = |subscriber: &Subscriber, what: &str| {
        let is_it = |message: &String| message.strip_prefix("retained ").unwrap_or(message) == what;
        eventually(what, SOON, || subscriber.messages().iter().any(is_it));
    };
    let start =
        |filter: &str| Subscriber::start(gateway.site(), broker, &["-q", "1", "-t", filter]);
    let everything = start("#");
    let shared = start("$share/g/$SYS/#");
    let status = start("$SYS/broker/#");
    let version = env!("CARGO_PKG_VERSION");
    says(&status, &format!("retained $SYS/broker/version tidegate version {version}"));
    says_either_way(&status, "$SYS/broker/clients/connected 3");
    says_either_way(&status, "$SYS/broker/shared_subscriptions/count 1");
    for payload in ["1", "2", "3"] {
        mosquitto_pub(broker, &["-q", "1", "-t", "plant", "-m", payload]);
    }
    says(&status, "$SYS/broker/publish/messages/received 3");
    says(&status, "$SYS/broker/store/messages/count 3");
    let late = start("$SYS/broker/publish/messages/received");
    says(&late, "retained $SYS/broker/publish/messages/received 3");
    everything.receives(&["plant 1", "plant 2", "plant 3"]);
    shared.receives(&[]);
    assert_eq!(gateway.status()["log"]["last-lsn"], 3, "it is no event");
    gateway.stop();
}
