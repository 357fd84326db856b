//! The receiver as its clients see it: over HTTP, on a real disk.

mod client;
mod disk;
mod faults;
mod looking;
mod taking;

use super::*;
use crate::log::FileSystem;
use client::Client;

/// A receiver on a port of its own, in a directory of its own.
struct Running {
    receiver: Arc<Receiver>,
    supervisor: Supervisor,
    stop: CancellationToken,
    client: Client,
}

impl Running {
    async fn start(dir: &std::path::Path) -> Self {
        Self::start_on(Arc::new(FileSystem), dir, MIN_SIZE).await
    }

    async fn start_on(storage: Arc<dyn Storage>, dir: &std::path::Path, max_size: u64) -> Self {
        let supervisor = Supervisor::new();
        let options = Options { max_size, ..Options::new(dir) };
        let receiver = Receiver::open(storage, options, &supervisor).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client(listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let serving = receiver.clone().serve(listener, stop.clone());
        supervisor.spawn("serve", Role::Ordinary, serving);
        Self { receiver, supervisor, stop, client }
    }

    async fn end(self) {
        self.supervisor.begin_drain();
        self.supervisor.ended().await;
        assert_eq!(self.supervisor.failure(), None);
    }

    async fn count(&self, name: &str) -> u64 {
        self.client.get("/api/summary").await.json()[name].as_u64().unwrap()
    }

    /// The ids in the store, in order.
    async fn ids(&self) -> Vec<String> {
        let mut ids = Vec::new();
        let mut from = 1;
        loop {
            let page = self.client.get(&format!("/api/events?from={from}&limit=1000")).await.json();
            let events = page["events"].as_array().unwrap();
            ids.extend(events.iter().map(|event| event["id"].as_str().unwrap().to_owned()));
            from = page["next"].as_u64().unwrap();
            if page["more"] == false {
                return ids;
            }
        }
    }
}

/// An event as the gateway sends it.
fn event(device: &str, lsn: u64) -> String {
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"000000000000beef-0-{lsn}\",\
         \"source\":\"/gateway/g/device/{device}\",\"type\":\"t\",\"subject\":\"plant/{device}\",\
         \"data\":{{\"value\":{lsn}}}}}"
    )
}

/// An event of somebody else.
fn foreign(id: &str) -> String {
    format!("{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/other\",\"type\":\"t\"}}")
}

fn batch(events: &[String]) -> String {
    format!("[{}]", events.join(","))
}
