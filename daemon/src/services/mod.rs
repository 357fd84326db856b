//! Runs the edge services: each reads the log from its own cursor and publishes through the gate.
//!
//! A service is one supervised task with a tree of its own in the state. Its state is saved only
//! after the events that it emitted are on disk, so a crash repeats them, under the same ids, rather
//! than losing them. A panic in a service restarts that service from its saved state, with backoff;
//! the others go on. An event on which it panics three times is passed over, and counted.
//!
//! When the log has no room a service waits: it delays only itself. Where it is catching up, though,
//! it may itself be what keeps a full log from being freed. [`crate::state::retention`] then asks it to
//! save, which it cannot; it gives up what it has to say after 10 s, and counts it.

mod losses;
mod metrics;
mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_config::{Alert, Gateway};
use tidegate_edge::alerts::Stats;
use tidegate_edge::{Alerts, Service};
use tidegate_event::Lsn;
use tokio::time::Instant;
use tracing::{error, warn};

use crate::gate::Gate;
use crate::log::Log;
use crate::state::{State, StateError, Tree};
use crate::supervise::{Role, Supervisor};
pub use losses::Losses;
pub use metrics::Metrics;
use run::{End, Run};

/// The longest wait before a service that panicked is started again.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// How often a service may panic on the same event before that is passed over.
const STRIKES: u32 = 3;

/// What the services run on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Services {
    /// What they read.
    pub log: Arc<Log>,
    /// Where they publish.
    pub gate: Arc<Gate>,
    /// What they keep.
    pub state: State,
    /// What they count.
    pub metrics: Metrics,
    /// Who owns their tasks.
    pub supervisor: Supervisor,
}

impl Services {
    /// Starts the alerts service for `rules`; it is also needed where there are none, as long as
    /// alerts of earlier rules are to be cleared. Answers whether it runs.
    pub fn start_alerts(
        &self,
        gateway: &Gateway,
        rules: &[Alert],
        max_devices: usize,
    ) -> Result<bool, StateError> {
        if rules.is_empty() && !self.state.has_entries("alerts")? {
            return Ok(false);
        }
        let stats = Stats::new(rules);
        self.metrics.alerts(stats.clone());
        let (id, level, rules) = (gateway.id.clone(), gateway.device_level, rules.to_vec());
        self.start(move || {
            let alerts = Alerts::new(&id, level, &rules, stats.clone());
            Box::new(alerts.with_max_devices(max_devices))
        })?;
        Ok(true)
    }

    /// Starts the service that `make` builds; it is called again after each panic.
    pub fn start<M>(&self, make: M) -> Result<(), StateError>
    where
        M: Fn() -> Box<dyn Service> + Send + Sync + 'static,
    {
        let name = make().name();
        let tree = self.state.tree(name)?;
        let task = supervise(self.clone(), tree, make, name);
        self.supervisor.spawn(format!("service {name}"), Role::Critical, task);
        Ok(())
    }
}

/// Runs one service until the drain.
async fn supervise<M>(services: Services, tree: Tree, make: M, name: &'static str)
where
    M: Fn() -> Box<dyn Service> + Send + Sync,
{
    let drain = services.supervisor.drain().clone();
    let mut failures = Failures::default();
    while !drain.is_cancelled() {
        let started = Instant::now();
        let pause = match Run::to_end(&services, &tree, make(), &failures.passed_over).await {
            End::Drained => return,
            End::Panicked(lsn) => {
                services.metrics.restarts(name).inc();
                let pause = failures.panicked(lsn, started.elapsed());
                let passed_over = lsn.is_some_and(|lsn| failures.passed_over.contains(&lsn));
                if passed_over {
                    services.metrics.passed_over(name).inc();
                }
                error!(
                    service = name,
                    lsn,
                    passed_over,
                    ?pause,
                    "the service panicked; restarting"
                );
                pause
            }
            End::Failed(why) => {
                services.metrics.restarts(name).inc();
                let pause = failures.panicked(None, started.elapsed());
                warn!(service = name, why, ?pause, "the service cannot go on; restarting");
                pause
            }
        };
        tokio::select! {
            () = drain.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What went wrong with a service so far.
#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    /// The event on which it panicked last, and how often.
    blamed: Option<(Lsn, u32)>,
    /// Events that it does not get to see.
    passed_over: BTreeSet<Lsn>,
}

impl Failures {
    /// It panicked, on the event `lsn` if on one, after `uptime`. Answers how long to wait.
    fn panicked(&mut self, lsn: Option<Lsn>, uptime: Duration) -> Duration {
        if uptime > MAX_BACKOFF {
            self.in_a_row = 0;
        }
        self.in_a_row += 1;
        if let Some(lsn) = lsn {
            let before = self.blamed.filter(|(blamed, _)| *blamed == lsn).map_or(0, |(_, n)| n);
            self.blamed = Some((lsn, before + 1));
            if before + 1 >= STRIKES {
                self.passed_over.insert(lsn);
                self.in_a_row = 1;
            }
        }
        let doublings = (self.in_a_row - 1).min(6);
        (Duration::from_secs(1) * 2_u32.pow(doublings)).min(MAX_BACKOFF)
    }
}
