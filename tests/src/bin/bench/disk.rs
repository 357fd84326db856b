//! What the disk itself takes: a write and an fdatasync, of the size that one commit has at the rate
//! of the latency measurement, in the same file system.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tidegate_tests::load::Histogram;

/// Ten events of 200 bytes, with what stands around them.
const SIZE: usize = 2560;
/// A commit a millisecond: ten events each at 10,000 a second.
const EVERY: Duration = Duration::from_millis(1);
/// Bytes that are overwritten again and again.
const PREWRITTEN: u64 = 8 * 1024 * 1024;

/// Where a commit goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// To the end of a growing file: the file system has to note its length, too.
    Append,
    /// Into a file that was written before.
    InPlace,
}

/// p50 and p99 of write + fdatasync.
pub(crate) fn probe(dir: &Path, how: Write, time: Duration) -> (Duration, Duration) {
    match measure(dir, how, time) {
        Ok(histogram) => (histogram.percentile(50.0), histogram.percentile(99.0)),
        Err(error) => panic!("cannot write in {}: {error}", dir.display()),
    }
}

fn measure(dir: &Path, how: Write, time: Duration) -> std::io::Result<Histogram> {
    let file: File = tempfile::tempfile_in(dir)?;
    if how == Write::InPlace {
        for at in (0..PREWRITTEN).step_by(64 * 1024) {
            file.write_all_at(&[1; 64 * 1024], at)?;
        }
        file.sync_all()?;
    }
    let mut histogram = Histogram::new();
    let mut at = 0;
    let begin = Instant::now();
    let mut due = begin;
    while begin.elapsed() < time {
        let start = Instant::now();
        file.write_all_at(&[7; SIZE], at)?;
        file.sync_data()?;
        histogram.record(start.elapsed());
        at += SIZE as u64;
        if how == Write::InPlace && at + SIZE as u64 > PREWRITTEN {
            at = 0;
        }
        due += EVERY;
        thread::park_timeout(due.saturating_duration_since(Instant::now()));
    }
    Ok(histogram)
}
