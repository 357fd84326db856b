//! The keys of a listener with `type = "http"`.

use std::net::SocketAddr;

use super::tls::Tls;
use crate::reader::Section;

/// The keys of `type = "http"`.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// Address and port, e.g. `"127.0.0.1:8080"`; port 0 takes a free one. `[::]` is every address of
    /// this machine, IPv4 too.
    pub bind: SocketAddr,
    /// Lets clients in without a login. Default: on loopback, where there are no logins.
    pub allow_anonymous: bool,
    /// `tls.*`. Default: no TLS.
    pub tls: Option<Tls>,
}

impl Http {
    /// HTTP at `bind`, with everything else at the default.
    pub fn new(bind: SocketAddr) -> Self {
        Self { bind, allow_anonymous: bind.ip().is_loopback(), tls: None }
    }

    /// `has_logins` says whether a client can log in.
    pub(super) fn read(section: &Section<'_>, has_logins: bool) -> Option<Self> {
        // Read before anything is given up, so that every key is known and checked.
        let bind: Option<SocketAddr> = section.require("bind", "\"127.0.0.1:8080\"");
        let allow_anonymous = section.get("allow-anonymous");
        let tls = Tls::read(section);
        let bind = bind?;
        let allow_anonymous = allow_anonymous.unwrap_or(!has_logins && bind.ip().is_loopback());
        Some(Self { bind, allow_anonymous, tls })
    }
}
