//! CloudEvents over HTTP (CloudEvents HTTP protocol binding 1.0.2): batched, structured or binary
//! content mode, one POST each.
//!
//! Redirects are not followed: a POST that is redirected loses its body with most servers' consent,
//! and an address that moved is for the operator to know. HTTP/1.1 over connections that are kept;
//! TLS is rustls with ring and the system's root certificates. `HTTP_PROXY`, `HTTPS_PROXY` and
//! `NO_PROXY` count, except towards loopback.

mod request;
mod response;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use tidegate_config::sink::{Compression, Http, Mode};
use tidegate_event::EventRef;
use tidegate_event::cloudevents::Encoder;
use tracing::warn;

pub use request::Message;
pub(crate) use response::chain;

use super::Outcome;
use response::Answer;

/// From the first SYN to an open connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a refusal's body is read for the operator.
const EXCERPT: usize = 2048;
/// How much of a 207's body is read: what it says about each event.
const MULTI_STATUS: usize = 4 << 20;
/// How much of an answer's body is read so that its connection can be used again.
const DISCARD: usize = 64 * 1024;

/// POSTs events to one URL.
pub struct HttpSink {
    client: Client,
    url: Url,
    address: String,
    timeout: Duration,
    mode: Mode,
    compression: Compression,
    headers: HeaderMap,
    token_file: Option<PathBuf>,
    /// `Bearer …`, marked sensitive: its `Debug` prints a mask. Read again after it was refused.
    token: Mutex<Option<HeaderValue>>,
}

/// Why the sink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum HttpSinkError {
    /// `url` is not one, or not of a scheme that carries HTTP.
    #[error("url {url:?}: {why}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A name or value in `headers` that no HTTP request can carry.
    #[error("headers: {name:?} has a name or value that an HTTP request cannot carry")]
    Header {
        /// The header's name; its value may be a secret.
        name: String,
    },
    /// `bearer-token-file` cannot be used.
    #[error("bearer-token-file {}: {why}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// TLS cannot be set up.
    #[error("TLS: {0} (https needs root certificates: on Debian, the package ca-certificates)")]
    Tls(String),
}

/// Makes ring the process's provider of cryptography, unless there is one already.
pub fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Only fails where another thread was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

impl HttpSink {
    /// A sink that keeps up to `max_in_flight` idle connections.
    pub fn new(config: &Http, max_in_flight: usize) -> Result<Self, HttpSinkError> {
        let bad_url = |why: String| HttpSinkError::Url { url: config.url.clone(), why };
        let url = Url::parse(&config.url).map_err(|error| bad_url(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad_url("expected http:// or https://".into()));
        }
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let address = format!("{}://{host}{port}{}", url.scheme(), url.path());

        install_crypto();
        let mut builder = Client::builder()
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(config.timeout.0)
            .pool_max_idle_per_host(max_in_flight);
        if is_loopback(host) {
            builder = builder.no_proxy();
        }
        if url.scheme() == "http" {
            // Nothing is verified: the system's roots need not be read, nor be there.
            builder = builder.tls_certs_only([]);
        }
        let client =
            builder.build().map_err(|error| HttpSinkError::Tls(response::chain(&error)))?;

        let sink = Self {
            client,
            url,
            address,
            timeout: config.timeout.0,
            mode: config.mode,
            compression: config.compression,
            headers: headers(config)?,
            token_file: config.bearer_token_file.clone(),
            token: Mutex::default(),
        };
        let token = sink.read_token()?;
        *sink.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
        Ok(sink)
    }

    /// Whether one request carries a whole batch.
    pub fn takes_batches(&self) -> bool {
        self.mode == Mode::Batch
    }

    /// Appends one event to a batch's body.
    pub fn write_event(&self, encoder: &Encoder, event: &EventRef<'_>, body: &mut Vec<u8>) {
        match self.mode {
            Mode::Batch | Mode::Structured => encoder.write_json(event, body),
            Mode::Binary => request::write_binary(&encoder.attributes(event), body),
        }
    }

    /// Makes a message of a batch's body, or of one event.
    pub async fn prepare(&self, body: Bytes) -> Message {
        Message::new(self.mode, self.compression, body).await
    }

    /// POSTs the message and waits for the answer.
    pub async fn send(&self, message: &Message) -> Outcome {
        let mut headers = self.headers.clone();
        headers.extend(message.headers.clone());
        match self.token() {
            Ok(None) => {}
            Ok(Some(token)) => {
                headers.insert(AUTHORIZATION, token);
            }
            Err(error) => return Outcome::Misconfigured(error.to_string()),
        }
        let request =
            self.client.post(self.url.clone()).headers(headers).body(message.body.clone());
        match request.send().await {
            Ok(response) => self.judge(response).await,
            Err(error) => Outcome::Retry(response::failure(&self.address, &error)),
        }
    }

    /// How long one request may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Where it POSTs to, without query and credentials.
    pub fn address(&self) -> &str {
        &self.address
    }

    async fn judge(&self, response: Response) -> Outcome {
        let status = response.status();
        let text = |name: HeaderName| {
            response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
        };
        let (retry_after, location) = (text(RETRY_AFTER), text(LOCATION));
        let (mut excerpt, mut parts) = (String::new(), Vec::new());
        if status == StatusCode::MULTI_STATUS {
            parts = beginning(response, MULTI_STATUS).await;
            excerpt = one_line(&parts[..parts.len().min(EXCERPT)]);
        } else if status.is_success() {
            discard(response).await;
        } else {
            excerpt = one_line(&beginning(response, EXCERPT).await);
        }
        if status == StatusCode::UNAUTHORIZED && self.token_file.is_some() {
            // It may have been replaced.
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let answer = Answer {
            address: &self.address,
            status,
            retry_after: retry_after.as_deref(),
            location: location.as_deref(),
            excerpt: &excerpt,
            parts: &parts,
        };
        response::judge(&answer, self.mode, SystemTime::now())
    }

    fn token(&self) -> Result<Option<HeaderValue>, HttpSinkError> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if token.is_none() {
            *token = self.read_token()?;
        }
        Ok(token.clone())
    }

    fn read_token(&self) -> Result<Option<HeaderValue>, HttpSinkError> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let bad = |why: String| HttpSinkError::Token { path: path.clone(), why };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() {
            return Err(bad("the first line is empty, expected the token".into()));
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {line}"))
            .map_err(|_| bad("the first line has characters that no token has".into()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl fmt::Debug for HttpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSink")
            .field("address", &self.address)
            .field("mode", &self.mode)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

/// The configured headers. Their values are treated as secrets: many are API keys.
fn headers(config: &Http) -> Result<HeaderMap, HttpSinkError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let bad = || HttpSinkError::Header { name: name.clone() };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Reads the body's end, so that the connection can be used again; gives up on a long one.
async fn discard(mut response: Response) {
    let mut left = DISCARD;
    while let Ok(Some(bytes)) = response.chunk().await {
        let Some(rest) = left.checked_sub(bytes.len()) else {
            warn!("the answer to a batch is longer than {DISCARD} bytes: its connection is closed");
            return;
        };
        left = rest;
    }
}

/// The first `limit` bytes of the body.
async fn beginning(mut response: Response, limit: usize) -> Vec<u8> {
    let mut start = Vec::new();
    while start.len() < limit
        && let Ok(Some(bytes)) = response.chunk().await
    {
        start.extend_from_slice(&bytes[..bytes.len().min(limit - start.len())]);
    }
    start
}

/// As text on one line, without control characters.
fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
