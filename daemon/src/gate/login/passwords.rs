//! The password file: a line `USER:HASH` a user; empty lines and lines that begin with `#` say nothing.
//! mosquitto's password files are read as they are.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::hash::{Hash, HashError};

/// Bytes of a password file.
const MAX_FILE: u64 = 16 << 20;
/// Bytes of a user name.
const MAX_USER: usize = 256;

/// The users of a password file.
#[derive(Debug, Default)]
pub struct Passwords {
    users: HashMap<Arc<str>, Arc<Hash>>,
}

/// Why a password file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PasswordsError {
    /// It cannot be read or written.
    #[error("password file {file}: {source}", file = file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line that is none of ours, or the whole file (line 0).
    #[error("{file}:{line}: {what}", file = file.display())]
    Content {
        /// Which.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it; never the hash.
        what: String,
    },
    /// What was asked for cannot be entered.
    #[error("{0}")]
    Entry(String),
}

impl Passwords {
    /// Reads a password file.
    ///
    /// # Errors
    /// If it cannot be read, or a line of it is not understood: a user who is missing in silence would
    /// be worse.
    pub fn load(file: &Path) -> Result<Self, PasswordsError> {
        Self::parse(file, &read(file)?)
    }

    /// Reads the content of a password file.
    pub(in crate::gate) fn parse(file: &Path, text: &str) -> Result<Self, PasswordsError> {
        let content = |line, what| PasswordsError::Content { file: file.into(), line, what };
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let Some(user) = user_of(line) else { continue };
            let number = number + 1;
            check_user(user).map_err(|what| content(number, what.to_owned()))?;
            let Some((_, hash)) = line.split_once(':') else {
                let what = "expected USER:HASH; set it with `tidegate passwd`";
                return Err(content(number, what.to_owned()));
            };
            let hash = Hash::parse(hash.trim_end())
                .map_err(|why| content(number, format!("the entry of user {user:?} {why}")))?;
            if users.insert(Arc::from(user), Arc::new(hash)).is_some() {
                return Err(content(number, format!("user {user:?} stands there twice")));
            }
        }
        Ok(Self { users })
    }

    /// The user of this name, and the entry.
    pub(super) fn get(&self, user: &str) -> Option<(&Arc<str>, &Arc<Hash>)> {
        self.users.get_key_value(user)
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is no user.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

/// Enters `user` with `password` into a file, in the place of what stood there, or as a new line; makes
/// the file, readable for its owner only, if it is not there.
///
/// # Errors
/// If the file cannot be read or written, or the name cannot stand in it.
pub fn set(file: &Path, user: &str, password: &[u8]) -> Result<(), PasswordsError> {
    check_user(user).map_err(|what| PasswordsError::Entry(what.to_owned()))?;
    let hash = Hash::create(password)
        .map_err(|why: HashError| PasswordsError::Entry(format!("a hashed password {why}")))?;
    let entry = format!("{user}:{hash}");
    let text = match read(file) {
        Err(PasswordsError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            String::new()
        }
        text => text?,
    };
    let mut lines: Vec<&str> = text.lines().collect();
    match lines.iter_mut().find(|line| user_of(line) == Some(user)) {
        Some(line) => *line = &entry,
        None => lines.push(&entry),
    }
    write(file, &lines)
}

/// Removes `user` from a file.
///
/// # Errors
/// If the file cannot be read or written, or there is no such user.
pub fn delete(file: &Path, user: &str) -> Result<(), PasswordsError> {
    let text = read(file)?;
    let lines: Vec<&str> = text.lines().collect();
    let left: Vec<&str> =
        lines.iter().copied().filter(|line| user_of(line) != Some(user)).collect();
    if left.len() == lines.len() {
        let file = file.display();
        return Err(PasswordsError::Entry(format!("password file {file}: no user {user:?}")));
    }
    write(file, &left)
}

/// Whose line it is, if it is anybody's.
fn user_of(line: &str) -> Option<&str> {
    let says = !line.trim().is_empty() && !line.starts_with('#');
    says.then(|| line.split_once(':').map_or(line, |(user, _)| user))
}

fn check_user(user: &str) -> Result<(), &'static str> {
    if user.is_empty() || user.len() > MAX_USER {
        return Err("a user name has 1 to 256 bytes");
    }
    if user.starts_with('#') || user.chars().any(|c| c == ':' || c.is_control()) {
        return Err("a user name has no `:`, no control characters, and no `#` in front");
    }
    Ok(())
}

fn read(file: &Path) -> Result<String, PasswordsError> {
    let failed = |source| PasswordsError::Io { file: file.into(), source };
    let content =
        |what: &str| PasswordsError::Content { file: file.into(), line: 0, what: what.to_owned() };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(failed)?;
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(content("larger than 16 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| content("not UTF-8 text"))
}

/// Writes the lines into a new file beside the old one and puts it in its place: a daemon that reads at
/// that moment, or a power cut, sees the one or the other. The new one has the owner of the old one,
/// where we may give it that, and is readable for nobody else.
fn write(file: &Path, lines: &[&str]) -> Result<(), PasswordsError> {
    let failed = |source| PasswordsError::Io { file: file.into(), source };
    // A link stays one.
    let target = match std::fs::canonicalize(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => file.to_path_buf(),
        target => target.map_err(failed)?,
    };
    let Some(name) = target.file_name() else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.new", std::process::id()));
    let beside = directory.join(beside);
    let replaced = replace(&beside, &target, lines);
    if replaced.is_err() {
        // Nobody could use what is left of it.
        let _ = std::fs::remove_file(&beside);
    }
    replaced.and_then(|()| File::open(directory)?.sync_all()).map_err(failed)
}

fn replace(beside: &Path, target: &Path, lines: &[&str]) -> io::Result<()> {
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    // Also where the umask takes less away than that.
    new.set_permissions(Permissions::from_mode(0o600))?;
    if let Ok(old) = std::fs::metadata(target) {
        // Root writes, the daemon's user reads. Who is not root has only files of its own.
        let _ = fchown(&new, Some(old.uid()), Some(old.gid()));
    }
    for line in lines {
        writeln!(new, "{line}")?;
    }
    new.sync_all()?;
    std::fs::rename(beside, target)
}

#[cfg(test)]
mod tests {
    use super::super::hash::Memory;
    use super::*;

    fn right(file: &Path, user: &str, password: &str) -> bool {
        let passwords = Passwords::load(file).unwrap();
        passwords
            .get(user)
            .is_some_and(|(_, hash)| hash.verify(password.as_bytes(), &mut Memory::default()))
    }

    #[test]
    fn users_are_set_changed_and_deleted_and_the_rest_of_the_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("passwords");
        set(&file, "anna", b"one").unwrap();
        std::fs::write(&file, format!("# ours\n\n{}", read(&file).unwrap())).unwrap();
        set(&file, "ben", b"two").unwrap();
        set(&file, "anna", b"three").unwrap();
        assert!(right(&file, "anna", "three") && right(&file, "ben", "two"));
        assert!(!right(&file, "anna", "one") && !right(&file, "nobody", "one"));
        delete(&file, "anna").unwrap();
        assert!(!right(&file, "anna", "three") && right(&file, "ben", "two"));
        assert!(read(&file).unwrap().starts_with("# ours\n\nben:$argon2id$"));
        let error = delete(&file, "anna").unwrap_err().to_string();
        assert!(error.ends_with("passwords: no user \"anna\""), "{error}");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let names = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_cannot_be_written_stays_what_it_was() {
        let file = Path::new("/proc/self/passwords");
        let error = set(file, "anna", b"one").unwrap_err().to_string();
        assert!(error.starts_with("password file /proc/self/passwords: "), "{error}");
    }

    #[test]
    fn a_name_that_would_be_another_line_or_user_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("passwords");
        for name in ["", "a:b", "a\nb", "#a", "a\0", &"x".repeat(257)] {
            assert!(matches!(set(&file, name, b"x"), Err(PasswordsError::Entry(_))), "{name:?}");
        }
        assert!(!file.exists());
    }

    #[test]
    fn a_line_that_is_not_understood_is_named_and_its_secret_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("passwords");
        let refused = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let error = Passwords::load(&file).unwrap_err().to_string();
            error.rsplit_once("passwords:").unwrap().1.to_owned()
        };
        let plain = refused("\nanna:hunter2\n");
        assert_eq!(
            plain,
            "2: the entry of user \"anna\" is not a hashed password; set it with `tidegate passwd`"
        );
        assert_eq!(refused("hunter2"), "1: expected USER:HASH; set it with `tidegate passwd`");
        let salted = "$7$101$c2FsdHNhbHQ=$AAAA";
        let damaged = refused(&format!("anna:{salted}"));
        assert!(damaged.contains("damaged") && !damaged.contains("AAAA"), "{damaged}");
        let entry = format!("anna:{}", Hash::create(b"x").unwrap());
        assert_eq!(refused(&format!("{entry}\n{entry}")), "2: user \"anna\" stands there twice");
    }
}
