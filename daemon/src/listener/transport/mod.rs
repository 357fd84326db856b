//! What MQTT travels in: TCP, TLS 1.2 and 1.3, WebSocket, secure WebSocket; and HTTP: the first two.
//!
//! ```text
//! TcpStream ─▶ TLS handshake ─▶ client's certificate ─▶ WebSocket upgrade ─▶ Stream
//!              tls.rs           certificate.rs          websocket/
//! ```
//!
//! - A handshake that is slow waits alone, within `limits.connect-timeout`; how many wait at once is
//!   `limits.max-connecting`. What a handshake computes (signatures, a millisecond with RSA) leaves one
//!   processor to those who are connected.
//! - Certificates are read again by [`Transport::reload`]: new connections get the new ones, those that
//!   exist keep what they have.
//! - Idle connections hold no buffers here beyond rustls's own state.

mod certificate;
mod stream;
mod tls;
mod websocket;

use std::io;
use std::time::Duration;

use tidegate_config::{HttpListener, Mqtt, Transport as Carrier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http::MAX_HEADERS;
use crate::gate::Certificate;

use stream::Channel;
pub(super) use stream::Stream;
pub use tls::{Tls, TlsProblem};
#[cfg(any(test, fuzzing))]
pub(super) use websocket::fuzzing;
use websocket::{Refused, WebSocket};

/// Bytes that an idle connection takes, measured: with its task, its session, and two small buffers.
const TCP_MEMORY: usize = 16 << 10;
/// What TLS adds to that.
const TLS_MEMORY: usize = 8 << 10;
/// What TLS and WebSocket take of what a full socket does not.
const HELD_BACK: usize = 64 << 10;
/// How long a client may take to read why its upgrade was refused.
const FAREWELL: Duration = Duration::from_secs(1);

/// Bytes that a connection takes, about, beside its own buffers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Footprint {
    /// While it does little.
    pub(super) idle: usize,
    /// As many more while its client does not take what is written.
    pub(super) stuck: usize,
}

/// How the connections of one listener begin.
#[derive(Debug, Default)]
pub struct Transport {
    tls: Option<Tls>,
    /// For WebSocket: the web pages that may connect.
    websocket: Option<Vec<String>>,
    is_http: bool,
}

/// Why a connection did not come to its first MQTT packet.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("connection lost during the handshake: {0}")]
    Io(#[from] io::Error),
    #[error("no TLS: {0}")]
    Tls(String),
    #[error("client certificate refused: {0}")]
    Certificate(String),
    #[error("no WebSocket: {0}")]
    WebSocket(Refused),
}

impl HandshakeError {
    /// For the metric.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Io(_) => "lost",
            Self::Tls(_) => "tls",
            Self::Certificate(_) => "certificate",
            Self::WebSocket(_) => "websocket",
        }
    }
}

impl Transport {
    /// As the config says; reads the certificates.
    ///
    /// # Errors
    /// Where a file of `tls.*` cannot be used.
    pub fn new(config: &Mqtt) -> Result<Self, TlsProblem> {
        Ok(Self {
            tls: config.tls.as_ref().map(Tls::load).transpose()?,
            websocket: (config.transport == Carrier::WebSocket).then(|| config.origins.clone()),
            is_http: false,
        })
    }

    /// The same for a listener that speaks HTTP.
    ///
    /// # Errors
    /// Where a file of `tls.*` cannot be used.
    pub fn http(config: &HttpListener) -> Result<Self, TlsProblem> {
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        Ok(Self { tls, websocket: None, is_http: true })
    }

    /// Whether HTTP is spoken, and not MQTT.
    pub(super) fn is_http(&self) -> bool {
        self.is_http
    }

    /// What one connection takes.
    pub(super) fn footprint(&self) -> Footprint {
        let tls = if self.tls.is_some() { TLS_MEMORY } else { 0 };
        let headers = if self.is_http { MAX_HEADERS } else { 0 };
        let passes_on = self.tls.is_none() && self.websocket.is_none();
        Footprint { idle: TCP_MEMORY + tls + headers, stuck: if passes_on { 0 } else { HELD_BACK } }
    }

    /// What is served, for whoever started the daemon: `mqtt`, `mqtts`, `ws`, `wss`, `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match (&self.websocket, &self.tls) {
            (None, None) if self.is_http => "http",
            (None, Some(_)) if self.is_http => "https",
            (None, None) => "mqtt",
            (None, Some(_)) => "mqtts",
            (Some(_), None) => "ws",
            (Some(_), Some(_)) => "wss",
        }
    }

    /// Reads the certificates again. On an error everything stays as it was.
    ///
    /// # Errors
    /// Where a file of `tls.*` cannot be used.
    pub fn reload(&self) -> Result<(), TlsProblem> {
        self.tls.as_ref().map_or(Ok(()), Tls::reload)
    }

    /// `tls.*`, where it has any.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Shakes hands. To be called with a limit on its time; it may be dropped.
    pub(super) async fn open(
        &self,
        socket: TcpStream,
    ) -> Result<(Stream, Option<Certificate>), HandshakeError> {
        let (mut channel, certificate) = match &self.tls {
            None => (Channel::Tcp(socket), None),
            Some(tls) => {
                let (stream, certificate) = Box::pin(tls.accept(socket)).await?;
                (Channel::Tls(Box::new(stream)), certificate)
            }
        };
        let Some(origins) = &self.websocket else {
            return Ok((Stream::Direct(channel), certificate));
        };
        match websocket::upgrade(&mut channel, origins).await? {
            Ok(early) => {
                Ok((Stream::WebSocket(Box::new(WebSocket::new(channel, early))), certificate))
            }
            Err(refused) => {
                // Whoever does not read it has gone.
                let _ = timeout(FAREWELL, refuse(&mut channel, &refused)).await;
                Err(HandshakeError::WebSocket(refused))
            }
        }
    }
}

/// Says why, and takes what was sent meanwhile: a socket closed with unread bytes is reset, and the
/// answer may be lost with it.
async fn refuse(channel: &mut Channel, refused: &Refused) -> io::Result<()> {
    channel.write_all(refused.response().as_bytes()).await?;
    channel.shutdown().await?;
    let mut rest = [0; 1024];
    while channel.read(&mut rest).await? > 0 {}
    Ok(())
}
