//! `tidegate check`: says what is wrong with a configuration.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tidegate_config::{Config, MAX_LEN, Problem, locate};

use super::failure::Failure;
use crate::gate::login::{Logins, LoginsError};
use crate::listener::Tls;

/// Reads a configuration; `run` and `check` refuse the same things.
///
/// # Errors
/// [`Failure::EX_NOINPUT`] if the file cannot be read, [`Failure::EX_CONFIG`] with a line for each
/// problem in it, and in the certificates, passwords and keys that it names.
pub fn load(path: &Path) -> Result<Config, Failure> {
    let (config, text) = parse(path)?;
    let file = path.display().to_string();
    let mut problems = certificates(&config, &text, &file);
    problems.extend(logins(&config, &text, &file));
    if problems.is_empty() {
        return Ok(config);
    }
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    Err(Failure::new(Failure::EX_CONFIG, lines.join("\n")))
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

/// What is wrong with the files of the listeners' TLS.
fn certificates(config: &Config, text: &str, file: &str) -> Vec<Problem> {
    let listeners = config.listeners.iter().enumerate();
    let unusable = listeners.filter_map(|(index, listener)| {
        let problem = Tls::load(listener.tls()?).err()?;
        let root = format!("listener[{}]", index + 1);
        let key = format!("{root}.tls.{}", problem.key);
        Some(Problem {
            file: file.to_owned(),
            position: locate(text, &key),
            key,
            what: format!("{root}: {problem}"),
            expected: String::new(),
        })
    });
    unusable.collect()
}

/// What is wrong with the files of `[auth]`.
fn logins(config: &Config, text: &str, file: &str) -> Option<Problem> {
    let problem = Logins::load(&config.auth).err()?;
    let key = match &problem {
        LoginsError::Passwords(_) => "auth.password-file",
        LoginsError::Key(_) => "auth.jwt.key-file",
    };
    Some(Problem {
        file: file.to_owned(),
        position: locate(text, key),
        key: key.to_owned(),
        what: problem.to_string(),
        expected: String::new(),
    })
}

/// Reads one byte more than a configuration may have at most: enough to find it too large.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs the command: the report for standard output. It changes nothing.
///
/// # Errors
/// Those of [`load`].
pub fn run(path: &Path) -> Result<String, Failure> {
    let config = load(path)?;
    let file = path.display();
    let mut report = String::new();
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
                 \"data-dir\", \"event-type\", \"device-level\"\n\
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
                78,
                "tidegate.toml:4: listener[1]: tls.certificate-file /nowhere/server.crt: cannot be \
                 read: No such file or directory (os error 2)"
                    .to_owned()
            )
        );
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
