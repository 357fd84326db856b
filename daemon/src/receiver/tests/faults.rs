//! Restarts, outages, a small store, a disk that fails.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::client::{BATCH, Client, ONE};
use super::disk::FailingDisk;
use super::*;

#[tokio::test]
async fn what_it_knows_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let events = [event("a", 1), event("a", 4), foreign("x")];
    let running = Running::start(dir.path()).await;
    assert_eq!(running.client.post(BATCH, batch(&events)).await.taken(), (3, 0));
    assert_eq!(running.client.post(BATCH, batch(&events)).await.taken(), (0, 3));
    running.end().await;

    // With the snapshot of an orderly end, with a damaged one, without one as after a kill.
    for snapshot in ["whole", "damaged", "none"] {
        match snapshot {
            "damaged" => std::fs::write(dir.path().join("snapshot"), b"TGRCVSN1 nonsense").unwrap(),
            "none" => std::fs::remove_file(dir.path().join("snapshot")).unwrap(),
            _ => {}
        }
        let running = Running::start(dir.path()).await;
        assert_eq!(
            (running.count("events").await, running.count("gaps").await),
            (3, 2),
            "{snapshot}"
        );
        assert_eq!(running.client.post(BATCH, batch(&events)).await.taken(), (0, 3), "{snapshot}");
        assert_eq!(running.count("devices").await, 2, "{snapshot}");
        running.end().await;
    }
}

#[tokio::test]
async fn a_publishers_duplicate_is_no_gap_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let own =
        |lsn: u64| foreign("x").replace('}', &format!(",\"logid\":\"000000000000beef-0-{lsn}\"}}"));
    let running = Running::start(dir.path()).await;
    let events = [event("a", 1), own(2), own(3), event("a", 4)];
    assert_eq!(running.client.post(BATCH, batch(&events)).await.taken(), (3, 1));
    assert_eq!(running.count("gaps").await, 0);
    running.end().await;
    std::fs::remove_file(dir.path().join("snapshot")).unwrap();
    let running = Running::start(dir.path()).await;
    assert_eq!((running.count("events").await, running.count("gaps").await), (3, 0));
    assert_eq!(running.ids().await.len(), 3);
    running.end().await;
}

#[tokio::test]
async fn an_outage_refuses_connections_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let address = running.client.0;
    running.client.post(ONE, event("a", 1)).await.taken();
    running.stop.cancel();
    while let Ok(stream) = TcpStream::connect(address).await {
        drop(stream);
        tokio::task::yield_now().await;
    }
    let listener = TcpListener::bind(address).await.unwrap();
    let serving = running.receiver.clone().serve(listener, CancellationToken::new());
    running.supervisor.spawn("serve again", Role::Ordinary, serving);
    assert_eq!(
        running.client.post(BATCH, batch(&[event("a", 1), event("a", 2)])).await.taken(),
        (1, 1)
    );
    running.end().await;
}

#[tokio::test]
async fn a_request_at_hand_is_answered_when_the_receiver_ends() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let body = event("a", 1);
    let headers = [("content-type", ONE), ("expect", "100-continue")];
    let mut stream = running.client.begin("POST", "/events", &headers, body.len()).await;
    // The receiver asks for the body: the request is at hand.
    let mut asked = [0; 25];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    running.supervisor.begin_drain();
    stream.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(Client::answer(stream).await.taken(), (1, 0));
    running.end().await;
    let running = Running::start(dir.path()).await;
    assert_eq!(running.count("events").await, 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_lets_the_oldest_events_go_and_still_knows_them() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let filler = "x".repeat(1 << 20);
    let large = |lsn: u64| {
        event("a", lsn).replace(&format!("{{\"value\":{lsn}}}"), &format!("\"{filler}\""))
    };
    let count = 150;
    for first in (1..=count).step_by(10) {
        let events: Vec<_> = (first..first + 10).map(large).collect();
        assert_eq!(running.client.post(BATCH, batch(&events)).await.taken(), (10, 0));
    }
    let summary = running.client.get("/api/summary").await.json();
    assert!(summary["store"]["bytes"].as_u64().unwrap() <= MIN_SIZE, "{summary}");
    assert!(summary["store"]["first"].as_u64().unwrap() > 1, "{summary}");
    assert_eq!((&summary["events"], &summary["gaps"]), (&count.into(), &0.into()));
    assert_eq!(running.client.post(ONE, large(1)).await.taken(), (0, 1));
    running.end().await;

    let running = Running::start(dir.path()).await;
    assert_eq!((running.count("events").await, running.count("gaps").await), (count, 0));
    assert_eq!(running.client.post(ONE, large(1)).await.taken(), (0, 1));
    running.end().await;
}

#[tokio::test]
async fn what_the_disk_did_not_take_is_refused_and_is_no_duplicate_later() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let running = Running::start_on(disk.clone(), dir.path(), MIN_SIZE).await;
    running.client.post(ONE, event("a", 1)).await.taken();
    disk.fail(true);
    let two = batch(&[event("a", 1), event("a", 2), foreign("x")]);
    let refused = running.client.post(BATCH, &two).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.head.contains("retry-after: 1"), "{refused:?}");
    assert_eq!((running.count("events").await, running.count("duplicates").await), (1, 0));
    disk.fail(false);
    // The log tries the disk again by itself.
    let taken = loop {
        let answer = running.client.post(BATCH, &two).await;
        if answer.status == 200 {
            break answer.taken();
        }
        running.receiver.log.room(0).await;
    };
    assert_eq!(taken, (2, 1));
    assert_eq!((running.count("events").await, running.count("gaps").await), (3, 0));
    running.end().await;
}

#[tokio::test]
async fn a_duplicate_is_not_answered_before_its_original_is_on_disk() {
    for fails in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(FailingDisk::default());
        let running = Running::start_on(disk.clone(), dir.path(), MIN_SIZE).await;
        let client = running.client;
        disk.hold(true);
        let original = tokio::task::JoinSet::from_iter([client_post(client)]);
        while running.receiver.state().requests < 1 {
            tokio::task::yield_now().await;
        }
        let mut duplicate = tokio::task::JoinSet::from_iter([client_post(client)]);
        while running.receiver.state().requests < 2 {
            tokio::task::yield_now().await;
        }
        assert!(duplicate.try_join_next().is_none());
        disk.fail(fails);
        disk.hold(false);
        let statuses = [original.join_all().await, duplicate.join_all().await].concat();
        let expected = if fails { [503, 503] } else { [200, 200] };
        assert_eq!(statuses, expected);
        assert_eq!(running.count("events").await, u64::from(!fails));
        disk.fail(false);
        running.end().await;
    }
}

async fn client_post(client: Client) -> u16 {
    client.post(ONE, event("a", 1)).await.status
}

#[tokio::test]
async fn a_size_that_is_too_small_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_size: MIN_SIZE - 1, ..Options::new(dir.path()) };
    let opened = Receiver::open(Arc::new(FileSystem), options, &Supervisor::new());
    assert!(opened.is_err_and(|error| error.to_string().contains("too small")));
}
