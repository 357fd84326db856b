//! Other people's clients: Debian's mosquitto_pub and mosquitto_sub, and scripts that use paho-mqtt
//! and MQTT.js.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::process::Process;
use crate::site::{Site, crate_dir};
use crate::wait::{SOON, eventually};

/// The protocol versions as mosquitto's clients name them.
pub const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];

/// Runs `mosquitto_pub` with `arguments` to its end.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn mosquitto_pub(broker: SocketAddr, arguments: &[&str]) {
    let mut command = mosquitto("mosquitto_pub", broker);
    succeed(command.args(arguments));
}

/// A running `mosquitto_sub`.
#[derive(Debug)]
pub struct Subscriber {
    process: Process,
}

impl Subscriber {
    /// Subscribes; returns once the broker has said yes. Each message becomes a line `topic payload`,
    /// with `retained` between them where it was.
    #[track_caller]
    pub fn start(site: &Site, broker: SocketAddr, arguments: &[&str]) -> Self {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_sub", "-d"]);
        address(&mut command, broker);
        command.args(["-F", "message %r %t %p"]).args(arguments);
        let name = format!("subscriber-{:08x}", fastrand::u32(..));
        let mut process = Process::start(&name, command, site.path());
        process.line("Subscribed", SOON);
        Self { process }
    }

    /// What has arrived so far, each as `topic payload`, or `retained topic payload`.
    pub fn messages(&self) -> Vec<String> {
        let lines = self.process.lines();
        let messages = lines.iter().filter_map(|line| line.strip_prefix("message "));
        messages
            .filter_map(|message| {
                let (retained, message) = message.split_once(' ')?;
                Some(if retained == "1" { format!("retained {message}") } else { message.into() })
            })
            .collect()
    }

    /// Waits until exactly these have arrived, in this order.
    ///
    /// # Panics
    /// When they do not.
    #[track_caller]
    pub fn receives(&self, expected: &[&str]) {
        if expected.is_empty() {
            return assert_eq!(self.messages(), expected);
        }
        eventually(&format!("{expected:?} at the subscriber"), SOON, || {
            self.messages().len() >= expected.len()
        });
        assert_eq!(self.messages(), expected);
    }

    /// Ends it without a farewell.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }
}

fn mosquitto(program: &str, broker: SocketAddr) -> Command {
    let mut command = Command::new(program);
    address(&mut command, broker);
    command
}

fn address(command: &mut Command, broker: SocketAddr) {
    command.args(["-h", &broker.ip().to_string(), "-p", &broker.port().to_string()]);
}

/// Runs a script of `tests/python` with the Python that has its requirements.
///
/// # Panics
/// When the script fails; what it wrote is in the message.
#[track_caller]
pub fn python(script: &str, arguments: &[&str]) -> String {
    let interpreter = crate_dir().join(".cache/venv/bin/python");
    let mut command = Command::new(installed(interpreter));
    command.arg(crate_dir().join("python").join(script)).args(arguments);
    succeed(&mut command)
}

/// Runs a script of `tests/node` with Node.js.
///
/// # Panics
/// When the script fails; what it wrote is in the message.
#[track_caller]
pub fn node(script: &str, arguments: &[&str]) -> String {
    installed(crate_dir().join("node/node_modules"));
    let mut command = Command::new("node");
    command.arg(crate_dir().join("node").join(script)).args(arguments);
    succeed(&mut command)
}

/// `path`, which tests/run installs.
///
/// # Panics
/// When it is not there.
#[track_caller]
pub fn installed(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    assert!(path.exists(), "{} is missing: tests/run installs it", path.display());
    path.to_path_buf()
}

/// Runs `command` to its end and returns what it printed.
///
/// # Panics
/// When it cannot be run, or fails.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output: Output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            panic!("cannot run {command:?} (tests/run installs what is missing): {error}")
        }
    };
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}
