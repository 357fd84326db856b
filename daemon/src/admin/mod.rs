//! What an operator sees, over HTTP:
//!
//! | path | answer |
//! |---|---|
//! | `/health` | 200 while the process works; 503 once the log's writer or a forwarder has stood still for 30 s; for a liveness probe |
//! | `/ready` | 200 once every listener is bound and recovery is done, 503 before |
//! | `/metrics` | Prometheus (OpenMetrics text 1.0) |
//! | `/status` | a JSON object: what is wrong, the log, the disk, the clients, each sink's cursor, lag and state, the open alerts; `tidegate status` prints it |
//!
//! It serves whoever reaches its address, so it is bound to loopback unless the config says
//! otherwise. Each request is answered from memory.
//!
//! | bound | | beyond it |
//! |---|---|---|
//! | connections | `admin.max-connections` | the next one waits until another ends |
//! | headers | 8 KiB and what one read brings | 431 |
//! | until they are there, and between two requests | 5 s | closed |
//! | an answer that is not read | 30 s without a byte taken | closed |

mod readiness;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::server::{self, Bounds};
use crate::supervise::Supervisor;

pub use readiness::{Latch, Readiness};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What one connection may take. Who scrapes or probes is done sooner.
const BOUNDS: Bounds = Bounds {
    headers_within: Duration::from_secs(5),
    max_headers: 8 << 10,
    finish_within: Duration::from_secs(1),
};

/// What the pages are made from.
pub struct Sources {
    /// Every metric of the daemon.
    pub registry: Registry,
    /// Whether it is up.
    pub readiness: Readiness,
    /// Makes the `/status` object, and brings metrics that are read off at a scrape up to date.
    pub status: Box<dyn StatusSource>,
    /// Counts its own connections; in the registry.
    pub connections: Gauge,
    /// Says what stands still that must not.
    pub standing_still: Box<dyn StandingStill>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

/// Makes the `/status` object.
pub trait StatusSource: Fn() -> serde_json::Value + Send + Sync {}

impl<F: Fn() -> serde_json::Value + Send + Sync> StatusSource for F {}

/// Says what stands still, if something does.
pub trait StandingStill: Fn() -> Option<String> + Send + Sync {}

impl<F: Fn() -> Option<String> + Send + Sync> StandingStill for F {}

/// A bound address, not yet served.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
}

impl Admin {
    /// Binds the address.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// As [`Admin::bind`], with a socket that listens already.
    pub fn over(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { listener: TcpListener::from_std(socket)? })
    }

    /// The address, with the port that was taken for port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the drain; each connection is a task of `supervisor`. At most
    /// `max_connections` at once, further ones wait to be accepted.
    pub async fn serve(
        self,
        sources: Arc<Sources>,
        max_connections: usize,
        supervisor: Supervisor,
    ) {
        let drain = supervisor.drain().clone();
        let (places, open) =
            (Arc::new(Semaphore::new(max_connections)), sources.connections.clone());
        let router = Router::new()
            .route("/health", get(health))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .route("/status", get(status))
            .with_state(sources);
        let accepting =
            server::accept("admin", &self.listener, &places, &supervisor, |stream, place| {
                let service = TowerToHyperService::new(router.clone());
                let (open, drain) = (Open::new(open.clone(), place), drain.clone());
                async move {
                    server::serve(stream, service, BOUNDS, drain).await;
                    drop(open);
                }
            });
        tokio::select! {
            () = accepting => {}
            () = drain.cancelled() => {}
        }
    }
}

/// An open connection, and its place.
struct Open {
    connections: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Open {
    fn new(connections: Gauge, place: OwnedSemaphorePermit) -> Self {
        connections.inc();
        Self { connections, _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.dec();
    }
}

async fn health(State(sources): State<Arc<Sources>>) -> (StatusCode, String) {
    match (sources.standing_still)() {
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")),
        None => (StatusCode::OK, "ok\n".to_owned()),
    }
}

async fn ready(State(sources): State<Arc<Sources>>) -> (StatusCode, &'static str) {
    if sources.readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(sources): State<Arc<Sources>>) -> impl IntoResponse {
    (sources.status)();
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &sources.registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            error.to_string(),
        ),
    }
}

async fn status(State(sources): State<Arc<Sources>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], (sources.status)().to_string())
}
