//! The `tidegate` command.

use std::process::ExitCode;

use clap::Parser;
use tidegate::commands::{Cli, Failure};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come here too; only what is wrong goes to standard error.
            let _ = error.print();
            let wrong = error.use_stderr();
            return if wrong { Failure::EX_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
