//! Server-sent events: what the page shows, whenever it changed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::Receiver;
use super::api::{DeviceView, Summary};
use super::http::{NoError, Refusal, Service, respond};
use super::model::Shown;
use super::model::alert::Alert;
use crate::supervise::Role;

/// Where it is served.
pub(super) const PATH: &str = "/api/stream";
/// The least time between two messages.
const EVERY: Duration = Duration::from_millis(250);
/// The most, so that a page whose receiver is gone notices, and a rate falls to zero.
const IDLE: Duration = Duration::from_secs(1);
/// Devices in one message; what is left comes with the next.
const MAX_DEVICES: usize = 500;

/// One message.
#[derive(Debug, Serialize)]
struct Message<'a> {
    summary: Summary,
    /// All of them.
    alerts: Vec<&'a Alert>,
    /// Those that changed since the message before.
    devices: Vec<DeviceView<'a>>,
    /// The last events, the newest last.
    latest: Vec<&'a Shown>,
}

/// A body made of what is sent to it.
struct Lines(mpsc::Receiver<Bytes>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = NoError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, NoError>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Begins a stream.
pub(super) fn answer(service: &Service) -> Response<Body> {
    let Ok(permit) = service.receiver.streams.clone().try_acquire_owned() else {
        let error = "too many pages are open, close one";
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error).answer();
    };
    let (sender, receiver) = mpsc::channel(1);
    let Service { receiver: from, stop } = service.clone();
    service.receiver.supervisor.spawn("receiver stream", Role::Ordinary, async move {
        let _permit = permit;
        stop.run_until_cancelled(feed(&from, &sender)).await;
    });
    respond(StatusCode::OK, "text/event-stream", Body::new(Lines(receiver)))
}

async fn feed(receiver: &Receiver, sender: &mpsc::Sender<Bytes>) {
    let mut changes = receiver.changes.subscribe();
    let mut shown = 0;
    loop {
        let next = Instant::now() + EVERY;
        changes.borrow_and_update();
        let (message, revision, more) = message(receiver, shown);
        shown = revision;
        // A page that does not read holds only this task.
        if sender.send(message).await.is_err() {
            return;
        }
        sleep_until(next).await;
        if !more {
            let _ = timeout(IDLE, changes.changed()).await;
        }
    }
}

/// A message with the devices changed after revision `shown`; the revision it shows; whether there
/// are more.
fn message(receiver: &Receiver, shown: u64) -> (Bytes, u64, bool) {
    let state = receiver.state();
    let mut changed: Vec<_> =
        state.model.devices.iter().filter(|device| device.revision > shown).collect();
    let more = changed.len() > MAX_DEVICES;
    if more {
        changed.select_nth_unstable_by_key(MAX_DEVICES, |device| device.revision);
        changed.truncate(MAX_DEVICES);
    }
    let revision = changed.iter().map(|device| device.revision).max().unwrap_or(shown);
    let message = Message {
        summary: Summary::new(receiver, &state),
        alerts: state.model.alerts.0.iter().collect(),
        devices: changed.into_iter().map(DeviceView::new).collect(),
        latest: state.model.latest.iter().collect(),
    };
    let mut line = b"data: ".to_vec();
    // JSON has no line breaks of its own, and these types have no keys that are not strings.
    let _ = serde_json::to_writer(&mut line, &message);
    line.extend_from_slice(b"\n\n");
    (line.into(), revision, more)
}
