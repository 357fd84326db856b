//! From a fresh connection to a session: CONNECT, CONNACK.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_event::Draft;
use tidegate_event::record::Properties;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tracing::{debug, info};

use super::Shared;
use super::codec::{self, Accepted, Bad, Connect, Framed, Kind, Reason, Refused, Version};
use super::connection::Connection;
use super::wire::Wire;

/// Bytes of a client id: it stands in every block of the log.
const MAX_CLIENT_ID: usize = 256;
/// How long the last words to a client may take.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

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
}

/// Serves one connection from its first byte to its last.
pub(super) async fn run<S>(stream: S, peer: SocketAddr, shared: Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut wire = Box::new(Wire::new(stream, shared.metrics.clone()));
    let drain = shared.supervisor.drain();
    let connect = tokio::select! {
        read = timeout(shared.limits.connect_timeout.0, read_connect(&mut wire, &shared)) => read,
        () = drain.cancelled() => return,
    };
    let connect = match connect {
        Err(_) => {
            shared.metrics.timed_out.inc();
            debug!(%peer, "no CONNECT within limits.connect-timeout");
            return;
        }
        Ok(Err(why)) => return refuse(wire, peer, why, &shared).await,
        Ok(Ok(connect)) => connect,
    };
    let (client, assigned) = match client_id(&connect) {
        Ok(named) => named,
        Err(bad) => {
            let why = Refused::With(connect.version, bad).into();
            return refuse(wire, peer, why, &shared).await;
        }
    };
    let stop = drain.child_token();
    let (_entry, before) = shared.clients.enter(Arc::clone(&client), stop.clone());
    shared.metrics.connects.inc();
    shared.metrics.taken_over.inc_by(u64::from(before));
    info!(%peer, client = &*client, version = ?connect.version, "client connected");
    accept(&mut wire, &connect, assigned, &shared);
    let connection = Connection::new(wire, connect, Arc::clone(&client), stop, &shared);
    let end = Box::pin(connection.run()).await;
    info!(%peer, client = &*client, "{end}");
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
        if wire.unread().first().is_some_and(|head| head >> 4 != Kind::Connect as u8) {
            return Err(Bad::protocol("first packet is not a CONNECT").into());
        }
        match codec::frame(wire.unread(), max)? {
            Framed::Partial(length) => total = length,
            Framed::Frame(frame) => {
                let connect = codec::connect(&frame)?;
                check_will(&connect, shared)?;
                let length = frame.whole.len();
                wire.consume(length);
                return Ok(connect);
            }
        }
    }
}

/// A will that could not be published later is refused now.
fn check_will(connect: &Connect, shared: &Shared) -> Result<(), Refused> {
    let Some(will) = &connect.will else { return Ok(()) };
    let draft = Draft {
        topic: &will.topic,
        qos: will.qos,
        retain: will.retain,
        properties: Properties::new(&will.properties),
        payload: &will.payload,
    };
    shared.gate.check(&draft).map_err(|denied| {
        shared.metrics.denied(denied.label());
        let bad = Bad(Reason::TopicInvalid, "will with a topic that may not be published to");
        Refused::With(connect.version, bad)
    })
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

/// Puts the CONNACK into the output.
fn accept<S>(wire: &mut Wire<S>, connect: &Connect, assigned: Option<String>, shared: &Shared) {
    let max = shared.limits.max_packet_size.0;
    let accepted = Accepted {
        receive_maximum: shared.limits.max_inflight.max(1),
        max_packet_size: u32::try_from(max).unwrap_or(u32::MAX).max(1),
        assigned_client_id: assigned,
    };
    codec::write_accepted(accepted, connect.version, &mut wire.output);
}

/// Says why, as far as the client understands it, and closes.
async fn refuse<S>(mut wire: Box<Wire<S>>, peer: SocketAddr, why: NotConnected, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    info!(%peer, "{why}");
    let NotConnected::Refused(Refused::With(version, Bad(reason, _))) = why else {
        if matches!(why, NotConnected::Bad(_) | NotConnected::Refused(_)) {
            shared.metrics.malformed.inc();
        }
        return;
    };
    shared.metrics.malformed.inc();
    codec::write_refused(reason, version, &mut wire.output);
    // A client that does not take it has gone.
    let _ = timeout(CLOSE_TIMEOUT, wire.close()).await;
}
