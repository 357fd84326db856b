//! How a command fails: one clear message and an exit status of `sysexits.h`.

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

/// Why a command ends without success. `Display` gives the message alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One of the constants below.
    pub code: u8,
    /// What failed, on what, and what to do about it; a line, or a few.
    pub message: String,
}

impl Failure {
    /// What was asked about is not as it should be.
    pub const UNHEALTHY: u8 = 1;
    /// The command was called wrongly.
    pub const EX_USAGE: u8 = 64;
    /// What was read is not what it should be.
    pub const EX_DATAERR: u8 = 65;
    /// A file to be read is not there, not readable, or not usable.
    pub const EX_NOINPUT: u8 = 66;
    /// Something that is needed is not to be had: a task died, a peer does not answer.
    pub const EX_UNAVAILABLE: u8 = 69;
    /// A mistake in the program.
    pub const EX_SOFTWARE: u8 = 70;
    /// The system refused something ordinary: a thread, a socket.
    pub const EX_OSERR: u8 = 71;
    /// A file or directory cannot be created.
    pub const EX_CANTCREAT: u8 = 73;
    /// Reading or writing failed.
    pub const EX_IOERR: u8 = 74;
    /// It was ended before it could end in order; the next start goes on.
    pub const EX_TEMPFAIL: u8 = 75;
    /// Something is not allowed.
    pub const EX_NOPERM: u8 = 77;
    /// The configuration is wrong: it will be until somebody changes it, so the service manager tries no
    /// more.
    pub const EX_CONFIG: u8 = 78;

    /// A failure with this exit status.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A file that cannot be read: `what` names it.
    pub fn unreadable(what: impl fmt::Display, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::IsADirectory => Self::EX_NOINPUT,
            _ => Self::EX_IOERR,
        };
        Self::new(code, format!("{what}: {error}"))
    }

    /// Something ordinary that the system refused.
    pub fn system(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(Self::EX_OSERR, format!("{what}: {error}"))
    }

    /// An address that `what` cannot have.
    pub fn bind(what: impl fmt::Display, address: SocketAddr, error: &io::Error) -> Self {
        let (code, hint) = match error.kind() {
            io::ErrorKind::AddrInUse => {
                (Self::EX_UNAVAILABLE, "; another process has it, or choose another port")
            }
            io::ErrorKind::PermissionDenied => {
                (Self::EX_NOPERM, "; ports below 1024 need a privilege, choose another port")
            }
            io::ErrorKind::AddrNotAvailable => {
                (Self::EX_UNAVAILABLE, "; no interface of this machine has that address")
            }
            _ => (Self::EX_OSERR, ""),
        };
        Self::new(code, format!("{what}: cannot listen on {address}: {error}{hint}"))
    }

    /// Prints the message on standard error; answers with the exit status.
    pub fn report(&self) -> ExitCode {
        // With standard error closed there is nobody left to tell.
        let _ = writeln!(io::stderr(), "tidegate: {self}");
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
