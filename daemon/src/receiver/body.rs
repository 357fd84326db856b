//! A request's body: read within a size, a time and a memory bound, and inflated within the same.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use flate2::bufread::MultiGzDecoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::MAX_BODY;

/// How long a client may send nothing.
const IDLE: Duration = Duration::from_secs(10);
/// How long a body may take.
const WITHIN: Duration = Duration::from_secs(60);
/// Bytes that are inflated before other tasks have their turn.
const INFLATE_STEP: usize = 256 << 10;

/// Why a body was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body is larger than {MAX_BODY} bytes, send smaller batches")]
    TooLarge,
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("too many requests at once, try again")]
    NoMemory,
    #[error("the body is not valid gzip: {0}")]
    NotGzip(String),
    #[error("the body ended early: {0}")]
    Broken(String),
}

/// A body in memory, and its part of what all bodies may take.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
    all: Arc<Semaphore>,
}

impl Buffer {
    pub(super) fn new(all: Arc<Semaphore>) -> Self {
        Self { bytes: Vec::new(), permit: None, all }
    }

    /// Makes sure that `more` bytes fit.
    fn reserve(&mut self, more: usize) -> Result<(), BodyError> {
        let needed = self.bytes.len() + more;
        if needed > MAX_BODY {
            return Err(BodyError::TooLarge);
        }
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if needed > held {
            // Doubling, as the vector does.
            let wanted = needed.max(held * 2).min(MAX_BODY) - held;
            let permits = u32::try_from(wanted).map_err(|_| BodyError::TooLarge)?;
            let more = self.all.clone().try_acquire_many_owned(permits);
            let more = more.map_err(|_| BodyError::NoMemory)?;
            match &mut self.permit {
                Some(permit) => permit.merge(more),
                None => self.permit = Some(more),
            }
            self.bytes.reserve_exact(held + wanted - self.bytes.len());
        }
        Ok(())
    }
}

/// Reads `body`.
pub(super) async fn read(body: Body, all: Arc<Semaphore>) -> Result<Buffer, BodyError> {
    let read = tokio::time::timeout(WITHIN, read_all(body, all));
    read.await.unwrap_or(Err(BodyError::TooSlow))
}

async fn read_all(body: Body, all: Arc<Semaphore>) -> Result<Buffer, BodyError> {
    let mut body = std::pin::pin!(body);
    let mut buffer = Buffer::new(all);
    if let Some(size) = body.size_hint().exact() {
        buffer.reserve(usize::try_from(size).map_err(|_| BodyError::TooLarge)?)?;
    }
    loop {
        let frame = std::future::poll_fn(|context| body.as_mut().poll_frame(context));
        match tokio::time::timeout(IDLE, frame).await {
            Err(_) => return Err(BodyError::TooSlow),
            Ok(None) => return Ok(buffer),
            Ok(Some(Err(error))) => return Err(BodyError::Broken(error.to_string())),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    buffer.reserve(data.len())?;
                    buffer.bytes.extend_from_slice(&data);
                }
            }
        }
    }
}

/// Inflates a gzip body, of one or more members (RFC 1952 section 2.2).
pub(super) async fn inflate(compressed: &Buffer) -> Result<Buffer, BodyError> {
    let mut decoder = MultiGzDecoder::new(compressed.bytes.as_slice());
    let mut buffer = Buffer::new(compressed.all.clone());
    loop {
        let start = buffer.bytes.len();
        // One byte beyond the bound tells a body that just fits from one that does not.
        let step = INFLATE_STEP.min(MAX_BODY + 1 - start);
        buffer.reserve(step.min(MAX_BODY - start))?;
        let read = (&mut decoder).take(step as u64).read_to_end(&mut buffer.bytes);
        read.map_err(|error| BodyError::NotGzip(error.to_string()))?;
        if buffer.bytes.len() > MAX_BODY {
            return Err(BodyError::TooLarge);
        }
        if buffer.bytes.len() - start < step {
            return Ok(buffer);
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
