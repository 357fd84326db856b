//! `tidegate tail`: shows the events of the log as they come.

use std::io::{self, BufWriter, StdoutLock, Write};

use tidegate_event::cloudevents::Encoder;
use tidegate_event::{EventRef, Filter};

use super::Failure;
use super::lookup::{self, LogDir, Point};
use crate::forward;
use crate::log::{Chunk, Read, Reader, View, Watch};

/// Bytes of the log in memory.
const CHUNK: usize = 256 << 10;
/// Events before the end that are shown without `--from`.
const LAST: u64 = 10;

/// Shows events as they come.
///
/// A line an event: LSN, time of receipt, topic, payload. It reads the log as it is on disk, so the
/// gateway may run or not; what it shows may be one commit ahead of the disk. Ctrl-C ends it.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    log: LogDir,
    /// Only events whose topic matches; may be given more than once
    #[arg(long, value_name = "FILTER", value_parser = lookup::filter)]
    topic: Vec<Filter>,
    /// Begin here: an LSN (4711), a time (2026-11-21T08:30:00Z), or how long ago (10m); if not given,
    /// with the last 10 events
    #[arg(long, value_name = "LSN|TIME")]
    from: Option<Point>,
    /// CloudEvents in JSON, one a line, as the sinks get them
    #[arg(long)]
    json: bool,
    /// End at the log's end, instead of waiting for more
    #[arg(long)]
    no_follow: bool,
}

/// Runs the command.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let log = options.log.options()?;
    let dir = &log.dir;
    let encoder = match options.json {
        true => Some(forward::encoder(&options.log.parse()?)),
        false => None,
    };
    // From before the first look on, so that nothing falls between.
    let watch = match options.no_follow {
        true => None,
        false => Some(Watch::new(dir).map_err(|error| {
            Failure::unreadable(format_args!("cannot watch {}", dir.display()), &error)
        })?),
    };
    let mut view = lookup::view(&log)?;
    if view.is_exclusive() && !options.no_follow {
        let dir = dir.display();
        return Err(Failure::new(
            Failure::EX_UNAVAILABLE,
            format!(
                "{dir}: with engine = \"sled\" nobody can follow the log: the gateway could not start \
                 meanwhile; add --no-follow"
            ),
        ));
    }
    let from = options.from.unwrap_or(Point::Lsn(view.usage().last.saturating_sub(LAST - 1)));
    let mut show = Show {
        topics: &options.topic,
        from,
        encoder,
        line: Vec::new(),
        out: BufWriter::new(io::stdout().lock()),
    };
    let reader = view.reader(from.since(&view)?);
    let shown = follow(&mut view, watch.as_ref(), reader, &mut show);
    match shown {
        // Who reads it has seen enough.
        Err(Trouble::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(Trouble::Output(error)) => Err(Failure::unreadable("cannot write the events", &error)),
        Err(Trouble::Log(failure)) => Err(failure),
        Ok(()) => Ok(()),
    }
}

/// Why it ends early.
enum Trouble {
    Log(Failure),
    Output(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn follow(
    view: &mut View,
    watch: Option<&Watch>,
    mut reader: Reader,
    show: &mut Show<'_>,
) -> Result<(), Trouble> {
    let unreadable = |error: io::Error| Trouble::Log(lookup::unreadable(&error));
    let mut chunk = Chunk::default();
    loop {
        drain(&mut reader, &mut chunk, show)?;
        let Some(watch) = watch else { return Ok(show.out.flush()?) };
        if !view.follow().map_err(unreadable)? {
            show.out.flush()?;
            watch.wait().map_err(unreadable)?;
        }
    }
}

/// Shows what there is.
fn drain(reader: &mut Reader, chunk: &mut Chunk, show: &mut Show<'_>) -> Result<(), Trouble> {
    loop {
        let read = reader
            .read(chunk, CHUNK)
            .map_err(|error| Trouble::Log(Failure::new(Failure::EX_IOERR, error.to_string())))?;
        match read {
            Read::Tail => return Ok(()),
            Read::Lost(lsns) => {
                // With standard error closed there is nobody left to tell.
                let _ = writeln!(
                    io::stderr(),
                    "tidegate: LSN {} to {} cannot be read: removed, or damaged (tidegate log verify)",
                    lsns.start(),
                    lsns.end()
                );
            }
            Read::Frames => {
                for frame in chunk.frames() {
                    // What makes no sense behind a right checksum, `tidegate log verify` tells.
                    for event in frame.events().map_while(Result::ok) {
                        show.event(&event)?;
                    }
                }
            }
        }
    }
}

/// How events are shown.
struct Show<'o> {
    topics: &'o [Filter],
    from: Point,
    encoder: Option<Encoder>,
    line: Vec<u8>,
    out: BufWriter<StdoutLock<'static>>,
}

impl Show<'_> {
    fn event(&mut self, event: &EventRef<'_>) -> io::Result<()> {
        let received = event.received.unix_micros();
        if self.from.excludes_before(event.lsn(), received)
            || !lookup::wants(self.topics, event.topic)
        {
            return Ok(());
        }
        self.line.clear();
        match &self.encoder {
            Some(encoder) => encoder.write_json(event, &mut self.line),
            None => write_text(event, received, &mut self.line),
        }
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }
}

fn write_text(event: &EventRef<'_>, received: i64, line: &mut Vec<u8>) {
    line.extend_from_slice(event.lsn().to_string().as_bytes());
    line.push(b' ');
    tidegate_event::time::write_rfc3339(received, line);
    line.push(b' ');
    write_visible(event.topic, line);
    line.push(b' ');
    match std::str::from_utf8(event.payload) {
        Ok(text) => write_visible(text, line),
        Err(_) => line.extend_from_slice(format!("({} bytes)", event.payload.len()).as_bytes()),
    }
}

/// Without what a terminal would obey: the text is a sensor's.
fn write_visible(text: &str, line: &mut Vec<u8>) {
    for part in text.split_inclusive(char::is_control) {
        let visible = part.trim_end_matches(char::is_control);
        line.extend_from_slice(visible.as_bytes());
        let control = part[visible.len()..].escape_default();
        control.for_each(|escaped| line.extend(escaped.to_string().bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        let mut line = Vec::new();
        write_visible("a\u{1b}[2J\r\nä\u{9b}\u{7f}", &mut line);
        assert_eq!(String::from_utf8(line).unwrap(), "a\\u{1b}[2J\\r\\nä\\u{9b}\\u{7f}");
    }
}
