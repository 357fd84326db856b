//! `tidegate check`: says what is wrong with a configuration.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use tidegate_config::{Config, MAX_LEN};

use super::failure::Failure;

/// Checks a configuration and changes nothing.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The configuration
    #[arg(long, short, default_value = "/etc/tidegate/tidegate.toml")]
    pub config: PathBuf,
}

/// Reads a configuration; `run` and `check` refuse the same things.
///
/// # Errors
/// [`Failure::EX_NOINPUT`] if the file cannot be read, [`Failure::EX_CONFIG`] with a line for each
/// problem in it.
pub fn load(path: &Path) -> Result<Config, Failure> {
    let file = path.display().to_string();
    let bytes = read_bounded(path).map_err(|error| Failure::unreadable(&file, &error))?;
    if bytes.len() > MAX_LEN {
        let message = format!("{file}: not a configuration: larger than {MAX_LEN} bytes");
        return Err(Failure::new(Failure::EX_CONFIG, message));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Failure::new(Failure::EX_CONFIG, format!("{file}:{line}: not TOML: not UTF-8 text"))
    })?;
    Config::from_toml(&text, &file)
        .map_err(|problems| Failure::new(Failure::EX_CONFIG, problems.to_string()))
}

/// Reads one byte more than a configuration may have at most: enough to find it too large.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs the command: the report for standard output.
///
/// # Errors
/// Those of [`load`].
pub fn run(options: &Options) -> Result<String, Failure> {
    let config = load(&options.config)?;
    let file = options.config.display();
    let mut report = String::new();
    for warning in config.warnings() {
        report.push_str(&format!("{file}: warning: {warning}\n"));
    }
    let count = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    report.push_str(&format!(
        "{file}: ok: {}, {}, {}\n",
        count(config.listeners.len(), "listener"),
        count(config.sinks.len(), "sink"),
        count(config.alerts.len(), "alert")
    ));
    Ok(report)
}
