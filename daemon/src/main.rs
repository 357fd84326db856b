//! The `tidegate` command.

use std::process::ExitCode;

use clap::Parser;
use tidegate::commands::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
