//! Accepts connections, a bounded number of them, and serves each until it or the service ends.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::stall::Impatient;
use crate::supervise::{Role, Supervisor};

/// The pause after an accept that failed, most often for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long a client may take for a request's headers, and keep a connection without a request.
    pub(crate) headers_within: Duration,
    /// Bytes of a request's headers, beside what one read brings; more are answered with 431. At
    /// least 8 KiB.
    pub(crate) max_headers: usize,
    /// How long the request at hand may take once the service stops.
    pub(crate) finish_within: Duration,
}

impl Bounds {
    /// 10 s, 64 KiB; `finish_within` as given.
    pub(crate) fn finishing(finish_within: Duration) -> Self {
        Self { headers_within: Duration::from_secs(10), max_headers: 64 << 10, finish_within }
    }
}

/// Accepts connections while there are places, each a task of its own that `serve` makes; until it is
/// dropped. `name` is what log lines call the service.
pub(crate) async fn accept<F>(
    name: &'static str,
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    supervisor: &Supervisor,
    mut serve: impl FnMut(TcpStream, OwnedSemaphorePermit) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    while let Ok(place) = Arc::clone(places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small: none waits for the next.
                let _ = stream.set_nodelay(true);
                supervisor.spawn(format!("{name} {peer}"), Role::Ordinary, serve(stream, place));
            }
            Err(error) => {
                warn!("{name}: connections cannot be accepted for now: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves one connection until it ends; after `stop`, until the request at hand is answered.
pub(crate) async fn serve<IO, S>(stream: IO, service: S, bounds: Bounds, stop: CancellationToken)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.headers_within)
        .max_buf_size(bounds.max_headers)
        .serve_connection(TokioIo::new(Impatient::new(stream)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(bounds.finish_within, connection).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        debug!("an HTTP connection ended: {error}");
    }
}
