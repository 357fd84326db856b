//! `tidegate run`: the gateway, until it is told to stop.

use std::io::Write;
use std::path::Path;

use tracing::{error, info};

use super::Failure;
use super::check;
use super::descriptors;
use super::signals::{Reload, Stop};
use crate::gateway::Gateway;
use crate::notify::{Service, Sockets};

pub(super) fn run(config_file: &Path) -> Result<(), Failure> {
    let config = check::load(config_file)?;
    super::start_logging(&config.log_output)?;
    descriptors::raise(config.limits.max_connections);
    // Before there are threads: it changes the environment.
    let sockets = Sockets::from_environment()
        .map_err(|problem| Failure::new(Failure::EX_CONFIG, problem.to_string()))?;
    let mut service = Service::from_environment();
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(async {
        let mut stop = Stop::listen()?;
        let mut reload = Reload::listen()?;
        let gateway = Gateway::start(&config, sockets).await?;
        announce(&gateway);
        service.ready(&gateway.status());
        loop {
            tokio::select! {
                signal = stop.requested() => {
                    info!("{signal}: stopping");
                    break;
                }
                () = reload.requested() => {
                    info!("SIGHUP: reading certificates, logins and rights again");
                    service.reloading();
                    gateway.reload();
                    match check::load(config_file) {
                        Ok(config) => gateway.reload_access(&config),
                        Err(why) => error!("logins and rights stay as they were: {why}"),
                    }
                    service.ready(&gateway.status());
                }
                () = gateway.failed() => break,
                () = service.attend(&gateway) => {}
            }
        }
        service.stopping();
        let left = stop.unless_again(gateway.drain()).await;
        info!("stopped; {left}");
        super::outcome(left.failure)
    });
    // What ended late may hang in the disk.
    runtime.shutdown_background();
    outcome
}

/// One line an address, then `ready`, on standard output, for whoever started it. Nobody has to read
/// it.
fn announce(gateway: &Gateway) {
    let mut lines = String::new();
    for (what, address) in gateway.addresses() {
        lines.push_str(&format!("listening {what} {address}\n"));
    }
    lines.push_str("ready\n");
    let _ = std::io::stdout().write_all(lines.as_bytes());
}
