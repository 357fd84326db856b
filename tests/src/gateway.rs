//! The gateway under test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::http;
use crate::process::Process;
use crate::site::Site;
use crate::wait::{LATER, SOON, eventually};

/// `tidegate run` with a config written for the test, and its directory.
#[derive(Debug)]
pub struct Gateway {
    // Dropped first: it dies before its directory goes.
    process: Process,
    site: Site,
    mqtt: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    /// Starts one whose config is the least there can be, and `more`: whole sections.
    #[track_caller]
    pub fn start(more: &str) -> Self {
        Self::start_at(Site::new(), more)
    }

    /// Starts one in `site`.
    #[track_caller]
    pub fn start_at(site: Site, more: &str) -> Self {
        site.write("tidegate.toml", &config(&site, more));
        Self::start_again(site)
    }

    /// Starts the one whose config lies in `site`.
    #[track_caller]
    pub fn start_again(site: Site) -> Self {
        let command = site.tidegate(["run", "--config", "tidegate.toml"]);
        Self::run(site, command)
    }

    /// Starts one under `strace`, which writes the system calls named in `calls` to `trace` in the
    /// site's directory.
    #[track_caller]
    pub fn start_traced(more: &str, calls: &str) -> Self {
        Self::start_with_strace(more, &["-e", &format!("trace={calls}")])
    }

    /// Starts one under `strace` with these arguments, which may make system calls fail or hang.
    #[track_caller]
    pub fn start_with_strace(more: &str, arguments: &[&str]) -> Self {
        let site = Site::new();
        site.write("tidegate.toml", &config(&site, more));
        let mut command = site.ordinary("strace");
        // -D: the daemon is our child, not strace's.
        command.args(["-D", "-f", "-s", "64", "-o", "trace"]).args(arguments).arg("--");
        command.arg(site.binary()).args(["run", "--config", "tidegate.toml"]);
        Self::run(site, command)
    }

    /// Starts the one whose config lies in `site`, under `program` with `arguments`.
    #[track_caller]
    pub fn start_under(site: Site, program: &str, arguments: &[&str]) -> Self {
        let mut command = site.ordinary(program);
        command.args(arguments).arg(site.binary()).args(["run", "--config", "tidegate.toml"]);
        Self::run(site, command)
    }

    /// Starts one whose command is made by `command`: an environment of its own, or a program that becomes
    /// `tidegate`.
    #[track_caller]
    pub fn start_by(more: &str, command: impl FnOnce(&Site) -> Command) -> Self {
        let site = Site::new();
        site.write("tidegate.toml", &config(&site, more));
        let command = command(&site);
        Self::run(site, command)
    }

    #[track_caller]
    fn run(site: Site, command: Command) -> Self {
        let mut process = Process::start("gateway", command, site.path());
        let (mqtt, admin) = addresses(&mut process);
        Self { process, site, mqtt, admin }
    }

    /// Starts one whose only other listener is `listener`: what follows `[[listener]]` and `type`.
    #[track_caller]
    pub fn start_listening(site: Site, listener: &str, more: &str) -> Self {
        let listener = format!("[[listener]]\ntype = \"mqtt\"\n{listener}\n{more}");
        Self::start_at(site, &listener)
    }

    /// Where it listens for `scheme`: `mqtt`, `mqtts`, `ws` or `wss`.
    #[track_caller]
    pub fn listener(&mut self, scheme: &str) -> SocketAddr {
        let address = self.process.line(&format!("listening {scheme} "), SOON);
        address.parse().unwrap_or_else(|_| panic!("no address: {address:?}"))
    }

    /// Where it takes MQTT.
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// Where it says how it is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Waits for a line on its standard error that has all of these words.
    #[track_caller]
    pub fn says(&mut self, words: &[&str]) {
        eventually(&format!("{words:?} in the log"), SOON, || {
            let log = self.process.stderr();
            log.lines().any(|line| words.iter().all(|word| line.contains(word)))
        });
    }

    /// Its directory.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.site.path().join("data")
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it at once.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Stops it in order.
    ///
    /// # Panics
    /// When it does not end with exit code 0.
    #[track_caller]
    pub fn stop(&mut self) {
        self.process.stop(LATER);
    }

    /// Starts it again with the same config and data, on new ports.
    #[track_caller]
    pub fn restart(&mut self) {
        let command = self.site.tidegate(["run", "--config", "tidegate.toml"]);
        self.process = Process::start("gateway", command, self.site.path());
        (self.mqtt, self.admin) = addresses(&mut self.process);
    }

    /// `/status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        http::get_json(self.admin, "/status")
    }

    /// What waits for the sink `cloud`: `lag-events` or `lag-seconds` of the status.
    #[track_caller]
    pub fn lag(&self, which: &str) -> u64 {
        let status = self.status();
        let sinks = status["sinks"].as_array().cloned().unwrap_or_default();
        let sink = sinks.iter().find(|sink| sink["name"] == "cloud");
        let lag = sink.and_then(|sink| sink[which].as_u64());
        lag.unwrap_or_else(|| panic!("no {which} of the sink cloud in {status}"))
    }

    /// The sum of a metric over its labels; 0 when it is not there.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_where(name, "")
    }

    /// The sum of a metric over the lines whose labels contain `label`.
    #[track_caller]
    pub fn metric_where(&self, name: &str, label: &str) -> f64 {
        let text = http::get(self.admin, "/metrics").body;
        text.lines()
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (found, labels) = series.split_once('{').unwrap_or((series, ""));
                (found == name && labels.contains(label)).then(|| value.parse::<f64>().ok())?
            })
            .sum()
    }

    /// Waits until `/ready` says so.
    #[track_caller]
    pub fn await_ready(&self) {
        let admin = self.admin;
        eventually("the gateway is ready", SOON, || {
            http::try_get(admin, "/ready").is_ok_and(|response| response.status == 200)
        });
    }
}

#[track_caller]
fn addresses(process: &mut Process) -> (SocketAddr, SocketAddr) {
    let mqtt = process.line("listening mqtt ", SOON);
    let admin = process.line("listening admin ", SOON);
    process.line("ready", SOON);
    let parse = |text: String| text.parse().unwrap_or_else(|_| panic!("no address: {text:?}"));
    (parse(mqtt), parse(admin))
}

/// The least there can be, and `more`.
pub fn config(site: &Site, more: &str) -> String {
    let data = site.path().join("data");
    format!(
        r#"[gateway]
id = "edge-01"
data-dir = "{}"

[[listener]]
type = "mqtt"
bind = "127.0.0.1:0"

[admin]
bind = "127.0.0.1:0"

{more}
"#,
        data.display()
    )
}
