//! The wiring: the one place that knows every part. Builds them from the config, starts them, and
//! stops them in order.
//!
//! Sockets are bound first and served last, so that a taken port is known before anything else
//! happens, and no client is answered before recovery is done. Two supervisors make the order of the
//! drain: first what writes to the log ends, then what reads from it.

mod lanes;
mod open;
mod status;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tidegate_config::{Config, Listener as ListenerConfig};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::admin::{Admin, Latch, Readiness, Sources};
use crate::bus::{self, BusHandle};
use crate::clock::{Clock, unix_micros};
use crate::commands::Failure;
use crate::forward::{self, ForwarderHandle};
use crate::gate::{Access, Dedup, Gate, login};
use crate::listener::{self, BrokerStatus, Listener, Sessions, Tls, Transport};
use crate::log::{self, FileSystem, Log, Storage};
use crate::memory::Memory;
use crate::notify::Sockets;
use crate::progress::Progress;
use crate::services::{self, Losses, Services};
use crate::state::State;
use crate::state::ballast::Ballast;
use crate::state::retention::{Retention, SessionBacklog};
use crate::state::room::Room;
use crate::supervise::{Role, Supervisor};

pub(crate) use open::log_options;
use status::Parts;
pub use status::{AlertStatus, ClientStatus, DiskStatus, LaneStatus, LogStatus, Status};

/// How long connections may take to end, once the drain began.
const WRITERS_LIMIT: Duration = Duration::from_secs(5);
/// Days before its end at which a certificate is worth a warning.
const EXPIRES_SOON: i64 = 14;
/// How long everything behind the log may take: the forwarders' grace period and their last answer.
const READERS_LIMIT: Duration = Duration::from_secs(9);
/// How long the state and what waits for the log may take to be saved. All three together stay below
/// the 20 s that the service manager gives.
const SAVE_LIMIT: Duration = Duration::from_secs(4);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// The listeners and their connections.
    writers: Supervisor,
    /// Bus, services, forwarders, retention; and the admin pages.
    readers: Supervisor,
    parts: Arc<Parts>,
    addresses: Vec<(&'static str, SocketAddr)>,
    transports: Vec<(SocketAddr, Arc<Transport>)>,
    /// Who is let in, for [`Gateway::reload_access`].
    access: Access,
    data_dir: PathBuf,
}

/// What a gateway leaves behind when it stops.
#[derive(Debug)]
pub struct Left {
    /// Events on disk that not every sink has.
    pub events: u64,
    /// Where they are.
    pub data_dir: PathBuf,
    /// What failed, where it was not asked to stop, or could not stop in order.
    pub failure: Option<String>,
}

impl Gateway {
    /// Builds and starts every part. Of `sockets` it takes those with an address of the config; it
    /// refuses to leave one over.
    pub async fn start(config: &Config, mut sockets: Sockets) -> Result<Self, Failure> {
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        let mut transports = Vec::new();
        for config in &config.listeners {
            let bind = config.bind();
            let transport = match config {
                ListenerConfig::Mqtt(mqtt) => Transport::new(mqtt),
                ListenerConfig::Http(http) => Transport::http(http),
            };
            let transport = transport.map_err(|problem| {
                Failure::new(Failure::EX_NOINPUT, format!("listener on {bind}: {problem}"))
            })?;
            let what = format!("listener {}", transport.scheme());
            let anonymous = config.allow_anonymous();
            let listener = match sockets.take(bind) {
                Some(socket) => Listener::over(socket, anonymous, transport),
                None => Listener::bind(bind, anonymous, transport),
            };
            let listener = listener.map_err(|error| Failure::bind(&what, bind, &error))?;
            let address = local(listener.local_addr())?;
            addresses.push((listener.transport().scheme(), address));
            transports.push((address, Arc::clone(listener.transport())));
            listeners.push(listener);
        }
        let bind = config.admin.bind;
        let admin = match sockets.take(bind) {
            Some(socket) => Admin::over(socket),
            None => Admin::bind(bind).await,
        };
        let admin = admin.map_err(|error| Failure::bind("admin", bind, &error))?;
        addresses.push(("admin", local(admin.local_addr())?));

        sockets
            .finish()
            .map_err(|problem| Failure::new(Failure::EX_CONFIG, problem.to_string()))?;

        let mut registry = Registry::default();
        let access = load_access(config, &mut registry)?;
        let storage: Arc<dyn Storage> = Arc::new(FileSystem);
        let data_dir = config.gateway.data_dir.clone();
        let (log, state) = open::log_and_state(config)?;

        let writers = Supervisor::new();
        let readers = Supervisor::new();
        let dedup = Dedup::new(&config.dedup);
        dedup.register(&mut registry);
        dedup.restore(&log);
        let gate =
            Gate::with_access(Arc::clone(&log), &config.limits, Clock::new(), access.clone())
                .with_dedup(dedup);
        let gate = Arc::new(gate);
        let listener = listener::Metrics::default();
        listener.register(&mut registry);
        let bus = bus::Metrics::default();
        bus.register(&mut registry);
        // Before anybody is let in.
        let room = Room::new(config, bus.retained_bytes.clone());
        room.measure(&log, true);
        let sessions =
            start_sessions(config, &log, &gate, &state, &listener, (&mut registry, bus), &readers)?;
        let services = services::Metrics::default();
        services.register(&mut registry);
        start_services(config, &log, &gate, &state, &services, &readers)?;
        let forwarders = start_forwarders(config, &log, &state, storage, &mut registry, &readers)?;
        let ballast = Ballast::new(&data_dir, config.log.held_ballast().0);
        ballast.register(&mut registry);
        Retention {
            ballast,
            log: Arc::clone(&log),
            state: state.clone(),
            sessions: SessionBacklog {
                from: sessions.needed(),
                max_bytes: config
                    .limits
                    .max_session_backlog
                    .map_or(config.log.max_size.0 / 4, |backlog| backlog.0),
            },
            sinks: config.sinks.iter().map(|sink| sink.name.clone()).collect(),
            max_size: config.log.max_size.0,
            clock: Clock::new(),
            room: Some(room),
            retain: config.log.retain.0,
        }
        .start(&readers);
        watch_writer(&log, &readers);

        registry.register_collector(Box::new(log::Metrics::new(
            Arc::clone(&log),
            config.log.max_size.0,
        )));
        let shared = listener::Shared::new(
            gate,
            sessions,
            config.limits.clone(),
            listener.clone(),
            writers.clone(),
        );
        let id = config.gateway.id.clone();
        let parts = Arc::new(Parts {
            id,
            log,
            state,
            forwarders,
            listener,
            services,
            max_bytes: config.log.max_size.0,
            data_dir: data_dir.clone(),
            watch: Mutex::default(),
        });
        let (readiness, latch) = Readiness::new();
        let admin = (admin, config.admin.max_connections);
        serve_admin(admin, registry, readiness, &parts, &readers);
        for listener in listeners {
            listener.serve(shared.clone());
        }
        drop::<Latch>(latch);
        let gateway = Self { writers, readers, parts, addresses, transports, access, data_dir };
        gateway.look_at_certificates();
        Ok(gateway)
    }

    /// Every bound address, with what is served there.
    pub fn addresses(&self) -> &[(&'static str, SocketAddr)] {
        &self.addresses
    }

    /// Reads the listeners' certificates again, for connections that are still to come. What cannot be
    /// used is told, and what was used so far stays.
    pub fn reload(&self) {
        for (address, transport) in &self.transports {
            match transport.reload() {
                Ok(()) if transport.tls().is_some() => {
                    info!("the certificates of the listener on {address} were read again");
                }
                Ok(()) => {}
                Err(problem) => {
                    error!("the listener on {address} keeps its old certificates: {problem}");
                }
            }
        }
        self.look_at_certificates();
    }

    /// Takes `[auth]` and `[[acl]]` from `config`, with the files that they name, for connected clients
    /// too. What cannot be used is told, and what was used so far stays.
    pub fn reload_access(&self, config: &Config) {
        match self.access.reload(config) {
            Ok(ended) => info!(
                ended,
                "logins and rights were read again; connections whose login is \
                                       no longer right end"
            ),
            Err(problem) => error!("logins and rights stay as they were: {problem}"),
        }
    }

    fn look_at_certificates(&self) {
        let now = unix_micros() / 1_000_000;
        for (address, transport) in &self.transports {
            let Some(not_after) = transport.tls().and_then(Tls::not_after) else { continue };
            self.parts.listener.certificate_ends(*address, not_after);
            match (not_after - now).div_euclid(86_400) {
                ..0 => warn!("the certificate of the listener on {address} has expired"),
                days @ 0..EXPIRES_SOON => {
                    warn!("the certificate of the listener on {address} expires in {days} days");
                }
                _ => {}
            }
        }
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        self.parts.status()
    }

    /// How far the parts are that must not stand still: the log's writer, then every forwarder.
    pub fn progress(&self) -> impl Iterator<Item = Progress> {
        self.parts.progress()
    }

    /// The name of one of them.
    pub fn part(&self, index: usize) -> &str {
        self.parts.name(index)
    }

    /// Resolves when a part that the gateway is nothing without has ended.
    pub async fn failed(&self) {
        tokio::select! {
            () = self.writers.drain().cancelled() => {}
            () = self.readers.drain().cancelled() => {}
        }
    }

    /// Stops in order: no new connections, what waits is committed and acknowledged; then the sinks
    /// are flushed for a grace period, state and cursors saved, the log closed.
    pub async fn drain(self) -> Left {
        let mut late = None;
        self.writers.begin_drain();
        if timeout(WRITERS_LIMIT, self.writers.ended()).await.is_err() {
            warn!("some connections did not end in time");
        }
        self.readers.begin_drain();
        if timeout(READERS_LIMIT, self.readers.ended()).await.is_err() {
            late = Some("not everything behind the log ended in time".to_owned());
        }
        if timeout(SAVE_LIMIT, self.parts.save()).await.is_err() {
            let data = self.data_dir.display();
            late = Some(format!(
                "the disk under {data} does not answer; what was acknowledged is on it, the next start goes on"
            ));
            self.parts.log.abandon();
        }
        let failure = self.writers.failure().or_else(|| self.readers.failure()).or(late);
        Left { events: self.parts.status().lag(), data_dir: self.data_dir, failure }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.events {
            0 => f.write_str("every event was forwarded"),
            n => write!(
                f,
                "{n} events wait in {} to be forwarded after the next start",
                self.data_dir.display()
            ),
        }
    }
}

fn local(address: io::Result<SocketAddr>) -> Result<SocketAddr, Failure> {
    address.map_err(|error| Failure::system("cannot tell the address of a socket", &error))
}

/// Without the thread that writes the log nobody is acknowledged any more: then the daemon stops.
fn watch_writer(log: &Arc<Log>, readers: &Supervisor) {
    let (log, drain) = (Arc::clone(log), readers.drain().clone());
    readers.spawn("log-writer", Role::Critical, async move {
        tokio::select! {
            () = drain.cancelled() => {}
            () = log.stopped() => {}
        }
    });
}

fn load_access(config: &Config, registry: &mut Registry) -> Result<Access, Failure> {
    let metrics = login::Metrics::default();
    metrics.register(registry);
    Access::load(config, metrics)
        .map_err(|problem| Failure::new(Failure::EX_NOINPUT, problem.to_string()))
}

/// Restores the sessions, and starts the bus where they need it.
fn start_sessions(
    config: &Config,
    log: &Arc<Log>,
    gate: &Arc<Gate>,
    state: &State,
    metrics: &listener::Metrics,
    (registry, bus_metrics): (&mut Registry, bus::Metrics),
    readers: &Supervisor,
) -> Result<Sessions, Failure> {
    let tree = state.tree(bus::TREE).map_err(|error| not_loaded("retained messages", error))?;
    let memory = Memory::new(config.limits.max_memory.as_usize());
    memory.register(registry);
    let mut limits = config.limits.clone();
    limits.max_retained_size.get_or_insert(config.budget().retained());
    let (bus, prepared) =
        BusHandle::prepare(Arc::clone(log), tree, &limits, memory, bus_metrics.clone())
            .map_err(|error| not_loaded("retained messages", error))?;
    let limits = &config.limits;
    let parts = listener::Parts { log, gate, bus: &bus, state, limits, metrics };
    let sessions = Sessions::restore(&parts).map_err(|error| not_loaded("sessions", error))?;
    prepared.saving(state.save_requests()).start(sessions.position(), readers);
    sessions.start(state, readers);
    BrokerStatus::new(sessions.clone(), Arc::clone(log), metrics.clone(), bus_metrics)
        .start(config.gateway.sys_interval.0, readers);
    Ok(sessions)
}

fn start_services(
    config: &Config,
    log: &Arc<Log>,
    gate: &Arc<Gate>,
    state: &State,
    metrics: &services::Metrics,
    readers: &Supervisor,
) -> Result<(), Failure> {
    let services = Services {
        log: Arc::clone(log),
        gate: Arc::clone(gate),
        state: state.clone(),
        metrics: metrics.clone(),
        supervisor: readers.clone(),
    };
    services
        .start_alerts(&config.gateway, &config.alerts, config.limits.max_alert_devices)
        .map_err(|error| not_loaded("alerts", error))?;
    Losses::start(&config.gateway.id, log, gate, state, readers)
        .map_err(|error| not_loaded("losses", error))?;
    Ok(())
}

fn not_loaded(what: &str, error: impl fmt::Display) -> Failure {
    Failure::new(Failure::EX_IOERR, format!("cannot load the {what}: {error}"))
}

fn start_forwarders(
    config: &Config,
    log: &Arc<Log>,
    state: &State,
    storage: Arc<dyn Storage>,
    registry: &mut Registry,
    readers: &Supervisor,
) -> Result<Vec<ForwarderHandle>, Failure> {
    let gateway = &config.gateway;
    let metrics = forward::Metrics::default();
    metrics.register(registry);
    let shared = forward::Shared {
        log: Arc::clone(log),
        encoder: Arc::new(forward::encoder(config)),
        cursors: state.cursors(),
        storage,
        dead_letters: gateway.data_dir.join("dlq"),
        metrics,
        late_after: None,
    };
    let start = |sink| {
        ForwarderHandle::start(sink, &shared, readers).map_err(|error| {
            let wrong = error.source.is_config();
            let code = if wrong { Failure::EX_CONFIG } else { Failure::EX_NOINPUT };
            Failure::new(code, error.to_string())
        })
    };
    config.sinks.iter().map(start).collect()
}

fn serve_admin(
    admin: (Admin, usize),
    mut registry: Registry,
    readiness: Readiness,
    parts: &Arc<Parts>,
    readers: &Supervisor,
) {
    let (admin, max_connections) = admin;
    let connections = Gauge::default();
    registry.register(
        "tidegate_admin_connections",
        "Open connections to [admin]",
        connections.clone(),
    );
    let (of_status, of_health) = (Arc::clone(parts), Arc::clone(parts));
    let status = move || serde_json::to_value(of_status.status()).unwrap_or_default();
    let sources = Sources {
        registry,
        readiness,
        status: Box::new(status),
        connections,
        standing_still: Box::new(move || of_health.standing_still()),
    };
    let serving = admin.serve(Arc::new(sources), max_connections, readers.clone());
    readers.spawn("admin", Role::Critical, serving);
}
