//! `tidegate receiver`: the small upstream.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_config::{ByteSize, LogOutput};
use tracing::info;

use super::Failure;
use super::signals::Stop;
use crate::log::FileSystem;
use crate::receiver::{self, Receiver};
use crate::supervise::{Role, Supervisor};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    bind: SocketAddr,
    /// Where the events are kept
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Bytes on disk; the oldest events make room for new ones
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    max_size: ByteSize,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    super::start_logging(&LogOutput::default())?;
    super::runtime()?.block_on(serve(options))
}

async fn serve(options: &Options) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let listener = super::bind("receiver", options.bind).await?;
    let supervisor = Supervisor::new();
    let kept =
        receiver::Options { data_dir: options.data_dir.clone(), max_size: options.max_size.0 };
    let receiver = Receiver::open(Arc::new(FileSystem), kept, &supervisor).map_err(|error| {
        Failure::new(Failure::EX_CANTCREAT, format!("cannot open the receiver: {error}"))
    })?;
    let address = super::local_address(listener.local_addr())?;
    // Nobody has to read it.
    let _ = std::io::stdout().write_all(format!("listening http {address}\n").as_bytes());
    let drain = supervisor.drain().clone();
    supervisor.spawn("receiver", Role::Critical, receiver.serve(listener, drain.clone()));
    tokio::select! {
        signal = stop.requested() => {
            info!("{signal}: stopping");
            supervisor.begin_drain();
        }
        () = drain.cancelled() => {}
    }
    stop.unless_again(supervisor.ended()).await;
    super::outcome(supervisor.failure())
}
