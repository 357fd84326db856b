//! The key that tokens are verified with.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use ring::{hmac, signature};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use tidegate_config::JwtAlgorithm;

/// Bytes of a key file.
const MAX_FILE: u64 = 64 * 1024;
/// Bytes of an HS256 secret (RFC 7518 section 3.2).
const MIN_SECRET: usize = 32;

/// `AlgorithmIdentifier`s (RFC 8017 appendix A.1, RFC 5480 section 2.1.1): rsaEncryption with NULL;
/// id-ecPublicKey with prime256v1.
const RSA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];
const P256: &[u8] =
    &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

/// A secret or a public key. Debug shows the algorithm only.
pub(super) struct Key {
    algorithm: JwtAlgorithm,
    bytes: Box<[u8]>,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("auth.jwt.key-file {file}: {source}", file = file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It holds something else.
    #[error("auth.jwt.key-file {file}: {what}", file = file.display())]
    Content {
        /// Which.
        file: PathBuf,
        /// What is wrong with it, and what would be right.
        what: &'static str,
    },
}

impl Key {
    /// # Errors
    /// If the file cannot be read, or its key is none for the algorithm.
    pub(super) fn load(algorithm: JwtAlgorithm, file: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { file: file.into(), source };
        let mut bytes = Vec::new();
        let opened = File::open(file).map_err(failed)?;
        opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        let key = if bytes.len() as u64 > MAX_FILE {
            Err("larger than 64 KiB")
        } else {
            Self::new(algorithm, &bytes)
        };
        key.map_err(|what| KeyError::Content { file: file.into(), what })
    }

    pub(super) fn new(algorithm: JwtAlgorithm, content: &[u8]) -> Result<Self, &'static str> {
        let bytes: Box<[u8]> = match algorithm {
            JwtAlgorithm::Hs256 => {
                let line_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
                let end = content.iter().rposition(|byte| !line_end(byte)).map_or(0, |at| at + 1);
                if end < MIN_SECRET {
                    return Err("a secret for HS256 has at least 32 bytes");
                }
                content[..end].into()
            }
            JwtAlgorithm::Rs256 => {
                let what = "expected an RSA public key in PEM (BEGIN PUBLIC KEY)";
                public_key(content, RSA).ok_or(what)?.into()
            }
            JwtAlgorithm::Es256 => {
                let what = "expected a P-256 public key in PEM (BEGIN PUBLIC KEY)";
                public_key(content, P256).ok_or(what)?.into()
            }
        };
        Ok(Self { algorithm, bytes })
    }

    /// Whether `signature` is the key's under `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let public = |algorithm: &'static dyn signature::VerificationAlgorithm| {
            UnparsedPublicKey::new(algorithm, &self.bytes).verify(message, signature).is_ok()
        };
        match self.algorithm {
            JwtAlgorithm::Hs256 => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &self.bytes);
                hmac::verify(&key, message, signature).is_ok()
            }
            JwtAlgorithm::Rs256 => public(&RSA_PKCS1_2048_8192_SHA256),
            JwtAlgorithm::Es256 => public(&ECDSA_P256_SHA256_FIXED),
        }
    }
}

/// Takes the key out of a `SubjectPublicKeyInfo` (RFC 5280 section 4.1) with this algorithm.
fn public_key(pem: &[u8], algorithm: &[u8]) -> Option<Vec<u8>> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    let (info, behind) = value(SEQUENCE, der.as_ref())?;
    let (found, rest) = value(SEQUENCE, info)?;
    let (bits, end) = value(BIT_STRING, rest)?;
    let (unused, key) = bits.split_first()?;
    let fits = found == algorithm && *unused == 0 && behind.is_empty() && end.is_empty();
    fits.then(|| key.to_vec())
}

/// The DER value with this tag at the beginning of `der`, and what follows it.
fn value(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(length))?
}

impl PartialEq for Key {
    /// Not for verification: it stops at the first difference.
    fn eq(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && self.bytes == other.bytes
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.algorithm)
    }
}
