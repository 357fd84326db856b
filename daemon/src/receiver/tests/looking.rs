//! What can be seen of it.

use tokio::io::AsyncReadExt;

use super::client::{BATCH, ONE};
use super::*;

#[tokio::test]
async fn events_are_read_back_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let client = running.client;
    let events: Vec<_> = (1..=25).map(|lsn| event(["a", "b"][lsn as usize % 2], lsn)).collect();
    client.post(BATCH, batch(&events)).await.taken();
    let first = client.get("/api/events?limit=10").await.json();
    assert_eq!((&first["next"], &first["more"]), (&11.into(), &true.into()));
    assert_eq!(first["events"][9]["data"]["value"], 10);
    let last = client.get("/api/events?from=21").await.json();
    assert_eq!((&last["next"], &last["more"]), (&26.into(), &false.into()));
    assert_eq!(last["events"].as_array().unwrap().len(), 5);
    let beyond = client.get("/api/events?from=1000").await.json();
    assert_eq!(beyond, serde_json::json!({"events": [], "next": 1000, "more": false}));

    let of_b = client.get("/api/events?subject=plant%2Fb&limit=3&from=4").await.json();
    let values: Vec<_> =
        of_b["events"].as_array().unwrap().iter().map(|e| &e["data"]["value"]).collect();
    assert_eq!(values, [5, 7, 9]);
    let source = "/api/events?source=/gateway/g/device/a&last=2";
    let recent = client.get(source).await.json();
    let values: Vec<_> =
        recent["events"].as_array().unwrap().iter().map(|e| &e["data"]["value"]).collect();
    assert_eq!(values, [22, 24]);
    running.end().await;
}

#[tokio::test]
async fn summary_devices_and_alerts_say_what_arrived() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let client = running.client;
    let alert = event("", 2)
        .replace("device/", "alerts/hot")
        .replace("\"t\"", "\"tidegate.alert.raised\"")
        .replace(
            "{\"value\":2}",
            "{\"alert\":\"hot\",\"device\":\"a\",\"severity\":\"critical\",\"value\":9}",
        );
    client.post(BATCH, batch(&[event("a", 1), alert])).await.taken();
    let summary = client.get("/api/summary").await.json();
    assert_eq!((&summary["events"], &summary["devices"]), (&2.into(), &1.into()));
    assert_eq!(summary["alertsRaised"], 1);
    let devices = client.get("/api/devices").await.json();
    assert_eq!(
        (&devices["devices"][0]["name"], &devices["devices"][0]["value"]),
        (&"a".into(), &1.0.into())
    );
    let alerts = client.get("/api/alerts").await.json();
    assert_eq!(
        (&alerts["alerts"][0]["state"], &alerts["alerts"][0]["severity"]),
        (&"raised".into(), &"critical".into())
    );
    assert_eq!(client.get("/health").await.status, 200);
    running.end().await;
}

#[tokio::test]
async fn the_page_lets_no_other_script_run() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let page = running.client.get("/").await;
    assert!(page.body.contains("<title>tidegate receiver</title>"));
    assert!(page.head.contains("content-security-policy: default-src 'none'; script-src 'sha256-"));
    assert!(page.head.contains("x-content-type-options: nosniff"));
    assert!(!page.head.contains("unsafe"));
    running.end().await;
}

#[tokio::test]
async fn a_stream_tells_what_changed_and_ends_with_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let mut stream = running.client.begin("GET", "/api/stream", &[], 0).await;
    let mut text = String::new();
    let mut read = async |until: &str| {
        let mut bytes = [0; 4096];
        while !text.contains(until) {
            let count = stream.read(&mut bytes).await.unwrap();
            assert_ne!(count, 0, "ended before {until:?}: {text}");
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    };
    read("\"events\":0").await;
    running.client.post(ONE, event("boiler", 1)).await.taken();
    read("\"name\":\"boiler\"").await;
    running.stop.cancel();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    running.end().await;
}

#[tokio::test]
async fn streams_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let mut open = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut stream = running.client.begin("GET", "/api/stream", &[], 0).await;
        stream.read_u8().await.unwrap();
        open.push(stream);
    }
    assert_eq!(running.client.get("/api/stream").await.status, 503);
    drop(open);
    running.end().await;
}
