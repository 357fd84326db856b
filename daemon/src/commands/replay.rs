//! `tidegate replay`: sends events of the log to a sink again.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use tidegate_event::{Filter, Lsn};

use super::lookup::{self, Point, count};
use super::signals::Stop;
use super::{ConfigFile, Failure, check};
use crate::forward;
use crate::forward::replay::Replay;
use crate::gateway::log_options;
use crate::log::{Chunk, Read, View};

/// Bytes of the log in memory.
const CHUNK: usize = 256 << 10;

/// Sends events that are still in the log to a sink again.
///
/// They have the ids they had before, so a receiver that knows an event tells it from a new one. The
/// sink's cursor does not move, and the gateway may run meanwhile. Of the events that every sink has,
/// the log keeps what `log.retain` says.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// The name of the sink in the config file
    #[arg(long, value_name = "NAME")]
    sink: String,
    /// Begin here: an LSN (4711), a time (2026-11-21T08:30:00Z), or how long ago (10m)
    #[arg(long, value_name = "LSN|TIME")]
    from: Point,
    /// The last LSN, or the last time, that is sent; if not given, the newest event there is now
    #[arg(long, value_name = "LSN|TIME")]
    to: Option<Point>,
    /// Only events whose topic matches; may be given more than once
    #[arg(long, value_name = "FILTER", value_parser = lookup::filter)]
    topic: Vec<Filter>,
    /// Count the events, and send none
    #[arg(long)]
    dry_run: bool,
}

/// What is to be sent.
struct Range<'o> {
    from: Point,
    to: Option<Point>,
    topics: &'o [Filter],
    /// No event from here on.
    end: Lsn,
}

/// Runs the command.
pub(super) fn run(options: &Options) -> Result<String, Failure> {
    let (config, _) = check::parse(&options.file.config)?;
    let Some(sink) = config.sinks.iter().find(|sink| sink.name == options.sink) else {
        let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        let message = format!(
            "{}: no sink {:?}; there is {}",
            options.file.config.display(),
            options.sink,
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        );
        return Err(Failure::new(Failure::EX_USAGE, message));
    };
    let view = lookup::view(&log_options(&config))?;
    let end = view.usage().last + 1;
    let end = match options.to {
        None => end,
        Some(Point::Lsn(last)) => end.min(last.saturating_add(1)),
        Some(Point::Time(time)) => view.until(time).map_err(|error| lookup::unreadable(&error))?,
    };
    let range = Range { from: options.from, to: options.to, topics: &options.topic, end };
    let mut replay = Replay::new(sink, forward::encoder(&config), tell)
        .map_err(|error| Failure::new(Failure::EX_CONFIG, error.to_string()))?;
    if options.dry_run {
        let mut events = 0;
        let lost = super::runtime()?.block_on(send(&view, &range, async |event| {
            events += u64::from(replay.wants(event.topic));
            Ok(())
        }))?;
        return Ok(format!("{} would be sent to {}\n{lost}", count(events, "event"), sink.name));
    }
    let lost = super::runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let sending = async {
            let lost = send(&view, &range, async |event| {
                if !replay.wants(event.topic) {
                    return Ok(());
                }
                let pushed = replay.push(event).await;
                pushed.map_err(|error| misconfigured(&sink.name, &error))
            })
            .await?;
            replay.flush().await.map_err(|error| misconfigured(&sink.name, &error))?;
            Ok(lost)
        };
        tokio::select! {
            lost = sending => lost.map(Some),
            _ = stop.requested() => Ok(None),
        }
    })?;
    report(&replay, &sink.name, options, lost)
}

fn misconfigured(sink: &str, error: &forward::replay::Misconfigured) -> Failure {
    Failure::new(Failure::EX_CONFIG, format!("{sink}: {error}"))
}

/// Hands over the events of the range in order. Answers what cannot be read, a line each.
async fn send(
    view: &View,
    range: &Range<'_>,
    mut hand_over: impl AsyncFnMut(&tidegate_event::EventRef<'_>) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let mut reader = view.reader(range.from.since(view)?);
    let mut chunk = Chunk::default();
    let mut lost = String::new();
    while reader.position() < range.end {
        let read = reader
            .read(&mut chunk, CHUNK)
            .map_err(|error| Failure::new(Failure::EX_IOERR, error.to_string()))?;
        match read {
            Read::Tail => break,
            Read::Lost(lsns) => {
                let last = (*lsns.end()).min(range.end - 1);
                // A String takes everything.
                let _ = writeln!(lost, "LSN {} to {last} cannot be read", lsns.start());
            }
            Read::Frames => {
                for event in chunk.frames().flat_map(|frame| frame.events().map_while(Result::ok)) {
                    let (lsn, received) = (event.lsn(), event.received.unix_micros());
                    let late = range.to.is_some_and(|to| to.excludes_after(lsn, received));
                    if lsn < range.end
                        && !late
                        && !range.from.excludes_before(lsn, received)
                        && lookup::wants(range.topics, event.topic)
                    {
                        hand_over(&event).await?;
                    }
                }
            }
        }
    }
    Ok(lost)
}

fn report(
    replay: &Replay,
    sink: &str,
    options: &Options,
    lost: Option<String>,
) -> Result<String, Failure> {
    let (refused, reasons) = replay.refused();
    let mut report = format!("{} sent to {sink}\n", count(replay.delivered(), "event"));
    let Some(lost) = lost else {
        let next = match replay.next() {
            0 => "from the same place".to_owned(),
            next => format!("with --from {next}"),
        };
        let _ = write!(report, "stopped before the end; go on {next}");
        return Err(Failure::new(Failure::EX_TEMPFAIL, report));
    };
    report.push_str(&lost);
    if replay.delivered() == 0 && refused == 0 {
        let _ = writeln!(
            report,
            "no event from there on{} matches",
            match options.to {
                Some(_) => " to there",
                None => "",
            }
        );
    }
    if refused == 0 {
        return Ok(report);
    }
    let _ = writeln!(report, "{} that {sink} does not take:", count(refused, "event"));
    for (lsn, reason) in reasons {
        let _ = writeln!(report, "  LSN {lsn}: {reason}");
    }
    Err(Failure::new(Failure::EX_DATAERR, report.trim_end()))
}

/// On standard error; with that closed there is nobody left to tell.
fn tell(trouble: &str) {
    let _ = writeln!(io::stderr(), "tidegate: {trouble}; trying again, Ctrl-C ends it");
}
