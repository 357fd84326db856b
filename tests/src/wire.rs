//! A client that says what it is told to, byte by byte.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::packet::{self, CONNACK, Version};
use crate::wait::SOON;

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
}

/// A packet that came back: the first byte and what follows the length.
pub type Answer = (u8, Vec<u8>);

impl Wire {
    /// Connects, and says nothing.
    ///
    /// # Panics
    /// When nobody listens.
    #[track_caller]
    pub fn open(broker: SocketAddr) -> Self {
        match Self::try_open(broker) {
            Ok(wire) => wire,
            Err(error) => panic!("cannot connect to {broker}: {error}"),
        }
    }

    /// Connects, and says nothing.
    ///
    /// # Errors
    /// When nobody listens, or there are no ports or descriptors left.
    pub fn try_open(broker: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&broker, SOON)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// Connects as an MQTT client.
    ///
    /// # Panics
    /// When it is not let in.
    #[track_caller]
    pub fn client(broker: SocketAddr, version: Version, id: &str) -> Self {
        let mut wire = Self::open(broker);
        wire.send(&packet::connect(version, id));
        match wire.answer() {
            Some((CONNACK, body)) if body.get(1) == Some(&0) => wire,
            other => panic!("not let in: {other:02x?}"),
        }
    }

    /// The connection, and what was read of the next packets.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.input)
    }

    /// Writes `bytes`; whether the other side still takes them shows in the answer.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// How long [`Wire::answer`] waits.
    pub fn set_patience(&mut self, patience: Duration) {
        let _ = self.stream.set_read_timeout(Some(patience));
    }

    /// Has the kernel take only a few KiB for it that were not read.
    pub fn take_little(&self) {
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&self.stream, 2048);
    }

    /// Nothing more will be said.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// The next packet; `None` when the connection has ended.
    ///
    /// # Errors
    /// When neither comes in time.
    pub fn try_answer(&mut self) -> io::Result<Option<Answer>> {
        loop {
            if let Some((packet, rest)) = packet::split(&self.input) {
                let answer = (packet.first, packet.body.to_vec());
                self.input = rest.to_vec();
                return Ok(Some(answer));
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next packet; `None` when the connection has ended.
    ///
    /// # Panics
    /// When neither comes in time.
    #[track_caller]
    pub fn answer(&mut self) -> Option<Answer> {
        match self.try_answer() {
            Ok(answer) => answer,
            Err(error) => panic!("neither an answer nor an end: {error}"),
        }
    }

    /// All packets up to the connection's end.
    #[track_caller]
    pub fn answers_to_the_end(&mut self) -> Vec<Answer> {
        std::iter::from_fn(|| self.answer()).collect()
    }
}
