//! `tidegate passwd` on a terminal: it asks twice, and shows nothing of what is typed.

use std::process::Output;

use tidegate_tests::clients::mosquitto_pub;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::site::Site;

/// Gives a program a terminal, and types. Debian's interpreter: the user of the test has no other.
const TYPE: &str = include_str!("../python/type_password.py");

/// `tidegate passwd passwords anna` on a terminal, with what is typed there.
fn passwd(site: &Site, typed: &[&str]) -> Output {
    let mut command = site.ordinary("/usr/bin/python3");
    command.args(["-c", TYPE]).arg(site.binary());
    command.args(["passwd", "passwords", "anna", "--"]).args(typed);
    command.output().unwrap()
}

#[test]
fn a_password_is_asked_for_twice_and_not_shown() {
    let site = Site::new();
    let output = passwd(&site, &["s3cret-horse", "s3cret-horse"]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("Password for anna: \nAgain: \n"), "{shown:?}");
    assert!(!shown.contains("s3cret"), "{shown:?}");
    let gateway = Gateway::start_at(site, "[auth]\npassword-file = \"passwords\"\n");
    let login = ["-u", "anna", "-P", "s3cret-horse", "-q", "1", "-t", "plant/a", "-m", "1"];
    mosquitto_pub(gateway.mqtt(), &login);
}

#[test]
fn two_passwords_that_differ_change_nothing() {
    let site = Site::new();
    let output = passwd(&site, &["one", "two"]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(65), "{shown}");
    assert!(shown.contains("the two passwords differ; nothing was changed"), "{shown:?}");
    assert!(!site.path().join("passwords").exists());
    let output = passwd(&site, &["", ""]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("the password is empty; nothing was changed"), "{shown:?}");
}
