//! `[[listener]]`: where events come in.

mod mqtt;
mod tls;

use std::net::{IpAddr, SocketAddr};

use crate::problem::Unfit;
use crate::reader::Section;

pub use mqtt::{Mqtt, Transport};
pub use tls::{ClientCertificates, ClientName, Tls, TlsVersion};

/// `[[listener]]`
#[derive(Debug, Clone, PartialEq)]
pub enum Listener {
    /// `type = "mqtt"`: MQTT 3.1.1 and 5.
    Mqtt(Mqtt),
}

impl Listener {
    /// Where it listens.
    pub fn bind(&self) -> SocketAddr {
        match self {
            Self::Mqtt(mqtt) => mqtt.bind,
        }
    }

    /// `tls.*`, where it speaks TLS.
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Mqtt(mqtt) => mqtt.tls.as_ref(),
        }
    }

    /// Reads one listener; `has_logins` says whether a client can log in; `taken` holds the addresses of others, and whose they are.
    pub(crate) fn read(
        section: &Section<'_>,
        has_logins: bool,
        taken: &mut Vec<(SocketAddr, &str)>,
    ) -> Option<Self> {
        let kind: Option<String> = section.require("type", "\"mqtt\"");
        if kind.as_deref() != Some("mqtt") {
            if kind.is_some() {
                section.refuse("type", Unfit::expected("\"mqtt\""));
            }
            section.pass_unknown_keys();
            return None;
        }
        let mqtt = Mqtt::read(section, has_logins)?;
        if let Some((other, whose)) = taken.iter().find(|(other, _)| collide(*other, mqtt.bind)) {
            section.refuse("bind", Unfit::because(format!("is taken by {whose} on {other}")));
        }
        taken.push((mqtt.bind, "the listener"));
        Some(Self::Mqtt(mqtt))
    }
}

/// Whether two sockets cannot both be bound. Port 0 takes a free one each time.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    // `[::]` takes IPv4 in, too.
    let covers = |all: IpAddr, other: IpAddr| {
        all.is_unspecified() && (all.is_ipv6() || all.is_ipv4() == other.is_ipv4())
    };
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
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
        assert!(collide("[::]:1883", "0.0.0.0:1883"));
        assert!(collide("127.0.0.1:1883", "[::]:1883"));
        assert!(!collide("127.0.0.1:1883", "127.0.0.2:1883"));
        assert!(!collide("127.0.0.1:1883", "127.0.0.1:1884"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!collide("0.0.0.0:1883", "[::1]:1883"));
    }
}
