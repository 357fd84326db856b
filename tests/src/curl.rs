//! curl, as people use it: one request, and what came back.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::clients::succeed;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The status line and the headers, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).next()
    }
}

/// Asks `scheme://address/path`, with further arguments.
///
/// # Panics
/// When there is no answer.
#[track_caller]
pub fn curl(scheme: &str, address: SocketAddr, path: &str, arguments: &[&str]) -> Answer {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--include", "--max-time", "30", "--noproxy", "*"]);
    command.args(arguments).arg(format!("{scheme}://{address}{path}"));
    let text = succeed(&mut command).replace("\r\n", "\n");
    // Answers before the last one: 100 Continue.
    let start = text.rfind("\nHTTP/1.1 ").map_or(0, |at| at + 1);
    let (head, body) = text[start..].split_once("\n\n").unwrap_or((&text[start..], ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no HTTP: {text}"));
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}
