//! Clients that do anything, on a daemon that may be gone at any moment.

use std::sync::Arc;

use tempfile::TempDir;
use tidegate_config::Limits;
use tokio::task::yield_now;

use super::super::broker::{Broker, LIMIT, connect_with, open, packet, subscribe, text};
use super::life::Life;
use super::link::{Link, Packet};
use super::model::{Answer, Message, Number, Session};
use super::publisher::Publisher;
use super::tell;
use crate::log::storage::sim::Sim;

const CLIENTS: usize = 3;
const STEPS: u32 = 250;
const TOPICS: [&str; 4] = ["a/0", "a/1", "b/0", "b/1"];
const FILTERS: [&str; 5] = ["#", "a/+", "a/0", "+/1", "b/#"];
/// What a publisher leaves open at most.
const OUT: usize = 8;

#[derive(Debug)]
struct Client {
    id: String,
    version: u8,
    link: Option<Link>,
    session: Option<Session>,
    /// A session that outlived connections has ended with the last one, of which there may be no
    /// record yet; and the daemon was killed since.
    ended: bool,
    haunted: bool,
    publisher: Publisher,
    /// What is to be sent, in the order in which it came up.
    answers: Vec<Answer>,
    last_request: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Drain,
    Kill,
    PowerCut,
    /// Of the history.
    Over,
}

struct World {
    rng: fastrand::Rng,
    sim: Sim,
    clients: Vec<Client>,
    messages: Vec<Message>,
    dir: Arc<TempDir>,
    steps: u32,
}

/// Runs one history; how many steps it had.
pub(super) fn history(seed: u64) -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    let clients = (0..CLIENTS).map(|number| Client {
        id: format!("c{number}"),
        version: if rng.bool() { 4 } else { 5 },
        link: None,
        session: None,
        ended: false,
        haunted: false,
        publisher: Publisher::default(),
        answers: Vec::new(),
        last_request: 0,
    });
    let mut world = World {
        clients: clients.collect(),
        sim: Sim::new(seed),
        rng,
        messages: Vec::new(),
        dir: Arc::new(tempfile::tempdir().unwrap()),
        steps: 0,
    };
    // All that happens inside one life of the daemon ends with its runtime.
    while world.live() != End::Over {}
    u64::from(world.steps)
}

impl World {
    fn live(&mut self) -> End {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let life = Life::new(&self.sim);
        let end = runtime.block_on(async {
            let log = open(Arc::new(life.clone()), "/log".into(), 8 << 20);
            let broker = Broker::over(log, Arc::clone(&self.dir), Limits::default());
            let end = self.run(&broker).await;
            if end == End::Over || end == End::Drain && self.rng.u8(..4) > 0 {
                // Otherwise the drain waits for them to hang up.
                self.clients.iter_mut().for_each(|client| client.gone(false));
            }
            match end {
                End::Over | End::Drain => _ = broker.stop().await,
                End::Kill => life.end(false),
                End::PowerCut => life.end(true),
            }
            end
        });
        tell(format!("the daemon ends: {end:?}"));
        let killed = matches!(end, End::Kill | End::PowerCut);
        if killed {
            self.keep_checkpoints();
        }
        for client in &mut self.clients {
            client.gone(killed);
        }
        // What it does beside the runtime's thread ends too: the state is opened again.
        runtime.shutdown_timeout(LIMIT);
        end
    }

    /// Of the state only what is certain to be on disk outlives the process.
    fn keep_checkpoints(&mut self) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        for entry in std::fs::read_dir(self.dir.path().join("state")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("checkpoint-") {
                std::fs::copy(entry.path(), dir.path().join("state").join(entry.file_name()))
                    .unwrap();
            }
        }
        self.dir = Arc::new(dir);
    }

    async fn run(&mut self, broker: &Broker) -> End {
        while self.steps < STEPS {
            self.steps += 1;
            let who = self.rng.usize(..CLIENTS);
            if self.clients[who].link.is_none() {
                if self.rng.u8(..3) > 0 {
                    self.connect(broker, who, false).await;
                }
                continue;
            }
            match self.rng.u32(..400) {
                0..150 => self.publish(who).await,
                150..260 => self.consume(who).await,
                260..290 => self.subscribe(who).await,
                290..305 => self.connect(broker, who, false).await,
                305..330 => self.drop_link(who),
                330..345 => self.disconnect(who).await,
                345..365 => self.confirm(who).await,
                365..380 => broker.state.request_save(),
                380..388 => {
                    let covered = broker.state.checkpoint().unwrap();
                    tell(format!("a checkpoint: {covered:?}"));
                }
                388..391 => return End::Drain,
                391..394 => return End::Kill,
                394..397 => return End::PowerCut,
                _ => yield_now().await,
            }
        }
        self.settle(broker).await;
        End::Over
    }

    /// Everybody comes back once more, and gets all that is due.
    async fn settle(&mut self, broker: &Broker) {
        for who in 0..CLIENTS {
            self.drop_link(who);
            self.connect(broker, who, true).await;
        }
        for who in 0..CLIENTS {
            while self.clients[who].publisher.len() > 0 {
                self.answer_all(who).await;
                self.take_packet(who).await;
            }
        }
        for who in 0..CLIENTS {
            while let Some(open) = self.clients[who].session.as_ref().unwrap().open() {
                self.answer_all(who).await;
                let Some(still) = self.clients[who].session.as_ref().unwrap().open() else { break };
                let due = format!("{}: {open}, {still}", self.clients[who].id);
                let link = self.clients[who].link.as_mut().unwrap();
                let packet = link.due_packet(&due).await;
                self.take(who, packet);
            }
            self.confirm(who).await;
        }
        // Copies that publishers sent again may be still to come; nothing else is.
        for who in 0..CLIENTS {
            self.answer_all(who).await;
            self.confirm(who).await;
        }
    }

    async fn publish(&mut self, who: usize) {
        let Self { rng, clients, messages, .. } = self;
        let qos = rng.u8(..3);
        if clients[who].publisher.len() < OUT {
            let topic = rng.choice(TOPICS).unwrap();
            let number = messages.len() as Number;
            let message = Message { topic, qos, publisher: who, copies: 1, acknowledged: false };
            for session in clients.iter_mut().filter_map(|client| client.session.as_mut()) {
                session.published(number, &message);
            }
            let client = &mut clients[who];
            tell(format!("{}: publishes {number} to {topic} with QoS {qos}", client.id));
            let bytes = client.publisher.publish(client.version, number, &message);
            messages.push(message);
            client.link.as_mut().unwrap().send(&bytes).await;
        }
        if self.rng.bool() {
            while self.clients[who].publisher.unacknowledged() > 0 {
                self.take_packet(who).await;
            }
        }
    }

    /// Reads what has come, and answers some of it.
    async fn consume(&mut self, who: usize) {
        for _ in 0..self.rng.u32(..30) {
            yield_now().await;
        }
        while let Some(packet) = self.clients[who].link.as_mut().unwrap().try_packet().await {
            self.take(who, packet);
        }
        for _ in 0..self.rng.u8(..6) {
            self.answer(who).await;
        }
    }

    /// Answers something: mostly what is due first.
    async fn answer(&mut self, who: usize) {
        let client = &mut self.clients[who];
        let link = client.link.as_mut().unwrap();
        if self.rng.u8(..3) == 0
            && let Some(pubrel) = client.publisher.pubrel()
        {
            link.send(&pubrel).await;
        }
        if client.answers.is_empty() {
            return;
        }
        let at = if self.rng.u8(..4) == 0 { self.rng.usize(..client.answers.len()) } else { 0 };
        let answer = client.answers.remove(at);
        tell(format!("{}: {answer:?}", client.id));
        let (head, id) = match answer {
            Answer::Acknowledged(id) => (0x40, id),
            Answer::Received(id) => (0x50, id),
            Answer::Complete(id) => (0x70, id),
        };
        client.session.as_mut().unwrap().answered(answer);
        link.send(&packet(head, &id.to_be_bytes())).await;
    }

    async fn answer_all(&mut self, who: usize) {
        loop {
            let client = &mut self.clients[who];
            if let Some(pubrel) = client.publisher.pubrel() {
                client.link.as_mut().unwrap().send(&pubrel).await;
            }
            if client.answers.is_empty() {
                return;
            }
            self.answer(who).await;
        }
    }

    /// Subscribes or unsubscribes; does not always wait for the answer.
    async fn subscribe(&mut self, who: usize) {
        let filter = self.rng.choice(FILTERS).unwrap();
        let qos = Some(self.rng.u8(..3)).filter(|_| self.rng.u8(..4) > 0);
        let client = &mut self.clients[who];
        client.last_request += 1;
        let (version, id) = (client.version, client.last_request);
        let bytes = match qos {
            Some(qos) => subscribe(version, id, filter, qos),
            None => {
                let properties: &[u8] = if version == 5 { &[0] } else { &[] };
                packet(0xa2, &[&id.to_be_bytes(), properties, &text(filter)].concat())
            }
        };
        tell(format!("{}: subscribes to {filter} with {qos:?}", client.id));
        client.session.as_mut().unwrap().may_subscribe(filter, qos, &self.messages);
        client.link.as_mut().unwrap().send(&bytes).await;
        if self.rng.u8(..5) == 0 {
            self.drop_link(who);
            return;
        }
        let expected = qos.map_or(Packet::UnsubAck(id), |qos| Packet::SubAck(id, qos));
        self.wait_for(who, &expected).await;
        self.clients[who].session.as_mut().unwrap().subscribed(filter, qos);
    }

    /// Connects, in the place of an older connection if there is one.
    async fn connect(&mut self, broker: &Broker, who: usize, last: bool) {
        // What the older one was sent may be seen, or not.
        if self.clients[who].link.is_some() && self.rng.bool() {
            self.consume(who).await;
        }
        let published = self.messages.len() as Number;
        let client = &mut self.clients[who];
        let clean = !last && self.rng.u8(..6) == 0;
        // 3.1.1 has one flag for both.
        let kept = last || if client.version == 4 { !clean } else { self.rng.u8(..5) > 0 };
        let window =
            Some(self.rng.u16(1..5)).filter(|_| client.version == 5 && !last && self.rng.bool());
        let mut properties = Vec::new();
        if kept {
            properties.extend([0x11, 0, 0, 0, 200]);
        }
        if let Some(window) = window {
            properties.extend([0x21, 0, window as u8]);
        }
        let hello = |clean: bool| {
            connect_with(client.version, &client.id, u8::from(clean) << 1, &properties, &[])
        };
        let (mut link, mut present) = dial(broker, client.version, &hello(clean)).await;
        if present && client.haunted && client.session.is_none() {
            (link, present) = dial(broker, client.version, &hello(true)).await;
        }
        (client.ended, client.haunted) = (client.ended && !kept, false);
        if client.link.is_some() {
            client.gone(false);
        }
        if client.session.as_ref().is_some_and(|session| session.unsure) && !present {
            client.session = None;
        }
        let id = &client.id;
        tell(format!("{id}: connects, clean {clean}, kept {kept}, window {window:?}: {present}"));
        assert_eq!(present, !clean && client.session.is_some(), "{}: session present", client.id);
        if !present {
            client.session = Some(Session::begin(kept));
            client.publisher.give_up();
        }
        let window = window.map_or(usize::MAX, usize::from);
        client.session.as_mut().unwrap().attach(kept, window, published);
        link.send(&client.publisher.again(client.version, &mut self.messages)).await;
        client.link = Some(link);
    }

    fn drop_link(&mut self, who: usize) {
        if self.clients[who].link.is_some() {
            tell(format!("{}: drops its connection", self.clients[who].id));
            self.clients[who].gone(false);
        }
    }

    async fn disconnect(&mut self, who: usize) {
        let link = self.clients[who].link.as_mut().unwrap();
        link.send(&[0xe0, 0]).await;
        tell(format!("{}: disconnects", self.clients[who].id));
        self.clients[who].gone(false);
    }

    /// Once this is answered, everything before was taken in.
    async fn confirm(&mut self, who: usize) {
        self.clients[who].link.as_mut().unwrap().send(&[0xc0, 0]).await;
        self.wait_for(who, &Packet::PingResp).await;
        tell(format!("{}: is heard", self.clients[who].id));
        self.clients[who].session.as_mut().unwrap().confirmed();
    }

    async fn wait_for(&mut self, who: usize, expected: &Packet) {
        loop {
            let packet = self.clients[who].link.as_mut().unwrap().packet().await;
            if packet == *expected {
                return;
            }
            self.take(who, packet);
        }
    }

    async fn take_packet(&mut self, who: usize) {
        let packet = self.clients[who].link.as_mut().unwrap().packet().await;
        self.take(who, packet);
    }

    fn take(&mut self, who: usize, packet: Packet) {
        let client = &mut self.clients[who];
        tell(format!("{}: gets {packet:?}", client.id));
        match packet {
            Packet::Publish { qos, dup, id, topic, payload } => {
                let number: Number = String::from_utf8(payload).unwrap().parse().unwrap();
                let message = &self.messages[number as usize];
                assert_eq!(message.topic, topic, "{number}");
                let session = client.session.as_mut().unwrap();
                client.answers.extend(session.delivered((qos, dup, id), number, message));
            }
            Packet::PubRel(id) => {
                let answer = client.session.as_mut().unwrap().released(id);
                client.answers.push(answer);
            }
            Packet::PubAck(id) => {
                let number = client.publisher.puback(id);
                self.acknowledged(number);
            }
            Packet::PubRec(id) => {
                let number = client.publisher.pubrec(id);
                self.acknowledged(number);
            }
            Packet::PubComp(id) => client.publisher.pubcomp(id),
            other => panic!("{}: not expected: {other:?}", client.id),
        }
    }

    fn acknowledged(&mut self, number: Number) {
        self.messages[number as usize].acknowledged = true;
        for session in self.clients.iter_mut().filter_map(|client| client.session.as_mut()) {
            session.acknowledged(number);
        }
    }
}

/// A new connection; whether there was a session.
async fn dial(broker: &Broker, version: u8, hello: &[u8]) -> (Link, bool) {
    let mut link = Link::new(broker.pipe(64 << 10), version);
    link.send(hello).await;
    match link.packet().await {
        Packet::ConnAck { present, code: 0 } => (link, present),
        other => panic!("no session: {other:?}"),
    }
}

impl Client {
    /// Its connection is.
    fn gone(&mut self, killed: bool) {
        let connected = self.link.take().is_some();
        self.answers.clear();
        self.publisher.dropped();
        self.haunted |= killed && self.ended;
        let Some(session) = &mut self.session else { return };
        if connected && !session.kept {
            // That it was to end with its connection may not have come to the disk.
            if killed && session.outlived() {
                session.unsure = true;
            } else {
                self.ended |= session.outlived();
                self.session = None;
                return;
            }
        }
        if killed && let Some(session) = &mut self.session {
            session.killed();
        }
    }
}
