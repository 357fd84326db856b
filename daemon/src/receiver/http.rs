//! The HTTP side: accept, bounds, routes, and the answer to what is posted.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use axum::routing::any;
use hyper_util::service::TowerToHyperService;
use tidegate_event::cloudevents::{BATCH, STRUCTURED};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::ingest::{Mode, Outcome, ParseError};
use super::{Receiver, api, binary, page, stream};
use crate::http::body::{self, BodyError, Buffer};
use crate::http::media::{self, UnknownEncoding};
use crate::http::server::{self, Bounds};
use crate::supervise::Role;

/// How long requests at hand may take once the service stops.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) receiver: Arc<Receiver>,
    /// Cancelled when this service is to end: at its stop, or the drain.
    pub(super) stop: CancellationToken,
}

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: String,
    index: Option<usize>,
    attribute: Option<String>,
}

/// See [`Receiver::serve`].
pub(super) async fn serve(receiver: Arc<Receiver>, listener: TcpListener, stop: CancellationToken) {
    let drain = receiver.supervisor.drain().clone();
    let ending = CancellationToken::new();
    let service = Service { receiver: receiver.clone(), stop: ending.clone() };
    let router = router(&service);
    let accepting = server::accept(
        "receiver connection",
        &listener,
        &receiver.connections,
        &receiver.supervisor,
        |stream, place| {
            let service = TowerToHyperService::new(router.clone());
            let connection =
                server::serve(stream, service, Bounds::finishing(FINISH_WITHIN), ending.clone());
            async move {
                connection.await;
                drop(place);
            }
        },
    );
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
        () = drain.cancelled() => {}
    }
    drop(listener);
    ending.cancel();
    let connections = receiver.connections.acquire_many(super::MAX_CONNECTIONS as u32);
    if tokio::time::timeout(FINISH_WITHIN, connections).await.is_err() {
        debug!("connections to the receiver are cut");
    }
}

fn router(service: &Service) -> Router {
    let mut router = Router::new();
    for path in ["/", "/events"] {
        let service = service.clone();
        router = router.route(
            path,
            any(move |request: Request<Body>| async move {
                match (request.method(), path) {
                    (&Method::POST, _) => post(&service, request).await,
                    (&Method::GET | &Method::HEAD, "/") => page::answer(),
                    (_, "/") => not_allowed("GET, HEAD, POST"),
                    _ => not_allowed("POST"),
                }
            }),
        );
    }
    for path in api::PATHS {
        let service = service.clone();
        router = router.route(
            path,
            any(move |request: Request<Body>| async move {
                match *request.method() {
                    Method::GET | Method::HEAD if path == stream::PATH => stream::answer(&service),
                    Method::GET | Method::HEAD => {
                        let query = request.uri().query().unwrap_or_default();
                        api::answer(&service.receiver, path, query).await
                    }
                    _ => not_allowed("GET, HEAD"),
                }
            }),
        );
    }
    router.fallback(|| async {
        Refusal::new(StatusCode::NOT_FOUND, "there is nothing here; the page is at /").answer()
    })
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let error = format!("this address takes {allowed}");
    let mut response = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error).answer();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Takes events.
async fn post(service: &Service, request: Request<Body>) -> Response<Body> {
    match take(service, request).await {
        Ok(Outcome::Taken(taken)) => json(
            StatusCode::OK,
            &serde_json::json!({"stored": taken.stored, "duplicates": taken.duplicates}),
        ),
        Ok(Outcome::Refused(error)) => Refusal::from(error).answer(),
        Ok(Outcome::Unavailable(why)) => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why).answer()
        }
        Err(refusal) => {
            service.receiver.state().model.totals.refused += 1;
            service.receiver.changed();
            refusal.answer()
        }
    }
}

async fn take(service: &Service, request: Request<Body>) -> Result<Outcome, Refusal> {
    let (head, body) = request.into_parts();
    let mode = mode(&head.headers)?;
    let gzip = media::is_gzip(&head.headers)
        .map_err(|error| Refusal::new(UnknownEncoding::STATUS, error.to_string()))?;
    let mut buffer = service.receiver.bodies.read(body).await?;
    if gzip {
        buffer = body::inflate(&buffer).await?;
    }
    if mode == media::Mode::Binary {
        buffer.bytes = binary::to_json(&head.headers, &buffer.bytes).map_err(|header| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("the header {header} cannot be read"))
        })?;
    }
    let mode = match mode {
        media::Mode::Batch => Mode::Batch,
        media::Mode::Structured | media::Mode::Binary => Mode::One,
    };
    ingest(service, buffer, mode).await
}

/// Runs to its end even if the client goes away meanwhile.
async fn ingest(service: &Service, buffer: Buffer, mode: Mode) -> Result<Outcome, Refusal> {
    let (answer, outcome) = oneshot::channel();
    let receiver = service.receiver.clone();
    service.receiver.supervisor.spawn("receiver request", Role::Ordinary, async move {
        // Nobody may be waiting for it any more.
        let _ = answer.send(receiver.ingest(&buffer.bytes, mode).await);
    });
    let failed = "the receiver failed on this request, its log says more";
    outcome.await.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, failed))
}

fn mode(headers: &HeaderMap) -> Result<media::Mode, Refusal> {
    media::mode(headers).ok_or_else(|| {
        let media = media::media_type(headers);
        let error = format!(
            "the content type {media:?} is not one of CloudEvents: send {BATCH}, {STRUCTURED}, or \
             binary mode with ce- headers"
        );
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error)
    })
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), index: None, attribute: None }
    }

    pub(super) fn answer(self) -> Response<Body> {
        let mut body = serde_json::json!({"error": self.error});
        if let Some(index) = self.index {
            body["index"] = index.into();
        }
        if let Some(attribute) = self.attribute {
            body["attribute"] = attribute.into();
        }
        let mut response = json(self.status, &body);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        let status = match error {
            ParseError::TooMany(_) => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        let mut refusal = Self::new(status, error.to_string());
        if let ParseError::Invalid { index, problem } = error {
            refusal.index = Some(index);
            refusal.attribute = problem.attribute;
        }
        refusal
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BodyError::NoMemory => StatusCode::SERVICE_UNAVAILABLE,
            BodyError::NotGzip(_) | BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => respond(status, "application/json", bytes.into()),
        Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", Body::empty()),
    }
}

/// An answer that nobody may keep or take for another type.
pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: Body,
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What a stream's body may end with.
pub(super) type NoError = Infallible;
