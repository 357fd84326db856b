//! Who a client is: what its transport and its CONNECT say, and what was made of that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Secret;
use super::login::{Hash, Tokens};

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
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Identity {
    /// None is an anonymous client.
    pub user: Option<Arc<str>>,
    /// The groups that a token names, beside those of `[auth.groups]`.
    pub groups: Arc<[Arc<str>]>,
    /// When the proof ends, and the connection with it.
    pub expires: Option<SystemTime>,
    /// What it was proved by.
    pub(super) proof: Proof,
}

/// What a user was proved by, where a file can take that back.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Proof {
    /// Nothing, or a certificate.
    #[default]
    None,
    /// This entry of the password file.
    Password(Arc<Hash>),
    /// A token, by this key.
    Token(Arc<Tokens>),
}

impl Identity {
    /// A client that proved nothing.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Resolves when the proof has ended; never, if it has no end.
    pub async fn expired(&self) {
        // The clock may be set meanwhile.
        const LOOK: Duration = Duration::from_secs(60);
        let Some(expires) = self.expires else { return std::future::pending().await };
        while let Some(left) =
            expires.duration_since(SystemTime::now()).ok().filter(|left| !left.is_zero())
        {
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    /// Whether the proof has ended.
    pub fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= SystemTime::now())
    }
}

impl Peer {
    /// A peer without a certificate.
    pub fn new(address: SocketAddr, anonymous: bool) -> Self {
        Self { address, certificate: None, anonymous }
    }
}
