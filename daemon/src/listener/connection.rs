//! One client's connection, from CONNACK to its end: reads, feeds the parts, writes.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::trace;

use super::ahead::{Ahead, MAX_AHEAD};
use super::codec::{self, Ack, Bad, Disconnect, Framed, Kind, Reason, Version, Will};
use super::connect::{Admitted, keep_alive};
use super::inbound::{Inbound, Publishing};
use super::outbound::Outbound;
use super::session::Session;
use super::sessions::{Again, Attached, Hold, Journal, Subscription};
use super::subscribing::Request;
use super::watch::{Seen, Watch};
use super::wire::Wire;
use super::{End, Shared};
use crate::bus::Subscriber;
use crate::gate::{Identity, Rights};

/// Bytes that wait to be written at which the connection is not read: the client does not take its
/// acknowledgements.
pub(super) const MAX_BACKLOG: usize = 256 * 1024;
/// How long the drain waits for the commits of one connection.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// A connected client.
#[derive(Debug)]
pub(super) struct Connection<S> {
    pub(super) shared: Shared,
    pub(super) wire: Box<Wire<S>>,
    pub(super) version: Version,
    pub(super) bridge: bool,
    /// Bytes of the largest packet that the client takes.
    max_packet_size: usize,
    pub(super) client: Arc<str>,
    pub(super) will: Option<Will>,
    identity: Identity,
    pub(super) rights: Rights,
    pub(super) session: Session,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) subscriber: Subscriber,
    pub(super) hold: Hold,
    /// Of a session that outlasts the connection.
    pub(super) journal: Option<Journal>,
    /// What the last connection left to be sent again.
    pub(super) again: Option<Again>,
    /// Subscriptions whose retained messages it did not send to their end.
    pub(super) greetings: Vec<Subscription>,
    watch: Watch,
    /// Cancelled by the drain, by another connection with the same client id, and when the login is no
    /// longer right.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Bytes read since packets were taken in last.
    read: usize,
    /// How long the packet is whose beginning was read.
    partial: Option<usize>,
    /// What was looked at before its turn.
    ahead: Ahead,
    /// The client sends nothing more; what it has sent may still have to be taken in.
    ended: bool,
}

/// What there is to do.
enum Wake {
    Read(usize),
    Acknowledged,
    Written,
    Deliveries,
    Timer,
    Stop,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    pub(super) fn new(
        wire: Box<Wire<S>>,
        admitted: Admitted,
        attached: Attached,
        stop: CancellationToken,
        shared: &Shared,
    ) -> Self {
        let Admitted { connect, client, identity, rights, .. } = admitted;
        let Attached { hold, subscriber, journal, resumed, .. } = attached;
        let version = connect.version;
        let max_inflight = usize::from(shared.limits.max_inflight.max(1));
        let receive_maximum = (version == Version::V5).then_some(max_inflight);
        let window = usize::from(connect.receive_maximum).min(max_inflight);
        let max_packet_size = connect.max_packet_size;
        let aliases = connect.topic_alias_maximum.min(shared.limits.max_topic_aliases);
        let keep_alive = keep_alive(&connect, &shared.limits);
        let watch = Watch::new(keep_alive, shared.limits.send_timeout.0);
        let again = resumed.as_ref().and_then(|resumed| shared.sessions.again(resumed));
        let mut outbound = Outbound::new(version, max_packet_size, aliases);
        outbound.resumes = again.is_some();
        let resumed = resumed.unwrap_or_default();
        let session = match journal {
            None => Session::new(receive_maximum, window),
            Some(_) => Session::kept(receive_maximum, window, &resumed),
        };
        let inbound = Inbound::new(
            Arc::clone(&shared.gate),
            shared.metrics.clone(),
            version,
            Arc::clone(&client),
            &shared.limits,
            journal.is_some(),
        );
        Self {
            wire,
            version,
            bridge: connect.bridge,
            max_packet_size,
            will: connect.will,
            identity,
            rights,
            session,
            inbound,
            outbound,
            subscriber,
            hold,
            journal,
            again,
            greetings: resumed.greetings,
            client,
            watch,
            stop: Box::pin(stop.cancelled_owned()),
            read: 0,
            partial: None,
            ahead: Ahead::default(),
            ended: false,
            shared: shared.clone(),
        }
    }

    /// Runs until it ends, and says why it did.
    ///
    /// What happens once, or seldom, is boxed: an idle connection does not hold its memory.
    pub(super) async fn run(mut self: Box<Self>) -> End {
        let Err(end) = self.serve().await;
        Box::pin(self.finish(end)).await
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, End> {
        Box::pin(self.greet()).await?;
        loop {
            while let Some(request) = self.take_in()? {
                Box::pin(self.answer(request)).await?;
            }
            if self.ended && (self.inbound.is_refused() || self.reads()) {
                return Err(self.gone());
            }
            self.send()?;
            self.account();
            if self.wire.is_large() {
                self.watch.grown();
            }
            match poll_fn(|context| self.poll_wake(context)).await? {
                Wake::Read(0) => self.ended = true,
                Wake::Read(count) => self.read += count,
                Wake::Acknowledged => self.note_stored(),
                Wake::Written => {}
                Wake::Deliveries => self.fill().await?,
                Wake::Timer => self.look_at_the_clock()?,
                Wake::Stop if self.shared.supervisor.drain().is_cancelled() => {
                    return Err(Box::pin(self.drain()).await);
                }
                Wake::Stop if self.identity.is_expired() => return Err(End::LoginExpired),
                Wake::Stop if !self.shared.gate.holds(&self.identity) => {
                    return Err(End::LoginRevoked);
                }
                Wake::Stop => return Err(End::TakenOver),
            }
        }
    }

    /// Notes what the connection holds in memory.
    fn account(&mut self) {
        let journal = self.journal.as_ref().map_or(0, Journal::memory);
        let will = self.will.as_ref().map_or(0, Will::memory);
        let parts = self.inbound.memory() + self.outbound.memory() + self.session.memory();
        self.wire.account(parts + journal + will);
    }

    /// Whether packets are taken in.
    fn reads(&self) -> bool {
        !self.inbound.is_full() && self.wire.backlog() < MAX_BACKLOG && !self.is_held_up()
    }

    /// Whether the client is heard: it is read further than packets are taken in.
    fn hears(&self) -> bool {
        !self.ended
            && self.wire.backlog() < MAX_BACKLOG
            && (!self.inbound.is_full() || self.wire.unread().len() < MAX_AHEAD)
    }

    fn poll_wake(&mut self, context: &mut Context<'_>) -> Poll<Result<Wake, End>> {
        let output = &mut self.wire.output;
        if let Poll::Ready(acknowledged) = self.inbound.poll(context, &mut self.session, output) {
            return Poll::Ready(acknowledged.map(|()| Wake::Acknowledged));
        }
        if let Some(journal) = &mut self.journal
            && let Poll::Ready(released) = journal.poll(context, &mut self.wire.output)
        {
            return Poll::Ready(released.map(|()| Wake::Written));
        }
        let backlog = self.wire.backlog();
        if self.wire.wants_write() {
            let blocked = !self.reads();
            let _ = self.wire.poll_write(context)?;
            let opened = blocked && self.reads();
            let less = self.wire.backlog() < backlog;
            if opened || (less && self.outbound.is_ready(&self.session, &self.wire.output)) {
                return Poll::Ready(Ok(Wake::Written));
            }
        }
        if self.stop.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(Wake::Stop));
        }
        if self.hears()
            && let Poll::Ready(count) = self.wire.poll_read(context, self.partial)?
        {
            return Poll::Ready(Ok(Wake::Read(count)));
        }
        let held = self.journal.as_ref().map_or(0, Journal::backlog);
        if !self.outbound.wants(self.wire.backlog() + held) {
            self.subscriber.decline();
        } else if self.again.is_some()
            || self.subscriber.poll_ready(context, self.session.window()).is_ready()
        {
            return Poll::Ready(Ok(Wake::Deliveries));
        }
        if self.watch.poll(context, self.wire.stuck()).is_ready() {
            return Poll::Ready(Ok(Wake::Timer));
        }
        Poll::Pending
    }

    /// Takes in the packets that were read, as far as there is room for them, up to one that needs
    /// the bus.
    fn take_in(&mut self) -> Result<Option<Request>, End> {
        let unread = self.wire.unread().len();
        let taken = self.take_packets();
        // Whatever ends the connection, what came before it was published.
        self.submit()?;
        let mut whole = self.wire.unread().len() < unread;
        if self.inbound.is_full() && self.wire.backlog() < MAX_BACKLOG {
            let max = self.shared.limits.max_packet_size.as_usize();
            let (unread, output) = self.wire.unread_and_output();
            whole |= self.ahead.look(unread, max, self.version, output);
            // What is behind the packets that wait is read in its turn.
            self.partial = None;
        }
        let read = std::mem::take(&mut self.read);
        if read > 0 {
            self.watch.heard(read, whole);
        }
        taken
    }

    fn take_packets(&mut self) -> Result<Option<Request>, End> {
        let max = self.shared.limits.max_packet_size.as_usize();
        let version = self.version;
        self.partial = None;
        while self.reads() {
            let frame = match codec::frame(self.wire.unread(), max)? {
                Framed::Frame(frame) => frame,
                Framed::Partial(total) => {
                    self.partial = total;
                    break;
                }
            };
            frame.check_length(version)?;
            let length = frame.whole.len();
            trace!(client = &*self.client, bytes = length, "{:?} received", frame.kind);
            match frame.kind {
                Kind::Publish => {
                    let inbound = &mut self.inbound;
                    match inbound.publish(&mut self.session, &mut self.rights, &frame)? {
                        Publishing::TakenIn => {}
                        Publishing::Held => break,
                    }
                }
                Kind::PubAck => self.session.puback(Ack::read(&frame, version)?),
                Kind::PubComp => self.session.pubcomp(Ack::read(&frame, version)?),
                Kind::PubRec => {
                    let ack = Ack::read(&frame, version)?;
                    if let Some(says) = self.session.pubrec(ack) {
                        self.answer_durably(Kind::PubRel, ack.id, says);
                    }
                }
                Kind::PubRel => {
                    let ack = Ack::read(&frame, version)?;
                    let says = self.session.pubrel(ack.id)?;
                    self.answer_durably(Kind::PubComp, ack.id, says);
                }
                Kind::PingReq if frame.body.is_empty() => {
                    if !self.ahead.take_ping() {
                        codec::write_pingresp(&mut self.wire.output);
                    }
                }
                Kind::PingReq => return Err(Bad::malformed("PINGREQ with content").into()),
                Kind::Connect => return Err(Bad::protocol("second CONNECT").into()),
                Kind::Subscribe | Kind::Unsubscribe | Kind::Disconnect => {
                    // The log has what was published before, or there is no room yet.
                    self.submit()?;
                    if self.inbound.is_full() {
                        break;
                    }
                    let Framed::Frame(frame) = codec::frame(self.wire.unread(), max)? else {
                        break;
                    };
                    if frame.kind == Kind::Disconnect {
                        let goodbye = Disconnect::read(&frame, version)?;
                        return Err(self.disconnected(goodbye));
                    }
                    let request = Request::read(&frame, version)?;
                    self.consume(length);
                    return Ok(Some(request));
                }
            }
            self.consume(length);
        }
        Ok(None)
    }

    /// The answer that stands in the output from `from` on is not larger than the client takes
    /// (`[MQTT-3.1.2-24]`): else it asked for too much at once.
    pub(super) fn check_answer(&mut self, from: usize) -> Result<(), End> {
        let max = self.max_packet_size;
        if self.output().len() - from > max {
            self.output().truncate(from);
            let what = "request whose answer is larger than the client's maximum packet size";
            return Err(Bad(Reason::PacketTooLarge, what).into());
        }
        Ok(())
    }

    fn consume(&mut self, length: usize) {
        self.wire.consume(length);
        self.ahead.consumed(length);
    }

    fn look_at_the_clock(&mut self) -> Result<(), End> {
        let seen = Seen { waits: !self.reads(), stuck: self.wire.stuck() };
        if self.watch.look(seen)? {
            self.wire.shrink();
            self.inbound.shrink();
            self.outbound.shrink();
            self.journal.iter_mut().for_each(Journal::shrink);
        }
        Ok(())
    }

    /// The client is gone: what it has sent is taken in, or the log has no room for it.
    fn gone(&mut self) -> End {
        self.inbound.abandon();
        match self.ahead.goodbye() {
            Some(goodbye) => self.disconnected(goodbye),
            None => End::Lost,
        }
    }

    /// Waits for the commits that are under way, and for their acknowledgements to leave.
    async fn drain(&mut self) -> End {
        let finished = poll_fn(|context| {
            loop {
                let output = &mut self.wire.output;
                match self.inbound.poll(context, &mut self.session, output) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                    Poll::Pending => break,
                }
            }
            let idle = self.inbound.is_idle() && self.poll_journal(context)?;
            match self.wire.poll_write(context) {
                Poll::Ready(Ok(())) if idle => Poll::Ready(Ok(())),
                Poll::Ready(Err(why)) => Poll::Ready(Err(why.into())),
                _ => Poll::Pending,
            }
        });
        match timeout(DRAIN_TIMEOUT, finished).await {
            Ok(Err(end)) => end,
            Ok(Ok(())) | Err(_) => End::Drain,
        }
    }
}
