//! Verified logins, so that a thousand devices that come back after a power cut of the network do not
//! wait for a thousand slow verifications.

use ring::hmac;
use ring::rand::SystemRandom;

use super::generations::Generations;
use super::hash;

/// Hashes of logins, with a key that only this process has. What was changed in the password file since
/// is no longer known: the entry is part of the hash.
#[derive(Debug)]
pub(super) struct Remembered {
    /// None where the system has no random bytes: then nothing is remembered.
    key: Option<hmac::Key>,
    logins: Generations<Digest, ()>,
}

/// A login's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Remembered {
    /// At most `max` logins.
    pub(super) fn new(max: usize) -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok();
        let max = if key.is_some() { max } else { 0 };
        Self { key, logins: Generations::new(max) }
    }

    pub(super) fn digest(&self, user: &str, hash: &hash::Hash, password: &[u8]) -> Digest {
        let Some(key) = &self.key else { return Digest([0; 32]) };
        let mut context = hmac::Context::with_key(key);
        let (salt, hash) = hash.stamp();
        for part in [user.as_bytes(), salt, hash, password] {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        Digest(digest)
    }

    pub(super) fn knows(&mut self, digest: &Digest) -> bool {
        self.logins.get(digest).is_some()
    }

    pub(super) fn remember(&mut self, digest: Digest) {
        self.logins.insert(digest, ());
    }
}
