//! The messages without libsystemd: one datagram each, `NAME=value` lines.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `assignments` to the socket that `NOTIFY_SOCKET` names: a path, or behind `@` an abstract
/// address. Does not wait: who reads it too slowly misses it.
pub(super) fn send(socket: &OsStr, assignments: &[(&'static str, String)]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => return Err(io::Error::from(io::ErrorKind::Unsupported)),
    };
    let lines: Vec<String> =
        assignments.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    from.send_to_addr(lines.join("\n").as_bytes(), &address)?;
    Ok(())
}
