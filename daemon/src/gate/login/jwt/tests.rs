use std::path::PathBuf;

use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use tidegate_config::{JwtAlgorithm, Span};

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// The examples' now, in seconds since 1970.
const NOW: u64 = 1_700_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn config(algorithm: JwtAlgorithm, key_file: PathBuf) -> config::Jwt {
    config::Jwt {
        algorithm,
        key_file,
        audience: "edge-01".to_owned(),
        issuer: None,
        user_claim: "sub".to_owned(),
        groups_claim: "groups".to_owned(),
        leeway: Span::seconds(30),
    }
}

fn load(algorithm: JwtAlgorithm, key: &[u8]) -> Result<(Tokens, TempDir), String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwt.pem");
    std::fs::write(&file, key).unwrap();
    match Tokens::load(&config(algorithm, file)) {
        Ok(tokens) => Ok((tokens, directory)),
        Err(error) => Err(error.to_string().rsplit_once(": ").unwrap().1.to_owned()),
    }
}

fn tokens() -> Tokens {
    load(JwtAlgorithm::Hs256, &[SECRET, b"\r\n"].concat()).unwrap().0
}

fn encode(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn sign(header: &Value, claims: &Value) -> String {
    let signed = encode(header, claims);
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn claims() -> Value {
    json!({"sub": "boiler-7", "aud": "edge-01", "exp": NOW + 60})
}

/// The claims, changed.
fn with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn verify(claims: &Value) -> Result<Claims, TokenError> {
    let token = sign(&json!({"alg": "HS256", "typ": "JWT"}), claims);
    assert!(Tokens::look_like(token.as_bytes()), "{token}");
    tokens().verify(token.as_bytes(), now())
}

#[test]
fn a_token_names_its_user_and_groups_and_when_it_ends() {
    let found = verify(&with(&json!({"groups": ["pumps", "", 4, "ops"]}))).unwrap();
    assert_eq!(&*found.user, "boiler-7");
    assert_eq!(found.groups.iter().map(|g| &**g).collect::<Vec<_>>(), ["pumps", "ops"]);
    assert_eq!(found.expires, now() + Duration::from_secs(60 + 30));
    let found =
        verify(&with(&json!({"aud": ["x", "edge-01"], "groups": "ops", "exp": NOW as f64 + 0.5})));
    assert_eq!(found.unwrap().groups.len(), 1);
}

#[test]
fn what_a_token_says_must_be_right() {
    for (changes, expected) in [
        (json!({"exp": NOW - 30}), TokenError::Expired),
        (json!({"exp": null}), TokenError::NoExpiry),
        (json!({"exp": "soon"}), TokenError::Malformed),
        (json!({"exp": 1e300}), TokenError::Malformed),
        (json!({"exp": -1}), TokenError::Malformed),
        (json!({"nbf": NOW + 31}), TokenError::NotYet),
        (json!({"aud": "edge-02"}), TokenError::Audience),
        (json!({"aud": ["edge-02"]}), TokenError::Audience),
        (json!({"aud": null}), TokenError::Audience),
        (json!({"sub": null}), TokenError::NoUser),
        (json!({"sub": ""}), TokenError::NoUser),
        (json!({"sub": "a\u{0}b"}), TokenError::NoUser),
        (json!({"sub": 7}), TokenError::NoUser),
    ] {
        assert_eq!(verify(&with(&changes)), Err(expected), "{changes}");
    }
    assert!(verify(&with(&json!({"exp": NOW - 29, "nbf": NOW + 30}))).is_ok(), "leeway");
    let mut picky = tokens();
    picky.config.issuer = Some("us".to_owned());
    let token = |claims| sign(&json!({"alg": "HS256"}), &claims);
    let verify = |claims| picky.verify(token(claims).as_bytes(), now());
    assert_eq!(verify(claims()), Err(TokenError::Issuer));
    assert_eq!(verify(with(&json!({"iss": "them"}))), Err(TokenError::Issuer));
    assert!(verify(with(&json!({"iss": "us"}))).is_ok());
}

#[test]
fn the_algorithm_is_the_configs_and_not_the_tokens() {
    let tokens = tokens();
    let verify = |token: &str| tokens.verify(token.as_bytes(), now());
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "None"}),
        json!({"alg": "HS512"}),
        json!({"alg": "RS256"}),
        json!({"typ": "JWT"}),
        json!({"alg": ["HS256"]}),
        json!({"alg": "HS256", "crit": ["b64"], "b64": false}),
    ] {
        assert_eq!(verify(&sign(&header, &claims())), Err(TokenError::Algorithm), "{header}");
        let bare = encode(&header, &claims()) + ".";
        assert_eq!(verify(&bare), Err(TokenError::Algorithm), "{header}");
    }
}

#[test]
fn a_token_that_was_changed_or_is_none_is_refused() {
    let tokens = tokens();
    let verify = |token: &str| tokens.verify(token.as_bytes(), now());
    let header = json!({"alg": "HS256"});
    let token = sign(&header, &claims());
    let signature = token.rsplit_once('.').unwrap().1;
    let other = encode(&header, &with(&json!({"sub": "admin"})));
    assert_eq!(verify(&format!("{other}.{signature}")), Err(TokenError::Signature));
    assert_eq!(verify(&token[..token.len() - 4]), Err(TokenError::Signature));
    assert_eq!(verify(&(encode(&header, &claims()) + ".")), Err(TokenError::Signature));
    for none in ["", ".", "..", "a.b", "ey.ey.ey", &format!("{token}="), &format!("{token}.x")] {
        assert!(verify(none).is_err(), "{none}");
    }
    assert_eq!(verify(&"ey.".repeat(10_000)), Err(TokenError::Malformed));
    assert!(!Tokens::look_like(b"hunter2") && !Tokens::look_like(b"ey.a.b.c"));
}

#[test]
fn es256_is_verified_with_the_public_key_alone() {
    let random = SystemRandom::new();
    let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(signing, pair.as_ref(), &random).unwrap();
    let prefix = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\
                   \x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    let der = [prefix, pair.public_key().as_ref()].concat();
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
    let (tokens, _directory) = load(JwtAlgorithm::Es256, pem.as_bytes()).unwrap();

    let signed = encode(&json!({"alg": "ES256"}), &claims());
    let signature = pair.sign(&random, signed.as_bytes()).unwrap();
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
    assert!(tokens.verify(token.as_bytes(), now()).is_ok());
    // The public key as an HMAC secret: what a verifier falls for that lets the token choose.
    let confused = encode(&json!({"alg": "HS256"}), &claims());
    let key = hmac::Key::new(hmac::HMAC_SHA256, pem.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, confused.as_bytes()));
    let token = format!("{confused}.{signature}");
    assert_eq!(tokens.verify(token.as_bytes(), now()), Err(TokenError::Algorithm));

    let refused = load(JwtAlgorithm::Rs256, pem.as_bytes()).unwrap_err();
    assert_eq!(refused, "expected an RSA public key in PEM (BEGIN PUBLIC KEY)");
}

// RFC 7515 appendix A.2: an RS256 signature and its key. What it says is not for us; so far it comes.
#[test]
fn rs256_is_verified_as_in_the_standard() {
    let pem = include_bytes!("rfc7515-a2.pem");
    let (tokens, _directory) = load(JwtAlgorithm::Rs256, pem).unwrap();
    let token = include_str!("rfc7515-a2.jws").trim_end();
    let before = UNIX_EPOCH + Duration::from_secs(1_300_819_000);
    assert_eq!(tokens.verify(token.as_bytes(), before), Err(TokenError::Audience));
    let broken = token.replace("eyJpc3Mi", "eyJpc3Nj");
    assert_eq!(tokens.verify(broken.as_bytes(), before), Err(TokenError::Signature));
}

#[test]
fn a_key_that_is_none_is_refused_without_being_shown() {
    for (algorithm, key, expected) in [
        (JwtAlgorithm::Hs256, &b"short\n"[..], "a secret for HS256 has at least 32 bytes"),
        (JwtAlgorithm::Es256, SECRET, "expected a P-256 public key in PEM (BEGIN PUBLIC KEY)"),
        (JwtAlgorithm::Rs256, b"", "expected an RSA public key in PEM (BEGIN PUBLIC KEY)"),
        (JwtAlgorithm::Hs256, &[b'x'; 70_000], "larger than 64 KiB"),
    ] {
        assert_eq!(load(algorithm, key).unwrap_err(), expected);
    }
    assert!(!format!("{:?}", tokens()).contains("0123456789abcdef"));
}
