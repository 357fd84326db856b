//! Simulated devices.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::error;

use super::pace::Pace;
use super::publisher::{Broker, Message, Progress, Publisher, Source, qos};
use super::signal::{KINDS, Signal};
use crate::clock;
use crate::supervise::{Role, Supervisor};

/// Events of one device that are not yet acknowledged; then it waits.
const WINDOW: u16 = 100;

/// Which devices, and how busy.
#[derive(Debug, Clone, PartialEq)]
pub struct Devices {
    /// The gateway.
    pub broker: Broker,
    /// How many devices, named by their kind and counted from 1: `boiler-1`, `pump-2`,
    /// `compressor-3`, `tank-4`, `boiler-5`, …
    pub count: u32,
    /// Events a second, of all together.
    pub rate: f64,
    /// How long; none: until the supervisor drains.
    pub duration: Option<Duration>,
    /// MQTT quality of service; above 2 is 2.
    pub qos: u8,
    /// The same seed gives the same signals.
    pub seed: u64,
}

/// Starts the devices. Each publishes to `plant/<device>/<quantity>`, under its name as MQTT client
/// id, until the time is over or `supervisor` drains; then it waits for what is not yet acknowledged.
pub fn devices(options: &Devices, supervisor: &Supervisor) -> Arc<Progress> {
    let progress = Arc::new(Progress::default());
    let start = Instant::now();
    let of_day = (clock::unix_micros().rem_euclid(86_400_000_000) as f64) / 1e6;
    for index in 0..options.count {
        let device = Device::new(options, index, start, of_day);
        let publisher =
            Publisher::new(&options.broker, &device.name, WINDOW, Arc::clone(&progress));
        let (drain, progress) = (supervisor.drain().clone(), Arc::clone(&progress));
        supervisor.spawn(device.name.clone(), Role::Ordinary, async move {
            let name = device.name.clone();
            if let Err(why) = publisher.run(device, &drain).await {
                error!(device = name, "{why}");
                progress.fail(why.to_string());
            }
        });
    }
    progress
}

/// One device; its quantities are read in turn.
struct Device {
    name: String,
    topics: Vec<String>,
    signals: Vec<Signal>,
    next: usize,
    pace: Pace,
    start: Instant,
    end: Option<Instant>,
    of_day: f64,
    qos: rumqttc::QoS,
}

impl Device {
    fn new(options: &Devices, index: u32, start: Instant, of_day: f64) -> Self {
        let kind = &KINDS[index as usize % KINDS.len()];
        let name = format!("{}-{}", kind.name, index + 1);
        let mut seeds = fastrand::Rng::with_seed(options.seed.wrapping_add(u64::from(index) << 32));
        // The devices take turns, so that the rate of all together is even.
        let first = start + Duration::from_secs_f64(f64::from(index) / options.rate);
        Self {
            topics: kind
                .quantities
                .iter()
                .map(|quantity| format!("plant/{name}/{}", quantity.name))
                .collect(),
            signals: kind
                .quantities
                .iter()
                .map(|quantity| Signal::new(*quantity, seeds.u64(..)))
                .collect(),
            name,
            next: 0,
            pace: Pace::new(first, options.rate / f64::from(options.count)),
            start,
            end: options.duration.map(|duration| start + duration),
            of_day,
            qos: qos(options.qos),
        }
    }
}

impl Source for Device {
    type Error = std::convert::Infallible;

    async fn next(&mut self) -> Result<Option<Message>, Self::Error> {
        let Some(due) = self.pace.tick(self.end).await else { return Ok(None) };
        let index = self.next;
        self.next = (index + 1) % self.signals.len();
        let elapsed = due.saturating_duration_since(self.start).as_secs_f64();
        Ok(Some(Message {
            topic: self.topics[index].clone(),
            payload: self.signals[index].payload(elapsed, self.of_day).into(),
            qos: self.qos,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Devices {
        Devices {
            broker: "mqtt://127.0.0.1:1883".parse().unwrap(),
            count: 5,
            rate: 100.0,
            duration: Some(Duration::from_secs(10)),
            qos: 1,
            seed: 1,
        }
    }

    async fn all(mut device: Device) -> Vec<(String, Vec<u8>)> {
        let mut events = Vec::new();
        while let Some(event) = device.next().await.unwrap() {
            events.push((event.topic, event.payload.to_vec()));
        }
        events
    }

    #[tokio::test(start_paused = true)]
    async fn the_devices_together_keep_the_rate() {
        let start = Instant::now();
        let device = |index| all(Device::new(&options(), index, start, 0.0));
        let (a, b, c, d, e) = tokio::join!(device(0), device(1), device(2), device(3), device(4));
        let counts = [a, b, c, d, e].map(|events| events.len());
        assert_eq!(counts, [200; 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_reads_its_quantities_in_turn_and_the_same_again_for_the_same_seed() {
        let first = Device::new(&options(), 4, Instant::now(), 0.0);
        assert_eq!(first.name, "boiler-5");
        let first = all(first).await;
        let topics: Vec<&str> = first.iter().take(4).map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(
            topics,
            [
                "plant/boiler-5/temperature",
                "plant/boiler-5/pressure",
                "plant/boiler-5/flow",
                "plant/boiler-5/temperature",
            ]
        );
        assert_eq!(all(Device::new(&options(), 4, Instant::now(), 0.0)).await, first);
    }
}
