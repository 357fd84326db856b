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
        Some(Self {
            bind: bind?,
            allow_anonymous: allow_anonymous
                .unwrap_or_else(|| !has_logins && bind.is_some_and(|bind| bind.ip().is_loopback())),
            transport,
            origins: origins.unwrap_or_default(),
            tls,
        })
    }
}
