//! From a request to its answer: who sends it, may its events enter, are they on disk.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Request, Response, StatusCode};
use serde::Serialize;
use tidegate_event::{BlockBuilder, percent};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::draft::{self, Posted};
use super::problem::Problem;
use super::{Connection, respond};
use crate::gate::{Arrival, Entry, Mark, Pending, Rights};
use crate::http::body::{self, Buffer};
use crate::http::media;
use crate::listener::Shared;
use crate::log::{self, Append, Commit};
use crate::supervise::Role;

/// How long a request waits for room before it is sent away.
const ROOM_WITHIN: Duration = Duration::from_millis(250);
/// Seconds after which a client may try again: when the disk is behind, and when it is full or fails.
const SOON: u32 = 1;
const LATER: u32 = 5;
/// Characters of a client id.
const MAX_CLIENT_ID: usize = 256;

/// What became of a request's events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Published {
    /// On disk now.
    stored: u32,
    /// On disk before: second copies of CloudEvents.
    duplicates: u32,
    /// Dropped, and entered in the loss ledger: their lane is full, and its `when-full` says so.
    #[serde(skip_serializing_if = "is_zero")]
    dropped: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a client asks for beside the events themselves.
struct Wish {
    topic: Option<String>,
    origin: Arc<str>,
    retain: bool,
}

impl Published {
    pub(super) fn answer(self) -> Response<Body> {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        respond(StatusCode::ACCEPTED, "application/json", body)
    }
}

impl Connection {
    /// Publishes what is posted; `topic` is what stands in the path.
    pub(super) async fn post(
        &self,
        topic: Option<&str>,
        request: Request<Body>,
    ) -> Result<Published, Problem> {
        let shared = &self.shared;
        let (head, body) = request.into_parts();
        let client = query(&head, "client-id")?;
        if client.as_deref().is_some_and(|id| id.is_empty() || id.chars().count() > MAX_CLIENT_ID) {
            return Err(Problem::bad(format!("client-id has 1 to {MAX_CLIENT_ID} characters")));
        }
        let verified = self.login.verify(&shared.gate, &self.peer, &head.headers);
        let identity = timeout(shared.limits.connect_timeout.0, verified)
            .await
            .map_err(|_| Problem::later("the login could not be verified in time", SOON))??;
        if !self.connected() {
            return Err(Problem::later(
                "too many connections, limits.max-memory is reached",
                LATER,
            ));
        }
        let origin = client.map(Arc::from).or_else(|| identity.user.clone());
        let origin: Arc<str> = origin.unwrap_or_else(|| "http".into());
        let rights = shared.gate.rights(&identity, &origin);
        let retain = match query(&head, "retain")?.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Problem::bad("retain is true or false")),
        };
        let topic = match topic {
            None => None,
            Some(topic) => Some(
                percent::decode(topic)
                    .ok_or_else(|| {
                        Problem::bad("the topic in the path is not percent-encoded UTF-8")
                    })?
                    .into_owned(),
            ),
        };
        let wish = Wish { topic, origin, retain };
        let gzip = media::is_gzip(&head.headers)?;
        self.paced().await;
        let mut buffer = shared.bodies.read(body).await?;
        if gzip {
            buffer = body::inflate(&buffer).await?;
        }
        let bytes = buffer.bytes.len();
        // Runs to its end even if the client goes away meanwhile.
        let (answer, published) = oneshot::channel();
        let task_shared = shared.clone();
        shared.supervisor.spawn("http request", Role::Ordinary, async move {
            // Nobody may be waiting for it any more.
            let _ = answer.send(publish(&task_shared, rights, &head, &buffer, &wish).await);
        });
        let published = published.await.unwrap_or_else(|_| {
            let why = "the gateway failed on this request, its log says more";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why))
        })?;
        self.spend(published.stored + published.duplicates + published.dropped, bytes);
        Ok(published)
    }
}

fn query(head: &Parts, name: &str) -> Result<Option<String>, Problem> {
    let text = head.uri.query().unwrap_or_default();
    if !text.split('&').any(|pair| pair.split('=').next() == Some(name)) {
        return Ok(None);
    }
    let value = percent::query(text, name)
        .filter(|value| !value.contains(char::is_control))
        .ok_or_else(|| Problem::bad(format!("{name} in the query cannot be read")))?;
    Ok(Some(value.into_owned()))
}

async fn publish(
    shared: &Shared,
    mut rights: Rights,
    head: &Parts,
    buffer: &Buffer,
    wish: &Wish,
) -> Result<Published, Problem> {
    let gate = &shared.gate;
    let topic = wish.topic.as_deref();
    let events = draft::read(&head.headers, &buffer.bytes, topic, gate.dedup())?;
    admit(shared, &mut rights, &events, wish)?;

    let mut block = BlockBuilder::new(&wish.origin, gate.now());
    let (mut marks, mut pending) = (Vec::new(), Vec::new());
    let mut published = Published::default();
    let deadline = Instant::now() + ROOM_WITHIN;
    for (index, event) in events.iter().enumerate() {
        let mark = match event.key.map(|key| gate.dedup().enter(key)) {
            None => None,
            Some(Arrival::First(mark)) => Some(mark),
            Some(Arrival::OfStored) => {
                published.duplicates += 1;
                continue;
            }
            Some(Arrival::OfPending(first)) => {
                published.duplicates += 1;
                pending.push(first);
                continue;
            }
        };
        match put(shared, &mut block, event, wish, deadline).await {
            Entry::Kept => {
                published.stored += 1;
                marks.extend(mark);
            }
            // Not known by its mark: another copy may find room.
            Entry::Dropped => published.dropped += 1,
            Entry::Refused(lane) => {
                // As a whole or not at all; only its own events are said to be the lane's.
                let in_lane = |event: &&Posted<'_>| gate.place(event.topic()).lane() == lane;
                gate.count_refused(lane, events.iter().filter(in_lane).count() as u64);
                shared.metrics.refused.inc_by(events.len() as u64);
                let why = match gate.lane_name(lane) {
                    log::DEFAULT_LANE => "the log is full until events were forwarded".to_owned(),
                    name => format!("the lane {name:?} is full until events were forwarded"),
                };
                return Err(Problem::later(why, LATER).at(index));
            }
        }
    }
    drop(events);
    store(shared, &mut block, marks, pending).await?;
    let metrics = &shared.metrics;
    let received = u64::from(published.stored) + u64::from(published.dropped);
    metrics.received(tidegate_event::Qos::AtLeastOnce, received);
    metrics.http.stored.inc_by(u64::from(published.stored));
    Ok(published)
}

/// Puts an event into its lane, which may take a moment to have room.
async fn put(
    shared: &Shared,
    block: &mut BlockBuilder,
    event: &Posted<'_>,
    wish: &Wish,
    deadline: Instant,
) -> Entry {
    loop {
        let draft = event.draft(wish.retain);
        let entry = shared.gate.put(block, shared.gate.place(draft.topic), &draft);
        let Entry::Refused(lane) = entry else { return entry };
        if timeout_at(deadline, shared.gate.lane_room(lane)).await.is_err() {
            return entry;
        }
    }
}

/// Whether all of the events may enter.
fn admit(
    shared: &Shared,
    rights: &mut Rights,
    events: &[Posted<'_>],
    wish: &Wish,
) -> Result<(), Problem> {
    let max = shared.limits.max_packet_size;
    for (index, event) in events.iter().enumerate() {
        if event.size() > max.as_usize() {
            let why = format!("an event is larger than limits.max-packet-size ({max})");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why).at(index));
        }
        if let Err(denied) = shared.gate.check(rights, &event.draft(wish.retain)) {
            shared.metrics.denied(denied.label());
            return Err(Problem::from(denied).at(index));
        }
    }
    Ok(())
}

/// Waits until the block is on disk, and so are the events of which it holds no second copies.
async fn store(
    shared: &Shared,
    block: &mut BlockBuilder,
    marks: Vec<Mark>,
    pending: Vec<Pending>,
) -> Result<(), Problem> {
    let failed = || Problem::later("the events could not be written to disk", LATER);
    let within = shared.limits.request_timeout.0;
    let late = |_| Problem::later("the disk is slow: the events may be stored, or not", LATER);
    if !block.is_empty() {
        let commit = append(shared, block).await.inspect_err(|_| {
            shared.metrics.refused.inc_by(u64::from(block.count()));
        })?;
        timeout(within, commit).await.map_err(late)?.map_err(|_| failed())?;
    }
    marks.into_iter().for_each(Mark::stored);
    let deadline = Instant::now() + within;
    for first in pending {
        if !timeout_at(deadline, first.is_stored()).await.map_err(late)? {
            return Err(failed());
        }
    }
    Ok(())
}

async fn append(shared: &Shared, block: &mut BlockBuilder) -> Result<Commit, Problem> {
    let deadline = Instant::now() + ROOM_WITHIN;
    loop {
        let refusal = match shared.gate.submit(block) {
            Append::Accepted(commit) => return Ok(commit),
            Append::Busy => Problem::later("the disk is behind", SOON),
            Append::Full => Problem::later("the log is full until events were forwarded", LATER),
            Append::Unavailable => Problem::later("the disk takes no writes", LATER),
        };
        if timeout_at(deadline, shared.gate.room(block.lanes())).await.is_err() {
            return Err(refusal);
        }
    }
}
