//! One MQTT client that publishes what a source hands it, across lost connections.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing,
    Packet, QoS,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long the gateway may take to come up at first.
const PATIENCE: Duration = Duration::from_secs(10);
/// From one attempt to connect to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an acknowledgement may take at the end.
const GRACE: Duration = Duration::from_secs(10);
/// Connections that may be lost one after the other without a single acknowledgement.
const MAX_FRUITLESS: u32 = 10;
/// Bytes of a packet.
const MAX_PACKET: usize = 1 << 20;

/// The address of an MQTT broker: `mqtt://HOST:PORT`; port 1883 if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// A name or an address; IPv6 in brackets.
    host: String,
    port: u16,
}

impl FromStr for Broker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected mqtt://HOST:PORT, not {text:?}");
        let address = match text.split_once("://") {
            Some(("mqtt", address)) => address,
            Some(_) => return Err(expected()),
            None => text,
        };
        let address = address.strip_suffix('/').unwrap_or(address);
        let after_host = match address.strip_prefix('[') {
            Some(ipv6) => ipv6.find(']').map(|at| at + 2).ok_or_else(expected)?,
            None => address.find(':').unwrap_or(address.len()),
        };
        let (host, port) = address.split_at(after_host);
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(expected)?,
            None if port.is_empty() => 1883,
            None => return Err(expected()),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err(expected());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mqtt://{}:{}", self.host, self.port)
    }
}

impl From<std::net::SocketAddr> for Broker {
    fn from(address: std::net::SocketAddr) -> Self {
        let host = match address.ip() {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { host, port: address.port() }
    }
}

/// How far publishers are, all that share it together.
#[derive(Debug, Default)]
pub struct Progress {
    sent: AtomicU64,
    again: AtomicU64,
    acknowledged: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Progress {
    /// Events that were sent; one that was sent twice counts once.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Events that were sent again after a lost connection: the gateway may have them twice.
    pub fn sent_again(&self) -> u64 {
        self.again.load(Relaxed)
    }

    /// Events that the gateway acknowledged; at QoS 0, that were sent.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Relaxed)
    }

    /// Why a publisher gave up; the first reason.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn fail(&self, why: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
}

/// An event to publish.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
}

/// Where events come from.
pub(super) trait Source: Send {
    type Error: fmt::Display + Send;

    /// The next event, when it is due; none after the last one. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<Message>, Self::Error>> + Send;
}

/// Why a publisher gave up.
#[derive(Debug, thiserror::Error)]
pub(super) enum GaveUp<E> {
    #[error("cannot connect to {broker}: {why}; is the gateway running?")]
    Unreachable { broker: Broker, why: ConnectionError },
    #[error("{broker} refused the client {client:?}: {code:?}")]
    Refused { broker: Broker, client: String, code: ConnectReturnCode },
    #[error(
        "{broker} hung up {MAX_FRUITLESS} times without acknowledging anything, with {unacknowledged} events sent: {why}"
    )]
    Fruitless { broker: Broker, unacknowledged: usize, why: ConnectionError },
    #[error("{broker} left {unacknowledged} of the last events unacknowledged")]
    Unacknowledged { broker: Broker, unacknowledged: usize },
    #[error("{0}")]
    Source(E),
}

/// An MQTT 3.1.1 client that keeps what is not acknowledged and sends it again, in order, after a lost
/// connection: at least once.
pub(super) struct Publisher {
    broker: Broker,
    options: MqttOptions,
    window: u16,
    progress: Arc<Progress>,
    /// Oldest first.
    flying: VecDeque<Flying>,
    /// How many of `flying`, from the front, went out over this connection.
    out: usize,
}

/// An event that is not acknowledged yet.
struct Flying {
    message: Message,
    packet_id: Option<u16>,
    acknowledged: bool,
    sent_before: bool,
}

/// A source, and whether it has ended.
struct Upstream<S: Source> {
    source: S,
    drain: CancellationToken,
    ended: Option<Result<(), S::Error>>,
}

impl<S: Source> Upstream<S> {
    /// The next event; none once the source has ended. Cancel safe.
    async fn next(&mut self) -> Option<Message> {
        let next = tokio::select! {
            biased;
            () = self.drain.cancelled() => Ok(None),
            next = self.source.next() => next,
        };
        match next {
            Ok(Some(message)) => return Some(message),
            Ok(None) => self.ended = Some(Ok(())),
            Err(error) => self.ended = Some(Err(error)),
        }
        None
    }
}

/// How a connection ended before its work was done.
struct Lost {
    why: ConnectionError,
    /// Whether the gateway had accepted it.
    was_up: bool,
}

impl Publisher {
    /// A client with this id; it has at most `window` events under way.
    pub(super) fn new(broker: &Broker, client: &str, window: u16, progress: Arc<Progress>) -> Self {
        let mut options = MqttOptions::new(client, &broker.host, broker.port);
        options
            .set_keep_alive(Duration::from_secs(30))
            // What is not acknowledged is kept here, not in the session.
            .set_clean_session(true)
            .set_inflight(window)
            .set_max_packet_size(MAX_PACKET, MAX_PACKET);
        let flying = VecDeque::with_capacity(window.into());
        Self { broker: broker.clone(), options, window, progress, flying, out: 0 }
    }

    /// Publishes until the source has no more, or `drain` is cancelled, and the rest is acknowledged;
    /// once `drain` is cancelled only for a while.
    ///
    /// # Errors
    /// See [`GaveUp`]; a source's error only after what it gave before was acknowledged.
    pub(super) async fn run<S: Source>(
        mut self,
        source: S,
        drain: &CancellationToken,
    ) -> Result<(), GaveUp<S::Error>> {
        let mut upstream = Upstream { source, drain: drain.clone(), ended: None };
        let grace = async {
            drain.cancelled().await;
            sleep(GRACE).await;
        };
        tokio::select! {
            published = self.publish(&mut upstream) => published?,
            () = grace => {}
        }
        match upstream.ended {
            Some(Err(error)) => Err(GaveUp::Source(error)),
            _ if self.flying.is_empty() => Ok(()),
            _ => Err(GaveUp::Unacknowledged {
                broker: self.broker,
                unacknowledged: self.flying.len(),
            }),
        }
    }

    /// Connects again and again until everything is published, or `drain` is cancelled and the
    /// gateway gone.
    async fn publish<S: Source>(
        &mut self,
        upstream: &mut Upstream<S>,
    ) -> Result<(), GaveUp<S::Error>> {
        let started = Instant::now();
        let (mut ever_up, mut told, mut fruitless) = (false, false, 0);
        loop {
            let before = self.progress.acknowledged();
            let Err(Lost { why, was_up }) = self.connection(upstream).await else { return Ok(()) };
            let (broker, client) = (self.broker.clone(), self.options.client_id());
            if upstream.drain.is_cancelled() {
                return Ok(());
            }
            if let ConnectionError::ConnectionRefused(code) = why {
                return Err(GaveUp::Refused { broker, client, code });
            }
            ever_up |= was_up;
            if !ever_up && started.elapsed() >= PATIENCE {
                return Err(GaveUp::Unreachable { broker, why });
            }
            let idle = self.flying.is_empty() || self.progress.acknowledged() > before;
            fruitless = if idle { 0 } else { fruitless + u32::from(was_up) };
            if fruitless >= MAX_FRUITLESS {
                let unacknowledged = self.flying.len();
                return Err(GaveUp::Fruitless { broker, unacknowledged, why });
            }
            // Once an outage.
            if was_up || !told {
                warn!(client, %broker, "no connection to the gateway, trying on: {why}");
                told = true;
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = upstream.drain.cancelled() => {}
            }
        }
    }

    /// Publishes over one connection, first what an earlier one left unacknowledged.
    async fn connection<S: Source>(&mut self, upstream: &mut Upstream<S>) -> Result<(), Lost> {
        // Room for the window and the DISCONNECT: so handing over never fails.
        let capacity = usize::from(self.window) + 1;
        let (client, event_loop) = AsyncClient::new(self.options.clone(), capacity);
        self.flying.retain(|flying| !flying.acknowledged);
        self.out = 0;
        for flying in &mut self.flying {
            flying.packet_id = None;
            hand_over(&client, &flying.message);
        }
        let mut poll = Box::pin(poll(event_loop));
        let mut was_up = false;
        let mut leaving = false;
        loop {
            if upstream.ended.is_some() && self.flying.is_empty() && !leaving {
                leaving = true;
                if !was_up || client.try_disconnect().is_err() {
                    return Ok(());
                }
            }
            let room = self.flying.len() < usize::from(self.window) && upstream.ended.is_none();
            tokio::select! {
                (event_loop, event) = &mut poll => {
                    match event {
                        Ok(Event::Outgoing(Outgoing::Disconnect)) => return Ok(()),
                        Ok(Event::Incoming(Packet::ConnAck(_))) => was_up = true,
                        Ok(event) => self.note(&event),
                        Err(_) if leaving => return Ok(()),
                        Err(why) => return Err(Lost { why, was_up }),
                    }
                    poll.set(self::poll(event_loop));
                }
                message = upstream.next(), if room => {
                    let Some(message) = message else { continue };
                    hand_over(&client, &message);
                    self.flying.push_back(Flying {
                        message,
                        packet_id: None,
                        acknowledged: false,
                        sent_before: false,
                    });
                }
            }
        }
    }

    /// Keeps account of what went out and what was acknowledged.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Outgoing(Outgoing::Publish(packet_id)) => {
                let Some(flying) = self.flying.get_mut(self.out) else { return };
                self.out += 1;
                flying.packet_id = Some(*packet_id);
                let counter =
                    if flying.sent_before { &self.progress.again } else { &self.progress.sent };
                counter.fetch_add(1, Relaxed);
                flying.sent_before = true;
                if flying.message.qos == QoS::AtMostOnce {
                    self.acknowledge(*packet_id);
                }
            }
            Event::Incoming(Packet::PubAck(ack)) => self.acknowledge(ack.pkid),
            Event::Incoming(Packet::PubComp(complete)) => self.acknowledge(complete.pkid),
            _ => {}
        }
    }

    fn acknowledge(&mut self, packet_id: u16) {
        let mut flying = self.flying.iter_mut();
        let acknowledged =
            flying.find(|flying| flying.packet_id == Some(packet_id) && !flying.acknowledged);
        let Some(flying) = acknowledged else { return };
        flying.acknowledged = true;
        self.progress.acknowledged.fetch_add(1, Relaxed);
        while self.flying.front().is_some_and(|flying| flying.acknowledged) {
            self.flying.pop_front();
            self.out -= 1;
        }
    }
}

/// Polls once and gives the event loop back, so that waiting for an event can go on while others are
/// handled.
async fn poll(mut event_loop: EventLoop) -> (EventLoop, Result<Event, ConnectionError>) {
    let event = event_loop.poll().await;
    (event_loop, event)
}

/// Gives an event to the connection, which has room for it and takes valid topics.
fn hand_over(client: &AsyncClient, message: &Message) {
    let Message { topic, payload, qos } = message;
    if let Err(error) = client.try_publish(topic, *qos, false, payload.as_ref()) {
        warn!(topic, "not published: {error}");
    }
}

/// The QoS with this number; above 2 is 2.
pub(super) fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

#[cfg(test)]
mod tests;
