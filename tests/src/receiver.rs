//! The upstream under test, and a sink that leads to it.

use std::net::SocketAddr;

use serde_json::Value;

use crate::http;
use crate::process::Process;
use crate::site::{Site, free_port};
use crate::wait::{LATER, SOON};

/// `tidegate receiver`, and its directory.
#[derive(Debug)]
pub struct Receiver {
    // Dropped first: it dies before its directory goes.
    process: Process,
    site: Site,
    port: u16,
}

/// Events asked for at once.
const PAGE: u64 = 1000;

impl Receiver {
    /// Starts one on a port that stays its own.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_at(Site::new())
    }

    /// Starts one in `site`.
    #[track_caller]
    pub fn start_at(site: Site) -> Self {
        let port = free_port();
        let process = run(&site, port);
        Self { process, site, port }
    }

    /// A `[[sink]]` named `cloud` that leads here, quick enough for a test. What comes after it
    /// belongs to the sink.
    pub fn sink(&self) -> String {
        let url = format!("http://127.0.0.1:{}/events", self.port);
        format!(
            "[[sink]]\nname = \"cloud\"\ntype = \"http\"\nurl = \"{url}\"\n\
             batch.max-age = \"20ms\"\nretry.initial = \"50ms\"\nretry.max = \"500ms\"\n"
        )
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
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

    /// Starts it again, with the same data on the same port.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process = run(&self.site, self.port);
    }

    /// `/api/summary`.
    #[track_caller]
    pub fn summary(&self) -> Value {
        http::get_json(self.address(), "/api/summary")
    }

    /// A number of `/api/summary`.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        let summary = self.summary();
        summary[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {summary}"))
    }

    /// How many events it has stored.
    #[track_caller]
    pub fn stored(&self) -> u64 {
        self.count("events")
    }

    /// How many events are missing between those that it has, by their places in the gateway's log.
    #[track_caller]
    pub fn missing(&self) -> u64 {
        self.count("gaps")
    }

    /// Shows `look` every event it keeps, in the order of arrival.
    #[track_caller]
    pub fn each_event(&self, mut look: impl FnMut(&Value)) {
        let mut from = 1;
        loop {
            let path = format!("/api/events?from={from}&limit={PAGE}");
            let page = http::get_json(self.address(), &path);
            page["events"].as_array().into_iter().flatten().for_each(&mut look);
            if page["more"] != true {
                return;
            }
            from = page["next"].as_u64().unwrap_or_else(|| panic!("no next in {page}"));
        }
    }

    /// Every event it keeps, in the order of arrival.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        let mut events = Vec::new();
        self.each_event(|event| events.push(event.clone()));
        events
    }
}

#[track_caller]
fn run(site: &Site, port: u16) -> Process {
    let bind = format!("127.0.0.1:{port}");
    let data = site.path().join("received");
    let mut command = site.tidegate(["receiver", "--bind", &bind, "--max-size", "16GiB"]);
    command.arg("--data-dir").arg(data);
    let mut process = Process::start("receiver", command, site.path());
    process.line("listening http ", SOON);
    process
}
