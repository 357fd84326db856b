//! The keys of a listener with `type = "mqtt"`.

use std::net::SocketAddr;

use super::tls::Tls;
use crate::grammar;
use crate::problem::Unfit;
use crate::reader::Section;
use crate::value::Choice;

/// The keys of `type = "mqtt"`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mqtt {
    /// Address and port, e.g. `"127.0.0.1:1883"`; port 0 takes a free one. `[::]` is every address of
    /// this machine, IPv4 too.
    pub bind: SocketAddr,
    /// Lets clients in that have neither a login nor a certificate. Default true on loopback where
    /// `[auth]` knows no logins, else false.
    pub allow_anonymous: bool,
    /// What MQTT travels in. Default `"tcp"`.
    pub transport: Transport,
    /// `origins`: the web pages that may connect over WebSocket from a browser, as `scheme://host:port`,
    /// or `"*"` for all. Pages of the listener's own IP address or of localhost always may. Default:
    /// no others.
    pub origins: Vec<String>,
    /// `tls.*`. Default: no TLS.
    pub tls: Option<Tls>,
}

/// What MQTT travels in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// `"tcp"`: in the stream itself.
    #[default]
    Tcp,
    /// `"websocket"`: in binary WebSocket messages, subprotocol `mqtt` (MQTT 5.0, section 6).
    WebSocket,
}

impl Choice for Transport {
    const WORDS: &'static [(&'static str, Self)] =
        &[("tcp", Self::Tcp), ("websocket", Self::WebSocket)];
}

impl Mqtt {
    /// MQTT over TCP at `bind`, with everything else at the default.
    pub fn new(bind: SocketAddr) -> Self {
        Self {
            bind,
            allow_anonymous: bind.ip().is_loopback(),
            transport: Transport::default(),
            origins: Vec::new(),
            tls: None,
        }
    }

    /// `has_logins` says whether a client can log in.
    pub(super) fn read(section: &Section<'_>, has_logins: bool) -> Option<Self> {
        // Read before anything is given up, so that every key is known and checked.
        let bind: Option<SocketAddr> = section.require("bind", "\"127.0.0.1:1883\"");
        let allow_anonymous = section.get("allow-anonymous");
        let transport = section.or("transport", Transport::default());
        let origins: Option<Vec<String>> = section.get("origins");
        let tls = Tls::read(section);
        if let Some(origins) = &origins {
            section.check("origins", origins.iter().try_for_each(|o| grammar::check_origin(o)));
            if transport != Transport::WebSocket && !origins.is_empty() {
                let unfit = Unfit::because("is about WebSocket");
                section.refuse("origins", unfit.so("expected transport = \"websocket\" beside it"));
            }
        }
        let mqtt = Self {
            bind: bind?,
            allow_anonymous: allow_anonymous
                .unwrap_or_else(|| !has_logins && bind.is_some_and(|bind| bind.ip().is_loopback())),
            transport,
            origins: origins.unwrap_or_default(),
            tls,
        };
        if !mqtt.allow_anonymous && !has_logins && !mqtt.knows_certificates() {
            let (key, why) = if mqtt.bind.ip().is_loopback() {
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
        Some(mqtt)
    }

    /// Whether a certificate can tell who a client is.
    fn knows_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.clients.is_some())
    }

    /// Whether every client needs a certificate.
    pub(crate) fn admits_only_known(&self) -> bool {
        let clients = self.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        clients.is_some_and(|clients| clients.required)
    }
}
