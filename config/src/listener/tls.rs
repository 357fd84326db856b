//! `tls.*` of a listener: its certificate, and what it asks of the clients'.

use std::path::PathBuf;

use crate::problem::Unfit;
use crate::reader::Section;
use crate::value::Choice;

/// `tls.*`. The files are read at the start and again on SIGHUP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate and those between it and the root, in this order, PEM.
    pub certificate_file: PathBuf,
    /// The certificate's private key, PEM, not encrypted.
    pub key_file: PathBuf,
    /// The oldest version that is spoken. Default `"1.2"`.
    pub min_version: TlsVersion,
    /// What clients identify themselves with. Default: they need no certificate.
    pub clients: Option<ClientCertificates>,
}

/// The keys about the clients' certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// `tls.client-ca-file`: the roots that sign them, PEM.
    pub ca_file: PathBuf,
    /// `tls.client-crl-file`: revocation lists of those roots, PEM. Default: none.
    pub crl_file: Option<PathBuf>,
    /// `tls.client-certificate`: whether a client may come without one. Default `"required"`.
    pub required: bool,
    /// `tls.client-name`. Default `"common-name"`.
    pub name: ClientName,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// `"1.2"`
    #[default]
    V1_2,
    /// `"1.3"`
    V1_3,
}

/// Which part of its certificate names a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientName {
    /// `"common-name"`: the subject's common name (CN).
    #[default]
    CommonName,
    /// `"dns"`: the first DNS name of the subject alternative names.
    Dns,
    /// `"uri"`: the first URI of the subject alternative names.
    Uri,
    /// `"email"`: the first e-mail address of the subject alternative names.
    Email,
}

/// `tls.client-certificate`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    Off,
    Optional,
    Required,
}

impl Choice for TlsVersion {
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::V1_2), ("1.3", Self::V1_3)];
}

impl Choice for ClientName {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("common-name", Self::CommonName),
        ("dns", Self::Dns),
        ("uri", Self::Uri),
        ("email", Self::Email),
    ];
}

impl Choice for Demand {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("optional", Self::Optional), ("required", Self::Required)];
}

impl Tls {
    /// TLS with this certificate, for clients without one.
    pub fn new(certificate_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        Self {
            certificate_file: certificate_file.into(),
            key_file: key_file.into(),
            min_version: TlsVersion::default(),
            clients: None,
        }
    }

    /// Reads `tls.*` of a listener, if there is any of it.
    pub(crate) fn read(listener: &Section<'_>) -> Option<Self> {
        listener.table("tls", Self::read_table)
    }

    fn read_table(section: &Section<'_>) -> Option<Self> {
        // Read before anything is given up, so that every key is known and checked.
        let certificate: Option<PathBuf> = section.get("certificate-file");
        let key: Option<PathBuf> = section.get("key-file");
        let min_version = section.or("min-version", TlsVersion::default());
        let clients = ClientCertificates::read(section);
        if !section.exists() {
            return None;
        }
        for file in ["certificate-file", "key-file"] {
            if !section.has(file) {
                section.refuse(
                    file,
                    Unfit::because("is missing")
                        .so("TLS needs the server's certificate and its key"),
                );
            }
        }
        Some(Self { certificate_file: certificate?, key_file: key?, min_version, clients })
    }
}

impl ClientCertificates {
    fn read(section: &Section<'_>) -> Option<Self> {
        let ca_file: Option<PathBuf> = section.get("client-ca-file");
        let demand: Option<Demand> = section.get("client-certificate");
        let crl_file = section.get("client-crl-file");
        let name = section.or("client-name", ClientName::default());
        let has_ca = section.has("client-ca-file");
        match demand {
            Some(Demand::Off) if has_ca => section.refuse(
                "client-certificate",
                Unfit::because("leaves tls.client-ca-file without a use")
                    .so("expected \"optional\" or \"required\" beside it"),
            ),
            Some(Demand::Optional | Demand::Required) if !has_ca => section.refuse(
                "client-certificate",
                Unfit::because("needs the roots that sign the clients' certificates")
                    .so("expected tls.client-ca-file beside it"),
            ),
            _ => {}
        }
        for key in ["client-crl-file", "client-name"] {
            if section.has(key) && !has_ca {
                section.refuse(
                    key,
                    Unfit::because("is about clients' certificates, and none are asked for")
                        .so("expected tls.client-ca-file beside it"),
                );
            }
        }
        Some(Self { ca_file: ca_file?, crl_file, required: demand != Some(Demand::Optional), name })
    }
}
