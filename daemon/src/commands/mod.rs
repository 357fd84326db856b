//! One file a command of `tidegate`.

pub mod check;
mod demo;
mod descriptors;
pub mod failure;
mod log;
mod lookup;
mod passwd;
mod receiver;
mod replay;
mod run;
mod signals;
pub mod simulate;
mod status;
mod tail;
mod timestamp;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tidegate_config::LogOutput;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub use failure::Failure;

/// Edge event gateway: takes events over MQTT, has them on disk before it acknowledges them, watches
/// them for alerts, and forwards them to a cloud event bus.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Run(ConfigFile),
    /// Check a config file, and say what is wrong with it
    Check(ConfigFile),
    /// Ask a running gateway how it stands; for health checks too
    ///
    /// Asks at the [admin] address of the config. Exit status: 0 where the gateway does its work; 1 where
    /// it does not, and says why: the log or the disk takes no events, or a part stands still; 69 where it
    /// does not answer. A sink that cannot be reached is shown, and makes nobody unhealthy: its events
    /// wait on disk.
    Status(status::Options),
    /// Set a user's password in a password file, or remove the user
    Passwd(passwd::Options),
    /// Show the whole path on this machine: simulated sensors, gateway, alert, receiver
    Demo(demo::Options),
    /// Publish what devices would, or what was recorded; Ctrl-C ends it in order
    Simulate(Box<simulate::Options>),
    /// Show events as they come, and those before; the gateway may run
    Tail(tail::Options),
    /// Send events to a sink again, under the same ids; the gateway may run
    Replay(replay::Options),
    /// Look into the log: what it holds, what is damaged, what is lost
    #[command(subcommand)]
    Log(log::Command),
    /// Run the small upstream that comes with tidegate: takes CloudEvents, keeps and shows them
    Receiver(receiver::Options),
}

// No doc comment: it would be the description of every command that has it.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The config file
    #[arg(long, short, value_name = "FILE", default_value = "/etc/tidegate/tidegate.toml")]
    config: PathBuf,
}

impl Cli {
    /// Runs the command to its end.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Run(file) => run::run(&file.config),
            Command::Check(file) => check::run(&file.config).map(|report| print(&report)),
            Command::Status(options) => {
                let (report, outcome) = status::run(&options);
                print(&report);
                outcome
            }
            Command::Passwd(options) => passwd::run(&options),
            Command::Demo(options) => demo::run(&options),
            Command::Simulate(options) => simulate::run(*options).map(|report| print(&report)),
            Command::Tail(options) => tail::run(&options),
            Command::Replay(options) => replay::run(&options).map(|report| print(&report)),
            Command::Log(command) => command.run().map(|report| print(&report)),
            Command::Receiver(options) => receiver::run(&options),
        }
    }
}

/// Nobody has to read it.
fn print(report: &str) {
    let _ = io::stdout().write_all(report.as_bytes());
}

/// The runtime that everything but the logs' writer threads runs on.
fn runtime() -> Result<Runtime, Failure> {
    Runtime::new().map_err(|error| Failure::system("cannot start the runtime", &error))
}

fn start_logging(output: &LogOutput) -> Result<(), Failure> {
    crate::logging::start(output).map_err(|error| {
        Failure::new(Failure::EX_SOFTWARE, format!("cannot start logging: {error}"))
    })
}

/// Binds the address of `what`.
async fn bind(what: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| Failure::bind(what, address, &error))
}

fn local_address(address: io::Result<SocketAddr>) -> Result<SocketAddr, Failure> {
    address.map_err(|error| Failure::system("cannot tell the address of a socket", &error))
}

/// How a command ends whose tasks ended for this reason, if any.
fn outcome(failure: Option<String>) -> Result<(), Failure> {
    match failure {
        Some(why) => Err(Failure::new(Failure::EX_SOFTWARE, format!("stopped: {why}"))),
        None => Ok(()),
    }
}
