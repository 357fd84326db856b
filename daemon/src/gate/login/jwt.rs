//! Tokens in the place of a password: JSON Web Tokens (RFC 7519), signed as JWS compact (RFC 7515) with
//! the one algorithm that the config names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::sync::Arc;
use tidegate_config as config;

use super::key::{Key, KeyError};

/// Bytes of a token.
const MAX_TOKEN: usize = 16 * 1024;
/// Bytes of a user's or group's name, and groups of one user.
const MAX_NAME: usize = 256;
const MAX_GROUPS: usize = 64;

/// Verifies tokens. Debug does not show the key.
#[derive(Debug, PartialEq)]
pub(in crate::gate) struct Tokens {
    key: Key,
    config: config::Jwt,
}

/// What a token proves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) user: Arc<str>,
    pub(super) groups: Arc<[Arc<str>]>,
    pub(super) expires: SystemTime,
}

/// What is wrong with a token. It does not hold the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWT, or one that says something twice, or nothing.
    #[error("it is not a JSON Web Token")]
    Malformed,
    /// `alg` is not `auth.jwt.algorithm`, or there is a critical extension.
    #[error("it is signed in another way than auth.jwt.algorithm says")]
    Algorithm,
    /// Another key, or changed since.
    #[error("its signature does not fit the key in auth.jwt.key-file")]
    Signature,
    /// `exp` is over.
    #[error("it has expired; if it should not have, compare the clocks")]
    Expired,
    /// There is no `exp`.
    #[error("it does not say when it expires (exp)")]
    NoExpiry,
    /// `nbf` is not yet.
    #[error("it is not valid yet; if it should be, compare the clocks")]
    NotYet,
    /// `aud` does not hold `auth.jwt.audience`.
    #[error("it is for another audience (aud) than auth.jwt.audience")]
    Audience,
    /// `iss` is not `auth.jwt.issuer`.
    #[error("it is from another issuer (iss) than auth.jwt.issuer")]
    Issuer,
    /// The claim of `auth.jwt.user-claim` is missing or no name.
    #[error("it names no user in the claim auth.jwt.user-claim")]
    NoUser,
}

impl Tokens {
    /// # Errors
    /// If the key cannot be read, or is none for the algorithm.
    pub(super) fn load(config: &config::Jwt) -> Result<Self, KeyError> {
        let key = Key::load(config.algorithm, &config.key_file)?;
        Ok(Self { key, config: config.clone() })
    }

    /// With a key that is at hand.
    #[cfg(any(test, fuzzing))]
    pub(super) fn with_secret(secret: &[u8], config: config::Jwt) -> Option<Self> {
        Some(Self { key: Key::new(config.algorithm, secret).ok()?, config })
    }

    /// Whether a password has the form of a token: only then it is taken for one.
    pub(super) fn look_like(password: &[u8]) -> bool {
        let url_safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        // A JSON object in base64.
        password.starts_with(b"ey")
            && password.iter().filter(|byte| **byte == b'.').count() == 2
            && password.iter().all(url_safe)
    }

    /// Verifies a token at a time.
    ///
    /// # Errors
    /// What is wrong with it; the signature before everything that is in it.
    pub(super) fn verify(&self, token: &[u8], now: SystemTime) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let token = std::str::from_utf8(token).map_err(|_| TokenError::Malformed)?;
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = object(header)?;
        let algorithm = match self.config.algorithm {
            config::JwtAlgorithm::Hs256 => "HS256",
            config::JwtAlgorithm::Rs256 => "RS256",
            config::JwtAlgorithm::Es256 => "ES256",
        };
        if header.get("alg").and_then(Value::as_str) != Some(algorithm)
            || header.contains_key("crit")
        {
            return Err(TokenError::Algorithm);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        if !self.key.verifies(signed.as_bytes(), &signature) {
            return Err(TokenError::Signature);
        }
        self.check(&object(claims)?, now)
    }

    fn check(&self, claims: &Map<String, Value>, now: SystemTime) -> Result<Claims, TokenError> {
        let (config, leeway) = (&self.config, self.config.leeway.0);
        let expires = time(claims.get("exp").ok_or(TokenError::NoExpiry)?)?;
        let expires = expires.checked_add(leeway).ok_or(TokenError::Malformed)?;
        if now >= expires {
            return Err(TokenError::Expired);
        }
        if let Some(begins) = claims.get("nbf") {
            let latest = now.checked_add(leeway).ok_or(TokenError::Malformed)?;
            if latest < time(begins)? {
                return Err(TokenError::NotYet);
            }
        }
        let audience = match claims.get("aud") {
            Some(Value::String(one)) => *one == config.audience,
            Some(Value::Array(all)) => {
                all.iter().any(|one| one.as_str() == Some(config.audience.as_str()))
            }
            _ => false,
        };
        if !audience {
            return Err(TokenError::Audience);
        }
        let issuer = claims.get("iss").and_then(Value::as_str);
        if config.issuer.is_some() && issuer != config.issuer.as_deref() {
            return Err(TokenError::Issuer);
        }
        let is_name = |name: &&str| {
            (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control)
        };
        let user = claims.get(&config.user_claim).and_then(Value::as_str).filter(is_name);
        let groups = match claims.get(&config.groups_claim) {
            Some(Value::Array(groups)) => groups.as_slice(),
            Some(group @ Value::String(_)) => std::slice::from_ref(group),
            _ => &[],
        };
        let groups = groups.iter().filter_map(Value::as_str).filter(is_name).take(MAX_GROUPS);
        Ok(Claims {
            user: user.ok_or(TokenError::NoUser)?.into(),
            groups: groups.map(Arc::from).collect(),
            expires,
        })
    }
}

fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

/// A NumericDate: seconds since 1970, with a fraction or not.
fn time(value: &Value) -> Result<SystemTime, TokenError> {
    let seconds = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.and_then(|seconds| UNIX_EPOCH.checked_add(seconds)).ok_or(TokenError::Malformed)
}

#[cfg(test)]
mod tests;
