//! Whether a client is who it says.

use super::{Credentials, Identity, Peer};

/// Verifies logins.
#[derive(Debug, Clone, Default)]
pub struct Authenticator {}

/// Why a client is not let in. The text is for the operator; the client is told the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// MQTT 5: 0x86; 3.1.1: 4.
    #[error("wrong user name or password")]
    BadLogin,
    /// MQTT 5: 0x87; 3.1.1: 5.
    #[error("no login, and the listener does not let anonymous clients in")]
    LoginNeeded,
    /// MQTT 5: 0x89; 3.1.1: 3.
    #[error("too many logins wait to be verified")]
    Busy,
    /// MQTT 5: 0x9f; 3.1.1: 3.
    #[error("too many failed logins from this address")]
    TooManyFailures,
}

impl Authenticator {
    /// Verifies a client's login. To be called with a limit on its time; it may be dropped.
    ///
    /// # Errors
    /// Why the client is not let in.
    pub async fn authenticate(
        &self,
        peer: &Peer,
        _client: &str,
        _credentials: &Credentials,
    ) -> Result<Identity, Rejected> {
        if peer.anonymous { Ok(Identity::anonymous()) } else { Err(Rejected::LoginNeeded) }
    }
}
