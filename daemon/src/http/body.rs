//! A request's body: read within a size, a time and a memory bound, and inflated within the same.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use flate2::bufread::MultiGzDecoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::memory::{Claim, Memory, Sort};

/// How long a client may send nothing.
const IDLE: Duration = Duration::from_secs(10);
/// A body in memory, and what is made of it.
const COPIES: usize = 3;
/// Bytes that are inflated before other tasks have their turn.
const INFLATE_STEP: usize = 256 << 10;

/// Why a body was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than {0} bytes, send smaller batches")]
    TooLarge(usize),
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("too many requests at once, try again")]
    NoMemory,
    #[error("the body is not valid gzip: {0}")]
    NotGzip(String),
    #[error("the body ended early: {0}")]
    Broken(String),
}

/// The bounds of the bodies of one service. Cheap to clone; all clones share the memory.
#[derive(Debug, Clone)]
pub(crate) struct Bodies {
    /// Bytes of one body, before and after inflating.
    max: usize,
    /// How long a body may take.
    within: Duration,
    /// Bytes that all of them may take.
    all: Arc<Semaphore>,
    /// What counts them among other things, if anything does.
    memory: Option<Memory>,
}

/// A body in memory, and its part of what all bodies may take.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
    memory: Option<Claim>,
    bodies: Bodies,
}

impl Buffer {
    fn new(bodies: Bodies) -> Self {
        let memory = bodies.memory.as_ref().map(|memory| memory.claim(Sort::Buffers, 0));
        Self { bytes: Vec::new(), permit: None, memory, bodies }
    }

    /// Makes sure that `more` bytes fit.
    fn reserve(&mut self, more: usize) -> Result<(), BodyError> {
        let max = self.bodies.max;
        let needed = self.bytes.len() + more;
        if needed > max {
            return Err(BodyError::TooLarge(max));
        }
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if needed > held {
            // Doubling, as the vector does.
            let wanted = needed.max(held * 2).min(max) - held;
            let permits = u32::try_from(wanted).map_err(|_| BodyError::TooLarge(max))?;
            let more = Arc::clone(&self.bodies.all).try_acquire_many_owned(permits);
            let more = more.map_err(|_| BodyError::NoMemory)?;
            if self.memory.as_mut().is_some_and(|memory| !memory.try_set(COPIES * (held + wanted)))
            {
                return Err(BodyError::NoMemory);
            }
            match &mut self.permit {
                Some(permit) => permit.merge(more),
                None => self.permit = Some(more),
            }
            self.bytes.reserve_exact(held + wanted - self.bytes.len());
        }
        Ok(())
    }
}

impl Bodies {
    /// Bodies of up to `max` bytes, which take up to `all` together, and each of them `within` to
    /// arrive.
    pub(crate) fn new(max: usize, all: usize, within: Duration) -> Self {
        let all = Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS)));
        Self { max, within, all, memory: None }
    }

    /// The same, counted by `memory` too.
    pub(crate) fn counted(self, memory: Memory) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// Reads `body`.
    pub(crate) async fn read(&self, body: Body) -> Result<Buffer, BodyError> {
        let read = tokio::time::timeout(self.within, self.read_all(body));
        read.await.unwrap_or(Err(BodyError::TooSlow))
    }

    async fn read_all(&self, body: Body) -> Result<Buffer, BodyError> {
        let mut body = std::pin::pin!(body);
        let mut buffer = Buffer::new(self.clone());
        if let Some(size) = body.size_hint().exact() {
            let size = usize::try_from(size).map_err(|_| BodyError::TooLarge(self.max))?;
            buffer.reserve(size)?;
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
}

/// Inflates a gzip body, of one or more members (RFC 1952 section 2.2).
pub(crate) async fn inflate(compressed: &Buffer) -> Result<Buffer, BodyError> {
    let max = compressed.bodies.max;
    let mut decoder = MultiGzDecoder::new(compressed.bytes.as_slice());
    let mut buffer = Buffer::new(compressed.bodies.clone());
    loop {
        let start = buffer.bytes.len();
        // One byte beyond the bound tells a body that just fits from one that does not.
        let step = INFLATE_STEP.min(max + 1 - start);
        buffer.reserve(step.min(max - start))?;
        let read = (&mut decoder).take(step as u64).read_to_end(&mut buffer.bytes);
        read.map_err(|error| BodyError::NotGzip(error.to_string()))?;
        if buffer.bytes.len() > max {
            return Err(BodyError::TooLarge(max));
        }
        if buffer.bytes.len() - start < step {
            return Ok(buffer);
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
