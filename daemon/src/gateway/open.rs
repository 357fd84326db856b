//! Opens the log and the state, which have to agree.

use std::io;
use std::sync::Arc;

use tidegate_config::{Config, Gateway as GatewayConfig, LogCompression, LogEngine};
use tidegate_event::Lane;
use tracing::{info, warn};

use super::lanes;
use crate::commands::Failure;
use crate::log::{self, Claim, Compression, Engine, Log, OpenError};
use crate::state::{Opened, State, StateError};

/// How the log is kept.
pub(crate) fn log_options(config: &Config) -> log::Options {
    log::Options {
        dir: config.gateway.data_dir.join("log"),
        lane: Lane(0),
        lanes: lanes::options(config),
        max_size: config.log.max_size.0,
        segment_size: config.log.segment_size.0,
        max_quarantine: config.log.max_quarantine.0,
        max_ledger: config.log.max_ledger.0,
        compression: match config.log.compression {
            LogCompression::None => Compression::None,
            LogCompression::Lz4 => Compression::Lz4,
            LogCompression::Deflate => Compression::Deflate,
        },
        daily_write_budget: config.log.daily_write_budget.map(|budget| budget.0),
        max_stretch: config.log.commit.max_stretch.0,
        max_delay: config.log.commit.max_delay.0,
        max_bytes: config.log.commit.max_bytes.as_usize(),
    }
}

/// The state says which events of the log are known; and the log, which events the state is about.
pub(super) fn log_and_state(config: &Config) -> Result<(Arc<Log>, State), Failure> {
    let options = log_options(config);
    let engine = match config.log.engine {
        LogEngine::Log => Engine::Log,
        LogEngine::Sled => Engine::Sled,
    };
    let claim =
        Claim::new(engine.storage(&options.dir), options).map_err(|error| log_refused(&error))?;
    let state = open_state(&config.gateway)?;
    let known = state.known().map_err(|error| state_refused(&error))?;
    let (log, recovery) = claim.open(known).map_err(|error| log_refused(&error))?;
    for lost in &recovery.quarantined {
        let (first, last) = (lost.start(), lost.end());
        warn!(first, last, "events are damaged or missing; they are entered in the loss ledger");
    }
    if recovery.control_lost > 0 {
        let places = recovery.control_lost;
        warn!(places, "control records are damaged: sessions may have changed since");
    }
    state.bind(log.id(1).epoch).map_err(|error| state_refused(&error))?;
    let sinks = &config.sinks;
    let is_sink = |name: &str| sinks.iter().any(|sink| sink.name == name);
    state.cursors().retain(is_sink).map_err(|error| state_refused(&error))?;
    Ok((log, state))
}

fn log_refused(error: &OpenError) -> Failure {
    let code = match error {
        OpenError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::EX_NOPERM
        }
        OpenError::Io { .. } => Failure::EX_CANTCREAT,
        OpenError::Locked { .. } | OpenError::Held { .. } | OpenError::Newer { .. } => {
            Failure::EX_UNAVAILABLE
        }
    };
    Failure::new(code, error.to_string())
}

fn state_refused(error: &StateError) -> Failure {
    Failure::new(Failure::EX_CANTCREAT, error.to_string())
}

fn open_state(config: &GatewayConfig) -> Result<State, Failure> {
    let (state, opened) =
        State::open(&config.data_dir.join("state")).map_err(|error| state_refused(&error))?;
    match opened {
        Opened::Fine => {}
        Opened::Rebuilt => info!("the state is rebuilt from its checkpoint and the log"),
        Opened::InMemory => warn!("the disk takes no state database; state stays in memory"),
    }
    Ok(state)
}
