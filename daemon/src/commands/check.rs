//! `tidegate check`: says what is wrong with a configuration.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tidegate_config::{Config, MAX_LEN, Problem, credential as credentials, locate};

use super::failure::Failure;
use crate::gate::login::{Logins, LoginsError};
use crate::listener::Tls;

/// Reads a configuration; `run` and `check` refuse the same things.
///
/// # Errors
/// [`Failure::EX_NOINPUT`] if the file cannot be read, [`Failure::EX_CONFIG`] with a line for each
/// problem in it; [`Failure::EX_NOINPUT`] with a line for each of the certificates, passwords and keys that
/// it names and that cannot be used: those may be right at the next try.
pub fn load(path: &Path) -> Result<Config, Failure> {
    load_without(path, None)
}

/// As [`load`], with no look at the files in `hidden`.
fn load_without(path: &Path, hidden: Option<&Path>) -> Result<Config, Failure> {
    let (config, text) = parse(path)?;
    let file = path.display().to_string();
    let unusable =
        certificates(&config, &text, &file).into_iter().chain(logins(&config, &text, &file));
    let lines: Vec<String> = unusable
        .filter(|(of, _)| hidden.is_none_or(|hidden| !of.starts_with(hidden)))
        .map(|(_, problem)| problem.to_string())
        .collect();
    if lines.is_empty() {
        return Ok(config);
    }
    Err(Failure::new(Failure::EX_NOINPUT, lines.join("\n")))
}

/// As [`load`], without a look at the files that it names: those are the daemon's to read. The text is
/// for who looks.
///
/// # Errors
/// Those of [`load`] that concern the configuration itself.
pub(super) fn parse(path: &Path) -> Result<(Config, String), Failure> {
    let file = path.display().to_string();
    let bytes = read_bounded(path)
        .map_err(|error| Failure::unreadable(format_args!("cannot read {file}"), &error))?;
    if bytes.len() > MAX_LEN {
        let message = format!("{file}: not a configuration: larger than {MAX_LEN} bytes");
        return Err(Failure::new(Failure::EX_CONFIG, message));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Failure::new(Failure::EX_CONFIG, format!("{file}:{line}: not TOML: not UTF-8 text"))
    })?;
    let config = Config::from_toml(&text, &file)
        .map_err(|problems| Failure::new(Failure::EX_CONFIG, problems.to_string()))?;
    Ok((config, text))
}

/// What is wrong with the files of the listeners' TLS, and which file it is.
fn certificates(config: &Config, text: &str, file: &str) -> Vec<(PathBuf, Problem)> {
    let listeners = config.listeners.iter().enumerate();
    let unusable = listeners.filter_map(|(index, listener)| {
        let problem = Tls::load(listener.tls()?).err()?;
        let root = format!("listener[{}]", index + 1);
        let key = format!("{root}.tls.{}", problem.key);
        let what = format!("{root}: {problem}");
        Some((problem.path, wrong(file, text, &key, what)))
    });
    unusable.collect()
}

/// What is wrong with the files of `[auth]`, and which file it is.
fn logins(config: &Config, text: &str, file: &str) -> Option<(PathBuf, Problem)> {
    let problem = Logins::load(&config.auth).err()?;
    let (key, of) = match &problem {
        LoginsError::Passwords(_) => ("auth.password-file", config.auth.password_file.clone()),
        LoginsError::Key(_) => {
            ("auth.jwt.key-file", config.auth.jwt.as_ref().map(|jwt| jwt.key_file.clone()))
        }
    };
    Some((of.unwrap_or_default(), wrong(file, text, key, problem.to_string())))
}

fn wrong(file: &str, text: &str, key: &str, what: String) -> Problem {
    Problem {
        file: file.to_owned(),
        position: locate(text, key),
        key: key.to_owned(),
        what,
        expected: String::new(),
    }
}

/// The unit's credentials, where they are there and this process cannot see them: it is what systemd starts
/// for a reload, or an ordinary user's.
fn hidden_credentials() -> Option<PathBuf> {
    let told = credentials::directory();
    // Looked at from outside: no directory, no unit that has any.
    let missing_is_hidden = told.is_some();
    let directory = told.unwrap_or_else(|| credentials::OUTSIDE.into());
    let visible = match fs::read_dir(&directory) {
        // systemd 257 still shows their names.
        Ok(mut files) => files.all(|file| file.is_ok_and(|file| File::open(file.path()).is_ok())),
        Err(error) => error.kind() == io::ErrorKind::NotFound && !missing_is_hidden,
    };
    (!visible).then_some(directory)
}

/// Reads one byte more than a configuration may have at most: enough to find it too large.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs the command: the report for standard output. It changes nothing. Credentials that it cannot see are no
/// problem; it says that they were not looked at.
///
/// # Errors
/// Those of [`load`].
pub fn run(path: &Path) -> Result<String, Failure> {
    report(path, hidden_credentials().as_deref())
}

fn report(path: &Path, hidden: Option<&Path>) -> Result<String, Failure> {
    let config = load_without(path, hidden)?;
    let file = path.display();
    let mut report = String::new();
    if let Some(hidden) = hidden {
        let hidden = hidden.display();
        report.push_str(&format!("{file}: the credentials in {hidden} were not looked at\n"));
    }
    for warning in config.warnings() {
        report.push_str(&format!("{file}: warning: {warning}\n"));
    }
    let count = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    report.push_str(&format!(
        "{file}: ok: {}, {}, {}\n",
        count(config.listeners.len(), "listener"),
        count(config.sinks.len(), "sink"),
        count(config.alerts.len(), "alert")
    ));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(content: Option<&[u8]>) -> (u8, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate.toml");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let Failure { code, message } = load(&path).unwrap_err();
        let directory = format!("{}/", directory.path().display());
        (code, message.replace(&directory, ""))
    }

    #[test]
    fn the_shipped_file_passes_with_a_word_on_what_it_lacks() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/tidegate.toml");
        let report = run(&shipped).unwrap();
        let lines: Vec<&str> =
            report.lines().filter_map(|line| Some(line.split_once("tidegate.toml: ")?.1)).collect();
        assert_eq!(
            lines,
            [
                "warning: there is no [[sink]]: events are not forwarded",
                "ok: 1 listener, 0 sinks, 0 alerts"
            ]
        );
    }

    #[test]
    fn a_missing_file_and_a_wrong_one_have_different_codes() {
        assert_eq!(
            refused(None),
            (66, "cannot read tidegate.toml: No such file or directory (os error 2)".to_owned())
        );
        assert_eq!(
            refused(Some(b"[gateway]\nid = 4\nname = 'x'\n[[listener]]\n")),
            (
                78,
                "tidegate.toml:2: gateway.id = 4; expected a text in quotes\n\
                 tidegate.toml:3: [gateway]: unknown key \"name\"; expected one of \"id\", \
                 \"data-dir\", \"event-type\", \"device-level\", \"sys-interval\"\n\
                 tidegate.toml:4: listener[1]: type is missing; expected type = \"mqtt\" or \"http\""
                    .to_owned()
            )
        );
    }

    #[test]
    fn certificates_that_cannot_be_used_are_told_with_the_line_that_names_them() {
        let config = "[[listener]]\ntype = 'mqtt'\nbind = '127.0.0.1:0'\n\
                      tls.certificate-file = '/nowhere/server.crt'\ntls.key-file = '/nowhere/server.key'\n";
        assert_eq!(
            refused(Some(config.as_bytes())),
            (
                66,
                "tidegate.toml:4: listener[1]: tls.certificate-file /nowhere/server.crt: cannot be \
                 read: No such file or directory (os error 2)"
                    .to_owned()
            )
        );
    }

    #[test]
    fn credentials_that_cannot_be_seen_are_not_looked_at_and_other_files_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate.toml");
        let hidden = directory.path().join("credentials");
        let passwords = hidden.join("passwords");
        let config = format!(
            "[[listener]]\ntype = 'mqtt'\nbind = '127.0.0.1:0'\n[auth]\npassword-file = '{}'\n",
            passwords.display()
        );
        std::fs::write(&path, config).unwrap();
        let refused = report(&path, None).unwrap_err();
        assert_eq!(refused.code, 66);
        assert!(refused.message.contains("tidegate.toml:5: password file"), "{refused}");
        let passed = report(&path, Some(&hidden)).unwrap();
        assert!(passed.contains(" were not looked at\n"), "{passed}");
        report(&path, Some(&directory.path().join("others"))).unwrap_err();
    }

    #[test]
    fn what_is_no_text_or_too_much_of_it_is_refused() {
        assert_eq!(
            refused(Some(b"# ok\nid = \"\xff\"\n")),
            (78, "tidegate.toml:2: not TOML: not UTF-8 text".to_owned())
        );
        let (code, message) = refused(Some(&vec![b'#'; MAX_LEN + 1]));
        assert_eq!(code, 78);
        assert_eq!(message, "tidegate.toml: not a configuration: larger than 1048576 bytes");
    }
}
