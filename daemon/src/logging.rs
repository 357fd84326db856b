//! What the daemon says about itself: to journald with fields, or as lines on standard error.

use std::io::IsTerminal;

use tidegate_config::{LogFormat, LogLevel, LogOutput};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Overrides the config's level, in the syntax of `tracing_subscriber::EnvFilter`.
const LEVEL_VARIABLE: &str = "TIDEGATE_LOG";

/// What `auto` means without a journal: `json`, or else text. An image has its own default by it, whatever
/// config is mounted there.
const FORMAT_VARIABLE: &str = "TIDEGATE_LOG_FORMAT";

/// Starts logging. journald is used where the config asks for it, or where it says `auto` and
/// systemd connected standard error to the journal; where it cannot be reached, text is.
///
/// # Errors
/// When logging was started before in this process.
pub fn start(output: &LogOutput) -> Result<(), TryInitError> {
    let level = match output.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var(LEVEL_VARIABLE)
        .from_env_lossy()
        // Its one line a tree at start says nothing that an operator could use.
        .add_directive(directive("sled=warn"))
        .add_directive(directive("hyper_util=warn"));
    let registry = tracing_subscriber::registry().with(filter);
    let journald = match output.format {
        LogFormat::Journald => true,
        LogFormat::Auto => std::env::var_os("JOURNAL_STREAM").is_some(),
        LogFormat::Text | LogFormat::Json => false,
    };
    if journald && let Ok(layer) = tracing_journald::layer() {
        return registry.with(layer.with_field_prefix(None)).try_init();
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let json = match output.format {
        LogFormat::Auto => std::env::var_os(FORMAT_VARIABLE).is_some_and(|format| format == "json"),
        format => format == LogFormat::Json,
    };
    if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()
    }
}

fn directive(text: &'static str) -> tracing_subscriber::filter::Directive {
    text.parse().unwrap_or_else(|_| LevelFilter::WARN.into())
}
