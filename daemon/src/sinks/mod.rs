//! Where batches go: one folder a bus, each with the same few files (`mod.rs` the sink, `request.rs`
//! what is sent, `response.rs` what the answer means). A new sink is a folder and an arm in each
//! `match` here.

pub mod http;

use std::time::Duration;

use bytes::Bytes;
use tidegate_config::sink::Bus;
use tidegate_event::EventRef;
use tidegate_event::cloudevents::Encoder;

/// What became of a batch. An expected outcome is not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The bus has all of it.
    Delivered,
    /// The bus has some of it, perhaps.
    Partly {
        /// What became of each event, in order; as many as were sent, or the bus does not say.
        fates: Vec<Fate>,
        /// For the operator: what the bus said.
        message: String,
    },
    /// The bus asks for a pause before the same batch comes again.
    Throttled(Duration),
    /// It did not arrive, or nobody knows: send it again after a backoff.
    Retry(Failure),
    /// The bus will never take this batch as it is; a single event is poison and belongs in the
    /// dead-letter queue, a larger batch is to be split.
    Poison(String),
    /// The bus refuses us, not the events (credentials, address): retry slowly, tell the operator.
    Misconfigured(String),
}

/// What became of one event of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The bus has it.
    Delivered,
    /// The bus does not have it: send it again after a backoff.
    Retry,
    /// The bus will never take it.
    Poison(String),
}

/// Why a batch is to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One of a few words (`refused`, `timeout`, `dns`, …): the metrics' label.
    pub reason: &'static str,
    /// For the operator: what failed, on what address.
    pub message: String,
    /// Whether the message was under way for as long as it may be: the link may be too slow for it.
    pub timed_out: bool,
}

/// A bus, ready to send.
#[derive(Debug)]
pub enum Sink {
    /// CloudEvents over HTTP.
    Http(http::HttpSink),
}

/// What one request carries, ready to go: compressed, its headers apart. Sending it again costs
/// nothing more.
#[derive(Debug, Clone)]
pub enum Message {
    /// For [`Sink::Http`].
    Http(http::Message),
}

/// Why a sink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// `type = "http"`.
    #[error(transparent)]
    Http(#[from] http::HttpSinkError),
}

impl SinkError {
    /// Whether the config itself is wrong, and not a file or the system that it relies on.
    pub fn is_config(&self) -> bool {
        use http::HttpSinkError::{Header, Url};
        matches!(self, Self::Http(Url { .. } | Header { .. }))
    }
}

impl Sink {
    /// Sets up the sink. Connects to nothing yet.
    pub fn new(config: &tidegate_config::Sink) -> Result<Self, SinkError> {
        match &config.bus {
            Bus::Http(http) => Ok(Self::Http(http::HttpSink::new(http, config.max_in_flight)?)),
        }
    }

    /// Whether one message carries a whole batch, as a JSON array. Else it carries one event.
    pub fn takes_batches(&self) -> bool {
        match self {
            Self::Http(sink) => sink.takes_batches(),
        }
    }

    /// Appends one event to a batch's body.
    pub fn write_event(&self, encoder: &Encoder, event: &EventRef<'_>, body: &mut Vec<u8>) {
        match self {
            Self::Http(sink) => sink.write_event(encoder, event, body),
        }
    }

    /// Makes a message of a JSON array of events, or of one event as [`Sink::write_event`] wrote it.
    pub async fn prepare(&self, body: Bytes) -> Message {
        match self {
            Self::Http(sink) => Message::Http(sink.prepare(body).await),
        }
    }

    /// Sends the message and waits for the answer, within the sink's time-out.
    pub async fn send(&self, message: &Message) -> Outcome {
        match (self, message) {
            (Self::Http(sink), Message::Http(message)) => sink.send(message).await,
        }
    }

    /// How long one message may take.
    pub fn timeout(&self) -> Duration {
        match self {
            Self::Http(sink) => sink.timeout(),
        }
    }

    /// Where it sends to, for the operator; without credentials.
    pub fn address(&self) -> &str {
        match self {
            Self::Http(sink) => sink.address(),
        }
    }
}

impl Message {
    /// Bytes of the body as they travel.
    pub fn len(&self) -> usize {
        match self {
            Self::Http(message) => message.len(),
        }
    }

    /// Whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
