//! The accept loop: bounded, and not to be stopped by a shortage of file descriptors.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::places::{Full, Place};
use super::transport::{HandshakeError, Transport};
use super::{Listener, Shared, connect, http};
use crate::gate::Peer;
use crate::supervise::Role;

/// After an error that the next attempt would meet again (EMFILE, ENFILE, ENOBUFS, ENOMEM).
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes that the kernel takes for a client beyond its window: not some MiB of memory for each that does not
/// read.
const MAX_UNSENT: u32 = 128 << 10;

/// A flood is no reason to flood the log.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Accepts on the listener's socket until the drain.
pub(super) fn serve(listener: Listener, shared: Shared) {
    let address = listener.local_addr().map_or_else(|_| "?".into(), |address| address.to_string());
    let supervisor = shared.supervisor.clone();
    let drain = supervisor.drain().clone();
    let name = format!("{} listener {address}", listener.transport.scheme());
    supervisor.spawn(name, Role::Critical, async move {
        tokio::select! {
            () = run(&listener, &shared, &address) => {}
            () = drain.cancelled() => info!("no more connections are accepted on {address}"),
        }
    });
}

async fn run(listener: &Listener, shared: &Shared, address: &str) {
    let mut told = [None; Full::KINDS];
    loop {
        match accept(&listener.socket).await {
            Ok((stream, peer)) => {
                let Err(full) = admit(listener, stream, peer, shared) else { continue };
                let (told, now) = (&mut told[full as usize], Instant::now());
                if told.is_none_or(|last| now - last >= TELL_AGAIN) {
                    *told = Some(now);
                    let key = full.key();
                    warn!(%peer, "connections to {address} are refused: limits.{key} is reached");
                }
            }
            Err(why) if is_about_the_peer(&why) => debug!("connection lost before accept: {why}"),
            Err(why) => {
                warn!("connections to {address} cannot be accepted for now: {why}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// An IPv4 client of a socket that takes both is shown as one.
async fn accept(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = socket.accept().await?;
    Ok((stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
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

/// A peer that is gone without a word is noticed within 7 min, also by a connection that is not read
/// and one whose client has no keep-alive.
fn keep_alive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(300))
        .with_interval(Duration::from_secs(30))
        .with_retries(4)
}

/// Starts a connection's task, if there is room for one.
fn admit(
    listener: &Listener,
    stream: TcpStream,
    peer: SocketAddr,
    shared: &Shared,
) -> Result<(), Full> {
    let place = shared.places.take(peer.ip(), listener.transport.footprint())?;
    // Acknowledgements are written in batches already; Nagle would only hold them back.
    if let Err(why) = stream.set_nodelay(true) {
        debug!(%peer, "TCP_NODELAY could not be set: {why}");
    }
    if let Err(why) = SockRef::from(&stream).set_tcp_keepalive(&keep_alive()) {
        debug!(%peer, "TCP keep-alive could not be set: {why}");
    }
    if let Err(why) = SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT) {
        debug!(%peer, "TCP_NOTSENT_LOWAT could not be set: {why}");
    }
    let name = format!("{} {peer}", listener.transport.scheme());
    let begun = begin(
        Arc::clone(&listener.transport),
        stream,
        Peer::new(peer, listener.anonymous),
        place,
        shared.clone(),
    );
    shared.supervisor.spawn(name, Role::Ordinary, begun);
    Ok(())
}

/// Shakes hands, then serves the connection.
async fn begin(
    transport: Arc<Transport>,
    socket: TcpStream,
    mut peer: Peer,
    place: Place,
    shared: Shared,
) {
    let deadline = Instant::now() + shared.limits.connect_timeout.0;
    // Boxed: a connection in use does not hold what its beginning took.
    let opened = tokio::select! {
        opened = timeout_at(deadline, Box::pin(transport.open(socket))) => opened,
        () = shared.supervisor.drain().cancelled() => return,
    };
    let metrics = &shared.metrics;
    match opened {
        Ok(Ok((stream, certificate))) => {
            peer.certificate = certificate.map(Arc::new);
            if transport.is_http() {
                Box::pin(http::run(stream, peer, place, shared)).await;
            } else {
                connect::run(stream, peer, place, deadline, shared).await;
            }
        }
        Ok(Err(why)) => {
            metrics.failed_handshake(why.label());
            let peer = peer.address;
            match why {
                HandshakeError::Io(_) => debug!(%peer, "{why}"),
                _ => info!(%peer, "{why}"),
            }
        }
        Err(_) => {
            metrics.timed_out.inc();
            metrics.failed_handshake("slow");
            debug!(peer = %peer.address, "no handshake within limits.connect-timeout");
        }
    }
}
