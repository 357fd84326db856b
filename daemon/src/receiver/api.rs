//! The JSON API.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_event::cloudevents::parse::parse_one;
use tidegate_event::{Lsn, percent};

use super::http::{Refusal, json};
use super::model::alert::Alert;
use super::model::device::Device;
use super::model::{Shown, Totals};
use super::store::{self, Record};
use super::{Receiver, State, stream};
use crate::log::Usage;

/// The paths that are answered here, and the stream.
pub(super) const PATHS: [&str; 7] = [
    "/api/summary",
    "/api/devices",
    "/api/events",
    "/api/alerts",
    "/api/gaps",
    stream::PATH,
    "/health",
];
/// Requests that read the store at once; more wait.
pub(super) const MAX_SCANS: usize = 2;
/// Events of one answer.
const MAX_LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 100;
/// Bytes of events in one answer, beyond which it ends early.
const MAX_ANSWER: usize = 4 << 20;
/// Events that are looked at for one answer, beyond which it ends early.
const MAX_SCANNED: usize = 200_000;
/// Gaps listed of each gateway's log.
const MAX_GAPS: usize = 1000;

/// What the header of the page says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    version: &'static str,
    uptime_seconds: u64,
    /// Events stored since the receiver was created.
    events: u64,
    /// Bytes of their JSON.
    event_bytes: u64,
    /// Events a second, over the last five.
    rate: f64,
    duplicates: u64,
    /// LSNs missing, over all gateways.
    gaps: u64,
    out_of_order: u64,
    refused_requests: u64,
    devices: usize,
    /// Events of sources beyond those that are listed.
    without_device: u64,
    alerts_raised: usize,
    store: Store,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    first: Lsn,
    last: Lsn,
    bytes: u64,
    max_bytes: u64,
}

impl Summary {
    pub(super) fn new(receiver: &Receiver, state: &State) -> Self {
        let Totals { events, bytes, duplicates, out_of_order, refused, without_device } =
            state.model.totals;
        let Usage { bytes: on_disk, first, last, .. } = receiver.log.usage();
        let uptime_seconds = receiver.started.elapsed().as_secs();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds,
            events,
            event_bytes: bytes,
            rate: state.rate.per_second(uptime_seconds),
            duplicates,
            gaps: state.seen.missing(),
            out_of_order,
            refused_requests: refused,
            devices: state.model.devices.len(),
            without_device,
            alerts_raised: state.model.alerts.raised(),
            store: Store { first, last, bytes: on_disk, max_bytes: receiver.options.max_size },
        }
    }
}

/// A row of the page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeviceView<'a> {
    source: &'a str,
    name: &'a str,
    gateway: Option<&'a str>,
    events: u64,
    out_of_order: u64,
    /// The topic of `value` and `samples`.
    subject: Option<&'a str>,
    value: Option<f64>,
    samples: Vec<f64>,
    last: Option<&'a Shown>,
}

impl<'a> DeviceView<'a> {
    pub(super) fn new(device: &'a Device) -> Self {
        Self {
            source: &device.source,
            name: &device.name,
            gateway: device.gateway.as_deref(),
            events: device.events,
            out_of_order: device.out_of_order,
            subject: device.subject.as_deref(),
            value: device.value,
            samples: device.samples.iter().copied().collect(),
            last: device.last.as_ref(),
        }
    }
}

#[derive(Debug, Serialize)]
struct GapsView<'a> {
    gateway: Option<&'a str>,
    epoch: String,
    lane: u8,
    received: u64,
    highest: Lsn,
    missing: u64,
    /// First and last, the lowest 1000.
    ranges: Vec<[Lsn; 2]>,
}

/// Events as they came.
#[derive(Debug, Default, Serialize)]
struct Page {
    events: Vec<Box<RawValue>>,
    /// The `from` that goes on where this ends.
    next: Lsn,
    /// Whether there is more now.
    more: bool,
}

/// Answers `GET path?query`.
pub(super) async fn answer(receiver: &Arc<Receiver>, path: &str, query: &str) -> Response<Body> {
    match path {
        "/api/summary" => json(StatusCode::OK, &Summary::new(receiver, &receiver.state())),
        "/api/devices" => {
            let state = receiver.state();
            let devices: Vec<_> = state.model.devices.iter().map(DeviceView::new).collect();
            json(StatusCode::OK, &serde_json::json!({"devices": devices}))
        }
        "/api/alerts" => {
            let state = receiver.state();
            let alerts: Vec<&Alert> = state.model.alerts.0.iter().collect();
            json(StatusCode::OK, &serde_json::json!({"alerts": alerts}))
        }
        "/api/gaps" => gaps(receiver),
        "/health" => health(receiver),
        _ => events(receiver, query).await.unwrap_or_else(Refusal::answer),
    }
}

fn gaps(receiver: &Receiver) -> Response<Body> {
    let state = receiver.state();
    let logs: Vec<_> = state
        .seen
        .gaps(MAX_GAPS)
        .map(|gaps| GapsView {
            gateway: gaps.gateway,
            epoch: gaps.epoch.to_string(),
            lane: gaps.lane.0,
            received: gaps.received,
            highest: gaps.highest,
            missing: gaps.missing,
            ranges: gaps.ranges.iter().map(|range| [*range.start(), *range.end()]).collect(),
        })
        .collect();
    json(StatusCode::OK, &serde_json::json!({"missing": state.seen.missing(), "logs": logs}))
}

fn health(receiver: &Receiver) -> Response<Body> {
    if receiver.supervisor.drain().is_cancelled() {
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the receiver is ending").answer();
    }
    json(StatusCode::OK, &serde_json::json!({"status": "ok"}))
}

fn bad(error: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, error)
}

fn number<T: std::str::FromStr>(query: &str, name: &str) -> Result<Option<T>, Refusal> {
    percent::query(query, name)
        .map(|text| text.parse().map_err(|_| bad(format!("{name} is not a whole number"))))
        .transpose()
}

async fn events(receiver: &Arc<Receiver>, query: &str) -> Result<Response<Body>, Refusal> {
    let text = |name| percent::query(query, name).map(|text| text.into_owned());
    let filter = Filter { source: text("source"), subject: text("subject") };
    let last: Option<usize> = number(query, "last")?;
    let from = number(query, "from")?.unwrap_or(1);
    let limit = number(query, "limit")?.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let recent = match (last, &filter.source) {
        (None, _) => None,
        (Some(_), None) => return Err(bad("last needs a source")),
        (Some(last), Some(source)) => {
            let state = receiver.state();
            let recent = state.model.find(source).map(|device| device.recent.clone());
            let recent = recent.unwrap_or_default();
            let skip = recent.len().saturating_sub(last);
            Some(recent.into_iter().skip(skip).collect::<Vec<_>>())
        }
    };
    let _permit = receiver.scans.acquire().await;
    let receiver = receiver.clone();
    let read = tokio::task::spawn_blocking(move || match recent {
        Some(lsns) => read_each(&receiver, &lsns),
        None => read_page(&receiver, from, limit, &filter),
    });
    let failed = |error: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let page = read.await.map_err(|error| failed(error.to_string()))?;
    let page = page.map_err(|error| failed(format!("the store cannot be read: {error}")))?;
    Ok(json(StatusCode::OK, &page))
}

struct Filter {
    source: Option<String>,
    subject: Option<String>,
}

impl Filter {
    fn takes(&self, json: &[u8]) -> bool {
        if self.source.is_none() && self.subject.is_none() {
            return true;
        }
        let Ok(event) = parse_one(json) else { return false };
        self.source.as_deref().is_none_or(|source| source == event.source)
            && self
                .subject
                .as_deref()
                .is_none_or(|subject| Some(subject) == event.subject.as_deref())
    }
}

fn read_page(
    receiver: &Receiver,
    from: Lsn,
    limit: usize,
    filter: &Filter,
) -> Result<Page, crate::log::ReadError> {
    let mut page = Page { next: from, ..Page::default() };
    if from > receiver.newest() {
        return Ok(page);
    }
    let mut reader = receiver.log.reader(from.max(1));
    let (mut bytes, mut scanned) = (0, 0);
    page.next = store::scan(&mut reader, drop, |stored| {
        if page.events.len() >= limit || bytes >= MAX_ANSWER || scanned >= MAX_SCANNED {
            return false;
        }
        scanned += 1;
        if let Some(Record::Event(json)) = store::record(stored)
            && filter.takes(json)
        {
            bytes += json.len();
            page.events.extend(serde_json::from_slice(json).ok());
        }
        true
    })?;
    page.more = page.next <= receiver.newest();
    Ok(page)
}

fn read_each(receiver: &Receiver, lsns: &[Lsn]) -> Result<Page, crate::log::ReadError> {
    let mut page = Page::default();
    let mut bytes = 0;
    for lsn in lsns {
        let mut reader = receiver.log.reader(*lsn);
        page.next = store::scan(&mut reader, drop, |stored| {
            if stored.lsn() != *lsn || bytes >= MAX_ANSWER {
                return false;
            }
            if let Some(Record::Event(json)) = store::record(stored) {
                bytes += json.len();
                page.events.extend(serde_json::from_slice(json).ok());
            }
            true
        })?;
    }
    page.more = page.next <= receiver.newest();
    Ok(page)
}
