//! Who a client is: what its transport and its CONNECT say, and what was made of that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::Secret;

/// The other side of a connection, as its transport knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it connects from.
    pub address: SocketAddr,
    /// What its certificate says, where TLS has verified one.
    pub certificate: Option<Arc<Certificate>>,
    /// Whether its listener lets clients in that have no login.
    pub anonymous: bool,
}

/// What a client certificate says that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The client's name: that part of the certificate which the listener's `tls.client-name` says. No
    /// control characters; 1 to 256 bytes.
    pub name: String,
}

/// What a client says to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// The user name.
    pub username: Option<String>,
    /// The password, or a token in its place.
    pub password: Option<Secret>,
}

/// Who a client is, as far as that was proved. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// None is an anonymous client.
    pub user: Option<Arc<str>>,
    /// The groups that the user is in.
    pub groups: Arc<[Arc<str>]>,
    /// When the proof ends, and the connection with it.
    pub expires: Option<SystemTime>,
}

impl Identity {
    /// A client that proved nothing.
    pub fn anonymous() -> Self {
        Self::default()
    }
}

impl Peer {
    /// A peer without a certificate.
    pub fn new(address: SocketAddr, anonymous: bool) -> Self {
        Self { address, certificate: None, anonymous }
    }
}
