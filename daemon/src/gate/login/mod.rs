//! Whether a client is who it says: passwords, tokens, certificates.
//!
//! A login counts more than a certificate, and either more than being anonymous:
//! - Where passwords or tokens can be verified, a client that says a user name or password is verified
//!   by them: a password that has the form of a token as one, if there is `[auth.jwt]`.
//! - Otherwise the client is whom its certificate names, if it has one.
//! - Otherwise it is anonymous, if its listener lets anonymous clients in.
//!
//! What a flood of logins costs is bounded. A password is verified on a thread beside the runtime, at
//! most `auth.max-verifying` at once; the addresses take turns, each by its own line, so that a flood
//! from one delays the others by no more than one verification. Who was verified is remembered by a
//! keyed hash, and failures cost the address a penalty, during which it is refused unseen
//! (`failures`).

mod failures;
#[cfg(any(test, fuzzing))]
pub(in crate::gate) mod fuzzing;
mod generations;
mod hash;
mod jwt;
mod key;
mod line;
mod metrics;
pub mod passwords;
mod present;
mod remembered;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tidegate_config as config;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::identity::Proof;
use super::{Credentials, Identity, Peer};

pub use jwt::TokenError;
pub use key::KeyError;
pub use metrics::Metrics;
pub use passwords::{Passwords, PasswordsError};
pub use present::Present;

use failures::Failures;
pub(in crate::gate) use hash::Hash;
pub(in crate::gate) use jwt::Tokens;
use line::Line;
use remembered::Remembered;

/// Verifies logins. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Authenticator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    logins: Mutex<Arc<Logins>>,
    line: Line,
    /// How long a login waits for its turn.
    patience: Duration,
    remembered: Mutex<Remembered>,
    failures: Mutex<Failures>,
    present: present::Table,
    nobody: Arc<Hash>,
    metrics: Metrics,
}

/// What logins are verified with.
#[derive(Debug, Default)]
pub struct Logins {
    passwords: Option<Passwords>,
    tokens: Option<Arc<Tokens>>,
}

/// Why a client is not let in. The text is for the operator; the client is told the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// MQTT 5: 0x86; 3.1.1: 4.
    #[error("wrong user name or password")]
    BadLogin,
    /// MQTT 5: 0x86; 3.1.1: 4.
    #[error("its token is refused: {0}")]
    BadToken(#[from] TokenError),
    /// MQTT 5: 0x87; 3.1.1: 5.
    #[error("no login, and the listener does not let anonymous clients in")]
    LoginNeeded,
    /// MQTT 5: 0x89; 3.1.1: 3.
    #[error("too many logins wait to be verified (auth.max-verifying)")]
    Busy,
    /// MQTT 5: 0x9f; 3.1.1: 3.
    #[error("too many failed logins from its address (auth.failures)")]
    TooManyFailures,
}

/// Why logins cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum LoginsError {
    /// `auth.password-file`
    #[error(transparent)]
    Passwords(#[from] PasswordsError),
    /// `auth.jwt.key-file`
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Logins {
    /// Reads the files that the config names.
    ///
    /// # Errors
    /// If one cannot be read or used.
    pub fn load(config: &config::Auth) -> Result<Self, LoginsError> {
        let passwords = config.password_file.as_deref().map(Passwords::load).transpose()?;
        let tokens = config.jwt.as_ref().map(Tokens::load).transpose()?;
        Ok(Self { passwords, tokens: tokens.map(Arc::new) })
    }

    fn any(&self) -> bool {
        self.passwords.is_some() || self.tokens.is_some()
    }

    /// Whether what was proved would be proved again.
    fn hold(&self, user: &str, proof: &Proof) -> bool {
        match proof {
            Proof::None => true,
            Proof::Password(hash) => {
                let users = self.passwords.as_ref();
                users.and_then(|users| users.get(user)).is_some_and(|(_, own)| own == hash)
            }
            Proof::Token(tokens) => self.tokens.as_ref() == Some(tokens),
        }
    }
}

impl Authenticator {
    /// Verifies logins with `logins`; one waits for its turn for `patience` at most.
    pub fn new(
        logins: Logins,
        config: &config::Auth,
        patience: Duration,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Inner {
            logins: Mutex::new(Arc::new(logins)),
            line: Line::new(config.max_verifying),
            patience,
            remembered: Mutex::new(Remembered::new(config.max_remembered)),
            failures: Mutex::new(Failures::new(&config.failures)),
            present: present::Table::default(),
            nobody: Arc::new(Hash::nobody()),
            metrics,
        }))
    }

    /// Verifies a client's login. To be called with a limit on its time; it may be dropped.
    ///
    /// # Errors
    /// Why the client is not let in.
    pub async fn authenticate(
        &self,
        peer: &Peer,
        credentials: &Credentials,
    ) -> Result<Identity, Rejected> {
        let logins = self.logins();
        let said = credentials.username.as_deref().is_some_and(|name| !name.is_empty())
            || credentials.password.is_some();
        let verified = if said && logins.any() {
            self.log_in(peer.address.ip(), credentials, &logins).await
        } else if let Some(certificate) = &peer.certificate {
            let user = Some(certificate.name.as_str().into());
            Ok((Identity { user, ..Identity::anonymous() }, "certificate"))
        } else if peer.anonymous {
            Ok((Identity::anonymous(), "anonymous"))
        } else {
            Err(Rejected::LoginNeeded)
        };
        let label = match &verified {
            Ok((_, how)) => how,
            Err(Rejected::BadLogin) => "bad-login",
            Err(Rejected::BadToken(_)) => "bad-token",
            Err(Rejected::LoginNeeded) => "login-needed",
            Err(Rejected::Busy) => "busy",
            Err(Rejected::TooManyFailures) => "too-many-failures",
        };
        self.0.metrics.login(label);
        verified.map(|(identity, _)| identity)
    }

    async fn log_in(
        &self,
        address: IpAddr,
        credentials: &Credentials,
        logins: &Logins,
    ) -> Result<(Identity, &'static str), Rejected> {
        let user = credentials.username.as_deref().unwrap_or_default();
        let password = credentials.password.as_ref().map_or(&[][..], |secret| secret.expose());
        let tokens = logins.tokens.as_ref().filter(|_| Tokens::look_like(password));
        // The user name beside a token says nothing.
        let name = if tokens.is_some() { password } else { user.as_bytes() };
        let refused = || lock(&self.0.failures).refuses(address, name, Instant::now());
        if refused() {
            return Err(Rejected::TooManyFailures);
        }
        let verified = match (tokens, &logins.passwords) {
            (Some(tokens), _) => {
                tokens.verify(password, SystemTime::now()).map_err(Into::into).map(|claims| {
                    let identity = Identity {
                        user: Some(claims.user),
                        groups: claims.groups,
                        expires: Some(claims.expires),
                        proof: Proof::Token(Arc::clone(tokens)),
                    };
                    (identity, "token")
                })
            }
            (None, Some(passwords)) => {
                self.check_password(address, user, password, passwords, refused).await
            }
            (None, None) => {
                self.failed(address, name);
                Err(Rejected::BadLogin)
            }
        };
        match &verified {
            Ok(_) => lock(&self.0.failures).succeeded(address, name),
            Err(Rejected::BadToken(_)) => self.failed(address, name),
            // A wrong password was counted by whoever found it wrong.
            Err(_) => {}
        }
        verified
    }

    async fn check_password(
        &self,
        address: IpAddr,
        user: &str,
        password: &[u8],
        passwords: &Passwords,
        refused: impl Fn() -> bool,
    ) -> Result<(Identity, &'static str), Rejected> {
        let found = passwords.get(user);
        let identity = found.map(|(name, hash)| Identity {
            user: Some(Arc::clone(name)),
            proof: Proof::Password(Arc::clone(hash)),
            ..Identity::anonymous()
        });
        let digest = found.map(|(_, hash)| lock(&self.0.remembered).digest(user, hash, password));
        if let (Some(digest), Some(identity)) = (&digest, &identity)
            && lock(&self.0.remembered).knows(digest)
        {
            return Ok((identity.clone(), "remembered"));
        }
        // Nobody learns from the time that it takes whether there is such a user.
        let hash = found.map_or(&self.0.nobody, |(_, hash)| hash);
        let turn = timeout(self.0.patience, self.0.line.turn(failures::network(address))).await;
        let Ok(Some(turn)) = turn else { return Err(Rejected::Busy) };
        // Those before it in the line may have failed.
        if refused() {
            return Err(Rejected::TooManyFailures);
        }
        let (this, user) = (self.clone(), user.to_owned());
        let (hash, password) = (Arc::clone(hash), password.to_vec());
        let mut turn = turn;
        let verify = move || {
            let right = hash.verify(&password, &mut turn.memory);
            if !right {
                this.failed(address, user.as_bytes());
            }
            // Not before: the next one must see the failure; and whoever no longer waits for the answer
            // has had its turn all the same.
            drop(turn);
            right
        };
        let right = tokio::task::spawn_blocking(verify).await.unwrap_or_default();
        match (identity, digest) {
            (Some(identity), Some(digest)) if right => {
                lock(&self.0.remembered).remember(digest);
                Ok((identity, "password"))
            }
            _ => Err(Rejected::BadLogin),
        }
    }

    fn failed(&self, address: IpAddr, name: &[u8]) {
        let penalty = lock(&self.0.failures).failed(address, name, Instant::now());
        if let Some(penalty) = penalty {
            self.0.metrics.penalties.inc();
            warn!("logins from {address} are refused for {penalty:?}: too many of them failed");
        } else {
            debug!("a login from {address} failed");
        }
    }

    /// Enters a connection that is to end when its login is no longer right: `stop` is cancelled then.
    pub fn enter(&self, identity: &Identity, stop: &CancellationToken) -> Present {
        let present = self.0.present.enter(identity, stop.clone());
        // The logins may have changed since they were asked.
        if !self.holds(identity) {
            stop.cancel();
        }
        present
    }

    /// Whether a login that was right still is.
    pub fn holds(&self, identity: &Identity) -> bool {
        let user = identity.user.as_deref().unwrap_or_default();
        self.logins().hold(user, &identity.proof)
    }

    /// Verifies with other logins from now on, and ends the connections whose own is no longer right.
    /// Answers how many these are.
    pub fn replace(&self, logins: Logins) -> usize {
        let logins = Arc::new(logins);
        *lock(&self.0.logins) = Arc::clone(&logins);
        self.0.present.end_those(|user, proof| !logins.hold(user, proof))
    }

    fn logins(&self) -> Arc<Logins> {
        Arc::clone(&lock(&self.0.logins))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
