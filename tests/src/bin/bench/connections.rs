//! Connections: how fast they are set up over TLS, what they take when they are idle, and five thousand
//! that publish.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::load::{Fleet, Run, Shape};
use tidegate_tests::pki::{Issued, Pki, Wanted};
use tidegate_tests::process::Process;
use tidegate_tests::site::Site;
use tidegate_tests::table::{Goal, Table, median, range};
use tidegate_tests::tls::Connector;

use crate::Plan;
use crate::broker::{self, Kind, ROOMY, order};

const MIB: f64 = 1024.0 * 1024.0;
/// Idle connections whose memory is measured.
const IDLE: usize = 1000;
/// Connections that publish.
const MANY: usize = 5000;
/// Messages a second of each.
const RATE: u64 = 2;
/// Clients that connect at the same time.
const THREADS: usize = 2;
/// One address may have all places here.
const OPEN: &str = "[limits]\nmax-connections = 8000\nmax-connections-per-address = 8000\n";

/// A broker that speaks TLS.
enum Encrypted {
    Peer(Process, SocketAddr, #[expect(dead_code, reason = "the process's directory")] Site),
    Tidegate(Box<Gateway>, SocketAddr),
}

impl Encrypted {
    fn start(kind: Kind, dir: &Path, issued: &Issued) -> Self {
        let site = Site::below(dir);
        if kind == Kind::Tidegate {
            let listener = format!("bind = \"127.0.0.1:0\"\n{}", issued.listener());
            let mut gateway = Gateway::start_listening(site, &listener, OPEN);
            let address = gateway.listener("mqtts");
            return Self::Tidegate(Box::new(gateway), address);
        }
        let more = format!(
            "certfile {}\nkeyfile {}\n",
            issued.certificate.display(),
            issued.key.display()
        );
        let (process, address) = broker::start_mosquitto(&site, &more);
        Self::Peer(process, address, site)
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Peer(_, address, _) | Self::Tidegate(_, address) => *address,
        }
    }

    fn process(&mut self) -> &mut Process {
        match self {
            Self::Peer(process, ..) => process,
            Self::Tidegate(gateway, _) => gateway.process(),
        }
    }
}

/// TLS 1.3, a whole handshake with ECDSA P-256, CONNECT, CONNACK; beside mosquitto.
pub(crate) fn encrypted(plan: &Plan, table: &mut Table) {
    println!("\nconnections over TLS");
    raise_open_files();
    let site = Site::below(&plan.dir);
    let pki = Pki::new(&site, "ca");
    let issued = pki.issue("server", Wanted::server());
    let connector = Connector::trusting(&pki.root());
    let [mut rates, mut peers, mut cpu, mut peers_cpu] = [const { Vec::new() }; 4];
    let [mut memory, mut peers_memory] = [const { Vec::new() }; 2];
    for round in 0..plan.rounds {
        for kind in order(round) {
            let mut broker = Encrypted::start(kind, &plan.dir, &issued);
            let address = broker.address();
            let clients: Vec<_> = (0..IDLE).map(|n| client(&connector, address, n)).collect();
            // Both have given back what they give back by then.
            thread::park_timeout(Duration::from_secs(3));
            let resident = broker.process().memory() as f64 / MIB;
            drop(clients);
            let before = broker.process().cpu();
            let (count, elapsed) = set_up(&connector, address, plan.flat_out);
            let spent = (broker.process().cpu() - before).as_secs_f64() * 1e3 / count as f64;
            let rate = count as f64 / elapsed.as_secs_f64();
            let (rates, cpu, memory) = match kind {
                Kind::Tidegate => (&mut rates, &mut cpu, &mut memory),
                _ => (&mut peers, &mut peers_cpu, &mut peers_memory),
            };
            rates.push(rate);
            cpu.push(spent);
            memory.push(resident);
        }
    }
    let (mine, theirs) = (median(&rates), median(&peers));
    table.row("TLS connections set up", (mine, "/s"), range(&rates), Goal::None);
    table.row("mosquitto, TLS connections", (theirs, "/s"), range(&peers), Goal::None);
    table.row("gateway ÷ mosquitto", (mine / theirs, "×"), "TLS connections", Goal::None);
    table.row("gateway CPU a TLS connection", (median(&cpu), "ms"), range(&cpu), Goal::None);
    table.row("mosquitto CPU a TLS connection", (median(&peers_cpu), "ms"), "", Goal::None);
    let beside = format!("VmRSS; mosquitto {:.1} MiB", median(&peers_memory));
    table.row("1000 idle TLS connections", (median(&memory), "MiB"), beside, Goal::AtMost(64.0));
}

/// Connects one after the other for `time`, each once the one before has said goodbye.
fn set_up(connector: &Connector, address: SocketAddr, time: Duration) -> (usize, Duration) {
    let begin = Instant::now();
    let connect = |thread: usize| {
        let mut count = 0;
        while begin.elapsed() < time {
            drop(client(connector, address, IDLE + thread));
            count += 1;
        }
        count
    };
    let connect = &connect;
    let count = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || connect(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).sum()
    });
    (count, begin.elapsed())
}

fn client(connector: &Connector, address: SocketAddr, n: usize) -> tidegate_tests::tls::TlsWire {
    match connector.client(address, &format!("client-{n}")) {
        Ok(client) => client,
        Err(error) => panic!("client {n} cannot connect to {address}: {error}"),
    }
}

/// Many connections that publish little each.
pub(crate) fn many(plan: &Plan, table: &mut Table) {
    println!("\n{MANY} connections, {RATE} messages/s each");
    raise_open_files();
    let site = Site::below(&plan.dir);
    let mut gateway = Gateway::start_at(site, &format!("{OPEN}{ROOMY}"));
    let shape = Shape { connections: MANY, ..Shape::default() };
    let mut fleet = match Fleet::connect(gateway.mqtt(), &shape) {
        Ok(fleet) => fleet,
        Err(error) => panic!("cannot connect: {error}"),
    };
    let before = gateway.process().cpu();
    let report = fleet.run(Run::time(plan.paced).at_rate(MANY as u64 * RATE));
    let spent = (gateway.process().cpu() - before).as_secs_f64();
    let errors = report.sent - report.acknowledged + u64::from(report.broken.is_some());
    let what = format!("{MANY} connections, errors");
    let beside = report.broken.unwrap_or_else(|| format!("{} events acknowledged", report.sent));
    table.row(what, (errors as f64, ""), beside, Goal::AtMost(0.0));
    let held = report.sent as f64 / plan.paced.as_secs_f64();
    table.row("their rate", (held, "/s"), format!("of {}", MANY as u64 * RATE), Goal::None);
    let p99 = report.latency.percentile(99.0).as_secs_f64() * 1e3;
    table.row("their ack p99", (p99, "ms"), "", Goal::None);
    let share = 100.0 * spent / report.elapsed.as_secs_f64();
    table.row("gateway CPU meanwhile", (share, "%"), "of one processor", Goal::None);
    let memory = gateway.process().memory() as f64 / MIB;
    table.row("gateway memory meanwhile", (memory, "MiB"), "VmRSS", Goal::None);
}

/// Each connection is a file, here too; what is started from here inherits it.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        println!("  the number of open files cannot be raised: {error}");
    }
}
