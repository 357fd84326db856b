//! `[[listener]]`: where events come in.

mod http;
mod mqtt;
mod tls;

use std::net::{IpAddr, SocketAddr};

use crate::problem::Unfit;
use crate::reader::Section;

pub use http::Http;
pub use mqtt::{Mqtt, Transport};
pub use tls::{ClientCertificates, ClientName, Tls, TlsVersion};

/// `[[listener]]`
#[derive(Debug, Clone, PartialEq)]
pub enum Listener {
    /// `type = "mqtt"`: MQTT 3.1.1 and 5.
    Mqtt(Mqtt),
    /// `type = "http"`: CloudEvents and raw bodies over HTTP.
    Http(Http),
}

impl Listener {
    /// Where it listens.
    pub fn bind(&self) -> SocketAddr {
        match self {
            Self::Mqtt(mqtt) => mqtt.bind,
            Self::Http(http) => http.bind,
        }
    }

    /// `tls.*`, where it speaks TLS.
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Mqtt(mqtt) => mqtt.tls.as_ref(),
            Self::Http(http) => http.tls.as_ref(),
        }
    }

    /// Whether clients without a login are let in.
    pub fn allow_anonymous(&self) -> bool {
        match self {
            Self::Mqtt(mqtt) => mqtt.allow_anonymous,
            Self::Http(http) => http.allow_anonymous,
        }
    }

    /// Whether a certificate can tell who a client is.
    fn knows_certificates(&self) -> bool {
        self.tls().is_some_and(|tls| tls.clients.is_some())
    }

    /// Whether every client needs a certificate.
    pub(crate) fn admits_only_known(&self) -> bool {
        let clients = self.tls().and_then(|tls| tls.clients.as_ref());
        clients.is_some_and(|clients| clients.required)
    }

    /// Reads one listener; `has_logins` says whether a client can log in; `taken` holds the addresses
    /// of others, and whose they are.
    pub(crate) fn read(
        section: &Section<'_>,
        has_logins: bool,
        taken: &mut Vec<(SocketAddr, &str)>,
    ) -> Option<Self> {
        let expected = "\"mqtt\" or \"http\"";
        let kind: Option<String> = section.require("type", expected);
        let listener = match kind.as_deref() {
            Some("mqtt") => Mqtt::read(section, has_logins).map(Self::Mqtt),
            Some("http") => Http::read(section, has_logins).map(Self::Http),
            other => {
                if other.is_some() {
                    section.refuse("type", Unfit::expected(expected));
                }
                section.pass_unknown_keys();
                None
            }
        }?;
        let bind = listener.bind();
        if !listener.allow_anonymous() && !has_logins && !listener.knows_certificates() {
            let (key, why) = if bind.ip().is_loopback() {
                ("allow-anonymous", "lets nobody in: clients have no way to log in")
            } else {
                ("bind", "can be reached from other machines, and clients have no way to log in")
            };
            section.refuse(
                key,
                Unfit::because(why).so("expected auth.password-file, [auth.jwt], \
                    tls.client-ca-file, or allow-anonymous = true to let everybody in"),
            );
        }
        if let Some((other, whose)) = taken.iter().find(|(other, _)| collide(*other, bind)) {
            section.refuse("bind", Unfit::because(format!("is taken by {whose} on {other}")));
        }
        taken.push((bind, "the listener"));
        Some(listener)
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
