//! `tidegate log inspect`

use std::fmt::{self, Write};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::losses;
use crate::commands::Failure;
use crate::commands::lookup::{self, LogDir, count, size};
use crate::log::{Compression, FrameInfo, SegmentInfo, View, Walked};

/// Shows what the log holds.
#[derive(Debug, clap::Args)]
pub(in crate::commands) struct Options {
    #[command(flatten)]
    log: LogDir,
    /// Show every frame (a group commit) too; reads everything
    #[arg(long)]
    frames: bool,
}

/// Runs the command.
pub(super) fn run(options: &Options) -> Result<String, Failure> {
    let log = options.log.options()?;
    let view = lookup::view(&log)?;
    let mut report = String::new();
    write(&view, &log.dir, options.frames, &mut report)
        .map_err(|error| lookup::unreadable(&error))?;
    Ok(report)
}

fn write(view: &View, dir: &Path, frames: bool, report: &mut String) -> io::Result<()> {
    let usage = view.usage();
    let events = (usage.last + 1).saturating_sub(usage.first);
    let in_use = match lookup::in_use_by(dir) {
        Some(pid) => format!("by process {pid}"),
        None => "no".to_owned(),
    };
    let segments = view.segments();
    let (ledger, unreadable) = view.ledger()?;
    let lost = ledger.iter().fold(0, |sum: u64, loss| sum.saturating_add(loss.count));
    let aside = view.set_aside()?;
    let bytes = aside.iter().map(|(_, bytes)| bytes).sum();
    let mut line = |key: &str, value: fmt::Arguments<'_>| {
        // A String takes everything.
        let _ = writeln!(report, "{key:12} {value}");
    };
    line("log", format_args!("{}", dir.display()));
    line("in use", format_args!("{in_use}"));
    line("epoch", format_args!("{}", view.epoch()));
    let unused = segments.iter().map(|segment| segment.unused).sum();
    line(
        "segments",
        format_args!(
            "{}, {}, {} of that unused",
            count(segments.len() as u64, "file"),
            size(usage.bytes),
            size(unused)
        ),
    );
    match events {
        0 => line("events", format_args!("none; the next one is LSN {}", usage.last + 1)),
        _ => line("events", format_args!("{events}, LSN {} to {}", usage.first, usage.last)),
    }
    match view.begins() {
        Some(lsn) => line("begins", format_args!("at LSN {lsn}")),
        None => line("begins", format_args!("with its oldest segment, as far as is known")),
    }
    line(
        "loss ledger",
        format_args!("{} in {}", count(lost, "event"), count(ledger.len() as u64, "range")),
    );
    line("quarantine", format_args!("{}, {}", count(aside.len() as u64, "file"), size(bytes)));
    table(view, &segments, frames, report)?;
    if !ledger.is_empty() || unreadable > 0 {
        let _ = writeln!(report, "\nloss ledger");
        losses(view, &ledger, report);
        if unreadable > 0 {
            let _ = writeln!(report, "  and {unreadable} that cannot be read");
        }
    }
    if !aside.is_empty() {
        let _ = writeln!(report, "\nquarantine");
    }
    for (path, bytes) in aside {
        let _ = writeln!(report, "  {}  {}", path.display(), size(bytes));
    }
    Ok(())
}

/// A line a segment, and a line a frame. What a segment takes of `log.max-size` is its bytes up to the end of
/// its last frame, and what its file keeps unused behind that.
fn table(
    view: &View,
    segments: &[SegmentInfo],
    frames: bool,
    report: &mut String,
) -> io::Result<()> {
    let _ = writeln!(
        report,
        "\n{:33} {:>10} {:>10} {:>10} {:>10}  first received",
        "segment", "bytes", "unused", "first LSN", "events"
    );
    for (index, segment) in segments.iter().enumerate() {
        let mut first = None;
        let mut lines = String::new();
        let walked = view.walk(index, |walked| {
            if let Walked::Frame(FrameInfo { received: Some((at, _)), .. }) = walked {
                first = first.or(Some(at));
            }
            if frames {
                frame(&walked, &mut lines);
            }
            if frames || first.is_none() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        match walked {
            // Released meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        }
        let name = segment.path.file_name().unwrap_or_default().to_string_lossy();
        let events = segment.lsns.end.saturating_sub(segment.lsns.start);
        let first = first.map(lookup::time).unwrap_or_default();
        let _ = writeln!(
            report,
            "{name:33} {:>10} {:>10} {:>10} {events:>10}  {first}",
            segment.bytes, segment.unused, segment.lsns.start
        );
        report.push_str(&lines);
    }
    Ok(())
}

fn frame(walked: &Walked, lines: &mut String) {
    let _ = match walked {
        Walked::Frame(frame) => {
            let received = frame.received.map(|(first, _)| lookup::time(first)).unwrap_or_default();
            let control = match frame.control {
                0 => String::new(),
                n => format!("  {}", count(u64::from(n), "control record")),
            };
            let compression = match frame.compression {
                Compression::None => "",
                Compression::Lz4 => "  lz4",
                Compression::Deflate => "  deflate",
            };
            writeln!(
                lines,
                "  at {:>28} {:>10} {:>21} {:>10}  {received}{control}{compression}",
                frame.offset, frame.bytes, frame.first, frame.events
            )
        }
        Walked::Damage(damage) => {
            writeln!(lines, "  at {:>28} {:>10} damaged", damage.offset, damage.bytes)
        }
    };
}
