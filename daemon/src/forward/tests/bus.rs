//! A bus on loopback that answers as it is told, and remembers what it took.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How a request is answered, beside what its events deserve.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    Status(u16),
    RetryAfter(u16, u32),
    /// With 503, and the events were taken: as if the answer were lost.
    Unheard,
    /// Never.
    Hang,
}

/// One event that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Arrived {
    pub(super) id: String,
    pub(super) source: String,
    pub(super) data: String,
    pub(super) historical: bool,
    /// Which of the forwarders sent it that a test had one after the other: the number at the end of the
    /// address, or 0.
    pub(super) life: usize,
}

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// For the next requests, one each.
    pub(super) script: VecDeque<Reply>,
    /// For all of them.
    pub(super) always: Option<Reply>,
    /// Bodies larger than this get 413.
    pub(super) max_body: Option<usize>,
    /// Bodies larger than this are not answered: the link is too slow for them.
    pub(super) hang_above: Option<usize>,
    /// Batches with this payload are not answered.
    pub(super) hang_on: Option<&'static str>,
    /// A batch is answered with 207, and each event by itself: `poison` gets 400, `later` 503 the
    /// first time.
    pub(super) parts: bool,
    /// Taking a batch takes up to so many milliseconds.
    pub(super) jitter: u64,
    /// Forwarders before this one were killed: nothing of theirs is taken.
    pub(super) killed: usize,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Rules,
    arrived: Vec<Arrived>,
    requests: usize,
    present: HashSet<Present>,
    now: usize,
    at_once: usize,
    headers: Vec<HeaderMap>,
    /// Ids that were told to come again.
    put_off: HashSet<String>,
}

/// The source of a request that is being answered; one of a backlog is another one, and one of another
/// forwarder.
type Present = (String, bool, usize);

#[derive(Clone)]
pub(super) struct Bus {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<usize>,
    pub(super) address: SocketAddr,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Bus {
    /// An address on which nobody listens until [`Bus::open`].
    pub(super) async fn closed() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            inner: Arc::default(),
            changed: watch::Sender::new(0),
            address: listener.local_addr().unwrap(),
            tasks: Arc::default(),
        }
    }

    pub(super) async fn open() -> Self {
        let bus = Self::closed().await;
        bus.reopen().await;
        bus
    }

    pub(super) async fn reopen(&self) {
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        let app = axum::Router::new().fallback(take).with_state(self.clone());
        self.tasks.lock().unwrap().spawn(async move { axum::serve(listener, app).await.unwrap() });
    }

    pub(super) fn rules(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.inner().rules);
    }

    pub(super) fn arrived(&self) -> Vec<Arrived> {
        self.inner().arrived.clone()
    }

    pub(super) fn data(&self) -> Vec<String> {
        self.inner().arrived.iter().map(|event| event.data.clone()).collect()
    }

    pub(super) fn requests(&self) -> usize {
        self.inner().requests
    }

    /// The most requests that were being answered at once.
    pub(super) fn at_once(&self) -> usize {
        self.inner().at_once
    }

    pub(super) fn headers(&self) -> Vec<HeaderMap> {
        self.inner().headers.clone()
    }

    /// Waits until so many events have arrived.
    pub(super) async fn until(&self, events: usize) {
        self.when(|bus| bus.inner().arrived.len() >= events).await;
    }

    /// Waits until `condition` holds after a request.
    pub(super) async fn when(&self, condition: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = changed.wait_for(|_| condition(self));
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok();
        assert!(waited, "{} events in {} requests", self.arrived().len(), self.requests());
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

impl Arrived {
    fn is_poison(&self) -> bool {
        self.data.contains("poison")
    }
}

impl Inner {
    fn take_part(&mut self, event: Arrived) -> Value {
        let status = match &event.data {
            _ if event.is_poison() => 400,
            data if data.contains("later") && self.put_off.insert(event.id.clone()) => 503,
            _ => {
                self.arrived.push(event);
                201
            }
        };
        serde_json::json!({ "status": status })
    }
}

/// A request that is being answered, until its answer is known or its client is gone.
struct Presence {
    bus: Bus,
    sources: HashSet<Present>,
}

impl Presence {
    fn begin(bus: &Bus, events: &[Arrived]) -> Self {
        let source = |event: &Arrived| (event.source.clone(), event.historical, event.life);
        let sources: HashSet<Present> = events.iter().map(source).collect();
        let mut inner = bus.inner();
        for source in &sources {
            assert!(inner.present.insert(source.clone()), "{source:?} is in flight twice");
        }
        inner.now += 1;
        inner.at_once = inner.at_once.max(inner.now);
        Self { bus: bus.clone(), sources }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut inner = self.bus.inner();
        inner.present.retain(|source| !self.sources.contains(source));
        inner.now -= 1;
        drop(inner);
        self.bus.changed.send_modify(|n| *n += 1);
    }
}

async fn take(State(bus): State<Bus>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let life = uri.path().rsplit('/').next().and_then(|part| part.parse().ok()).unwrap_or_default();
    let events = events(&headers, &body, life);
    let jitter = {
        let mut inner = bus.inner();
        inner.requests += 1;
        inner.headers.push(headers);
        fastrand::u64(0..=inner.rules.jitter)
    };
    let presence = Presence::begin(&bus, &events);
    if jitter > 0 {
        tokio::time::sleep(Duration::from_millis(jitter)).await;
    }
    let reply = {
        let mut inner = bus.inner();
        let is_meant = |payload| events.iter().any(|event| event.data == payload);
        let hangs = inner.rules.hang_above.is_some_and(|max| body.len() > max)
            || inner.rules.hang_on.is_some_and(is_meant);
        let hangs = hangs.then_some(Reply::Hang);
        let killed = (life < inner.rules.killed).then_some(Reply::Status(503));
        killed.or_else(|| inner.rules.script.pop_front()).or(inner.rules.always).or(hangs)
    };
    if matches!(reply, Some(Reply::Hang)) {
        drop(presence);
        std::future::pending::<()>().await;
        return StatusCode::NO_CONTENT.into_response();
    }
    // The client cannot know the answer before.
    drop(presence);
    let response = {
        let mut inner = bus.inner();
        let too_large = inner.rules.max_body.is_some_and(|max| body.len() > max);
        let status = |status: u16| StatusCode::from_u16(status).unwrap();
        match reply {
            Some(Reply::Status(code)) if code != 202 => (status(code), "as told").into_response(),
            Some(Reply::Unheard) => {
                inner.arrived.extend(events.into_iter().filter(|event| !event.is_poison()));
                status(503).into_response()
            }
            Some(Reply::RetryAfter(code, seconds)) => {
                (status(code), [("retry-after", seconds.to_string())]).into_response()
            }
            _ if inner.rules.parts => {
                let parts: Vec<Value> =
                    events.into_iter().map(|event| inner.take_part(event)).collect();
                (status(207), Value::from(parts).to_string()).into_response()
            }
            _ if too_large => status(413).into_response(),
            _ if events.iter().any(Arrived::is_poison) => {
                (status(400), "poisonous").into_response()
            }
            _ => {
                inner.arrived.extend(events);
                status(202).into_response()
            }
        }
    };
    bus.changed.send_modify(|n| *n += 1);
    response
}

fn events(headers: &HeaderMap, body: &[u8], life: usize) -> Vec<Arrived> {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !header("ce-id").is_empty() {
        return vec![Arrived {
            id: header("ce-id").into(),
            source: header("ce-source").into(),
            data: String::from_utf8_lossy(body).into_owned(),
            historical: header("ce-historical") == "true",
            life,
        }];
    }
    let value: Value = serde_json::from_slice(body).expect("the body is JSON");
    let events = match value {
        Value::Array(events) => {
            assert_eq!(header("content-type"), "application/cloudevents-batch+json");
            events
        }
        event => {
            assert_eq!(header("content-type"), "application/cloudevents+json");
            vec![event]
        }
    };
    assert!(!events.is_empty());
    let text = |event: &Value, name: &str| event[name].as_str().expect("a string").to_owned();
    let arrived = events.iter().map(|event| Arrived {
        id: text(event, "id"),
        source: text(event, "source"),
        data: event["data"].to_string(),
        historical: event["historical"] == true,
        life,
    });
    arrived.collect()
}
