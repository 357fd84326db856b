//! The HTTP request that becomes a WebSocket (RFC 6455, section 4.2).

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of a request, up to the empty line.
const MAX_REQUEST: usize = 8 * 1024;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;
/// Bytes of an origin that a log line repeats.
const MAX_SHOWN: usize = 100;
const SUBPROTOCOL: &str = "mqtt";
/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a request does not become a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::listener) enum Refused {
    #[error("not an HTTP request; does the client speak MQTT without WebSocket here?")]
    NotHttp,
    #[error("HTTP request of more than {MAX_REQUEST} bytes or {MAX_HEADERS} header lines")]
    TooLarge,
    #[error("not a request for a WebSocket of version 13")]
    NotWebSocket,
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the client does not offer the subprotocol \"mqtt\"")]
    Subprotocol,
    #[error("pages of {0:?} may not connect; the listener's key origins lists those that may")]
    Origin(String),
}

impl Refused {
    /// The HTTP answer.
    pub(in crate::listener::transport) fn response(&self) -> String {
        let (status, more) = match self {
            Self::NotHttp | Self::Malformed(_) | Self::Subprotocol => ("400 Bad Request", ""),
            Self::TooLarge => ("431 Request Header Fields Too Large", ""),
            Self::NotWebSocket => (
                "426 Upgrade Required",
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
            ),
            Self::Origin(_) => ("403 Forbidden", ""),
        };
        let text = format!("{self}\n");
        let connection = if more.is_empty() { "Connection: close\r\n" } else { "" };
        let length = text.len();
        format!(
            "HTTP/1.1 {status}\r\n{more}{connection}Content-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {length}\r\n\r\n{text}"
        )
    }
}

/// Reads the request and accepts it; answers with what was read beyond it. Does not answer the client
/// where the request is refused.
pub(in crate::listener::transport) async fn upgrade<S>(
    stream: &mut S,
    origins: &[String],
) -> io::Result<Result<Vec<u8>, Refused>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = Vec::with_capacity(1024);
    let end = loop {
        // The first byte tells: MQTT begins with 0x10.
        if input.first().is_some_and(|first: &u8| !first.is_ascii_uppercase()) {
            return Ok(Err(Refused::NotHttp));
        }
        if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if input.len() >= MAX_REQUEST {
            return Ok(Err(Refused::TooLarge));
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let response = match answer(&input[..end], origins) {
        Ok(response) => response,
        Err(refused) => return Ok(Err(refused)),
    };
    stream.write_all(response.as_bytes()).await?;
    stream.flush().await?;
    input.drain(..end);
    input.shrink_to_fit();
    Ok(Ok(input))
}

/// The answer to a request that is whole.
pub(super) fn answer(request: &[u8], origins: &[String]) -> Result<String, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge),
        _ => return Err(Refused::NotHttp),
    }
    let headers = Headers(parsed.headers);
    let version = headers.only("Sec-WebSocket-Version")?;
    if parsed.method != Some("GET")
        || parsed.version != Some(1)
        || !headers.lists("Upgrade", "websocket")
        || !headers.lists("Connection", "upgrade")
        || version != Some("13")
    {
        return Err(Refused::NotWebSocket);
    }
    let host = headers.only("Host")?.ok_or(Refused::Malformed("no Host header"))?;
    if let Some(origin) = headers.only("Origin")?
        && !may_connect(origin, host, origins)
    {
        return Err(Refused::Origin(origin.chars().take(MAX_SHOWN).collect()));
    }
    let key = headers.only("Sec-WebSocket-Key")?.unwrap_or_default();
    if BASE64_STANDARD.decode(key).map_or(true, |key| key.len() != 16) {
        return Err(Refused::Malformed("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    // `[MQTT-6.0.0-3]`
    if !headers.lists("Sec-WebSocket-Protocol", SUBPROTOCOL) {
        return Err(Refused::Subprotocol);
    }
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(GUID);
    let accept = BASE64_STANDARD.encode(digest.finish());
    let mut response = String::from("HTTP/1.1 101 Switching Protocols\r\n");
    let _ = write!(
        response,
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    Ok(response)
}

/// Whether a browser may connect on behalf of a page of `origin`. A page on the internet must not reach
/// a listener on the loopback of whoever looks at it; nor by a name of its own that leads there, so that
/// only addresses and `localhost` count as the listener's own.
fn may_connect(origin: &str, host: &str, origins: &[String]) -> bool {
    if origins.iter().any(|listed| listed == "*" || listed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let Some((_, page)) = origin.split_once("://") else { return false };
    match (address(page), address(host)) {
        (Some(page), Some(own)) => page == own || page.is_loopback() && own.is_loopback(),
        _ => false,
    }
}

/// The address that `host` is, with a port or without.
fn address(host: &str) -> Option<IpAddr> {
    let name = name(host);
    if name.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    name.trim_matches(['[', ']']).parse().ok()
}

/// `host` without its port.
fn name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The header lines of a request.
struct Headers<'h>(&'h [httparse::Header<'h>]);

impl<'h> Headers<'h> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'h str> {
        let found = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| std::str::from_utf8(header.value).unwrap_or_default().trim())
    }

    /// The value of a header that must not be there twice.
    fn only(&self, name: &'static str) -> Result<Option<&'h str>, Refused> {
        let mut all = self.all(name);
        match (all.next(), all.next()) {
            (_, Some(_)) => {
                Err(Refused::Malformed("a header that must be there once is there twice"))
            }
            (value, None) => Ok(value),
        }
    }

    /// Whether the comma-separated list of a header has `token`.
    fn lists(&self, name: &'static str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|found| found.trim().eq_ignore_ascii_case(token))
    }
}

#[cfg(test)]
mod tests;
