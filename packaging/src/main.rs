//! `tidegate-reference DIRECTORY`: writes there the man pages and the shell completions of `tidegate`,
//! from the same definition that its command line is read by.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use tidegate::commands::Cli;

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        return complain("usage: tidegate-reference DIRECTORY");
    };
    match write(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("{}: {error}", directory.display())),
    }
}

fn complain(what: &str) -> ExitCode {
    // With standard error closed there is nobody left to tell.
    let _ = io::Write::write_all(&mut io::stderr(), format!("{what}\n").as_bytes());
    ExitCode::FAILURE
}

fn write(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    // One page a command: tidegate.1, tidegate-run.1, and so on.
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), directory)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut Cli::command(), "tidegate", directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_knows_it() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let command = Cli::command();
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert!(names.contains(&"run") && names.contains(&"check"), "{names:?}");
        for name in names {
            assert!(read("tidegate.1").contains(&format!("tidegate\\-{name}(1)")), "{name}");
            assert!(read(&format!("tidegate-{name}.1")).contains(".SH SYNOPSIS"), "{name}");
            for completion in ["tidegate.bash", "_tidegate", "tidegate.fish"] {
                assert!(read(completion).contains(name), "{name} in {completion}");
            }
        }
    }
}
