//! Bytes in: MQTT 3.1.1 and 5.0 over TCP, TLS and WebSocket, one task a connection; and HTTP (`http`).
//!
//! ```text
//! accept ─▶ transport (TLS, WebSocket) ─▶ connect (CONNECT → CONNACK) ─▶ connection ─┬─ inbound   PUBLISH → gate → commit → PUBACK
//!                                                      ├─ session   packet ids, both directions
//!            wire (buffers)   codec (packets)          └─ outbound  bus → PUBLISH
//! ```
//!
//! What a client can rely on:
//! - PUBACK and PUBREC leave after the fdatasync that covers the event, in the order of the PUBLISH
//!   packets. A connection goes on being read while its events wait, up to `limits.max-inflight`
//!   (MQTT 5: the receive maximum).
//! - When the log or the disk has no room, or the disk takes no writes, an MQTT 5 client is told (0x97, 0x80)
//!   and QoS 0 is dropped and counted; of a 3.1.1 client nothing is taken in until there is room, and
//!   it is not thrown out meanwhile: its PINGREQs are answered, and its end is seen.
//! - A CloudEvent with a source and id of its own that comes a second time over MQTT 5 is acknowledged, once
//!   the first is on disk, and not stored (`dedup`).
//! - A client that takes nothing of what waits for it for `limits.send-timeout` is let go.
//! - A session outlasts its connection where the client asks for it, and the daemon too
//!   (`sessions`).
//! - Shared subscriptions are there for 3.1.1 clients too.
//! - What the gate denies is not stored, and not acknowledged: an MQTT 5 client is told (0x87, 0x90), a
//!   3.1.1 client, which has no word for it, loses its connection (`[MQTT-3.3.5-2]`).
//! - There are no authentication methods (0x8C) yet. `$SYS` and
//!   `$share` are not open to publishers (0x90), but for the state of a mosquitto bridge; other topics
//!   that begin with `$` are, and no wildcard in front matches them.
//! - What mosquitto says about itself under `$SYS` is said here too (`broker_status`).
//! - A mosquitto bridge connects with its default settings (protocol level 0x84).
//! - What a client does wrong costs it the connection, with the MQTT 5 reason code, and nobody else
//!   anything. Its will is published then, as after any end but its own DISCONNECT and the drain.

mod accept;
mod ahead;
mod aliases;
mod broker_status;
mod codec;
mod connect;
mod connection;
mod copies;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http;
mod inbound;
mod keeping;
mod metrics;
mod outbound;
mod pace;
mod places;
mod session;
mod sessions;
mod subscribing;
#[cfg(test)]
mod tests;
mod transport;
mod watch;
mod will;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tidegate_config::Limits;
use tokio::net::{TcpListener, TcpSocket};

use crate::bus::SubscriberError;
use crate::gate::{Denied, Gate, Rejected};
use crate::http::body::Bodies;
use crate::supervise::Supervisor;

pub use broker_status::BrokerStatus;
use codec::{Bad, Reason};
pub use metrics::Metrics;
use places::Places;
pub use sessions::{Parts, RestoreError, Sessions};
pub use transport::{Tls, TlsProblem, Transport};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;

/// A bound socket, not yet served.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    anonymous: bool,
    transport: Arc<Transport>,
}

/// What all listeners, and all their connections, share. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Shared {
    gate: Arc<Gate>,
    limits: Arc<Limits>,
    metrics: Metrics,
    supervisor: Supervisor,
    sessions: Sessions,
    places: Places,
    bodies: Bodies,
}

impl Shared {
    /// The way into the log and out of the bus for every connection.
    pub fn new(
        gate: Arc<Gate>,
        sessions: Sessions,
        limits: Limits,
        metrics: Metrics,
        supervisor: Supervisor,
    ) -> Self {
        Self {
            gate,
            places: Places::new(&limits, sessions.memory().clone(), metrics.clone()),
            bodies: Bodies::new(
                limits.max_body_size.as_usize(),
                limits.max_body_memory.as_usize(),
                limits.request_timeout.0,
            )
            .counted(sessions.memory().clone()),
            limits: Arc::new(limits),
            sessions,
            metrics,
            supervisor,
        }
    }
}

impl Listener {
    /// Binds and listens: clients may connect, and wait until [`Listener::serve`]. To be called inside
    /// the runtime. `anonymous` says whether clients are let in that have no login.
    pub fn bind(address: SocketAddr, anonymous: bool, transport: Transport) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { socket: socket.listen(BACKLOG)?, anonymous, transport: Arc::new(transport) })
    }

    /// As [`Listener::bind`], with a socket that listens already.
    pub fn over(
        socket: std::net::TcpListener,
        anonymous: bool,
        transport: Transport,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        Ok(Self { socket, anonymous, transport: Arc::new(transport) })
    }

    /// Where it listens; tells the port that port 0 became.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// How its connections begin.
    pub fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// Accepts connections, each a task of its own, until the drain.
    pub fn serve(self, shared: Shared) {
        accept::serve(self, shared);
    }
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    /// The client is gone without a word.
    #[error("connection lost")]
    Lost,
    #[error("connection lost: {0}")]
    Io(io::Error),
    #[error("clients hold as much memory as limits.max-memory allows, and its packet needs more")]
    NoMemory,
    #[error("client disconnected")]
    Disconnected { with_will: bool },
    #[error("the session could not be written to disk")]
    NotKept,
    #[error("client broke the protocol: {0}")]
    Bad(#[from] Bad),
    #[error("client sent nothing for one and a half times its keep-alive")]
    KeepAlive,
    #[error("client took nothing of what waits for it for limits.send-timeout")]
    Stuck,
    #[error("the same client id connected again")]
    TakenOver,
    #[error("its token has expired")]
    LoginExpired,
    #[error("its login is no longer right")]
    LoginRevoked,
    #[error("the daemon stops")]
    Drain,
    #[error("MQTT 3.1.1 client cannot be told otherwise that its event was refused: {0}")]
    Denied(Denied),
    #[error(
        "MQTT 3.1.1 client cannot be told otherwise that its event could not be written to disk"
    )]
    NotStored,
    #[error(transparent)]
    Bus(#[from] SubscriberError),
}

impl From<io::Error> for End {
    fn from(why: io::Error) -> Self {
        match why.kind() {
            io::ErrorKind::OutOfMemory => Self::NoMemory,
            _ => Self::Io(why),
        }
    }
}

impl From<Denied> for Reason {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NotAuthorized => Self::NotAuthorized,
            _ => Self::TopicInvalid,
        }
    }
}

impl From<Rejected> for Reason {
    fn from(why: Rejected) -> Self {
        match why {
            Rejected::BadLogin | Rejected::BadToken(_) => Self::BadLogin,
            Rejected::LoginNeeded => Self::NotAuthorized,
            Rejected::Busy => Self::ServerBusy,
            Rejected::TooManyFailures => Self::ConnectionRateExceeded,
        }
    }
}

impl End {
    /// What a DISCONNECT says, where one is sent.
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Lost | Self::Io(_) | Self::Stuck | Self::Disconnected { .. } => None,
            Self::Bad(Bad(reason, _)) => Some(*reason),
            Self::KeepAlive => Some(Reason::KeepAliveTimeout),
            Self::TakenOver => Some(Reason::TakenOver),
            Self::LoginExpired => Some(Reason::MaximumConnectTime),
            Self::LoginRevoked => Some(Reason::NotAuthorized),
            Self::Drain | Self::Bus(SubscriberError::Stopped) => Some(Reason::ShuttingDown),
            Self::NoMemory => Some(Reason::QuotaExceeded),
            Self::Denied(denied) => Some(Reason::from(*denied)),
            Self::NotStored | Self::NotKept | Self::Bus(SubscriberError::Read(_)) => {
                Some(Reason::Unspecified)
            }
        }
    }

    /// Whether the will is published (`[MQTT-3.1.2-8]`, `[MQTT-3.14.4-3]`). Not at the drain: the
    /// clients are well.
    fn publishes_will(&self) -> bool {
        match self {
            Self::Disconnected { with_will } => *with_will,
            Self::Drain | Self::Bus(SubscriberError::Stopped) => false,
            _ => true,
        }
    }
}
