//! `$SYS/broker/…`: what mosquitto's users look at to see how a broker is. The topics and their
//! meaning are those of mosquitto(8), "Broker status".
//!
//! Said every `gateway.sys-interval`, if it has changed, to who has subscribed; see [`crate::bus`].
//! Not there: `messages/…`, which counts packets of all kinds, `publish/bytes/…`, `heap/…`, and the
//! `load/…` of those and of sockets. `store/messages/…` is the events that the log holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::{Metrics, Sessions};
use crate::bus::{self, SystemValue};
use crate::log::Log;
use crate::supervise::{Role, Supervisor};

/// It is not said more often than that.
const LEAST: Duration = Duration::from_secs(1);

/// Who says it.
#[derive(Debug)]
pub struct BrokerStatus {
    sessions: Sessions,
    log: Arc<Log>,
    listener: Metrics,
    bus: bus::Metrics,
    started: Instant,
    /// The most clients that were connected at once, as far as was seen.
    most: usize,
    loads: Vec<Load>,
}

/// Something counted, as an average of what comes in a minute.
#[derive(Debug)]
struct Load {
    topics: [&'static str; 3],
    count: fn(&BrokerStatus) -> u64,
    last: u64,
    averages: [f64; 3],
}

macro_rules! load {
    ($name:literal, $count:expr) => {
        Load {
            topics: [
                concat!("$SYS/broker/load/", $name, "/1min"),
                concat!("$SYS/broker/load/", $name, "/5min"),
                concat!("$SYS/broker/load/", $name, "/15min"),
            ],
            count: $count,
            last: 0,
            averages: [0.0; 3],
        }
    };
}

impl Load {
    /// Takes in what there is now, `seconds` after the last time.
    fn note(&mut self, count: u64, seconds: f64) {
        let a_minute = count.saturating_sub(self.last) as f64 * 60.0 / seconds;
        self.last = count;
        for (average, minutes) in self.averages.iter_mut().zip([1.0, 5.0, 15.0]) {
            let old = (-seconds / (60.0 * minutes)).exp();
            *average = a_minute + old * (*average - a_minute);
        }
    }
}

impl BrokerStatus {
    /// Of the broker with these parts.
    pub fn new(sessions: Sessions, log: Arc<Log>, listener: Metrics, bus: bus::Metrics) -> Self {
        let loads = vec![
            load!("bytes/received", |this| this.listener.bytes_in.get()),
            load!("bytes/sent", |this| this.listener.bytes_out.get()),
            load!("connections", |this| this.listener.connects.get()),
            load!("publish/dropped", |this| this.bus.dropped.get()),
            load!("publish/received", |this| this.listener.received_in_all()),
            load!("publish/sent", |this| this.bus.deliveries.get()),
        ];
        Self { sessions, log, listener, bus, started: Instant::now(), most: 0, loads }
    }

    /// Says it every `every`, until the drain; never, if that is zero.
    pub fn start(mut self, every: Duration, supervisor: &Supervisor) {
        if every.is_zero() {
            return;
        }
        let drain = supervisor.drain().clone();
        supervisor.spawn("broker-status", Role::Ordinary, async move {
            let mut ticks = interval(every.max(LEAST));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut last = self.started;
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = drain.cancelled() => break,
                }
                let now = Instant::now();
                let values = self.values(now - last);
                last = now;
                self.sessions.bus().publish_system(values);
            }
        });
    }

    /// What there is to say, `since` the last time.
    fn values(&mut self, since: Duration) -> Vec<SystemValue> {
        let (connected, away) = self.sessions.count();
        self.most = self.most.max(connected);
        let usage = self.log.usage();
        let (listener, bus) = (&self.listener, &self.bus);
        let mut values = vec![
            (
                "$SYS/broker/version",
                concat!("tidegate version ", env!("CARGO_PKG_VERSION")).to_owned(),
            ),
            ("$SYS/broker/uptime", format!("{} seconds", self.started.elapsed().as_secs())),
            ("$SYS/broker/clients/connected", connected.to_string()),
            ("$SYS/broker/clients/disconnected", away.to_string()),
            ("$SYS/broker/clients/total", (connected + away).to_string()),
            ("$SYS/broker/clients/maximum", self.most.to_string()),
            ("$SYS/broker/clients/expired", listener.sessions_expired.get().to_string()),
            ("$SYS/broker/bytes/received", listener.bytes_in.get().to_string()),
            ("$SYS/broker/bytes/sent", listener.bytes_out.get().to_string()),
            ("$SYS/broker/publish/messages/received", listener.received_in_all().to_string()),
            ("$SYS/broker/publish/messages/sent", bus.deliveries.get().to_string()),
            ("$SYS/broker/publish/messages/dropped", bus.dropped.get().to_string()),
            ("$SYS/broker/subscriptions/count", bus.subscriptions.get().to_string()),
            ("$SYS/broker/shared_subscriptions/count", bus.shared_subscriptions.get().to_string()),
            ("$SYS/broker/retained messages/count", bus.retained.get().to_string()),
            ("$SYS/broker/store/messages/count", (usage.last + 1 - usage.first).to_string()),
            ("$SYS/broker/store/messages/bytes", usage.bytes.to_string()),
        ];
        let counts: Vec<u64> = self.loads.iter().map(|load| (load.count)(self)).collect();
        let seconds = since.as_secs_f64();
        for (load, count) in self.loads.iter_mut().zip(counts) {
            if seconds > 0.0 {
                load.note(count, seconds);
            }
            let averages = load.topics.iter().zip(load.averages);
            values.extend(averages.map(|(topic, average)| (*topic, format!("{average:.2}"))));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_comes_near_to_what_comes_in_a_minute_the_short_ones_first() {
        let mut load = load!("publish/received", |_| 0);
        for count in 1..=6 {
            load.note(count * 100, 10.0);
        }
        let [one, five, fifteen] = load.averages;
        assert!((one - 600.0 * (1.0 - (-1.0_f64).exp())).abs() < 1e-9, "{one}");
        assert!(one > five && five > fifteen && fifteen > 0.0);
        for _ in 0..60 {
            load.note(600, 10.0);
        }
        assert!(load.averages[0] < 0.1, "nothing came for ten minutes");
    }
}
