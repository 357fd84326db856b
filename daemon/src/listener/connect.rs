//! From a fresh connection to a session: CONNECT, CONNACK.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_config::Limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::codec::{self, Accepted, Bad, Connect, Framed, Kind, Reason, Refused, Version};
use super::connection::Connection;
use super::places::Place;
use super::sessions::{Attached, Unattached, Wish};
use super::wire::Wire;
use super::{Shared, will};
use crate::gate::{Identity, Peer, Present, Rejected, Rights};

/// Bytes of a client id: it stands in every block of the log.
const MAX_CLIENT_ID: usize = 256;
/// What TLS begins with: the type of a record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// How long the last words to a client may take.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A client that may have a session.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) connect: Connect,
    pub(super) client: Arc<str>,
    /// The client id once more, if it is one that we gave it.
    pub(super) assigned: Option<String>,
    pub(super) identity: Identity,
    pub(super) rights: Rights,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum NotConnected {
    #[error("connection lost before CONNECT: {0}")]
    Io(#[from] io::Error),
    #[error("connection closed before CONNECT")]
    Closed,
    #[error("no CONNECT: {0}")]
    Bad(#[from] Bad),
    #[error("CONNECT refused: {0}")]
    Refused(#[from] Refused),
    #[error("CONNECT refused: {1}")]
    Rejected(Version, Rejected),
    #[error("CONNECT of client {2:?} refused: {1}")]
    Unattached(Version, Unattached, Arc<str>),
}

/// A client that has a session.
struct Established<S> {
    connection: Box<Connection<S>>,
    client: Arc<str>,
    identity: Identity,
    stop: CancellationToken,
    _present: Present,
}

/// Serves one connection from its first byte to its last; the CONNECT must be there by `deadline`.
pub(super) async fn run<S>(
    stream: S,
    peer: Peer,
    mut place: Place,
    deadline: Instant,
    shared: Shared,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let address = peer.address;
    // Boxed: what it takes to get there is given back.
    let established = Box::pin(establish(stream, peer, &mut place, deadline, &shared)).await;
    let Some(Established { connection, client, identity, stop, _present }) = established else {
        return;
    };
    let mut connection = Box::pin(connection.run());
    let end = tokio::select! {
        end = &mut connection => end,
        () = identity.expired() => {
            stop.cancel();
            connection.await
        }
    };
    info!(peer = %address, client = &*client, "{end}");
}

/// From the first byte to the CONNACK.
async fn establish<S>(
    stream: S,
    peer: Peer,
    place: &mut Place,
    deadline: Instant,
    shared: &Shared,
) -> Option<Established<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (footprint, memory) = (place.footprint(), shared.sessions.memory());
    let mut wire = Box::new(Wire::new(stream, footprint, memory, shared.metrics.clone()));
    let drain = shared.supervisor.drain();
    let admitted = tokio::select! {
        admitted = timeout_at(deadline, admit(&mut wire, &peer, shared)) => admitted,
        () = drain.cancelled() => return None,
    };
    let peer = peer.address;
    let admitted = match admitted {
        Err(_) => {
            shared.metrics.timed_out.inc();
            debug!(%peer, "no CONNECT within limits.connect-timeout");
            return None;
        }
        Ok(Err(why)) => {
            refuse(wire, peer, why, shared).await;
            return None;
        }
        Ok(Ok(admitted)) => admitted,
    };
    let version = admitted.connect.version;
    if !place.connected() {
        let why = NotConnected::Unattached(version, Unattached::NoMemory, admitted.client);
        refuse(wire, peer, why, shared).await;
        return None;
    }
    // As large as it will be: before there is a session.
    if !accept(&admitted, None, shared, &mut Vec::new()) {
        shared.metrics.malformed.inc();
        info!(%peer, "CONNECT refused: the CONNACK is larger than the client's maximum packet size");
        return None;
    }
    let client = Arc::clone(&admitted.client);
    let stop = drain.child_token();
    let identity = admitted.identity.clone();
    let _present = shared.gate.enter(&identity, &stop);
    let wish = Wish {
        clean: admitted.connect.clean,
        expiry: admitted.connect.session_expiry,
        user: identity.user.clone(),
    };
    let attached = match shared.sessions.attach(&client, wish, &stop).await {
        Ok(attached) => attached,
        Err(why) => {
            refuse(wire, peer, NotConnected::Unattached(version, why, client), shared).await;
            return None;
        }
    };
    shared.metrics.connects.inc();
    shared.metrics.taken_over.inc_by(attached.took_over.into());
    let resumed = attached.resumed.is_some();
    let user = admitted.identity.user.as_deref();
    info!(%peer, client = &*client, user, ?version, resumed, "client connected");
    accept(&admitted, Some(&attached), shared, &mut wire.output);
    let connection = Connection::new(wire, admitted, attached, stop.clone(), shared);
    Some(Established { connection: Box::new(connection), client, identity, stop, _present })
}

/// Reads the CONNECT and finds out who that is: before there is a session.
async fn admit<S>(
    wire: &mut Wire<S>,
    peer: &Peer,
    shared: &Shared,
) -> Result<Admitted, NotConnected>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connect = read_connect(wire, shared).await?;
    let refused = |bad| Refused::With(connect.version, bad);
    let (client, assigned) = client_id(&connect).map_err(refused)?;
    let credentials = std::mem::take(&mut connect.credentials);
    let identity = shared
        .gate
        .authenticate(peer, &credentials)
        .await
        .map_err(|why| NotConnected::Rejected(connect.version, why))?;
    let mut rights = shared.gate.rights(&identity, &client);
    will::check(&connect, &mut rights, shared)?;
    Ok(Admitted { connect, client, assigned, identity, rights })
}

async fn read_connect<S>(wire: &mut Wire<S>, shared: &Shared) -> Result<Connect, NotConnected>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let max = shared.limits.max_packet_size.as_usize();
    let mut total = None;
    loop {
        if poll_fn(|context| wire.poll_read(context, total)).await? == 0 {
            return Err(NotConnected::Closed);
        }
        // Whatever else it begins with is not looked at any longer.
        if wire.unread().first() == Some(&TLS_HANDSHAKE) {
            return Err(Bad::protocol("TLS, which this listener does not speak").into());
        }
        if wire.unread().first().is_some_and(|head| head >> 4 != Kind::Connect as u8) {
            return Err(Bad::protocol("first packet is not a CONNECT").into());
        }
        match codec::frame(wire.unread(), max)? {
            Framed::Partial(length) => total = length,
            Framed::Frame(frame) => {
                let connect = codec::connect(&frame)?;
                let length = frame.whole.len();
                wire.consume(length);
                return Ok(connect);
            }
        }
    }
}

/// The client's id, and once more if it is one that we gave it.
fn client_id(connect: &Connect) -> Result<(Arc<str>, Option<String>), Bad> {
    let id = connect.client_id.as_str();
    if id.len() > MAX_CLIENT_ID {
        return Err(Bad(Reason::ClientIdInvalid, "client id longer than 256 bytes"));
    }
    if !id.is_empty() {
        return Ok((id.into(), None));
    }
    // `[MQTT-3.1.3-8]`: 3.1.1 needs a name for a session that is to stay.
    if connect.version == Version::V4 && !connect.clean {
        return Err(Bad(Reason::ClientIdInvalid, "no client id, and no clean session"));
    }
    let assigned = format!("auto-{:016x}", fastrand::u64(..));
    Ok((assigned.as_str().into(), Some(assigned)))
}

/// The keep-alive that counts, in seconds; 0 is none. A 3.1.1 client cannot be told another one than
/// its own.
pub(super) fn keep_alive(connect: &Connect, limits: &Limits) -> u16 {
    let longest = u16::try_from(limits.max_keep_alive.0.as_secs()).unwrap_or(u16::MAX);
    match (connect.version, connect.keep_alive) {
        (Version::V4, own) => own,
        (Version::V5, own) if longest == 0 => own,
        (Version::V5, 0) => longest,
        (Version::V5, own) => own.min(longest),
    }
}

/// Puts the CONNACK into the output, unless it is larger than the client takes
/// (`[MQTT-3.1.2-24]`).
fn accept(
    admitted: &Admitted,
    attached: Option<&Attached>,
    shared: &Shared,
    out: &mut Vec<u8>,
) -> bool {
    let connect = &admitted.connect;
    let ours = keep_alive(connect, &shared.limits);
    let max = shared.limits.max_packet_size.0;
    let accepted = Accepted {
        session_present: attached.is_some_and(|attached| attached.resumed.is_some()),
        session_expiry: attached.map_or(0, |attached| attached.hold.expiry()),
        receive_maximum: shared.limits.max_inflight.max(1),
        max_packet_size: u32::try_from(max).unwrap_or(u32::MAX).max(1),
        assigned_client_id: admitted.assigned.clone(),
        topic_alias_maximum: shared.limits.max_topic_aliases,
        keep_alive: (ours != connect.keep_alive).then_some(ours),
        retain_available: shared.limits.max_retained > 0,
    };
    codec::write_accepted(accepted, connect.version, out);
    out.len() <= connect.max_packet_size
}

/// Says why, as far as the client understands it, and closes.
async fn refuse<S>(mut wire: Box<Wire<S>>, peer: SocketAddr, why: NotConnected, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    info!(%peer, "{why}");
    let malformed = matches!(why, NotConnected::Bad(_) | NotConnected::Refused(_));
    shared.metrics.malformed.inc_by(u64::from(malformed));
    let (version, reason) = match why {
        NotConnected::Refused(Refused::With(version, Bad(reason, _))) => (version, reason),
        NotConnected::Rejected(version, why) => (version, why.into()),
        NotConnected::Unattached(version, why, _) => (version, why.reason()),
        _ => return,
    };
    codec::write_refused(reason, version, &mut wire.output);
    // A client that does not take it has gone.
    let _ = timeout(CLOSE_TIMEOUT, wire.close()).await;
}
