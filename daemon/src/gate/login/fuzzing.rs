//! Any bytes, as a token.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use tidegate_config as config;

use super::jwt::Tokens;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// As it is; and as the claims of one that is signed.
pub(in crate::gate) fn token(bytes: &[u8]) {
    let algorithm = config::JwtAlgorithm::Hs256;
    let tokens = Tokens::with_secret(
        SECRET,
        config::Jwt {
            algorithm,
            key_file: "jwt.key".into(),
            audience: "edge-01".to_owned(),
            issuer: None,
            user_claim: "sub".to_owned(),
            groups_claim: "groups".to_owned(),
            leeway: config::Span::seconds(30),
        },
    );
    let Some(tokens) = tokens else { unreachable!("the secret is long enough") };
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let _ = Tokens::look_like(bytes);
    assert!(tokens.verify(bytes, now).is_err(), "nobody signed it");
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", part(br#"{"alg":"HS256"}"#), part(bytes));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signature = part(hmac::sign(&key, signed.as_bytes()).as_ref());
    let signed = format!("{signed}.{signature}");
    assert!(Tokens::look_like(signed.as_bytes()));
    if let Ok(claims) = tokens.verify(signed.as_bytes(), now) {
        assert!(claims.expires > now && (1..=256).contains(&claims.user.len()));
        assert!(claims.groups.len() <= 64);
        assert!(serde_json::from_slice::<serde_json::Value>(bytes).is_ok());
    }
}
