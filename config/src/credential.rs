//! `"credential:NAME"` in place of a path: a credential that systemd hands to the unit.

use std::env;
use std::path::{Path, PathBuf};

use crate::problem::Unfit;

/// What such a value begins with.
pub(crate) const PREFIX: &str = "credential:";
/// Where the unit's credentials are, for who looks from outside (`tidegate check` in a shell).
pub const OUTSIDE: &str = "/run/credentials/tidegate.service";
/// systemd's own bound is that of a file name.
const MAX_LEN: usize = 255;

/// Where the service manager put this process's credentials, if it did.
pub fn directory() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").filter(|directory| !directory.is_empty()).map(Into::into)
}

/// The file of the credential `name` in `directory`.
pub(crate) fn path(name: &str, directory: Option<&Path>) -> Result<PathBuf, Unfit> {
    let is_file_name = !name.is_empty()
        && name.len() <= MAX_LEN
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if !is_file_name {
        return Err(Unfit::because("names no credential")
            .so("expected \"credential:NAME\", as in LoadCredential=NAME:PATH of the unit"));
    }
    Ok(directory.unwrap_or(Path::new(OUTSIDE)).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_file_in_the_directory_that_systemd_names() {
        let directory = Path::new("/run/credentials/a.service");
        let found = path("cloud.token", Some(directory)).unwrap();
        assert_eq!(found, directory.join("cloud.token"));
        let outside = path("cloud.token", None).unwrap();
        assert_eq!(outside, Path::new("/run/credentials/tidegate.service/cloud.token"));
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let long = "x".repeat(256);
        for name in ["", ".", "..", "../passwd", "a/b", "a:b", "a b", "a\0", "ä", long.as_str()] {
            assert!(path(name, None).is_err(), "{name:?}");
        }
    }
}
