//! The power goes at every place.
//!
//! Random histories of a whole gateway on a simulated disk: appenders, the writer, sinks with cursors,
//! read models of events and of control records, their database and its checkpoints, retention; on
//! disks that fail, fill up, flip bits. Before **each** change that reaches the disk the history stands
//! still: on copies of the disk the process dies, or the power goes, everything is opened again (and
//! crashes again, also in the middle of opening), and what was promised is looked for.
//!
//! Nothing runs beside it and no time passes: a history is repeated from its seed, which a failure
//! names. `TIDEGATE_CRASH_POINTS` is how many places at least (2000), `TIDEGATE_CRASH_SEED` the
//! first seed (0). `tests/run` asks for more than a plain `cargo test`.

mod promises;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use promises::Tally;
use world::World;

const POINTS: u64 = 2000;

#[test]
fn wherever_it_crashes_nothing_that_was_promised_is_lost() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let wanted = number("TIDEGATE_CRASH_POINTS").unwrap_or(POINTS);
    let first = number("TIDEGATE_CRASH_SEED").unwrap_or(0);
    let (begin, mut tally) = (Instant::now(), Tally::default());
    let mut seeds = first..;
    while tally.points() < wanted {
        let Some(seed) = seeds.next() else { break };
        match catch_unwind(AssertUnwindSafe(|| World::new(seed).run())) {
            Ok(more) => tally.add(&more),
            Err(panic) => {
                println!("TIDEGATE_CRASH_SEED={seed} TIDEGATE_CRASH_POINTS=1 repeats this");
                resume_unwind(panic);
            }
        }
    }
    println!("seeds {first}..{}, {:?}: {tally:?}", seeds.start, begin.elapsed());
}
