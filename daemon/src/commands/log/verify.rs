//! `tidegate log verify`

use std::fmt::Write;
use std::io;
use std::ops::{ControlFlow, RangeInclusive};

use tidegate_event::Lsn;

use super::lsns;
use crate::commands::Failure;
use crate::commands::lookup::{self, count, size};
use crate::log::{Loss, Options, View, Walked};

/// What reading everything came to.
#[derive(Debug, Default)]
struct Found {
    frames: u64,
    events: u64,
    control: u64,
    bytes: u64,
    /// Segments that the gateway released while they were to be read.
    released: u64,
    /// A line for each damaged place that the loss ledger does not have,
    damage: Vec<String>,
    /// and for each that it has.
    known: Vec<String>,
}

/// Runs the command.
pub(super) fn run(options: &Options) -> Result<String, Failure> {
    let view = lookup::view(options)?;
    let dir = &options.dir;
    let (ledger, _) = view.ledger().map_err(|error| lookup::unreadable(&error))?;
    let mut found = Found::default();
    read(&view, &ledger, &mut found);
    missing(&view, &ledger, &mut found);
    let mut report = format!(
        "{}: {} in {} and {}, {}, {} read\n",
        dir.display(),
        count(found.events, "event"),
        count(found.frames, "frame"),
        count(view.segments().len() as u64, "segment"),
        count(found.control, "control record"),
        size(found.bytes)
    );
    if found.released > 0 {
        let segments = count(found.released, "segment");
        // A String takes everything.
        let _ = writeln!(report, "{segments} released by the gateway meanwhile, not read");
    }
    let torn = view.recovery().torn_bytes;
    if torn > 0 && lookup::in_use_by(dir).is_none() {
        let torn = size(torn);
        let _ = writeln!(report, "{torn} of a commit that nobody was told of at the end: no loss");
    }
    if !found.known.is_empty() {
        let places = count(found.known.len() as u64, "damaged place");
        let _ = writeln!(report, "{places} that the loss ledger has:");
    }
    for line in &found.known {
        let _ = writeln!(report, "  {line}");
    }
    if found.damage.is_empty() {
        report.push_str(if found.known.is_empty() { "no damage\n" } else { "no other damage\n" });
        return Ok(report);
    }
    let places = count(found.damage.len() as u64, "damaged place");
    let _ = writeln!(report, "{places} that the loss ledger does not have yet:");
    for line in &found.damage {
        let _ = writeln!(report, "  {line}");
    }
    report.push_str(
        "the gateway passes over damage, keeps a copy of it in quarantine/, and enters what is lost in \
         the loss ledger",
    );
    Err(Failure::new(Failure::EX_DATAERR, report))
}

impl Found {
    fn damage(&mut self, ledger: &[Loss], lost: Option<&RangeInclusive<Lsn>>, line: String) {
        let is_known = lost.is_some_and(|lost| {
            let covers =
                |loss: &Loss| loss.lsns.start() <= lost.start() && loss.lsns.end() >= lost.end();
            ledger.iter().any(covers)
        });
        if is_known { self.known.push(line) } else { self.damage.push(line) }
    }
}

fn read(view: &View, ledger: &[Loss], found: &mut Found) {
    for (index, segment) in view.segments().iter().enumerate() {
        let path = segment.path.display();
        let walked = view.walk(index, |walked| {
            match walked {
                Walked::Frame(frame) => {
                    found.frames += 1;
                    found.events += u64::from(frame.events);
                    found.control += u64::from(frame.control);
                    found.bytes += frame.bytes as u64;
                    if let Some(lsn) = frame.malformed {
                        found.damage.push(format!(
                            "{path}, at byte {}: the checksum is right, the content makes no sense \
                             from LSN {lsn} on",
                            frame.offset
                        ));
                    }
                }
                Walked::Damage(damage) => {
                    let lost = match &damage.lsns {
                        Some(lost) => lsns(lost),
                        None => "control records of sessions".to_owned(),
                    };
                    let bytes = size(damage.bytes);
                    let at = damage.offset;
                    let line = format!("{path}, at byte {at}: {bytes} damaged; lost: {lost}");
                    found.damage(ledger, damage.lsns.as_ref(), line);
                }
            }
            ControlFlow::Continue(())
        });
        match walked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => found.released += 1,
            Err(error) => found.damage.push(format!("{path}: cannot be read: {error}")),
        }
    }
}

/// What opening the log finds without reading it all: segments that are not there, or set aside.
fn missing(view: &View, ledger: &[Loss], found: &mut Found) {
    for lost in &view.recovery().quarantined {
        let text = lsns(lost);
        let was_read = |line: &String| line.ends_with(&text);
        if !found.damage.iter().chain(&found.known).any(was_read) {
            found.damage(ledger, Some(lost), format!("not there: {text}"));
        }
    }
}
