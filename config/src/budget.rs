//! What of `log.max-size` is set aside for what is no event, so that all files together stay within it.

use crate::log::{Log, LogEngine};
use crate::problem::Unfit;
use crate::reader::Section;
use crate::sink::Sink;
use crate::value::ByteSize;

/// State has this part of `max-size`,
const STATE_PART: u64 = 16;
/// or so much, if that is less; what it takes beyond that is taken off the log when it does.
const STATE: ByteSize = ByteSize::mib(64);
/// Retained messages may take this part of it: in the state they take up to nine times their bytes;
const RETAINED_PART: u64 = 64;
/// and no more than this part, whatever is said.
const MOST_RETAINED_PART: u64 = 16;
/// The log is to have this part of `max-size`,
const LOG_PART: u64 = 4;
/// and so many segments.
const SEGMENTS: u64 = 4;

/// Bytes of `log.max-size`, and what of them is set aside whether it is used or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// `log.max-size`.
    pub max_size: ByteSize,
    /// `log.max-quarantine`.
    pub quarantine: ByteSize,
    /// Twice `log.max-ledger`: the ledger is there twice while it is written anew.
    pub ledger: ByteSize,
    /// What of `log.ballast` is held.
    pub ballast: ByteSize,
    /// `dead-letter.max-size` of all sinks.
    pub dead_letters: ByteSize,
    /// For the state: a sixteenth of `max-size`, 64 MiB at most.
    pub state: ByteSize,
    /// What a segment takes on disk, at most.
    pub segment: ByteSize,
    /// Two segments and a quarter: one may hold control records when the others are full, and one may be
    /// there twice while it is rewritten; either may be an eighth longer than most.
    pub segments: ByteSize,
}

impl Budget {
    /// What these sections set aside.
    pub fn of(log: &Log, sinks: &[Sink]) -> Self {
        let segment = match log.engine {
            LogEngine::Log => log.segment_size,
            LogEngine::Sled => ByteSize(log.segment_size.0 * 4 + (1 << 20)),
        };
        let dead_letters = sinks.iter().map(|sink| sink.dead_letter.max_size.0);
        Self {
            max_size: log.max_size,
            quarantine: log.max_quarantine,
            ledger: ByteSize(log.max_ledger.0 * 2),
            ballast: log.held_ballast(),
            dead_letters: ByteSize(dead_letters.fold(0, u64::saturating_add)),
            state: ByteSize(log.max_size.0 / STATE_PART).min(STATE),
            segment,
            segments: ByteSize(segment.0 * 2 + segment.0 / 4),
        }
    }

    fn set_aside(&self) -> impl Iterator<Item = (&'static str, ByteSize)> {
        [
            ("dead-letter.max-size of all sinks", self.dead_letters),
            ("log.max-quarantine", self.quarantine),
            ("twice log.max-ledger", self.ledger),
            ("log.ballast", self.ballast),
            ("2 segments and a quarter", self.segments),
            ("state", self.state),
        ]
        .into_iter()
        .filter(|(_, bytes)| bytes.0 > 0)
    }

    /// What that leaves the log, and its lanes share, while the state takes no more than its part; rounded
    /// down.
    pub fn left(&self) -> ByteSize {
        let left =
            self.set_aside().fold(self.max_size.0, |left, (_, it)| left.saturating_sub(it.0));
        rounded(ByteSize(left))
    }

    /// Bytes that retained messages may take.
    pub fn retained(&self) -> ByteSize {
        ByteSize(self.max_size.0 / RETAINED_PART)
    }

    /// Refuses what leaves the log too little.
    pub(crate) fn check(&self, top: &Section<'_>, sinks: usize) {
        let (left, whole) = (self.left(), self.max_size);
        let what = if left.0 < whole.0 / LOG_PART {
            "a quarter of it".to_owned()
        } else if left.0 / SEGMENTS < self.segment.0 {
            format!("{SEGMENTS} segments of {}", self.segment)
        } else {
            return;
        };
        let parts: Vec<String> =
            self.set_aside().map(|(name, bytes)| format!("{name} {}", rounded(bytes))).collect();
        let why = format!(
            "leaves events {left} of log.max-size ({whole}), less than {what}: set aside are {}",
            parts.join(", "),
        );
        let so = "expected a larger log.max-size, or less set aside";
        let entries: Vec<String> = (1..=sinks).map(|n| format!("sink[{n}]")).collect();
        let own = ["max-size", "max-quarantine", "max-ledger", "ballast", "segment-size", "engine"];
        let mut paths: Vec<Vec<&str>> = own.iter().map(|key| vec!["log", key]).collect();
        paths.extend(entries.iter().map(|entry| vec![entry, "dead-letter", "max-size"]));
        paths.push(vec!["limits", "max-packet-size"]);
        // Where no key says anything, the sinks are too many.
        paths.extend(entries.last().map(|entry| vec![entry.as_str(), "name"]));
        let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
        top.refuse_path(&paths, Unfit::because(why).so(so));
    }
}

impl Budget {
    /// Refuses what could leave the log nothing, and no event could take back.
    pub(crate) fn check_retained(&self, top: &Section<'_>, retained: Option<ByteSize>) {
        let most = ByteSize(self.max_size.0 / MOST_RETAINED_PART);
        if retained.is_some_and(|retained| retained > most) {
            let whole = self.max_size;
            let why = format!("may be more than half of log.max-size ({whole}) on disk");
            let unfit = Unfit::because(why).so(format!("expected {most} at most"));
            top.refuse_path(&[&["limits", "max-retained-size"]], unfit);
        }
    }
}

/// Down to what can be read: whole MiB, or KiB.
pub(crate) fn rounded(bytes: ByteSize) -> ByteSize {
    let to = |unit: u64| ByteSize(bytes.0 / unit * unit);
    match bytes.0 {
        ..0x400 => bytes,
        0x400..0x100_0000 => to(1 << 10),
        _ => to(1 << 20),
    }
}

#[cfg(test)]
mod tests;
