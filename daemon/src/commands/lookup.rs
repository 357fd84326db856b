//! What the commands share that look at a log: where it is, and from where to where.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tidegate_config::{Config, Span};
use tidegate_event::time::write_rfc3339;
use tidegate_event::{Filter, Lsn};

use super::Failure;
use super::check;
use super::timestamp;
use crate::clock::unix_micros;
use crate::gateway::log_options;
use crate::log::{OpenError, Options, View};

/// Which log.
#[derive(Debug, clap::Args)]
pub(super) struct LogDir {
    /// The config file that names the data directory
    #[arg(long, short, value_name = "FILE", default_value = "/etc/tidegate/tidegate.toml")]
    config: PathBuf,
    /// The log's directory, instead of the one that the config file leads to
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl LogDir {
    /// How the log is kept.
    pub(super) fn options(&self) -> Result<Options, Failure> {
        match &self.dir {
            Some(dir) => Ok(Options { dir: dir.clone(), ..Options::default() }),
            None => Ok(log_options(&self.parse()?)),
        }
    }

    /// The configuration.
    pub(super) fn parse(&self) -> Result<Config, Failure> {
        check::parse(&self.config).map(|(config, _)| config)
    }
}

/// Looks at the log that is kept like this.
pub(super) fn view(options: &Options) -> Result<View, Failure> {
    let view = View::open(options).map_err(|error| refused(&error))?;
    if view.segments().is_empty() {
        return Err(nothing(&options.dir));
    }
    Ok(view)
}

fn nothing(dir: &Path) -> Failure {
    let dir = dir.display();
    Failure::new(
        Failure::EX_NOINPUT,
        format!("{dir}: no log there; the gateway makes it when it first starts"),
    )
}

/// Why a log cannot be opened, as an exit status.
pub(super) fn refused(error: &OpenError) -> Failure {
    match error {
        OpenError::Io { source, path, action: "list" }
            if source.kind() == io::ErrorKind::NotFound =>
        {
            nothing(path)
        }
        OpenError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            let hint = "run this as root, or as the user that the gateway runs as";
            Failure::new(Failure::EX_NOPERM, format!("{error}; {hint}"))
        }
        OpenError::Io { .. } => Failure::new(Failure::EX_IOERR, error.to_string()),
        OpenError::Locked { .. } | OpenError::Held { .. } | OpenError::Newer { .. } => {
            Failure::new(Failure::EX_UNAVAILABLE, error.to_string())
        }
    }
}

/// The process that has the log in `dir` open, as far as the kernel tells (`/proc/locks`): asking with
/// a lock of our own could keep a gateway from starting.
pub(super) fn in_use_by(dir: &Path) -> Option<u32> {
    let inode = fs::metadata(dir.join("lock")).ok()?.ino().to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks
        .lines()
        .find_map(|line| {
            // 1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields[..] else { return None };
            (file.rsplit(':').next() == Some(inode.as_str())).then(|| pid.parse().ok())?
        })
        // Where segments lie in databases, whoever looks has it.
        .filter(|pid| *pid != std::process::id())
}

/// A place in the log, as an operator names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// An event's LSN.
    Lsn(Lsn),
    /// A time, in microseconds since 1970.
    Time(i64),
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(lsn) = text.parse()
        {
            return Ok(Self::Lsn(lsn));
        }
        if let Some(time) = timestamp::parse(text) {
            return Ok(Self::Time(time));
        }
        match text.parse::<Span>() {
            Ok(ago) => {
                let micros = i64::try_from(ago.0.as_micros()).unwrap_or(i64::MAX);
                Ok(Self::Time(unix_micros().saturating_sub(micros)))
            }
            Err(_) => {
                Err("expected an LSN (4711), a time (2026-11-21T08:30:00Z), or how long ago \
                           (10m)"
                    .to_owned())
            }
        }
    }
}

impl Point {
    /// Where to begin reading so that nothing behind this place is missed.
    pub(super) fn since(self, view: &View) -> Result<Lsn, Failure> {
        match self {
            Self::Lsn(lsn) => Ok(lsn),
            Self::Time(time) => view.since(time).map_err(|error| unreadable(&error)),
        }
    }

    /// As the last one that is wanted: whether it leaves out this event.
    pub(super) fn excludes_after(self, lsn: Lsn, received: i64) -> bool {
        match self {
            Self::Lsn(to) => lsn > to,
            Self::Time(to) => received > to,
        }
    }

    /// As the first one that is wanted: whether it leaves out this event.
    pub(super) fn excludes_before(self, lsn: Lsn, received: i64) -> bool {
        match self {
            Self::Lsn(from) => lsn < from,
            Self::Time(from) => received < from,
        }
    }
}

/// A log that cannot be read.
pub(super) fn unreadable(error: &io::Error) -> Failure {
    Failure::unreadable("cannot read the log", error)
}

/// A time as text.
pub(super) fn time(unix_micros: i64) -> String {
    let mut text = Vec::new();
    write_rfc3339(unix_micros, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The events that `--topic` asks for: all, if it asks for none.
pub(super) fn wants(filters: &[Filter], topic: &str) -> bool {
    filters.is_empty() || filters.iter().any(|filter| filter.matches(topic))
}

/// A topic filter of the command line.
pub(super) fn filter(text: &str) -> Result<Filter, String> {
    Filter::new(text).map_err(|error| error.to_string())
}

/// `1 event`, `2 events`.
pub(super) fn count(n: u64, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_lsn_a_time_or_how_long_ago() {
        assert_eq!("4711".parse(), Ok(Point::Lsn(4711)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Point::Time(1_000_000)));
        assert_eq!("2012-02-29".parse(), Ok(Point::Time(1_330_473_600_000_000)));
        let Ok(Point::Time(time)) = "10m".parse() else { panic!("no time") };
        let ago = unix_micros() - time;
        assert!((600_000_000..700_000_000).contains(&ago), "{ago}");
        for wrong in ["", "yesterday", "-5", "99999999999999999999", "2026-13-01"] {
            let parsed: Result<Point, String> = wrong.parse();
            assert!(parsed.unwrap_err().contains("expected an LSN"), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_at_a_glance() {
        assert_eq!([size(0), size(9_999)], ["0 B", "9999 B"]);
        assert_eq!([size(10_240), size(100 << 20)], ["10.0 KiB", "100.0 MiB"]);
        assert_eq!([count(1, "event"), count(2, "event")], ["1 event", "2 events"]);
    }
}
