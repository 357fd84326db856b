use std::path::Path;

use super::*;

const CERTIFICATE: &str = include_str!("../certificate/named.pem");
/// PEM around bytes that are no key.
const NO_KEY: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0c2VjcmV0\n-----END PRIVATE KEY-----\n";
const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0c2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n";

/// What is wrong with these files, where the directory is left out; `None` is a file that is missing.
fn problem(certificate: Option<&str>, key: Option<&str>, ca: Option<&str>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str, content: Option<&str>| {
        let path = dir.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        path
    };
    let mut config = Config::new(place("server.crt", certificate), place("server.key", key));
    config.clients = ca.map(|ca| ClientCertificates {
        ca_file: place("ca.crt", Some(ca)),
        crl_file: None,
        required: true,
        name: ClientName::CommonName,
    });
    let problem = Tls::load(&config).unwrap_err().to_string();
    assert!(!problem.contains("secret"), "{problem}");
    problem.replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn each_file_that_cannot_be_used_is_named_with_its_key_and_what_to_do() {
    assert_eq!(
        problem(None, None, None),
        "tls.certificate-file server.crt: cannot be read: No such file or directory (os error 2)"
    );
    assert_eq!(
        problem(Some("hello"), None, None),
        "tls.certificate-file server.crt: there is no certificate; expected PEM, \
         \"-----BEGIN CERTIFICATE-----\""
    );
    assert_eq!(
        problem(Some("-----BEGIN CERTIFICATE-----\nMIIC"), None, None),
        "tls.certificate-file server.crt: not PEM"
    );
    assert_eq!(
        problem(Some(CERTIFICATE), None, None),
        "tls.key-file server.key: cannot be read: No such file or directory (os error 2)"
    );
    assert_eq!(
        problem(Some(CERTIFICATE), Some(CERTIFICATE), None),
        "tls.key-file server.key: there is no private key; expected PEM, \
         \"-----BEGIN PRIVATE KEY-----\""
    );
    assert_eq!(
        problem(Some(CERTIFICATE), Some(ENCRYPTED), None),
        "tls.key-file server.key: the key is encrypted; expected one without a password"
    );
    let no_key = problem(Some(CERTIFICATE), Some(NO_KEY), None);
    assert!(no_key.starts_with("tls.key-file server.key: no usable key: "), "{no_key}");
    assert_eq!(
        problem(Some(CERTIFICATE), Some(NO_KEY), Some("")),
        "tls.client-ca-file ca.crt: there is no certificate; expected PEM, \
         \"-----BEGIN CERTIFICATE-----\""
    );
    let large = "#".repeat(usize::try_from(MAX_FILE).unwrap() + 1);
    assert_eq!(
        problem(Some(&large), None, None),
        "tls.certificate-file server.crt: is larger than 1048576 bytes"
    );
}

#[test]
fn a_refused_handshake_says_who_did_what() {
    let told =
        |error: Error| explain(io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
    assert_eq!(
        told(Error::InvalidMessage(InvalidMessage::InvalidContentType)),
        "no TLS: what came is not TLS; does the client speak plain MQTT here?"
    );
    assert_eq!(
        told(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        "client certificate refused: no root in tls.client-ca-file has signed it"
    );
    assert_eq!(
        told(Error::NoCertificatesPresented),
        "client certificate refused: there is none, and tls.client-certificate is \"required\""
    );
    assert!(
        told(Error::AlertReceived(AlertDescription::UnknownCA))
            .starts_with("no TLS: the client does not trust this listener's certificate")
    );
    let lost = explain(io::ErrorKind::ConnectionReset.into());
    assert!(matches!(lost, HandshakeError::Io(_)), "{lost}");
}

#[test]
fn debug_shows_where_the_key_is_and_not_the_key() {
    let config = Config::new(Path::new("/etc/server.crt"), Path::new("/etc/server.key"));
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
    let loaded = Loaded { server: Arc::new(server), not_after: None };
    let tls = Tls { config, loaded: RwLock::new(loaded), turns: Arc::new(Semaphore::new(1)) };
    let shown = format!("{tls:?}");
    assert!(shown.contains("/etc/server.key") && !shown.contains("resolver"), "{shown}");
}
