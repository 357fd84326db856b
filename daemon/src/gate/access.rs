//! Who is let in and what each may do: read from the config and the files that it names, at the start
//! and whenever the operator asks.

use std::sync::Arc;
use std::time::Duration;

use tidegate_config as config;
use tidegate_config::Config;

use super::acl::Acl;
use super::login::{Authenticator, Logins, LoginsError, Metrics};
use super::rights::Current;

/// Logins and rules. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Access {
    pub(super) authenticator: Authenticator,
    pub(super) rules: Arc<Current>,
}

impl Access {
    /// # Errors
    /// If a file that `[auth]` names cannot be used.
    pub fn load(config: &Config, metrics: Metrics) -> Result<Self, LoginsError> {
        let logins = Logins::load(&config.auth)?;
        // The other half is for the verification itself, and the answer.
        let patience = config.limits.connect_timeout.0 / 2;
        let rules = Acl::new(&config.acl, &config.auth);
        Ok(Self {
            authenticator: Authenticator::new(logins, &config.auth, patience, metrics),
            rules: Arc::new(Current::new(rules)),
        })
    }

    /// Everybody is let in where the listener does so, and may do everything.
    pub fn open() -> Self {
        let (auth, patience) = (config::Auth::default(), Duration::ZERO);
        Self {
            authenticator: Authenticator::new(
                Logins::default(),
                &auth,
                patience,
                Metrics::default(),
            ),
            rules: Arc::default(),
        }
    }

    /// Reads the files and takes the rules of `config`, for connected clients too: one whose login is
    /// no longer right is disconnected. Answers how many these are. The bounds of `[auth]` stay.
    ///
    /// # Errors
    /// If a file cannot be used; then nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<usize, LoginsError> {
        let logins = Logins::load(&config.auth)?;
        self.rules.replace(Acl::new(&config.acl, &config.auth));
        Ok(self.authenticator.replace(logins))
    }
}
