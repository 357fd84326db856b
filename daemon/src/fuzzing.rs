//! What a fuzzer calls: any bytes, as whatever comes in from outside or lies on the disk. Each target
//! panics where something is wrong, and otherwise answers nothing. The binaries of `daemon/fuzz` call
//! these, and so do the tests, with random bytes.

use crate::{gate, listener, log};

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by the name of their corpus.
pub const TARGETS: [(&str, Target); 8] = [
    ("packets", listener::fuzzing::packets),
    ("session", listener::fuzzing::session),
    ("websocket", listener::fuzzing::websocket),
    ("posts", listener::fuzzing::posts),
    ("records", listener::fuzzing::records),
    ("logins", gate::fuzzing::logins),
    ("config", config),
    ("frames", log::fuzzing::frames),
];

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or it found something.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(other, _)| *other == name);
    assert!(target.is_some(), "no target {name}");
    target.into_iter().for_each(|(_, target)| target(bytes));
}

/// A config file: each problem that is found in it can be shown.
fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match tidegate_config::Config::from_toml(text, "tidegate.toml") {
        Ok(config) => drop(config.warnings()),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests;
