//! Events over HTTP/1.1: CloudEvents in structured, binary and batched content mode (HTTP protocol
//! binding 1.0.2), and raw bodies.
//!
//! | request | what it does |
//! |---|---|
//! | `POST /v1/topics/{topic}` | publishes a raw body, or CloudEvents, to the topic; `%XX` stands for any byte of it |
//! | `POST /v1/events` | publishes CloudEvents, each to the topic that its `subject` names |
//! | `GET /openapi.json` | says all of that to a program (OpenAPI 3.0) |
//!
//! `202` leaves after the fdatasync that covers all events of the request; a request is taken as a whole
//! or not at all: also where one of its events is in a lane that is full and refuses it. What a full lane
//! drops by its `when-full` is acknowledged, and counted as `dropped` in the answer. An event that comes as a CloudEvent keeps its own source and id on the way upstream,
//! and a second copy of it is acknowledged and not stored (`dedup`). In the log it lies as one over
//! MQTT in binary mode, with its data as the payload, so that subscribers and rules see the data.
//!
//! The device of a raw body is `client-id` of the query, else the user, else `http`.
//!
//! | bound | default | beyond it |
//! |---|---|---|
//! | connections | `limits.max-connections`, `-per-address`, `max-connecting` | closed at once |
//! | headers | about 32 KiB, 100 of them, `limits.connect-timeout` | 431; closed |
//! | a body, inflated too | `limits.max-body-size`, `limits.request-timeout`; 10 s without a byte | 413; 408 |
//! | all bodies in memory | `limits.max-body-memory` | 503, `Retry-After` |
//! | an event | `limits.max-packet-size`, as over MQTT | 413 |
//! | the rate of a connection | `limits.max-events-per-second`, `max-bytes-per-second` | its next request waits |
//! | the commit | `limits.request-timeout` | 503: the event may be stored all the same |
//! | an answer that is not read | 30 s without a byte taken | closed |
//!
//! What is refused says why (`application/problem+json`, RFC 9457): 400 what is malformed or no topic, 401
//! no login or a wrong one, 403 no right to the topic, 415 no content type or encoding of ours, 429 too
//! many failed logins, 503 no room or no disk.

mod draft;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod login;
mod metrics;
mod problem;
mod publish;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Shared;
use super::pace::Pace;
use super::places::Place;
use crate::gate::Peer;
use crate::http::server::{self, Bounds};

use login::Login;
pub(super) use metrics::Metrics;
use problem::Problem;

/// Bytes of a request's headers, beside what one read brings.
pub(super) const MAX_HEADERS: usize = 32 << 10;
/// How long a request may take once the drain began.
const FINISH_WITHIN: Duration = Duration::from_secs(4);
/// What the listener serves, for programs.
const OPENAPI: &str = include_str!("openapi.json");
const TOPICS: &str = "/v1/topics/";
const EVENTS: &str = "/v1/events";

/// What the requests of one connection share.
struct Connection {
    shared: Shared,
    peer: Peer,
    login: Login,
    place: Mutex<Place>,
    pace: Mutex<Pace>,
}

/// Serves a connection until it ends.
pub(super) async fn run<S>(stream: S, peer: Peer, place: Place, shared: Shared)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let bounds = Bounds {
        headers_within: shared.limits.connect_timeout.0,
        max_headers: MAX_HEADERS,
        ..Bounds::finishing(FINISH_WITHIN)
    };
    let drain = shared.supervisor.drain().clone();
    let login = Login::default();
    let (place, pace) = (Mutex::new(place), Mutex::new(Pace::new(&shared.limits)));
    let connection = Arc::new(Connection { shared, peer, login, place, pace });
    let service = service_fn(move |request: Request<Incoming>| {
        let connection = Arc::clone(&connection);
        async move {
            let response = connection.answer(request.map(Body::new)).await;
            connection.shared.metrics.http.answered(response.status());
            Ok::<_, Infallible>(response)
        }
    });
    server::serve(stream, service, bounds, drain).await;
}

impl Connection {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        let topic = path.strip_prefix(TOPICS).map(str::to_owned);
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        match (path, topic) {
            ("/openapi.json", _) if is_get => respond(StatusCode::OK, "application/json", OPENAPI),
            ("/openapi.json", _) => not_allowed("GET, HEAD"),
            (EVENTS, topic @ None) | (_, topic @ Some(_)) => match *request.method() {
                Method::POST => match self.post(topic.as_deref(), request).await {
                    Ok(published) => published.answer(),
                    Err(problem) => problem.answer(),
                },
                _ => not_allowed("POST"),
            },
            _ => Problem::new(
                StatusCode::NOT_FOUND,
                "there is nothing here; POST to /v1/events or /v1/topics/{topic}, GET /openapi.json",
            )
            .answer(),
        }
    }

    /// Waits as long as the events of the requests before ask for.
    async fn paced(&self) {
        poll_fn(|context| {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            if pace.is_spent() { pace.poll(context) } else { Poll::Ready(()) }
        })
        .await;
    }

    /// So many events came in a body of so many bytes.
    fn spend(&self, events: u32, bytes: usize) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waits = pace.spend(bytes);
        (1..events).for_each(|_| waits = pace.spend(0));
        self.shared.metrics.paced.inc_by(u64::from(waits));
    }

    /// The client has said who it is. False if there is no memory for it.
    fn connected(&self) -> bool {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).connected()
    }
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let detail = format!("this address takes {allowed}");
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).answer();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// An answer that nobody may keep or take for another type.
fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
