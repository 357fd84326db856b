//! A client that speaks TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use crate::packet::{self, CONNACK, Version};
use crate::pki::Issued;
use crate::wait::SOON;

/// Connects to servers whose certificates one root has signed.
#[derive(Debug, Clone)]
pub struct Connector(Arc<ClientConfig>);

/// One connection.
#[derive(Debug)]
pub struct TlsWire(StreamOwned<ClientConnection, TcpStream>);

impl Connector {
    /// Trusts the certificate in `root`, PEM, and resumes no session: each connection costs the server a
    /// whole handshake.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn trusting(root: &Path) -> Self {
        Self::of_versions(root, rustls::ALL_VERSIONS)
    }

    /// The same, with these versions of TLS only.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn of_versions(root: &Path, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut config = configure(root, versions, None);
        config.resumption = Resumption::disabled();
        Self(Arc::new(config))
    }

    /// Resumes sessions where the server lets it, and may have a certificate.
    ///
    /// # Panics
    /// When a file cannot be used.
    #[track_caller]
    pub fn resuming(
        root: &Path,
        version: &'static SupportedProtocolVersion,
        own: Option<&Issued>,
    ) -> Self {
        Self(Arc::new(configure(root, &[version], own)))
    }

    /// Connects and shakes hands.
    ///
    /// # Errors
    /// When nobody listens, or who does cannot be trusted.
    pub fn connect(&self, broker: SocketAddr) -> io::Result<TlsWire> {
        let stream = TcpStream::connect_timeout(&broker, SOON)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        let name = ServerName::from(broker.ip());
        let session = ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        let mut wire = TlsWire(StreamOwned::new(session, stream));
        while wire.0.conn.is_handshaking() {
            wire.0.conn.complete_io(&mut wire.0.sock)?;
        }
        Ok(wire)
    }

    /// Connects as an MQTT client.
    ///
    /// # Errors
    /// Where it is not let in.
    pub fn client(&self, broker: SocketAddr, id: &str) -> io::Result<TlsWire> {
        let mut wire = self.connect(broker)?;
        wire.0.write_all(&packet::connect(Version::V4, id))?;
        let mut connack = [0; 4];
        wire.0.read_exact(&mut connack)?;
        if connack == [CONNACK, 2, 0, 0] {
            Ok(wire)
        } else {
            Err(io::Error::other(format!("not let in: {connack:02x?}")))
        }
    }
}

impl TlsWire {
    /// Whether the session is one of an earlier connection.
    pub fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether the other side still answers: PINGREQ, PINGRESP.
    ///
    /// # Errors
    /// When it does not.
    pub fn ping(&mut self) -> io::Result<()> {
        self.0.write_all(&[0xc0, 0])?;
        let mut answer = [0; 2];
        self.0.read_exact(&mut answer)?;
        if answer == [0xd0, 0] { Ok(()) } else { Err(io::Error::other("no PINGRESP")) }
    }
}

#[track_caller]
fn configure(
    root: &Path,
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&Issued>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(root) {
        if let Err(error) = roots.add(certificate) {
            panic!("{}: {error}", root.display());
        }
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let config = config.map(|builder| builder.with_root_certificates(roots));
    let config = config.and_then(|builder| match own {
        None => Ok(builder.with_no_client_auth()),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_file(&own.key);
            let key = key.unwrap_or_else(|error| panic!("{}: {error}", own.key.display()));
            builder.with_client_auth_cert(certificates(&own.certificate), key)
        }
    });
    config.unwrap_or_else(|error| panic!("TLS: {error}"))
}

#[track_caller]
fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    found.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
