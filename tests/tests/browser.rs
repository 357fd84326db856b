//! The receiver's page, in headless Chromium.

use std::process::Command;

use tidegate_tests::clients::{installed, succeed};
use tidegate_tests::receiver::Receiver;
use tidegate_tests::site::crate_dir;

#[test]
fn the_page_shows_what_the_receiver_has_and_follows_it() {
    let receiver = Receiver::start();
    installed(crate_dir().join("browser/node_modules"));
    let mut node = Command::new("node");
    node.arg("--test").arg("receiver-page.test.mjs").current_dir(crate_dir().join("browser"));
    node.env("RECEIVER_URL", format!("http://{}", receiver.address()));
    succeed(&mut node);
}
