//! A client's connection, inside the process.

use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::time::timeout;

use super::super::broker::{LIMIT, packet_length};

/// What the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    ConnAck { present: bool, code: u8 },
    Publish { qos: u8, dup: bool, id: u16, topic: String, payload: Vec<u8> },
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    SubAck(u16, u8),
    UnsubAck(u16),
    PingResp,
    Disconnect(u8),
}

#[derive(Debug)]
pub(super) struct Link {
    stream: DuplexStream,
    unread: Vec<u8>,
    version: u8,
}

impl Link {
    pub(super) fn new(stream: DuplexStream, version: u8) -> Self {
        Self { stream, unread: Vec::new(), version }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let sent = timeout(LIMIT, self.stream.write_all(bytes)).await;
        sent.expect("the server reads nothing").expect("the server has ended the connection");
    }

    /// The next packet that has come; none if none has.
    pub(super) async fn try_packet(&mut self) -> Option<Packet> {
        let _ = std::future::poll_fn(|context| {
            let poll = self.poll_fill(context);
            Poll::Ready(poll.is_ready())
        })
        .await;
        self.take()
    }

    /// The next packet.
    pub(super) async fn packet(&mut self) -> Packet {
        self.due_packet("an answer").await
    }

    /// The next packet, which has to come because of `due`.
    pub(super) async fn due_packet(&mut self, due: &str) -> Packet {
        loop {
            if let Some(packet) = self.take() {
                return packet;
            }
            let filled = timeout(LIMIT, std::future::poll_fn(|context| self.poll_fill(context)));
            let count = filled.await.unwrap_or_else(|_| panic!("does not come: {due}"));
            assert!(count > 0, "the server has ended the connection");
        }
    }

    fn poll_fill(&mut self, context: &mut std::task::Context<'_>) -> Poll<usize> {
        let mut bytes = [0; 4096];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => self.unread.extend_from_slice(buffer.filled()),
            Poll::Ready(Err(_)) => {}
        }
        Poll::Ready(buffer.filled().len())
    }

    fn take(&mut self) -> Option<Packet> {
        let length = packet_length(&self.unread)?;
        let bytes: Vec<u8> = self.unread.drain(..length).collect();
        Some(self.read(&bytes))
    }

    fn read(&self, bytes: &[u8]) -> Packet {
        let length = bytes.iter().skip(1).position(|byte| byte & 0x80 == 0).unwrap() + 2;
        let (head, body) = (bytes[0], &bytes[length..]);
        let id = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        // Every code below 0x80 is a success; 0x92 says that a packet id is not in use.
        let code = body.get(2).copied().unwrap_or_default();
        let acknowledges = matches!(head, 0x40 | 0x50 | 0x62 | 0x70);
        assert!(!acknowledges || code < 0x80 || code == 0x92, "refused: {bytes:02x?}");
        match head {
            0x20 => Packet::ConnAck { present: body[0] & 1 == 1, code: body[1] },
            0x30..=0x3f => {
                let qos = head >> 1 & 3;
                assert_eq!(head & 1, 0, "retain: {bytes:02x?}");
                let end = 2 + usize::from(id(0));
                let topic = String::from_utf8(body[2..end].to_vec()).unwrap();
                let (number, rest) = if qos == 0 { (0, end) } else { (id(end), end + 2) };
                let properties = usize::from(self.version == 5);
                assert!(properties == 0 || body[rest] == 0, "properties: {bytes:02x?}");
                let payload = body[rest + properties..].to_vec();
                Packet::Publish { qos, dup: head & 8 != 0, id: number, topic, payload }
            }
            0x40 => Packet::PubAck(id(0)),
            0x50 => Packet::PubRec(id(0)),
            0x62 => Packet::PubRel(id(0)),
            0x70 => Packet::PubComp(id(0)),
            0x90 => Packet::SubAck(id(0), body[body.len() - 1]),
            0xb0 => Packet::UnsubAck(id(0)),
            0xd0 => Packet::PingResp,
            0xe0 => Packet::Disconnect(body.first().copied().unwrap_or_default()),
            _ => panic!("no packet of a server: {bytes:02x?}"),
        }
    }
}
