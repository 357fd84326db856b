//! TLS 1.2 and 1.3 with rustls and ring: the files, the handshake, what a refused client did wrong.

use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::ready;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, RootCertStore, ServerConfig,
};
use tidegate_config::{ClientCertificates, ClientName, Tls as Config, TlsVersion};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::PollSemaphore;

use super::HandshakeError;
use super::certificate::Parts;
use crate::gate::Certificate;

/// Bytes of one file; certificates of a hundred roots are less.
const MAX_FILE: u64 = 1 << 20;

/// The TLS of one listener.
pub struct Tls {
    config: Config,
    loaded: RwLock<Loaded>,
    /// A turn to compute in a handshake: all processors but one have one.
    turns: Arc<Semaphore>,
}

/// What was read from the files.
#[derive(Clone)]
struct Loaded {
    server: Arc<ServerConfig>,
    not_after: Option<i64>,
}

/// A file of `tls.*` that cannot be used. Never holds what is in a key file.
#[derive(Debug, thiserror::Error)]
#[error("tls.{key} {}: {why}", path.display())]
pub struct TlsProblem {
    /// The key in `tls.*`.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what was expected.
    pub why: String,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(config: &Config) -> Result<Self, TlsProblem> {
        let loaded = read(config)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Arc::new(Semaphore::new(processors.saturating_sub(1).max(1)));
        Ok(Self { config: config.clone(), loaded: RwLock::new(loaded), turns })
    }

    /// Reads the files again, for connections that are still to come. On an error everything stays as
    /// it was.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn reload(&self) -> Result<(), TlsProblem> {
        let loaded = read(&self.config)?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    /// When the server's certificate ends, in seconds since 1970.
    pub fn not_after(&self) -> Option<i64> {
        self.loaded().not_after
    }

    fn loaded(&self) -> Loaded {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shakes hands; answers with what the client's certificate says, where it has one.
    pub(super) async fn accept(
        &self,
        socket: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Option<Certificate>), HandshakeError> {
        let mut handshake = pin!(TlsAcceptor::from(self.loaded().server).accept(socket));
        // A turn is held while it computes and not while it waits: a slow client keeps nobody out, and
        // a thousand that come at once leave a processor to those who are connected.
        let mut turns = PollSemaphore::new(Arc::clone(&self.turns));
        let stream = poll_fn(|context| {
            let _turn = ready!(turns.poll_acquire(context));
            handshake.as_mut().poll(context)
        })
        .await
        .map_err(explain)?;
        let certificate = self.client(&stream)?;
        Ok((stream, certificate))
    }

    fn client(&self, stream: &TlsStream<TcpStream>) -> Result<Option<Certificate>, HandshakeError> {
        let Some(clients) = &self.config.clients else { return Ok(None) };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let Some(certificate) = chain.first() else { return Ok(None) };
        let name = Parts::of(certificate).and_then(|parts| parts.name(clients.name));
        let name = name.ok_or_else(|| {
            let wanted = match clients.name {
                ClientName::CommonName => "common name in its subject",
                ClientName::Dns => "DNS name among its alternative names",
                ClientName::Uri => "URI among its alternative names",
                ClientName::Email => "e-mail address among its alternative names",
            };
            HandshakeError::Certificate(format!("it has no usable {wanted} (tls.client-name)"))
        })?;
        Ok(Some(Certificate { name: name.to_owned() }))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("config", &self.config).finish_non_exhaustive()
    }
}

fn read(config: &Config) -> Result<Loaded, TlsProblem> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = match config.min_version {
        TlsVersion::V1_2 => rustls::ALL_VERSIONS,
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let file = MaterialFile { key: "certificate-file", path: &config.certificate_file };
    let chain: Vec<CertificateDer<'static>> = file.items("certificate", "CERTIFICATE")?;
    let not_after = chain.first().and_then(|first| Parts::of(first)?.not_after());
    let key_file = MaterialFile { key: "key-file", path: &config.key_file };
    let key = private_key(&key_file)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| key_file.problem(error.to_string()))?;
    let builder = match &config.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(verifier(clients, provider)?),
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|error| match error {
        Error::InconsistentKeys(_) => key_file.problem(format!(
            "is not the key of the certificate in {}",
            config.certificate_file.display()
        )),
        Error::InvalidCertificate(_) => file.problem(format!("no usable certificate: {error}")),
        other => key_file.problem(format!("no usable key: {other}")),
    })?;
    if config.clients.is_some() {
        // Whoever resumes a session shows no certificate: one that was revoked must not come in by it.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    } else {
        // Resumption without memory for each client.
        server.ticketer =
            ring::Ticketer::new().map_err(|error| key_file.problem(error.to_string()))?;
    }
    Ok(Loaded { server: Arc::new(server), not_after })
}

fn verifier(
    clients: &ClientCertificates,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsProblem> {
    let file = MaterialFile { key: "client-ca-file", path: &clients.ca_file };
    let mut roots = RootCertStore::empty();
    for certificate in file.items("certificate", "CERTIFICATE")? {
        roots.add(certificate).map_err(|error| file.problem(format!("no usable root: {error}")))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let mut lists = &file;
    let crl_file = clients.crl_file.as_ref();
    let crl_file = crl_file.map(|path| MaterialFile { key: "client-crl-file", path });
    if let Some(file) = &crl_file {
        let found: Vec<CertificateRevocationListDer<'static>> =
            file.items("revocation list", "X509 CRL")?;
        builder = builder.with_crls(found).only_check_end_entity_revocation();
        lists = file;
    }
    if !clients.required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| lists.problem(error.to_string()))
}

fn private_key(file: &MaterialFile<'_>) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    let bytes = file.read()?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let encrypted = bytes.windows(9).any(|word| word == b"ENCRYPTED");
        file.problem(match error {
            pem::Error::NoItemsFound if encrypted => {
                "the key is encrypted; expected one without a password".to_owned()
            }
            pem::Error::NoItemsFound => {
                "there is no private key; expected PEM, \"-----BEGIN PRIVATE KEY-----\"".to_owned()
            }
            // What was found is not for the screen.
            _ => "not PEM".to_owned(),
        })
    })
}

/// A file, and the key that names it.
#[derive(Debug)]
struct MaterialFile<'c> {
    key: &'static str,
    path: &'c Path,
}

impl MaterialFile<'_> {
    fn problem(&self, why: String) -> TlsProblem {
        TlsProblem { key: self.key, path: self.path.to_owned(), why }
    }

    fn read(&self) -> Result<Vec<u8>, TlsProblem> {
        let mut bytes = Vec::new();
        File::open(self.path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .map_err(|error| self.problem(format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(self.problem(format!("is larger than {MAX_FILE} bytes")));
        }
        Ok(bytes)
    }

    /// All sections of one kind; at least one.
    fn items<T: PemObject>(&self, what: &str, label: &str) -> Result<Vec<T>, TlsProblem> {
        let bytes = self.read()?;
        let items: Result<Vec<T>, _> = T::pem_slice_iter(&bytes).collect();
        let items = items.map_err(|_| self.problem("not PEM".to_owned()))?;
        if items.is_empty() {
            let why = format!("there is no {what}; expected PEM, \"-----BEGIN {label}-----\"");
            return Err(self.problem(why));
        }
        Ok(items)
    }
}

/// What went wrong, for the person who looks for the reason at night.
fn explain(error: io::Error) -> HandshakeError {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return HandshakeError::Io(error);
    };
    use AlertDescription as Alert;
    match tls {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => HandshakeError::Tls(
            "what came is not TLS; does the client speak plain MQTT here?".into(),
        ),
        Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::UnsupportedCertificate,
        ) => HandshakeError::Tls(format!(
            "the client does not trust this listener's certificate: {tls}"
        )),
        Error::PeerIncompatible(_) => {
            HandshakeError::Tls(format!("no common version or cipher (tls.min-version): {tls}"))
        }
        Error::NoCertificatesPresented => HandshakeError::Certificate(
            "there is none, and tls.client-certificate is \"required\"".into(),
        ),
        Error::InvalidCertificate(why) => HandshakeError::Certificate(match why {
            CertificateError::UnknownIssuer => "no root in tls.client-ca-file has signed it".into(),
            CertificateError::Revoked => "it is revoked (tls.client-crl-file)".into(),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "it has expired; is this machine's clock right?".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet; is this machine's clock right?".into()
            }
            CertificateError::UnknownRevocationStatus => {
                "its issuer has no revocation list in tls.client-crl-file".into()
            }
            other => other.to_string(),
        }),
        other => HandshakeError::Tls(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
