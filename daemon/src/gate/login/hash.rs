//! What stands in a password file in the place of a password.
//!
//! - `$argon2id$v=19$m=7168,t=5,p=1$SALT$HASH`: argon2id (RFC 9106) as a PHC string; what
//!   `tidegate passwd` writes.
//! - `$7$ITERATIONS$SALT$HASH`: PBKDF2 with HMAC-SHA-512, and `$6$SALT$HASH`: SHA-512 of password and
//!   salt; what mosquitto 1.6 to 2.0 write.

use std::fmt;
use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, pbkdf2};

/// KiB, passes and lanes of a new entry: one of the choices that OWASP's password storage cheat sheet
/// calls equal, the one with the least memory.
const NEW: (u32, u32, u32) = (7168, 5, 1);
/// KiB, passes and lanes that an entry may ask for: a file is no way to use up a small board.
const MAX: (u32, u32, u32) = (64 * 1024, 16, 4);
/// Rounds of PBKDF2 that an entry may ask for; mosquitto writes 101.
const MAX_ITERATIONS: u32 = 1_000_000;
/// Bytes of salt and hash.
const SALT: std::ops::RangeInclusive<usize> = 8..=64;
const HASH: std::ops::RangeInclusive<usize> = 16..=64;
const NEW_SALT: usize = 16;
const NEW_HASH: usize = 32;

/// A hashed password. Debug shows the sort only.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::gate) struct Hash {
    sort: Sort,
    salt: Box<[u8]>,
    hash: Box<[u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Argon2id { memory: u32, passes: u32, lanes: u32 },
    Pbkdf2 { iterations: NonZeroU32 },
    Sha512,
}

/// What passwords are verified in, one after the other: with memory of its own for each, allocated by
/// one thread or the next, the allocator would keep as much for every thread.
#[derive(Default)]
pub(super) struct Memory(Vec<Block>);

/// Why a text is no hashed password. It does not hold the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HashError {
    /// Perhaps the password itself.
    #[error("is not a hashed password; set it with `tidegate passwd`")]
    Unknown,
    /// One of the sorts that are known, but broken.
    #[error("is a hashed password of the sort {0} that is damaged")]
    Damaged(&'static str),
    /// More than this gateway is to spend on a login.
    #[error("asks for more memory or time than a login may cost; set it with `tidegate passwd`")]
    TooCostly,
    /// The operating system has no randomness for a salt.
    #[error("cannot be made: the system gives no random bytes")]
    NoRandomness,
}

impl Hash {
    /// Reads an entry.
    ///
    /// # Errors
    /// If it is none of the three.
    pub(super) fn parse(text: &str) -> Result<Self, HashError> {
        let mut parts = text.strip_prefix('$').ok_or(HashError::Unknown)?.split('$');
        let sort = parts.next().unwrap_or_default();
        let parts: Vec<&str> = parts.collect();
        match (sort, &parts[..]) {
            ("argon2id", ["v=19", params, salt, hash]) => {
                let damaged = HashError::Damaged("argon2id");
                let sort = argon2id(params).ok_or(damaged)?;
                let Sort::Argon2id { memory, passes, lanes } = sort else { return Err(damaged) };
                if memory > MAX.0 || passes > MAX.1 || lanes > MAX.2 {
                    return Err(HashError::TooCostly);
                }
                let read = |text| STANDARD_NO_PAD.decode(text).ok();
                let hash = Self::new(sort, read(salt), read(hash)).ok_or(damaged)?;
                hash.argon2().ok_or(damaged)?;
                Ok(hash)
            }
            ("argon2id", _) => Err(HashError::Damaged("argon2id")),
            ("7", [iterations, salt, hash]) => {
                let damaged = HashError::Damaged("$7$");
                let iterations: NonZeroU32 = iterations.parse().map_err(|_| damaged)?;
                if iterations.get() > MAX_ITERATIONS {
                    return Err(HashError::TooCostly);
                }
                let read = |text| STANDARD.decode(text).ok();
                Self::new(Sort::Pbkdf2 { iterations }, read(salt), read(hash)).ok_or(damaged)
            }
            ("7", _) => Err(HashError::Damaged("$7$")),
            ("6", [salt, hash]) => {
                let read = |text| STANDARD.decode(text).ok();
                Self::new(Sort::Sha512, read(salt), read(hash)).ok_or(HashError::Damaged("$6$"))
            }
            ("6", _) => Err(HashError::Damaged("$6$")),
            _ => Err(HashError::Unknown),
        }
    }

    /// Hashes a password with a new salt: what an entry says.
    ///
    /// # Errors
    /// Only where the system has no random bytes, or no memory.
    pub(super) fn create(password: &[u8]) -> Result<String, HashError> {
        let mut salt = [0; NEW_SALT];
        SystemRandom::new().fill(&mut salt).map_err(|_| HashError::NoRandomness)?;
        let (memory, passes, lanes) = NEW;
        let new = Self {
            sort: Sort::Argon2id { memory, passes, lanes },
            salt: salt.into(),
            hash: [0; NEW_HASH].into(),
        };
        let hash = new.compute(password, &mut Memory::default()).ok_or(HashError::TooCostly)?;
        let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
        Ok(format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}"))
    }

    /// An entry that no password is right for, and that takes as long to say so as a new one.
    pub(super) fn nobody() -> Self {
        let (memory, passes, lanes) = NEW;
        let sort = Sort::Argon2id { memory, passes, lanes };
        Self { sort, salt: [0; NEW_SALT].into(), hash: [0; NEW_HASH].into() }
    }

    fn new(sort: Sort, salt: Option<Vec<u8>>, hash: Option<Vec<u8>>) -> Option<Self> {
        let (salt, hash) = (salt?, hash?);
        let hash_length = match sort {
            Sort::Argon2id { .. } => HASH,
            Sort::Pbkdf2 { .. } | Sort::Sha512 => 64..=64,
        };
        (SALT.contains(&salt.len()) && hash_length.contains(&hash.len())).then(|| Self {
            sort,
            salt: salt.into(),
            hash: hash.into(),
        })
    }

    /// Whether this is the password. It takes as long as the entry asks for: not for a thread of the
    /// runtime. `memory` is what it is computed in, and grows to what the entry asks for.
    pub(super) fn verify(&self, password: &[u8], memory: &mut Memory) -> bool {
        match self.sort {
            Sort::Pbkdf2 { iterations } => pbkdf2::verify(
                pbkdf2::PBKDF2_HMAC_SHA512,
                iterations,
                &self.salt,
                password,
                &self.hash,
            )
            .is_ok(),
            Sort::Argon2id { .. } | Sort::Sha512 => {
                self.compute(password, memory).is_some_and(|hash| equal(&hash, &self.hash))
            }
        }
    }

    fn compute(&self, password: &[u8], memory: &mut Memory) -> Option<Vec<u8>> {
        match self.sort {
            Sort::Argon2id { .. } => {
                let mut out = vec![0; self.hash.len()];
                let (argon2, memory) = (self.argon2()?, &mut memory.0);
                let blocks = argon2.params().block_count();
                if memory.len() < blocks {
                    memory.resize(blocks, Block::default());
                }
                argon2
                    .hash_password_into_with_memory(password, &self.salt, &mut out, memory)
                    .ok()?;
                Some(out)
            }
            Sort::Sha512 => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&self.salt);
                Some(context.finish().as_ref().to_vec())
            }
            Sort::Pbkdf2 { .. } => None,
        }
    }

    fn argon2(&self) -> Option<Argon2<'static>> {
        let Sort::Argon2id { memory, passes, lanes } = self.sort else { return None };
        let params = Params::new(memory, passes, lanes, Some(self.hash.len())).ok()?;
        Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }

    /// What tells it from every other entry.
    pub(super) fn stamp(&self) -> (&[u8], &[u8]) {
        (&self.salt, &self.hash)
    }
}

/// `m=…,t=…,p=…`, in this order (the PHC string format).
fn argon2id(params: &str) -> Option<Sort> {
    let mut parts = params.split(',');
    let mut number = |name: &str| parts.next()?.strip_prefix(name)?.parse::<u32>().ok();
    let (memory, passes, lanes) = (number("m=")?, number("t=")?, number("p=")?);
    parts.next().is_none().then_some(Sort::Argon2id { memory, passes, lanes })
}

/// In a time that does not tell how much of it is right.
fn equal(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differ) == 0
}

impl Memory {
    /// Gives it back if it is larger than entries usually ask for.
    pub(super) fn shrink(&mut self) {
        if self.0.len() > NEW.0 as usize {
            self.0 = Vec::new();
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} KiB)", self.0.len())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({:?})", self.sort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(hash: &Hash, password: &[u8]) -> bool {
        hash.verify(password, &mut Memory::default())
    }

    /// As `mosquitto_passwd` 2.0 wrote it for `hunter2`.
    const SEVEN: &str = "$7$101$s+eq276hYBlh8rFA$jtj5mT4HHOjPCeS1QMB7ZKV6GJPZ3XAtCvy8xGQf\
        ShBT8UcUX54FkYRnAPbpMMF6QW04Q4fxtKORsrZAVhX3tg==";

    #[test]
    fn what_is_created_is_verified_and_nothing_else() {
        let text = Hash::create("hunter2".as_bytes()).unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=7168,t=5,p=1$"), "{text}");
        assert_ne!(text, Hash::create("hunter2".as_bytes()).unwrap(), "each has its own salt");
        let hash = Hash::parse(&text).unwrap();
        assert!(right(&hash, b"hunter2"));
        for wrong in [&b"hunter3"[..], b"", b"hunter2 ", b"HUNTER2"] {
            assert!(!right(&hash, wrong));
        }
        assert!(!right(&Hash::nobody(), b"hunter2") && !right(&Hash::nobody(), b""));
    }

    // RFC 9106 gives vectors with a secret only; this is from the reference implementation's tests.
    #[test]
    fn argon2id_is_the_one_of_everybody_else() {
        let text = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ\
                    $nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert!(right(&Hash::parse(text).unwrap(), b"password"));
    }

    #[test]
    fn entries_of_mosquitto_are_verified_as_they_are() {
        let seven = Hash::parse(SEVEN).unwrap();
        assert!(right(&seven, b"hunter2") && !right(&seven, b"hunter3"));
        let salt = b"0123456789ab";
        let digest = digest::digest(&digest::SHA512, b"hunter20123456789ab");
        let (salt, digest) = (STANDARD.encode(salt), STANDARD.encode(digest));
        let six = Hash::parse(&format!("$6${salt}${digest}")).unwrap();
        assert!(right(&six, b"hunter2") && !right(&six, b"hunter3"));
    }

    #[test]
    fn what_is_no_entry_is_refused_without_being_repeated() {
        let salt = "c29tZXNhbHQ";
        let hash = "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        let entry = |params: &str| Hash::parse(&format!("$argon2id$v=19${params}${salt}${hash}"));
        let damaged = Err(HashError::Damaged("argon2id"));
        for params in
            ["", "m=256", "t=2,m=256,p=1", "m=256,t=2,p=1,x=1", "m=1,t=0,p=1", "m=-1,t=1,p=1"]
        {
            assert_eq!(entry(params), damaged, "{params}");
        }
        for params in ["m=4194304,t=2,p=1", "m=256,t=1000000,p=1", "m=256,t=2,p=200"] {
            assert_eq!(entry(params), Err(HashError::TooCostly), "{params}");
        }
        for text in ["", "hunter2", "$", "$1$x$y", "$argon2i$v=19$m=256,t=2,p=1$x$y", "x$7$"] {
            assert_eq!(Hash::parse(text), Err(HashError::Unknown), "{text}");
        }
        for text in ["$7$101", "$7$0$AAAA$AAAA", "$7$101$!!$!!", "$7$101$c2FsdHNhbHQ=$AAAA"] {
            assert_eq!(Hash::parse(text), Err(HashError::Damaged("$7$")), "{text}");
        }
        assert_eq!(Hash::parse("$6$AAAA"), Err(HashError::Damaged("$6$")));
        assert_eq!(Hash::parse("$7$4000000000$AAAA$AAAA"), Err(HashError::TooCostly));
    }
}
