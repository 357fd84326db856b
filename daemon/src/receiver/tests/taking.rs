//! What is taken, what is refused, and how it says so.

use std::io::Write;

use super::client::{BATCH, ONE};
use super::*;

#[tokio::test]
async fn events_are_taken_in_every_mode() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let client = running.client;
    assert_eq!(client.post(BATCH, batch(&[event("a", 1), event("b", 2)])).await.taken(), (2, 0));
    assert_eq!(client.post(ONE, event("a", 3)).await.taken(), (1, 0));
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "000000000000beef-0-4"),
        ("ce-source", "/gateway/g/device/a"),
        ("ce-type", "t"),
        ("content-type", "text/plain"),
    ];
    assert_eq!(client.send("POST", "/", &headers, b"warm").await.taken(), (1, 0));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(batch(&[event("a", 5)]).as_bytes()).unwrap();
    let headers = [("content-type", BATCH), ("content-encoding", "gzip")];
    let answer = client.send("POST", "/events", &headers, &gzip.finish().unwrap()).await;
    assert_eq!(answer.taken(), (1, 0));
    assert_eq!(
        client.post("Application/CloudEvents-Batch+JSON; charset=utf-8", "[]").await.taken(),
        (0, 0)
    );
    let page = client.get("/api/events").await.json();
    assert_eq!(page["events"].as_array().unwrap().len(), 5);
    assert_eq!(page["events"][3]["data"], "warm");
    assert_eq!((running.count("events").await, running.count("gaps").await), (5, 0));
    running.end().await;
}

#[tokio::test]
async fn a_request_with_one_bad_event_is_refused_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let body = batch(&[event("a", 1), event("a", 2).replace("\"t\"", "\"\"")]);
    let answer = running.client.post(BATCH, body).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.json(),
        serde_json::json!({
            "error": "event 1: attribute \"type\" is empty [3.3.1]", "index": 1, "attribute": "type"
        })
    );
    assert_eq!(running.count("events").await, 0);
    assert_eq!(running.count("refusedRequests").await, 1);
    assert_eq!(running.client.post(BATCH, batch(&[event("a", 1)])).await.taken(), (1, 0));
    running.end().await;
}

#[tokio::test]
async fn every_refusal_is_json_with_its_status() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let client = running.client;
    let one = |name, value| [("content-type", ONE), (name, value)];
    let large = "x".repeat(MAX_BODY + 1);
    for (expected, answer) in [
        (404, client.get("/nothing").await),
        (405, client.get("/events").await),
        (405, client.send("DELETE", "/", &[], b"").await),
        (405, client.send("POST", "/api/events", &[], b"").await),
        (400, client.get("/api/events?from=x").await),
        (400, client.get("/api/events?last=3").await),
        (415, client.post("application/json", event("a", 1)).await),
        (415, client.send("POST", "/events", &[], b"{}").await),
        (415, client.send("POST", "/", &one("content-encoding", "br"), b"{}").await),
        (400, client.send("POST", "/", &one("content-encoding", "gzip"), b"{}").await),
        (400, client.send("POST", "/", &[("ce-specversion", "1.0"), ("ce-id", "%")], b"").await),
        (400, client.post(ONE, "{").await),
        (400, client.post(BATCH, event("a", 1)).await),
        (413, client.post(ONE, large).await),
    ] {
        assert_eq!(answer.status, expected, "{answer:?}");
        assert!(answer.json()["error"].is_string(), "{answer:?}");
    }
    assert_eq!(running.count("events").await, 0);
    running.end().await;
}

#[tokio::test]
async fn duplicates_are_answered_and_not_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let client = running.client;
    let events = [event("a", 1), foreign("x"), event("a", 1), foreign("x"), event("a", 3)];
    assert_eq!(client.post(BATCH, batch(&events)).await.taken(), (3, 2));
    assert_eq!(client.post(BATCH, batch(&events)).await.taken(), (0, 5));
    assert_eq!(running.count("duplicates").await, 7);
    assert_eq!(running.count("gaps").await, 1);
    let gaps = client.get("/api/gaps").await.json();
    assert_eq!(gaps["logs"][0]["ranges"], serde_json::json!([[2, 2]]));
    assert_eq!(client.post(BATCH, batch(&[event("a", 2)])).await.taken(), (1, 0));
    assert_eq!((running.count("gaps").await, running.count("outOfOrder").await), (0, 1));
    assert_eq!(running.ids().await.len(), 4);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_events_at_the_same_time_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let client = running.client;
    let bodies = (0..16u64).map(|part| {
        let events: Vec<_> = (1..=50).map(|lsn| event("a", lsn + part % 4 * 50)).collect();
        batch(&events)
    });
    let mut requests = tokio::task::JoinSet::new();
    for body in bodies {
        requests.spawn(async move { client.post(BATCH, body).await.taken() });
    }
    let taken = requests.join_all().await;
    let stored: u64 = taken.iter().map(|(stored, _)| stored).sum();
    let duplicates: u64 = taken.iter().map(|(_, duplicates)| duplicates).sum();
    assert_eq!((stored, duplicates), (200, 600));
    assert_eq!((running.count("events").await, running.count("gaps").await), (200, 0));
    let mut ids = running.ids().await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
    running.end().await;
}
