//! Who sends a request: its `Authorization` header, else the connection's certificate.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use axum::http::header::{AUTHORIZATION, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::problem::Problem;
use crate::gate::{Credentials, Gate, Identity, Peer, Secret};

/// The last login of a connection that was verified.
#[derive(Default)]
pub(super) struct Login(Mutex<Option<Verified>>);

struct Verified {
    header: Option<HeaderValue>,
    identity: Identity,
}

impl Login {
    /// Verifies the request's login, unless the connection's last one was the same and still holds.
    pub(super) async fn verify(
        &self,
        gate: &Gate,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<Identity, Problem> {
        let header = headers.get(AUTHORIZATION);
        if let Some(Verified { header: last, identity }) = &*self.last()
            && last.as_ref() == header
            && gate.holds(identity)
            && identity.expires.is_none_or(|expires| SystemTime::now() < expires)
        {
            return Ok(identity.clone());
        }
        let identity = gate.authenticate(peer, &credentials(header)?).await?;
        let header = header.cloned();
        *self.last() = Some(Verified { header, identity: identity.clone() });
        Ok(identity)
    }

    fn last(&self) -> MutexGuard<'_, Option<Verified>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// RFC 7617 (Basic) and RFC 6750 (Bearer): a token stands in the password's place, as over MQTT.
fn credentials(header: Option<&HeaderValue>) -> Result<Credentials, Problem> {
    let Some(header) = header else {
        return Ok(Credentials::default());
    };
    let not_understood = || {
        let why = "the header Authorization cannot be read: Basic or Bearer is expected";
        Problem::new(StatusCode::UNAUTHORIZED, why)
    };
    let text = header.to_str().map_err(|_| not_understood())?;
    let (scheme, rest) = text.split_once(' ').ok_or_else(not_understood)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
        return Ok(Credentials { username: None, password: Some(Secret::new(rest.as_bytes())) });
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(not_understood());
    }
    let decoded = BASE64.decode(rest).map_err(|_| not_understood())?;
    let colon = decoded.iter().position(|byte| *byte == b':').ok_or_else(not_understood)?;
    let user = std::str::from_utf8(&decoded[..colon]).map_err(|_| not_understood())?;
    Ok(Credentials {
        username: Some(user.to_owned()),
        password: Some(Secret::new(&decoded[colon + 1..])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &'static str) -> Option<(Option<String>, Vec<u8>)> {
        let header = HeaderValue::from_static(header);
        let credentials = credentials(Some(&header)).ok()?;
        Some((credentials.username, credentials.password?.expose().to_vec()))
    }

    #[test]
    fn basic_and_bearer_are_read_and_nothing_else() {
        // The example of RFC 7617 section 2.
        let aladdin = (Some("Aladdin".to_owned()), b"open sesame".to_vec());
        assert_eq!(read("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), Some(aladdin));
        assert_eq!(read("bearer a.b.c"), Some((None, b"a.b.c".to_vec())));
        // A password may hold colons, and be empty.
        assert_eq!(read("Basic dTpwOjE="), Some((Some("u".into()), b"p:1".to_vec())));
        assert_eq!(read("Basic dTo="), Some((Some("u".into()), Vec::new())));
        for bad in ["", "Basic", "Basic !!", "Basic dQ==", "Bearer ", "Digest a=b", "Basic /zo="] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(credentials(None).ok(), Some(Credentials::default()));
    }
}
