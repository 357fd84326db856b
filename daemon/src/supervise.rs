//! Who owns the tasks. Every task has a name and a meaning when it ends; nothing else spawns one.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

/// What a task's end means to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The daemon is nothing without it: its end before the drain, or a panic in it, stops the daemon
    /// in order, with a failure.
    Critical,
    /// It serves one peer: its end is ordinary, and a panic in it stays there.
    Ordinary,
}

/// Spawns tasks and waits for them. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Supervisor {
    tracker: TaskTracker,
    drain: CancellationToken,
    failure: Arc<Mutex<Option<String>>>,
}

impl Supervisor {
    /// A supervisor with no tasks.
    pub fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            drain: CancellationToken::new(),
            failure: Arc::default(),
        }
    }

    /// Runs `task` under `name`.
    pub fn spawn<F>(&self, name: impl Into<String>, role: Role, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let this = self.clone();
        self.tracker.spawn(async move {
            let panicked = CatchUnwind(Box::pin(task)).await.is_err();
            match role {
                Role::Critical if panicked => this.fail(format!("task {name} panicked")),
                Role::Critical if !this.drain.is_cancelled() => {
                    this.fail(format!("task {name} ended"));
                }
                Role::Ordinary if panicked => error!(task = name, "task panicked"),
                _ => debug!(task = name, "task ended"),
            }
        });
    }

    /// Stops the daemon in order because of `why`; the first reason counts.
    pub fn fail(&self, why: String) {
        error!("stopping: {why}");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.drain.cancel();
    }

    /// Asks every task to finish.
    pub fn begin_drain(&self) {
        self.drain.cancel();
    }

    /// Cancelled when tasks are to finish what they hold and end.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// Waits until every task has ended.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Why the daemon stops, where it was not asked to.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

/// Polls a future and turns a panic in it into an error. The future is dropped afterwards.
struct CatchUnwind(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for CatchUnwind {
    type Output = std::thread::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let poll = AssertUnwindSafe(|| self.0.as_mut().poll(context));
        match std::panic::catch_unwind(poll) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_ordinary_panic_stays_where_it_is() {
        let supervisor = Supervisor::new();
        supervisor.spawn("peer", Role::Ordinary, async { panic!("bad packet") });
        supervisor.ended().await;
        assert!(!supervisor.drain().is_cancelled());
        assert_eq!(supervisor.failure(), None);
    }

    #[tokio::test]
    async fn a_critical_end_stops_the_daemon_with_a_failure() {
        let supervisor = Supervisor::new();
        supervisor.spawn("bus", Role::Critical, async { panic!("bug") });
        supervisor.drain().cancelled().await;
        assert_eq!(supervisor.failure().as_deref(), Some("task bus panicked"));
        supervisor.ended().await;
    }

    #[tokio::test]
    async fn a_critical_end_during_the_drain_is_ordinary() {
        let supervisor = Supervisor::new();
        let drain = supervisor.drain().clone();
        supervisor.spawn("bus", Role::Critical, async move { drain.cancelled().await });
        supervisor.begin_drain();
        supervisor.ended().await;
        assert_eq!(supervisor.failure(), None);
    }
}
