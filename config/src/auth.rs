//! `[auth]`: who is let in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::problem::Unfit;
use crate::reader::{FromValue, Section};
use crate::value::{Choice, Span};

/// Bytes of a user's or group's name.
const MAX_NAME: usize = 256;

/// `[auth]`: where logins are verified, and what a wrong one costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// What `tidegate passwd` writes, or a password file of mosquitto. No default.
    pub password_file: Option<PathBuf>,
    /// `auth.jwt.*`
    pub jwt: Option<Jwt>,
    /// `auth.groups.*`: the users of each group.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Password verifications at once, each on a thread of its own with the memory that its entry
    /// asks for (7 MiB where `tidegate passwd` wrote it); other logins wait. 1 to 64; default 1.
    pub max_verifying: usize,
    /// Verified logins that are remembered, so that they need no other verification until the daemon
    /// stops; with more, the oldest are forgotten. 0 to 1,000,000; default 10,000.
    pub max_remembered: usize,
    /// `auth.failures.*`
    pub failures: Failures,
}

/// `auth.failures.*`: what failed logins cost the address that they come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Failures {
    /// Failed logins with one user name from one address (IPv6: one /64 network), and ten times as
    /// many with any, until that address has to wait. 1 to 1000; default 5.
    pub max: u16,
    /// How long it then has to wait for the first time; each further failure doubles it. 100 ms to
    /// 1 h; default 1 s.
    pub penalty: Span,
    /// The longest penalty; without a failure for that long all is forgotten. `penalty` to 1 d;
    /// default 5 min.
    pub max_penalty: Span,
    /// Addresses and user names whose failures are remembered; with more, the oldest are forgotten.
    /// 16 to 1,000,000; default 10,000.
    pub max_remembered: usize,
}

/// `auth.jwt.*`: tokens (RFC 7519) as passwords.
#[derive(Debug, Clone, PartialEq)]
pub struct Jwt {
    /// How tokens are signed; any other algorithm is refused, whatever a token says.
    pub algorithm: JwtAlgorithm,
    /// RS256, ES256: the public key, PEM. HS256: the secret, at least 32 bytes; a line end behind it
    /// does not count.
    pub key_file: PathBuf,
    /// What a token's `aud` must hold.
    pub audience: String,
    /// What a token's `iss` must be. No default: it is not looked at.
    pub issuer: Option<String>,
    /// The claim that names the user. Default `"sub"`.
    pub user_claim: String,
    /// The claim that lists the user's groups. Default `"groups"`.
    pub groups_claim: String,
    /// How wrong clocks may be. 0 s to 1 h; default 30 s.
    pub leeway: Span,
}

/// How tokens are signed (RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// `"HS256"`: HMAC with SHA-256, a secret that both sides have.
    Hs256,
    /// `"RS256"`: RSA PKCS #1 v1.5 with SHA-256, 2048 bits or more.
    Rs256,
    /// `"ES256"`: ECDSA on P-256 with SHA-256.
    Es256,
}

impl Choice for JwtAlgorithm {
    const WORDS: &'static [(&'static str, Self)] =
        &[("HS256", Self::Hs256), ("RS256", Self::Rs256), ("ES256", Self::Es256)];
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            password_file: None,
            jwt: None,
            groups: BTreeMap::new(),
            max_verifying: 1,
            max_remembered: 10_000,
            failures: Failures::default(),
        }
    }
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            max: 5,
            penalty: Span::seconds(1),
            max_penalty: Span::seconds(300),
            max_remembered: 10_000,
        }
    }
}

impl Auth {
    /// Whether a client can log in with a user name and password, or a token.
    pub fn has_logins(&self) -> bool {
        self.password_file.is_some() || self.jwt.is_some()
    }

    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let has_jwt = section.has("jwt");
        let jwt = section.table("jwt", |section| Jwt::read(section, has_jwt));
        Self {
            password_file: section.get("password-file"),
            jwt,
            groups: section.table("groups", read_groups),
            max_verifying: section.bounded("max-verifying", default.max_verifying, 1..=64),
            max_remembered: section.bounded(
                "max-remembered",
                default.max_remembered,
                0..=1_000_000,
            ),
            failures: section.table("failures", Failures::read),
        }
    }
}

impl Failures {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let (shortest, day) = (Span::milliseconds(100), Span::seconds(86_400));
        let penalty = section.bounded("penalty", default.penalty, shortest..=Span::seconds(3600));
        let max_penalty = section.bounded("max-penalty", default.max_penalty, shortest..=day);
        if max_penalty < penalty {
            let key = if section.has("max-penalty") { "max-penalty" } else { "penalty" };
            let why =
                format!("puts the longest penalty ({max_penalty}) below the first ({penalty})");
            section.refuse(key, Unfit::because(why));
        }
        Self {
            max: section.bounded("max", default.max, 1..=1000),
            penalty,
            max_penalty,
            max_remembered: section.bounded(
                "max-remembered",
                default.max_remembered,
                16..=1_000_000,
            ),
        }
    }
}

impl Jwt {
    /// None where there is no such table (`is_there`), or where a part is missing.
    fn read(section: &Section<'_>, is_there: bool) -> Option<Self> {
        let (algorithm, key_file, audience) = if is_there {
            (
                section.require("algorithm", "\"ES256\""),
                section.require("key-file", "\"/etc/tidegate/jwt.pem\""),
                section.require("audience", "\"edge-01\""),
            )
        } else {
            // Asked for all the same: so that they are known.
            (section.get("algorithm"), section.get("key-file"), section.get("audience"))
        };
        let claim = |key, default: &str| section.or(key, default.to_owned());
        let (user_claim, groups_claim) =
            (claim("user-claim", "sub"), claim("groups-claim", "groups"));
        let issuer = section.get("issuer");
        let leeway =
            section.bounded("leeway", Span::seconds(30), Span::seconds(0)..=Span::seconds(3600));
        let (algorithm, key_file, audience) = (algorithm?, key_file?, audience?);
        Some(Self { algorithm, key_file, audience, issuer, user_claim, groups_claim, leeway })
    }
}

fn read_groups(section: &Section<'_>) -> BTreeMap<String, Vec<String>> {
    let mut groups = BTreeMap::new();
    for (group, users) in section.entries::<UserNames>() {
        let checked = check_user(group).and(users);
        section.check(group, checked.as_ref().map(|_| ()).map_err(Clone::clone));
        groups.extend(checked.ok().map(|UserNames(users)| (group.to_owned(), users)));
    }
    groups
}

/// A list of names of users or groups.
pub(crate) struct UserNames(pub(crate) Vec<String>);

impl FromValue for UserNames {
    fn from_value(value: &toml::de::DeValue<'_>) -> Result<Self, Unfit> {
        const EXPECTED: &str = "a list of names, such as [\"boiler-7\", \"boiler-8\"]";
        let list = value.as_array().ok_or_else(|| Unfit::expected(EXPECTED))?;
        let names = list.iter().map(|entry| {
            let name = entry.get_ref().as_str().ok_or_else(|| Unfit::expected(EXPECTED))?;
            check_user(name)
                .map(|()| name.to_owned())
                .map_err(|unfit| Unfit::because(format!("holds {name:?}")).so(unfit.expected))
        });
        names.collect::<Result<_, _>>().map(Self)
    }
}

/// The name of a user or group.
fn check_user(name: &str) -> Result<(), Unfit> {
    if (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(|c| c == ':' || c.is_control()) {
        return Ok(());
    }
    Err(Unfit::expected(format_args!(
        "a name of 1 to {MAX_NAME} bytes without `:` and control characters"
    )))
}
