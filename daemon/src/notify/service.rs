//! The daemon as a service: what it says, and when.

use std::env;
use std::process;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::message::{Message, send};
use crate::gateway::{Gateway, Status};
use crate::progress::Watch;

/// The status line follows this often.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// The service manager's side of the daemon. Where there is none, everything here does nothing.
#[derive(Debug)]
pub struct Service {
    /// The service manager kills what does not ping within this time.
    watchdog: Option<Duration>,
    watch: Watch,
    /// The status line that was sent last.
    said: String,
    /// A ping is due.
    ping_at: Instant,
    status_at: Instant,
    /// Whether something stands still.
    silent: bool,
}

impl Service {
    /// As the environment says.
    pub fn from_environment() -> Self {
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        let micros = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0);
        Self::new(micros.map(Duration::from_micros), Instant::now())
    }

    pub(super) fn new(watchdog: Option<Duration>, now: Instant) -> Self {
        Self {
            watchdog,
            watch: Watch::default(),
            said: String::new(),
            ping_at: now,
            status_at: now,
            silent: false,
        }
    }

    /// Every listener is bound, and what is on disk is known: after the start, and after a reload.
    pub fn ready(&mut self, status: &Status) {
        self.said = line(status);
        say(&Message::Ready { status: self.said.clone() });
    }

    /// Something is read again.
    pub fn reloading(&self) {
        say(&Message::reloading());
    }

    /// The drain begins.
    pub fn stopping(&self) {
        say(&Message::Stopping { status: "stopping: saving what waits".to_owned() });
    }

    /// Pings, and keeps the status line true, for as long as it is polled.
    pub async fn attend(&mut self, gateway: &Gateway) {
        let mut ticks = interval(self.tick());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let still = self.standing_still(gateway, now);
            if self.is_ping_due(still, now) {
                say(&Message::Watchdog);
            }
            if now >= self.status_at {
                self.status_at = now + STATUS_EVERY;
                let status = line(&gateway.status());
                if status != self.said {
                    say(&Message::Status(status.clone()));
                    self.said = status;
                }
            }
        }
    }

    /// How often to look: four times a watchdog interval, and often enough for the status line.
    pub(super) fn tick(&self) -> Duration {
        let ping = self.watchdog.map_or(STATUS_EVERY, |interval| interval / 4);
        ping.clamp(Duration::from_millis(1), STATUS_EVERY)
    }

    /// The part that has stood still for half an interval, and for how long it has.
    fn standing_still<'g>(
        &mut self,
        gateway: &'g Gateway,
        now: Instant,
    ) -> Option<(&'g str, Duration)> {
        let limit = self.watchdog? / 2;
        let (part, lasts) = self.watch.standing_still(gateway.progress(), now, limit)?;
        Some((gateway.part(part), lasts))
    }

    /// Whether a ping is due and deserved.
    pub(super) fn is_ping_due(&mut self, still: Option<(&str, Duration)>, now: Instant) -> bool {
        let Some(interval) = self.watchdog else { return false };
        if let Some((part, lasts)) = still {
            if !self.silent {
                let seconds = lasts.as_secs();
                error!(part, seconds, "{part} stands still: the watchdog is not pinged any more");
            }
            self.silent = true;
            return false;
        }
        if self.silent {
            info!("everything gets on again: the watchdog is pinged");
            self.silent = false;
        }
        // A tick that is a little early is due as well.
        let due = now + self.tick() / 2 >= self.ping_at;
        if due {
            self.ping_at = now + interval / 4;
        }
        due
    }
}

/// The status line that `systemctl status` shows.
fn line(status: &Status) -> String {
    let count = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    format!(
        "{} on disk since the first; {}; {} open",
        count(status.log.last_lsn, "event"),
        match status.lag() {
            _ if status.sinks.is_empty() => "no sink".to_owned(),
            0 => "every sink has all".to_owned(),
            lag => format!("the slowest sink lags by {lag}"),
        },
        count(status.alerts.open, "alert"),
    )
}

/// What cannot be said is no reason to stop; the service manager will notice.
fn say(message: &Message) {
    if let Err(error) = send(message) {
        warn!("cannot notify the service manager: {error}");
    }
}
