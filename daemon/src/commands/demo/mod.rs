//! `tidegate demo`: the whole path on one screen, on loopback, with a temporary data directory.
//!
//! In one process: the receiver as the upstream, the gateway, simulated sensors that connect to it over
//! MQTT, and an overheating alert. The upstream goes away for `--outage`, and whenever `o` and Enter
//! are typed or SIGUSR1 comes, until the next time.

mod progress;
mod upstream;

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_config::{Config, LogLevel, LogOutput, Span};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use self::progress::Progress;
use self::upstream::Upstream;
use super::signals::Stop;
use super::{Failure, simulate};
use crate::gateway::{Gateway, Left};
use crate::notify::Sockets;
use crate::receiver;
use crate::supervise::{Role, Supervisor};

/// When a planned outage begins: long enough after the start that events were seen to arrive.
const OUTAGE_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Take the upstream away for this long, 10 s after the start (such as 20s, 2m)
    #[arg(long, value_name = "DURATION")]
    outage: Option<Span>,
    /// Simulated sensors
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=1000))]
    devices: u16,
    /// Events a second, of all sensors together
    #[arg(long, value_name = "R", default_value_t = 20.0, value_parser = rate)]
    rate: f64,
    /// End after this long instead of at Ctrl-C
    #[arg(long, value_name = "DURATION")]
    duration: Option<Span>,
    /// Keep the data here instead of in a temporary directory
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the receiver's page is served; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    receiver: SocketAddr,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| (0.01..=1e6).contains(rate))
        .ok_or_else(|| "expected a number from 0.01 to 1000000".into())
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    super::start_logging(&LogOutput { level: LogLevel::Error, ..LogOutput::default() })?;
    let home = Home::new(options.data_dir.clone())?;
    super::runtime()?.block_on(async {
        let mut demo = Demo::start(options, &home).await?;
        demo.introduce(options);
        demo.show(options).await?;
        demo.stop().await
    })
}

/// Everything that runs.
struct Demo<'a> {
    home: &'a Home,
    stop: Stop,
    toggles: mpsc::Receiver<()>,
    upstream: Upstream,
    gateway: Gateway,
    /// Sensors, and what listens to signals.
    tasks: Supervisor,
    progress: Progress,
}

impl<'a> Demo<'a> {
    async fn start(options: &Options, home: &'a Home) -> Result<Self, Failure> {
        let stop = Stop::listen()?;
        let tasks = Supervisor::new();
        let toggles = toggles(&tasks)?;
        let upstream = Upstream::start(home.receiver(), options.receiver).await?;
        let gateway = Gateway::start(&home.config(upstream.address())?, Sockets::none()).await?;
        let demo =
            Self { home, stop, toggles, upstream, gateway, tasks, progress: Progress::new() };
        let sensors = simulate::Devices {
            broker: demo.address("mqtt").into(),
            count: u32::from(options.devices),
            rate: options.rate,
            duration: None,
            qos: 1,
            seed: fastrand::u64(..),
        };
        simulate::devices(&sensors, &demo.tasks);
        Ok(demo)
    }

    /// Where the gateway serves `what`.
    fn address(&self, what: &str) -> SocketAddr {
        let mut addresses = self.gateway.addresses().iter();
        let found = addresses.find_map(|(name, address)| (*name == what).then_some(*address));
        // The demo's config has all that it asks for.
        found.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn introduce(&mut self, options: &Options) {
        let port = self.address("mqtt").port();
        let text = format!(
            "tidegate demo: {devices} simulated sensors -> gateway -> receiver\n\
             \n\
             see the events arrive  http://{page}/\n\
             publish your own       mosquitto_pub -p {port} -q 1 -i me -t plant/me/temperature -m '{{\"value\": 95}}'\n\
             subscribe              mosquitto_sub -p {port} -v -t 'plant/#' -t 'alerts/#'\n\
             the gateway itself     http://{admin}/status  http://{admin}/metrics\n\
             its data               {data}\n\
             \n\
             The alert \"overheating\" is raised when a temperature stays above 90 for 3 s.\n\
             o and Enter (or SIGUSR1 to process {pid}) takes the upstream away, and brings it back.\n\
             Ctrl-C stops in order.\n",
            devices = options.devices,
            page = self.upstream.address(),
            admin = self.address("admin"),
            data = self.home.path.display(),
            pid = std::process::id(),
        );
        self.progress.say(&text);
    }

    /// Until it is to stop.
    async fn show(&mut self, options: &Options) -> Result<(), Failure> {
        let start = Instant::now();
        let never = start + Duration::from_secs(100 * 365 * 86_400);
        let after = |span: Option<Span>, from: Instant| span.map_or(never, |span| from + span.0);
        let mut outage_begins = options.outage.map_or(never, |_| start + OUTAGE_AFTER);
        let mut outage_ends = never;
        let end = after(options.duration, start);
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = second.tick() => self.show_progress(),
                () = sleep_until(outage_begins) => {
                    outage_begins = never;
                    outage_ends = after(options.outage, Instant::now());
                    self.take_away().await;
                }
                () = sleep_until(outage_ends) => {
                    outage_ends = never;
                    self.bring_back().await?;
                }
                Some(()) = self.toggles.recv() => {
                    (outage_begins, outage_ends) = (never, never);
                    if self.upstream.is_up() {
                        self.take_away().await;
                    } else {
                        self.bring_back().await?;
                    }
                }
                () = self.gateway.failed() => return Ok(()),
                _ = self.stop.requested() => return Ok(()),
                () = sleep_until(end) => return Ok(()),
            }
        }
    }

    fn show_progress(&mut self) {
        let (gateway, receiver) = (self.gateway.status(), self.upstream.counts());
        self.progress.show(&gateway, &receiver, self.upstream.is_up());
    }

    async fn take_away(&mut self) {
        self.upstream.take_away().await;
        self.progress.say("the upstream is away: the lag grows, nothing is refused");
    }

    async fn bring_back(&mut self) -> Result<(), Failure> {
        self.upstream.bring_back().await?;
        self.progress.say("the upstream is back: the backlog drains");
        Ok(())
    }

    /// Sensors first, then the gateway, then the receiver; says what is left where.
    async fn stop(mut self) -> Result<(), Failure> {
        self.show_progress();
        self.progress.say("stopping: the sensors, the gateway, the receiver");
        self.tasks.begin_drain();
        self.tasks.ended().await;
        let left: Left = self.gateway.drain().await;
        let seen = self.upstream.counts();
        self.upstream.close().await;
        self.progress.say(&format!(
            "the gateway: {left}\n\
             the receiver: {} events, {} gaps, {} duplicates\n\
             {}",
            seen.events,
            seen.missing,
            seen.duplicates,
            self.home.farewell(),
        ));
        super::outcome(left.failure)
    }
}

/// Each item asks to take the upstream away, or to bring it back: from `o` and Enter, or SIGUSR1.
fn toggles(tasks: &Supervisor) -> Result<mpsc::Receiver<()>, Failure> {
    let (toggle, toggles) = mpsc::channel(1);
    let mut user = signal(SignalKind::user_defined1())
        .map_err(|error| Failure::system("cannot listen for signals", &error))?;
    let by_key = toggle.clone();
    // Nothing but the process's end ends the thread: it blocks in a read.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if line.trim() == "o" && by_key.blocking_send(()).is_err() {
                break;
            }
        }
    });
    let drain = tasks.drain().clone();
    tasks.spawn("demo signals", Role::Ordinary, async move {
        let forward =
            async { while user.recv().await.is_some() && toggle.send(()).await.is_ok() {} };
        tokio::select! {
            () = forward => {}
            () = drain.cancelled() => {}
        }
    });
    Ok(toggles)
}

/// Where the demo keeps its data.
#[derive(Debug)]
struct Home {
    path: PathBuf,
    temporary: bool,
}

impl Home {
    fn new(wanted: Option<PathBuf>) -> Result<Self, Failure> {
        let temporary = wanted.is_none();
        let path = wanted.unwrap_or_else(|| {
            let name = format!("tidegate-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
            std::env::temp_dir().join(name)
        });
        // A temporary directory that is already there is somebody else's.
        let created = std::fs::DirBuilder::new().recursive(!temporary).mode(0o700).create(&path);
        created.map_err(|error| {
            let message = format!("cannot create the directory {}: {error}", path.display());
            Failure::new(Failure::EX_CANTCREAT, message)
        })?;
        Ok(Self { path, temporary })
    }

    fn receiver(&self) -> receiver::Options {
        receiver::Options::new(self.path.join("receiver"))
    }

    /// The demo's config, through the same checks as a user's.
    fn config(&self, upstream: SocketAddr) -> Result<Config, Failure> {
        let text = format!(
            r#"
            [gateway]
            id = "demo"
            data-dir = {data:?}

            [[listener]]
            type = "mqtt"
            bind = "127.0.0.1:0"

            [admin]
            bind = "127.0.0.1:0"

            [[sink]]
            name = "receiver"
            type = "http"
            url = "http://{upstream}/events"
            batch.max-age = "200ms"
            retry.max = "2s"

            [[alert]]
            name = "overheating"
            topic = "plant/+/temperature"
            value = "/value"
            raise = "> 90"
            clear = "< 85"
            for = "3s"
            severity = "critical"
            "#,
            data = self.path.join("gateway").display().to_string(),
        );
        Config::from_toml(&text, "the demo's config")
            .map_err(|problems| Failure::new(Failure::EX_CONFIG, problems.to_string()))
    }

    fn farewell(&self) -> String {
        if self.temporary {
            format!("the data in {} was temporary and is removed", self.path.display())
        } else {
            format!("the data stays in {}", self.path.display())
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.temporary {
            // Left behind, it is found and removed like everything else in a temporary directory.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
