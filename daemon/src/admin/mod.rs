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
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use readiness::{Latch, Readiness};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long open requests may go on once the drain began.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// What the pages are made from.
pub struct Sources {
    /// Every metric of the daemon.
    pub registry: Registry,
    /// Whether it is up.
    pub readiness: Readiness,
    /// Makes the `/status` object, and brings metrics that are read off at a scrape up to date.
    pub status: Box<dyn StatusSource>,
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

    /// Serves until the drain.
    pub async fn serve(self, sources: Arc<Sources>, drain: CancellationToken) {
        let router = Router::new()
            .route("/health", get(health))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .route("/status", get(status))
            .with_state(sources);
        let stop = drain.clone();
        let server = axum::serve(self.listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        let limit = async {
            drain.cancelled().await;
            tokio::time::sleep(DRAIN_LIMIT).await;
        };
        tokio::select! {
            result = async { server.await } => if let Err(error) = result {
                tracing::error!("admin: {error}");
            },
            () = limit => {}
        }
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
