//! A bus over HTTP that answers as a test wants: it is away, refuses what is poison, or takes everything.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

/// What a body has that is poison.
pub const POISON: &[u8] = b"\"poison\"";

/// What it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// 503
    Away,
    /// 400 to what is poison, 200 to all else.
    Picky,
    /// 200
    Content,
}

/// One that listens until the test ends.
#[derive(Debug)]
pub struct Bus {
    address: SocketAddr,
    mood: Arc<AtomicU8>,
}

impl Bus {
    /// Starts one.
    ///
    /// # Panics
    /// When there is no port.
    #[track_caller]
    pub fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("{error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let mood = Arc::new(AtomicU8::new(mood as u8));
        let shared = Arc::clone(&mood);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mood = Arc::clone(&shared);
                // Who goes away in the middle is no concern of ours.
                thread::spawn(move || drop(answer(stream, &mood)));
            }
        });
        Self { address, mood }
    }

    /// A `[[sink]]` of this name that leads here, quick enough for a test. What comes after it belongs to the
    /// sink.
    pub fn sink(&self, name: &str) -> String {
        format!(
            "[[sink]]\nname = \"{name}\"\ntype = \"http\"\nurl = \"http://{}/events\"\n\
             batch.max-age = \"20ms\"\nretry.initial = \"50ms\"\nretry.max = \"500ms\"\n",
            self.address
        )
    }

    /// From now on it answers so.
    pub fn becomes(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }
}

fn answer(mut stream: TcpStream, mood: &AtomicU8) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mood = mood.load(Ordering::SeqCst);
    let is_poison = || body.windows(POISON.len()).any(|part| part == POISON);
    let status = if mood == Mood::Away as u8 {
        "503 Service Unavailable"
    } else if mood == Mood::Picky as u8 && is_poison() {
        "400 Bad Request"
    } else {
        "200 OK"
    };
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
}
