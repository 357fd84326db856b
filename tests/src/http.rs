//! HTTP as far as the tests need it: GET from loopback.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::wait::SOON;

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Asks for `path`. HTTP/1.0: the body ends where the connection does.
///
/// # Errors
/// When nobody listens, or the answer is not HTTP.
pub fn try_get(address: SocketAddr, path: &str) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).map_err(io::Error::other)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Response {
        status: status.ok_or(io::ErrorKind::InvalidData)?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// Asks for `path`.
///
/// # Panics
/// When nobody answers.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Response {
    match try_get(address, path) {
        Ok(response) => response,
        Err(error) => panic!("GET http://{address}{path}: {error}"),
    }
}

/// Asks for the JSON at `path`.
///
/// # Panics
/// When the answer is not 200, or no JSON.
#[track_caller]
pub fn get_json(address: SocketAddr, path: &str) -> Value {
    let response = get(address, path);
    assert_eq!(response.status, 200, "GET {path}: {}", response.body);
    match serde_json::from_str(&response.body) {
        Ok(value) => value,
        Err(error) => panic!("GET {path}: {error} in {}", response.body),
    }
}
