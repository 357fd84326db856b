//! Threads beside each other: appenders, readers at different paces, trimming, releasing, and a look from
//! outside.
//!
//! [`held`] holds one of them at a place and lets the other go on; [`world`] lets all of them run, on small
//! lanes and segments, so that files are rewritten, merged, removed and written over all the time. At the end
//! every event that was answered was seen by each reader, or stands in the ledger, or nobody needed it when
//! the reader came to it; none came twice or is another one's, and the figures are those of a recount.
//!
//! `TIDEGATE_RACES_SECONDS` is how long (2), `TIDEGATE_RACES_SEED` the first seed (0), which a failure names;
//! but threads come in another order each time. The logs lie where `TMPDIR` says.

mod between;
mod held;
mod outside;
mod seen;
mod world;

use std::time::Instant;

use super::lanes::with_lanes;
use super::*;

/// Events of a round.
const EVENTS: u64 = 12_000;

pub(super) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
pub(super) fn whatever_runs_beside_it_nothing_is_lost_or_read_twice() {
    let seconds = number("TIDEGATE_RACES_SECONDS").unwrap_or(2);
    let first = number("TIDEGATE_RACES_SEED").unwrap_or(0);
    let begin = Instant::now();
    for seed in first.. {
        let begun = world::Announce(seed);
        let tally = world::run(seed, EVENTS);
        drop(begun);
        println!("seed {seed}: {tally:?}");
        if begin.elapsed().as_secs() >= seconds {
            break;
        }
    }
}

/// By then all that [`fill`] wrote has expired, where [`expiring`] says how the log is kept.
const LATE: i64 = 1_000_000_000;

/// Alerts stay, and the others expire.
fn expiring(dir: &Path) -> Options {
    let mut options = with_lanes(dir, WhenFull::DropOldest);
    options.lanes[0].rule.max_age = Some(Duration::from_secs(100));
    options
}

/// The alerts among these.
fn alerts(events: &Events) -> Vec<Lsn> {
    events.iter().map(|(lsn, _)| *lsn).filter(|lsn| lsn.is_multiple_of(10)).collect()
}
