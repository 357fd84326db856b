//! `[[listener]]`: where events come in.

use std::net::SocketAddr;

use crate::problem::Unfit;
use crate::reader::Section;

/// `[[listener]]`
#[derive(Debug, Clone, PartialEq)]
pub enum Listener {
    /// `type = "mqtt"`: MQTT 3.1.1 and 5 over TCP.
    Mqtt {
        /// Address and port, e.g. `"127.0.0.1:1883"`; port 0 takes a free one.
        bind: SocketAddr,
        /// Lets clients in without a login on an address other than loopback. Default false.
        allow_anonymous: bool,
    },
}

impl Listener {
    /// Where it listens.
    pub fn bind(&self) -> SocketAddr {
        match self {
            Self::Mqtt { bind, .. } => *bind,
        }
    }

    /// Reads one listener; `taken` holds the addresses of others, and whose they are.
    pub(crate) fn read(section: &Section<'_>, taken: &mut Vec<(SocketAddr, &str)>) -> Option<Self> {
        let kind: Option<String> = section.require("type", "\"mqtt\"");
        if kind.as_deref() != Some("mqtt") {
            if kind.is_some() {
                section.refuse("type", Unfit::expected("\"mqtt\""));
            }
            section.pass_unknown_keys();
            return None;
        }
        let bind: Option<SocketAddr> = section.require("bind", "\"127.0.0.1:1883\"");
        let allow_anonymous = section.or("allow-anonymous", false);
        let bind = bind?;
        if !bind.ip().is_loopback() && !allow_anonymous {
            section.refuse(
                "bind",
                Unfit::because("can be reached from other machines, and clients have no login yet")
                    .so("expected a loopback address, or allow-anonymous = true to let everybody in"),
            );
        }
        if let Some((other, whose)) = taken.iter().find(|(other, _)| collide(*other, bind)) {
            section.refuse("bind", Unfit::because(format!("is taken by {whose} on {other}")));
        }
        taken.push((bind, "the listener"));
        Some(Self::Mqtt { bind, allow_anonymous })
    }
}

/// Whether two sockets cannot both be bound. Port 0 takes a free one each time.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let same_family = one.is_ipv4() == other.is_ipv4();
    let same_ip = one.ip() == other.ip()
        || same_family && (one.ip().is_unspecified() || other.ip().is_unspecified());
    one.port() == other.port() && one.port() != 0 && same_ip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_collide_where_the_second_bind_would_fail() {
        let collide =
            |one: &str, other: &str| collide(one.parse().unwrap(), other.parse().unwrap());
        assert!(collide("127.0.0.1:1883", "127.0.0.1:1883"));
        assert!(collide("0.0.0.0:1883", "127.0.0.1:1883"));
        assert!(collide("[::1]:1883", "[::]:1883"));
        assert!(!collide("127.0.0.1:1883", "127.0.0.2:1883"));
        assert!(!collide("127.0.0.1:1883", "127.0.0.1:1884"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!collide("0.0.0.0:1883", "[::1]:1883"));
    }
}
