//! The small upstream that comes with tidegate: takes CloudEvents over HTTP, deduplicates them,
//! keeps them on disk, and shows them. For trying tidegate out, for looking, and for tests; it is no
//! archive: beyond its size on disk it lets the oldest events go.
//!
//! # Taking events
//!
//! `POST /events` (or `POST /`), CloudEvents 1.0.2 over HTTP:
//!
//! | content type | body |
//! |---|---|
//! | `application/cloudevents-batch+json` | a JSON array of events, at most [`MAX_EVENTS`] |
//! | `application/cloudevents+json` | one event, a JSON object |
//! | any, with `ce-specversion`, `ce-id`, … | the data of one event (binary mode) |
//!
//! `Content-Encoding: gzip` is understood. The answer is 200 `{"stored": n, "duplicates": n}` when
//! every event is on disk (fdatasync), now or from an earlier request. Otherwise nothing of the
//! request was stored, and the answer is `{"error": "…"}`, with `"index"` and `"attribute"` where an
//! event is invalid: 400 invalid, 408 too slow, 413 too large, 415 unknown content type or encoding,
//! 503 with `Retry-After` when the disk or the memory bound says no.
//!
//! Attributes are checked as CloudEvents 1.0.2 says (required ones, names, types, `time`, `data`
//! beside `data_base64`); that a `source` is a URI reference and that strings hold no control
//! characters is left to the sender.
//!
//! # Duplicates and gaps
//!
//! An event is the same as one before if source and id are the same. tidegate's own ids say the
//! event's place in the gateway's log, in `id` or, beside a publisher's own id, in the extension
//! attribute `logid`: for these the receiver keeps, for each gateway and lane, which LSNs it has, as
//! ranges: exact however long ago. Other events are found among the last 450,000 to 900,000 (a window
//! of hashes). A gap is an LSN, from 1 to the highest received, that is not there; a sink with a topic
//! filter leaves gaps on purpose. Duplicates and refused requests since the last snapshot are not
//! remembered by a receiver that was killed; everything else is.
//!
//! # Looking
//!
//! | | |
//! |---|---|
//! | `GET /` | the page |
//! | `GET /api/summary` | totals |
//! | `GET /api/devices` | sources with counts, last event, last numbers |
//! | `GET /api/events?from=LSN&limit=N&source=S&subject=T` | events as they came, in the order in which they came, from the store's `from` on; go on with `from` = `next` while `more` |
//! | `GET /api/events?source=S&last=N` | the last events of one source, at most 20 |
//! | `GET /api/alerts` | alerts by gateway, name and device, the last change first |
//! | `GET /api/gaps` | each gateway's log: received, highest, missing, and which |
//! | `GET /api/stream` | server-sent events: what the page shows, when it changed, at most 4 times a second |
//! | `GET /health` | 200 while the store takes events |
//!
//! # Bounds
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | bytes on disk | [`Options::max_size`] | the oldest events are released |
//! | connections | [`MAX_CONNECTIONS`] | wait to be accepted |
//! | request headers | 100 headers, about 64 KiB; 10 s | 431; closed |
//! | request body, inflated too | [`MAX_BODY`]; 10 s without a byte, 60 s in all | 413; 408 |
//! | an answer that is not read | 30 s without a byte taken | closed |
//! | all bodies in memory | [`MAX_BODIES`] | 503, `Retry-After: 1` |
//! | events a request | [`MAX_EVENTS`] | 413 |
//! | streams | [`MAX_STREAMS`] | 503 |
//! | devices, alerts, gaps remembered | `model`, `seen` | counted without a row; oldest dropped; window only |

mod api;
mod binary;
mod http;
mod ingest;
mod intervals;
mod keeper;
mod model;
mod page;
mod seen;
mod snapshot;
mod store;
mod stream;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_event::{Lane, Lsn};
use tokio::net::TcpListener;
use tokio::sync::{Notify, RwLock, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock::Clock;
use crate::http::body::Bodies;
use crate::log::{self, Log, Storage};
use crate::supervise::{Role, Supervisor};

/// Bytes of a request's body, before and after inflating.
pub const MAX_BODY: usize = 16 << 20;
/// Bytes of all requests' bodies that are in memory at once.
pub const MAX_BODIES: usize = 64 << 20;
/// How long a body may take.
const BODY_WITHIN: Duration = Duration::from_secs(60);
/// Events of one request.
pub const MAX_EVENTS: usize = 100_000;
/// Connections at once.
pub const MAX_CONNECTIONS: usize = 256;
/// Streams for pages at once.
pub const MAX_STREAMS: usize = 64;
/// The least [`Options::max_size`]: a few of the largest requests.
pub const MIN_SIZE: u64 = 128 << 20;

const SEGMENT_SIZE: u64 = 8 << 20;
const MAX_COMMIT: usize = 2 << 20;

/// How a receiver is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory, created if missing; nothing else lives there.
    pub data_dir: PathBuf,
    /// Bytes on disk, at least [`MIN_SIZE`]; beyond it the oldest events are released.
    pub max_size: u64,
}

impl Options {
    /// A receiver in `data_dir` that keeps up to 1 GiB.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), max_size: 1 << 30 }
    }
}

/// Why a receiver cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Less than [`MIN_SIZE`].
    #[error("a max-size of {0} bytes is too small for the receiver, it needs at least {MIN_SIZE}")]
    TooSmall(u64),
    /// The directory cannot be created.
    #[error("cannot create the receiver's directory {}: {error}", dir.display())]
    Directory {
        /// Which.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the receiver's store: {0}")]
    Store(#[from] log::OpenError),
    /// The store cannot be read.
    #[error("cannot read the receiver's store: {0}")]
    Read(log::ReadError),
    /// The snapshot cannot be read.
    #[error("cannot read the receiver's snapshot in {}: {error}", dir.display())]
    Snapshot {
        /// Where.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A receiver: its store and what is known of it. It goes on while no address serves it.
#[derive(Debug)]
pub struct Receiver {
    options: Options,
    log: Arc<Log>,
    clock: Clock,
    started: Instant,
    supervisor: Supervisor,
    state: Mutex<State>,
    /// The number of the last request that was decided; they are, in order.
    settled: watch::Sender<u64>,
    /// Requests pass it together, a snapshot alone.
    gate: RwLock<()>,
    /// The store is to let its oldest events go.
    crowded: Notify,
    /// Counts changes that a page would show.
    changes: watch::Sender<u64>,
    bodies: Bodies,
    connections: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    scans: Arc<Semaphore>,
}

/// What a receiver has received since it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Events stored.
    pub events: u64,
    /// Events that it had already.
    pub duplicates: u64,
    /// LSNs missing, over all gateways.
    pub missing: u64,
}

#[derive(Debug)]
struct State {
    seen: seen::Seen,
    model: model::Model,
    rate: model::Rate,
    /// Requests entered so far.
    requests: u64,
    /// The last one whose commit failed.
    failed: u64,
}

impl Receiver {
    /// Opens the receiver, or creates it: reads the store's events since the last snapshot, which
    /// takes some seconds a gigabyte. It ends with `supervisor`'s drain: requests at hand are
    /// answered, what is known is written to the snapshot, the store is closed.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: Options,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, OpenError> {
        if options.max_size < MIN_SIZE {
            return Err(OpenError::TooSmall(options.max_size));
        }
        let dir = &options.data_dir;
        std::fs::create_dir_all(dir)
            .map_err(|error| OpenError::Directory { dir: dir.clone(), error })?;
        let log_options = log::Options {
            dir: dir.join("store"),
            lane: Lane(0),
            max_size: options.max_size,
            segment_size: SEGMENT_SIZE,
            max_delay: Duration::ZERO,
            max_bytes: MAX_COMMIT,
            ..log::Options::default()
        };
        let (log, recovery) = Log::open(storage, log_options)?;
        for lost in &recovery.quarantined {
            let (first, last) = (lost.start(), lost.end());
            warn!(first, last, "events of the receiver's store are damaged and were set aside");
        }
        let (seen, model) = store::rebuild(&log, dir)?;
        let state = State { seen, model, rate: model::Rate::default(), requests: 0, failed: 0 };
        let receiver = Arc::new(Self {
            options,
            log,
            clock: Clock::new(),
            started: Instant::now(),
            supervisor: supervisor.clone(),
            state: Mutex::new(state),
            settled: watch::Sender::new(0),
            gate: RwLock::new(()),
            crowded: Notify::new(),
            changes: watch::Sender::new(1),
            bodies: Bodies::new(MAX_BODY, MAX_BODIES, BODY_WITHIN),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            scans: Arc::new(Semaphore::new(api::MAX_SCANS)),
        });
        supervisor.spawn("receiver keeper", Role::Critical, keeper::keep(receiver.clone()));
        Ok(receiver)
    }

    /// Serves the receiver on `listener` until `stop` or the drain. Then the listener is closed, so
    /// that connections are refused, requests at hand are answered within a few seconds, and this
    /// ends; what was received stays, and it can be served again.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        http::serve(self, listener, stop).await;
    }

    /// What it has received.
    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            events: state.model.totals.events,
            duplicates: state.model.totals.duplicates,
            missing: state.seen.missing(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Whether the store is near its bound.
    fn is_crowded(&self) -> bool {
        self.log.usage().bytes > self.options.max_size / 4 * 3
    }

    /// The newest event in the store.
    fn newest(&self) -> Lsn {
        self.log.committed()
    }
}

#[cfg(test)]
mod tests;
