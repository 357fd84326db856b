//! `tidegate status`: asks a running gateway how it stands.

mod report;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Url};

use super::{ConfigFile, Failure, check};
use crate::gateway::Status;
use crate::sinks::http::{chain, install_crypto};

/// How long the whole answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer; one of a gateway with a thousand sinks is smaller.
const MAX_ANSWER: usize = 1 << 20;

// No doc comment: it would hide what the command's definition says.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    config: ConfigFile,
    /// Ask this address instead, such as http://127.0.0.1:9883; no config file is read
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<Url>,
    /// Print the gateway's answer as it is: a JSON object
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// Print nothing but what is wrong: for health checks
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command: the report for standard output, and whether the gateway is healthy.
pub(super) fn run(options: &Options) -> (String, Result<(), Failure>) {
    match ask(options) {
        Ok((status, answer)) => {
            let report = match options {
                Options { quiet: true, .. } => String::new(),
                Options { json: true, .. } => format!("{}\n", answer.trim_end()),
                _ => report::report(&status),
            };
            (report, verdict(&status))
        }
        Err(failure) => (String::new(), Err(failure)),
    }
}

fn verdict(status: &Status) -> Result<(), Failure> {
    if status.is_healthy() {
        return Ok(());
    }
    let why = status.problems.join("; ");
    Err(Failure::new(Failure::UNHEALTHY, format!("{} is not healthy: {why}", status.gateway)))
}

/// The status, and the answer that it stood in.
fn ask(options: &Options) -> Result<(Status, String), Failure> {
    let url = match &options.admin {
        Some(url) => url.clone(),
        None => configured(&options.config.config)?,
    };
    let answer = super::runtime()?.block_on(get(&url))?;
    let status = serde_json::from_str(&answer).map_err(|error| {
        let version = env!("CARGO_PKG_VERSION");
        unavailable(&url, format_args!("not the status of a tidegate {version}: {error}"))
    })?;
    Ok((status, answer))
}

fn unavailable(url: &Url, what: impl std::fmt::Display) -> Failure {
    Failure::new(Failure::EX_UNAVAILABLE, format!("no status from {url}: {what}"))
}

/// The address in the config file; what else is wrong there is for `tidegate check`.
fn configured(file: &Path) -> Result<Url, Failure> {
    let bind = check::parse(file)?.0.admin.bind;
    let wrong = |what: &str| {
        let message =
            format!("{}: admin.bind = \"{bind}\" {what}; use --admin URL", file.display());
        Failure::new(Failure::EX_CONFIG, message)
    };
    if bind.port() == 0 {
        return Err(wrong("does not say which port it is"));
    }
    Url::parse(&format!("http://{}", reachable(bind))).map_err(|error| wrong(&error.to_string()))
}

/// Where this machine reaches what is bound to `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// GETs `/status` there. The environment's proxies do not count.
async fn get(url: &Url) -> Result<String, Failure> {
    let failed = |error: reqwest::Error| {
        if error.is_timeout() {
            let limit = TIMEOUT.as_secs();
            return unavailable(
                url,
                format_args!("no answer within {limit} s; it may still start"),
            );
        }
        let why = chain(&error);
        unavailable(
            url,
            format_args!("{why}; is the gateway running, and is this its [admin] address?"),
        )
    };
    install_crypto();
    let mut builder =
        Client::builder().no_proxy().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
    if url.scheme() == "http" {
        // Nothing is verified: the system's roots need not be read, nor be there.
        builder = builder.tls_certs_only([]);
    }
    let client = builder.build().map_err(failed)?;
    let status = url.join("/status").map_err(|error| unavailable(url, error))?;
    let mut response = client.get(status).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(unavailable(url, response.status()));
    }
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        answer.extend_from_slice(&chunk);
        if answer.len() > MAX_ANSWER {
            return Err(unavailable(
                url,
                format_args!("an answer of more than {MAX_ANSWER} bytes"),
            ));
        }
    }
    String::from_utf8(answer).map_err(|_| unavailable(url, "an answer that is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_to_every_address_is_asked_on_loopback() {
        let asked = |bind: &str| reachable(bind.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:9883"), "127.0.0.1:9883");
        assert_eq!(asked("[::]:9883"), "[::1]:9883");
        assert_eq!(asked("192.0.2.7:1"), "192.0.2.7:1");
    }
}
