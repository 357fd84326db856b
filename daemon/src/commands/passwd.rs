//! `tidegate passwd`: sets a user's password in a password file, or removes the user.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::Failure;
use crate::gate::Secret;
use crate::gate::login::PasswordsError;
use crate::gate::login::passwords;

/// Bytes of a password: as much as MQTT can carry.
const MAX_PASSWORD: u64 = 65_535;

/// The password file and the user.
///
/// The password is asked for on the terminal, or is the first line of standard input; it is never an
/// argument, which everybody on the machine could read. A running gateway takes the file's new content
/// when it gets SIGHUP.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The password file; it is made if it is not there. One of mosquitto can be used
    file: PathBuf,
    /// The user's name
    user: String,
    /// Remove the user instead
    #[arg(long)]
    delete: bool,
}

/// Runs the command.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let Options { file, user, delete } = options;
    if *delete {
        return passwords::delete(file, user).map_err(|problem| failure(&problem));
    }
    let password = ask(user)?;
    passwords::set(file, user, password.expose()).map_err(|problem| failure(&problem))
}

fn failure(problem: &PasswordsError) -> Failure {
    let code = match problem {
        PasswordsError::Io { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => Failure::EX_NOINPUT,
            io::ErrorKind::PermissionDenied => Failure::EX_NOPERM,
            _ => Failure::EX_CANTCREAT,
        },
        PasswordsError::Content { .. } | PasswordsError::Entry(_) => Failure::EX_DATAERR,
    };
    Failure::new(code, problem.to_string())
}

fn ask(user: &str) -> Result<Secret, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return line(&mut stdin.lock());
    }
    // Not standard input and output: these may be elsewhere.
    let unusable = |error| Failure::system("cannot use the terminal", &error);
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(unusable)?;
    let silence = Silence::begin(&terminal).map_err(unusable)?;
    let prompt = |text: &str| {
        let _ = write!(&terminal, "{text}");
        let entered = line(&mut io::BufReader::new(&terminal));
        let _ = writeln!(&terminal);
        entered
    };
    let password = prompt(&format!("Password for {user}: "))?;
    let again = prompt("Again: ")?;
    drop(silence);
    if password != again {
        return Err(Failure::new(
            Failure::EX_DATAERR,
            "the two passwords differ; nothing was changed",
        ));
    }
    Ok(password)
}

/// The first line, without its end.
fn line(input: &mut impl BufRead) -> Result<Secret, Failure> {
    let mut bytes = Vec::new();
    input
        .take(MAX_PASSWORD + 2)
        .read_until(b'\n', &mut bytes)
        .map_err(|error| Failure::unreadable("cannot read the password", &error))?;
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    let refused = |what: &str| Err(Failure::new(Failure::EX_DATAERR, what));
    match bytes.len() as u64 {
        0 => refused("the password is empty; nothing was changed"),
        length if length > MAX_PASSWORD => {
            refused("the password is longer than 65535 bytes; nothing was changed")
        }
        _ if std::str::from_utf8(&bytes).is_err() => {
            refused("the password is not UTF-8 text; nothing was changed")
        }
        _ => Ok(Secret::new(bytes)),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Silence<'t> {
    fn begin(terminal: &'t File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(input: &[u8]) -> Result<Vec<u8>, String> {
        match line(&mut &input[..]) {
            Ok(secret) => Ok(secret.expose().to_vec()),
            Err(failure) => Err(failure.message),
        }
    }

    #[test]
    fn the_password_is_the_first_line() {
        for input in ["hunter2", "hunter2\n", "hunter2\r\n", "hunter2\nmore\n"] {
            assert_eq!(entered(input.as_bytes()).unwrap(), b"hunter2");
        }
        assert_eq!(entered(" a b \n".as_bytes()).unwrap(), b" a b ");
    }

    #[test]
    fn what_no_client_can_send_is_no_password() {
        assert!(entered(b"").unwrap_err().contains("empty"));
        assert!(entered(b"\n").unwrap_err().contains("empty"));
        assert!(entered(&[b'x'; 65_536]).unwrap_err().contains("longer"));
        assert!(entered(b"\xff\n").unwrap_err().contains("UTF-8"));
        assert_eq!(entered(&[b'x'; 65_535]).unwrap().len(), 65_535);
    }
}
