//! Sockets that are bound already when the daemon starts: socket activation.
//!
//! A socket unit binds the address, so that a port below 1024 needs no privilege, and clients wait
//! instead of being refused while the daemon restarts. A socket belongs to the listener, or to the admin
//! pages, with the same address in the config.

use std::env;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

/// The sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Sockets(Vec<Socket>);

#[derive(Debug)]
struct Socket {
    /// `FileDescriptorName=` of the socket unit; by default the unit's name.
    name: String,
    address: SocketAddr,
    socket: TcpListener,
}

/// Why passed sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketsProblem {
    /// It is no stream socket of IPv4 or IPv6.
    #[error(
        "the socket {name:?} that was passed cannot be used: {why}; expected ListenStream= with an IP address and port"
    )]
    Unfit {
        /// Its name.
        name: String,
        /// What the kernel says.
        why: std::io::Error,
    },
    /// Nothing in the config has its address: clients would connect and wait for ever.
    #[error(
        "the socket {name:?} on {address} was passed, and neither a listener nor [admin] has that address; expected bind = \"{address}\""
    )]
    Unclaimed {
        /// Its name.
        name: String,
        /// Where it listens.
        address: SocketAddr,
    },
}

impl Sockets {
    /// None: everything is bound by the daemon itself.
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes what `LISTEN_FDS` says is there. To be called once, before there are threads.
    pub fn from_environment() -> Result<Self, SocketsProblem> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let name = names.next().unwrap_or("unknown").to_owned();
            let taken = passed.take_tcp_listener(index);
            match taken.and_then(|socket| socket.map(|s| Ok((s.local_addr()?, s))).transpose()) {
                Ok(Some((address, socket))) => sockets.push(Socket { name, address, socket }),
                Ok(None) => {}
                Err(why) => return Err(SocketsProblem::Unfit { name, why }),
            }
        }
        Ok(Self(sockets))
    }

    /// The socket that is bound to `address`, if there is one.
    pub fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let index = self.0.iter().position(|socket| socket.address == address)?;
        Some(self.0.swap_remove(index).socket)
    }

    /// Refuses what nobody took.
    pub fn finish(self) -> Result<(), SocketsProblem> {
        match self.0.into_iter().next() {
            Some(Socket { name, address, .. }) => Err(SocketsProblem::Unclaimed { name, address }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_goes_to_who_has_its_address_and_none_is_left_over() {
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap();
        let sockets = || {
            Sockets(vec![Socket {
                name: "mqtt".into(),
                address,
                socket: bound.try_clone().unwrap(),
            }])
        };
        let mut taken = sockets();
        assert!(taken.take("127.0.0.1:1".parse().unwrap()).is_none());
        assert_eq!(taken.take(address).unwrap().local_addr().unwrap(), address);
        taken.finish().unwrap();
        let left = sockets().finish().unwrap_err().to_string();
        assert!(left.contains("\"mqtt\"") && left.contains(&format!("{address}")), "{left}");
    }
}
