//! The whole file: its sections, and what must be true of them together.

use crate::acl::Acl;
use crate::admin::{Admin, LogOutput};
use crate::alert::Alert;
use crate::auth::Auth;
use crate::budget::Budget;
use crate::dedup::Dedup;
use crate::gateway::{EventType, Gateway};
use crate::lane::Lane;
use crate::limits::Limits;
use crate::listener::Listener;
use crate::log::Log;
use crate::problem::{Problems, Unfit};
use crate::reader::{self, Names, Section};
use crate::sink::{Bus, Sink};
use crate::value::TopicFilter;

/// The whole file. The default has no listener, which is enough for code but not for a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[[listener]]`: where events come in; at least one.
    pub listeners: Vec<Listener>,
    /// `[auth]`: who is let in.
    pub auth: Auth,
    /// `[[acl]]`: what clients may publish and subscribe to.
    pub acl: Vec<Acl>,
    /// `[limits]`: what one client, and all of them, may use.
    pub limits: Limits,
    /// `[dedup]`: CloudEvents that come twice.
    pub dedup: Dedup,
    /// `[log]`: the events on disk.
    pub log: Log,
    /// `[[lane]]`: `default`, `alerts`, then the others in the order of the file; 2 to 16.
    pub lanes: Vec<Lane>,
    /// `[[event-type]]`: the CloudEvents type by topic.
    pub event_types: Vec<EventType>,
    /// `[[sink]]`: where events go.
    pub sinks: Vec<Sink>,
    /// `[[alert]]`: rules over the events.
    pub alerts: Vec<Alert>,
    /// `[admin]`: health, metrics, status.
    pub admin: Admin,
    /// `[log-output]`: what the daemon says about itself.
    pub log_output: LogOutput,
}

impl Default for Config {
    fn default() -> Self {
        let log = Log::default();
        Self {
            gateway: Gateway::default(),
            listeners: Vec::new(),
            auth: Auth::default(),
            acl: Vec::new(),
            limits: Limits::default(),
            dedup: Dedup::default(),
            lanes: Lane::standard(&Budget::of(&log, &[])),
            log,
            event_types: Vec::new(),
            sinks: Vec::new(),
            alerts: Vec::new(),
            admin: Admin::default(),
            log_output: LogOutput::default(),
        }
    }
}

impl Config {
    /// Reads a configuration of at most [`reader::MAX_LEN`] bytes. `file` is what problems call it.
    ///
    /// # Errors
    /// The first syntax error, or all that is wrong with the keys and their values.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, Problems> {
        reader::read(text, file, Self::read)
    }

    pub(crate) fn read(top: &Section<'_>) -> Self {
        let gateway = top.table("gateway", Gateway::read);
        let admin = top.table("admin", Admin::read);
        let mut addresses = vec![(admin.bind, "[admin]")];
        let (auth, logins) = top.table("auth", |section| {
            // What is wrong with it is no reason to call it missing.
            let logins = section.has("password-file") || section.has("jwt");
            (Auth::read(section), logins)
        });
        let listeners =
            top.list("listener", |section| Listener::read(section, logins, &mut addresses));
        let limits = top.table("limits", Limits::read);
        let acl = top.list("acl", Acl::read);
        let dedup = top.table("dedup", Dedup::read);
        let log = top.table("log", Log::read);
        let packet = limits.max_packet_size;
        let sinks = Sink::read_all(top, packet, log.max_size);
        let budget = Budget::of(&log, &sinks);
        let mut alerts = Names::default();
        let config = Self {
            gateway,
            listeners,
            auth,
            acl,
            limits,
            dedup,
            lanes: Lane::read_all(top, &log, &budget),
            log,
            event_types: top.list("event-type", EventType::read),
            sinks,
            alerts: top.list("alert", |section| Alert::read(section, &mut alerts)),
            admin,
            log_output: top.table("log-output", LogOutput::read),
        };
        config.check_together(top);
        config
    }

    /// What of `log.max-size` is set aside, and what that leaves the log.
    pub fn budget(&self) -> Budget {
        Budget::of(&self.log, &self.sinks)
    }

    /// What one section asks of another.
    fn check_together(&self, top: &Section<'_>) {
        if top.is_without("listener") {
            top.refuse_document(
                "listener",
                "there is no [[listener]]: no event could come in",
                "expected [[listener]] with type = \"mqtt\" and bind = \"127.0.0.1:1883\"",
            );
        }
        let (log, limits) = (&self.log, &self.limits);
        let (segment, commit) = (log.segment_size, log.commit.max_bytes);
        let packet = limits.max_packet_size;
        let budget = self.budget();
        budget.check(top, self.sinks.len());
        budget.check_retained(top, limits.max_retained_size);
        if segment.0 / 4 < commit.0 {
            let why = format!("leaves a segment ({segment}) too small for 4 commits of {commit}");
            let so = "expected a segment-size of at least 4 × commit.max-bytes";
            top.refuse_path(
                &[&["log", "segment-size"], &["log", "commit", "max-bytes"]],
                Unfit::because(why).so(so),
            );
        }
        if commit < packet {
            let why = format!("leaves a commit ({commit}) too small for a packet of {packet}");
            let so = "expected limits.max-packet-size to be at most log.commit.max-bytes";
            top.refuse_path(
                &[&["log", "commit", "max-bytes"], &["limits", "max-packet-size"]],
                Unfit::because(why).so(so),
            );
        }
        let serves_http =
            self.listeners.iter().any(|listener| matches!(listener, Listener::Http(_)));
        let body = limits.max_body_size;
        if serves_http && commit < body {
            let why = format!("leaves a commit ({commit}) too small for a body of {body}");
            let so = "expected limits.max-body-size to be at most log.commit.max-bytes";
            top.refuse_path(
                &[&["log", "commit", "max-bytes"], &["limits", "max-body-size"]],
                Unfit::because(why).so(so),
            );
        }
        if limits.max_body_memory < body {
            let why = format!("has no room for one body of {body}");
            top.refuse_path(
                &[&["limits", "max-body-memory"], &["limits", "max-body-size"]],
                Unfit::because(why).so("expected at least max-body-size"),
            );
        }
        let memory = limits.max_memory;
        if memory.0 / 8 < packet.0 {
            let why = format!("has no room for 8 packets of {packet}");
            top.refuse_path(
                &[&["limits", "max-memory"], &["limits", "max-packet-size"]],
                Unfit::because(why).so("expected at least 8 × max-packet-size"),
            );
        }
        if memory.0 / 4 < limits.max_body_memory.0 {
            let why = format!("leaves too little beside bodies of {}", limits.max_body_memory);
            top.refuse_path(
                &[&["limits", "max-memory"], &["limits", "max-body-memory"]],
                Unfit::because(why).so("expected at least 4 × max-body-memory"),
            );
        }
        if limits.max_queued < packet {
            let why = format!("has no room for one packet of {packet}");
            let so = "expected at least max-packet-size";
            top.refuse_path(
                &[&["limits", "max-queued"], &["limits", "max-packet-size"]],
                Unfit::because(why).so(so),
            );
        }
        if let Some(level) = self.gateway.device_level
            && !(1..=limits.max_topic_levels).contains(&level)
        {
            let unfit = Unfit::expected(format_args!(
                "1 to {} (limits.max-topic-levels)",
                limits.max_topic_levels
            ));
            top.refuse_path(
                &[&["gateway", "device-level"], &["limits", "max-topic-levels"]],
                unfit,
            );
        }
    }

    /// What may be meant and may be a mistake, each in one line.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for listener in &self.listeners {
            let bind = listener.bind();
            if self.auth.has_logins() && listener.tls().is_none() && !bind.ip().is_loopback() {
                warnings.push(format!("logins travel unencrypted to the listener on {bind}"));
            }
            let open = listener.allow_anonymous() && !listener.admits_only_known();
            if open && !bind.ip().is_loopback() {
                warnings.push(format!("the listener on {bind} lets everybody in who can reach it"));
            }
        }
        if !self.admin.bind.ip().is_loopback() {
            let bind = self.admin.bind;
            warnings.push(format!("[admin] on {bind} shows metrics and status to everybody"));
        }
        for lane in &self.lanes {
            // Not `alerts/low/#`, which means it, but `#` or `+/boiler`, which may not.
            let wide = |filter: &&TopicFilter| filter.0.as_str().starts_with(['#', '+']);
            let takes_alerts = |filter: &TopicFilter| filter.0.matches("alerts/RULE/DEVICE");
            if let Some(filter) = lane.topics.iter().filter(wide).find(|&wide| takes_alerts(wide)) {
                let name = &lane.name;
                warnings
                    .push(format!("lane {name:?} has the alerts too: {filter} matches alerts/#"));
            }
        }
        if self.sinks.is_empty() {
            warnings.push("there is no [[sink]]: events are not forwarded".to_owned());
        }
        for sink in &self.sinks {
            let Bus::Http(http) = &sink.bus;
            let secret = http.bearer_token_file.is_some()
                || http.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"));
            if secret && http.url.starts_with("http://") {
                let name = &sink.name;
                warnings.push(format!("sink {name:?} sends its login unencrypted: http://"));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
