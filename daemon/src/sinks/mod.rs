//! Where batches go: one folder a bus, each with the same few files.

pub mod http;

use std::time::Duration;

/// What became of a batch. An expected outcome is not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The bus has all of it.
    Delivered,
    /// The bus asks for a pause before the same batch comes again.
    Throttled(Duration),
    /// It did not arrive, or nobody knows: send it again after a backoff.
    Retry(String),
    /// The bus will never take this batch as it is; a single event is poison and belongs in the
    /// dead-letter queue, a larger batch is to be split.
    Poison(String),
    /// The bus refuses us, not the events (credentials, address): retry slowly, tell the operator.
    Misconfigured(String),
}
