//! A plain HTTP/1.1 client: one request a connection.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) const BATCH: &str = "application/cloudevents-batch+json";
pub(super) const ONE: &str = "application/cloudevents+json";

#[derive(Debug, Clone, Copy)]
pub(super) struct Client(pub(super) SocketAddr);

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Stored and duplicates of a request that was taken.
    #[track_caller]
    pub(super) fn taken(&self) -> (u64, u64) {
        assert_eq!(self.status, 200, "{self:?}");
        let json = self.json();
        (json["stored"].as_u64().unwrap(), json["duplicates"].as_u64().unwrap())
    }
}

impl Client {
    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    pub(super) async fn post(&self, content_type: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send("POST", "/events", &[("content-type", content_type)], body.as_ref()).await
    }

    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut stream = self.begin(method, path, headers, body.len()).await;
        // It may answer and close before it has read everything.
        let _ = stream.write_all(body).await;
        Self::answer(stream).await
    }

    /// Sends the head of a request.
    pub(super) async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: usize,
    ) -> TcpStream {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: {length}\r\n"
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    pub(super) async fn answer(mut stream: TcpStream) -> Answer {
        let mut bytes = Vec::new();
        // A connection that is cut while the body is on its way may be reset.
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }
}
