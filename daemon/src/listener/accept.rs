//! The accept loop: bounded, and not to be stopped by a shortage of file descriptors.

use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, info, warn};

use super::{Metrics, Shared, connect};
use crate::gate::Peer;
use crate::supervise::Role;

/// After an error that the next attempt would meet again (EMFILE, ENFILE, ENOBUFS, ENOMEM).
const PAUSE: Duration = Duration::from_millis(100);

/// Counts an open connection as long as it lives.
struct Counted {
    metrics: Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// Accepts on `socket` until the drain; `anonymous` clients too, or not.
pub(super) fn serve(socket: TcpListener, anonymous: bool, shared: Shared) {
    let address = socket.local_addr().map_or_else(|_| "?".into(), |address| address.to_string());
    let supervisor = shared.supervisor.clone();
    let drain = supervisor.drain().clone();
    supervisor.spawn(format!("mqtt listener {address}"), Role::Critical, async move {
        tokio::select! {
            () = run(&socket, anonymous, &shared, &address) => {}
            () = drain.cancelled() => info!("no more connections are accepted on {address}"),
        }
    });
}

async fn run(socket: &TcpListener, anonymous: bool, shared: &Shared, address: &str) {
    let mut full = false;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let refused = admit(stream, Peer::new(peer, anonymous), shared).is_err();
                if refused && !full {
                    let limit = shared.limits.max_connections;
                    warn!(
                        "connections to {address} are refused: limits.max-connections is {limit}"
                    );
                }
                full = refused;
            }
            Err(why) if is_about_the_peer(&why) => debug!("connection lost before accept: {why}"),
            Err(why) => {
                warn!("connections to {address} cannot be accepted for now: {why}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_about_the_peer(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
    )
}

/// Starts a connection's task, if there is room for one.
fn admit(
    stream: TcpStream,
    peer: Peer,
    shared: &Shared,
) -> Result<(), tokio::sync::TryAcquireError> {
    let permit = shared.room.clone().try_acquire_owned().inspect_err(|_| {
        shared.metrics.connections_refused.inc();
    })?;
    shared.metrics.connections.inc();
    let counted = Counted { metrics: shared.metrics.clone(), _permit: permit };
    // Acknowledgements are written in batches already; Nagle would only hold them back.
    if let Err(why) = stream.set_nodelay(true) {
        debug!(peer = %peer.address, "TCP_NODELAY could not be set: {why}");
    }
    let name = format!("mqtt {}", peer.address);
    let connection = connect::run(stream, peer, shared.clone());
    shared.supervisor.spawn(name, Role::Ordinary, async move {
        connection.await;
        drop(counted);
    });
    Ok(())
}
