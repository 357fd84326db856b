//! A certificate authority of the test's own, with Debian's openssl.

use std::path::{Path, PathBuf};

use crate::clients::succeed;
use crate::site::Site;

/// An authority in a site's directory; what it issues lies there, too.
#[derive(Debug)]
pub struct Pki<'s> {
    site: &'s Site,
    name: String,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Issued {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// What a certificate is like.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'w> {
    /// The common name.
    pub name: &'w str,
    /// The alternative names as openssl writes them.
    pub alternative: &'w str,
    /// Whether its time is over.
    pub expired: bool,
}

impl<'w> Wanted<'w> {
    /// A server on loopback.
    pub fn server() -> Self {
        Self { name: "gateway", alternative: "IP:127.0.0.1,IP:::1,DNS:localhost", expired: false }
    }

    /// A client of this name.
    pub fn client(name: &'w str) -> Self {
        Self { name, alternative: "DNS:client.example", expired: false }
    }
}

impl<'s> Pki<'s> {
    /// A new authority.
    #[track_caller]
    pub fn new(site: &'s Site, name: &str) -> Self {
        let pki = Self { site, name: name.to_owned() };
        site.write(
            &format!("{name}.cnf"),
            &format!(
                "[ca]\ndefault_ca = own\n[own]\ndir = .\ndatabase = {name}.index\nnew_certs_dir = .\n\
                 certificate = {name}.crt\nprivate_key = {name}.key\ndefault_md = sha256\n\
                 rand_serial = yes\ncrlnumber = {name}.crlnumber\ndefault_crl_days = 2\npolicy = any\nunique_subject = no\n\
                 [any]\ncommonName = supplied\n"
            ),
        );
        site.write(&format!("{name}.index"), "");
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        pki.openssl(&[
            &["req", "-x509", "-nodes", "-days", "2", "-subj", &format!("/CN={name}")],
            &EC[..],
            &["-keyout", &key, "-out", &certificate],
        ]);
        pki
    }

    /// Its own certificate.
    pub fn root(&self) -> PathBuf {
        self.path(&format!("{}.crt", self.name))
    }

    /// Issues a certificate; its files are named after `file`.
    #[track_caller]
    pub fn issue(&self, file: &str, wanted: Wanted<'_>) -> Issued {
        let [key, request, certificate, extensions] =
            ["key", "csr", "crt", "ext"].map(|kind| format!("{file}.{kind}"));
        let subject = format!("/CN={}", wanted.name);
        self.openssl(&[
            &["req", "-new", "-nodes", "-subj", &subject],
            &EC[..],
            &["-keyout", &key, "-out", &request],
        ]);
        self.site.write(
            &extensions,
            &format!("basicConstraints=CA:FALSE\nsubjectAltName={}\n", wanted.alternative),
        );
        let time: &[&str] = if wanted.expired {
            &["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
        } else {
            &["-days", "2"]
        };
        self.openssl(&[
            &["ca", "-batch", "-notext", "-config", &self.config()],
            time,
            &["-extfile", &extensions, "-in", &request, "-out", &certificate],
        ]);
        Issued { certificate: self.path(&certificate), key: self.path(&key) }
    }

    /// Revokes one that it issued, and writes its revocation list.
    #[track_caller]
    pub fn revoke(&self, issued: &Issued) -> PathBuf {
        let certificate = issued.certificate.display().to_string();
        self.openssl(&[&["ca", "-config", &self.config(), "-revoke", &certificate]]);
        self.crl()
    }

    /// Writes its revocation list.
    #[track_caller]
    pub fn crl(&self) -> PathBuf {
        let list = format!("{}.crl", self.name);
        self.site.write(&format!("{}.crlnumber", self.name), "01");
        self.openssl(&[&["ca", "-config", &self.config(), "-gencrl", "-out", &list]]);
        self.path(&list)
    }

    fn config(&self) -> String {
        format!("{}.cnf", self.name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.path().join(name)
    }

    /// As the user whom the gateway runs as, who must be able to read the keys.
    #[track_caller]
    fn openssl(&self, arguments: &[&[&str]]) {
        let mut command = self.site.ordinary("openssl");
        command.args(arguments.concat()).env("RANDFILE", self.path("random"));
        succeed(&mut command);
    }
}

/// A key that every client takes.
const EC: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

impl Issued {
    /// The two keys of a listener.
    pub fn listener(&self) -> String {
        let show = |path: &Path| format!("{:?}", path.display().to_string());
        format!(
            "tls.certificate-file = {}\ntls.key-file = {}\n",
            show(&self.certificate),
            show(&self.key)
        )
    }
}
