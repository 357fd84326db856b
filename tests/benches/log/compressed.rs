//! What compression saves of the flash, and what it costs.

use std::time::Instant;

use tidegate::log::{Compression, Engine as Beneath, Options};
use tidegate_tests::table::{Goal, Table, figure, median};

use crate::Plan;
use crate::backlog;
use crate::engine::Engine;
use crate::log::{self, Ours};
use crate::payload::Events;

const SIZE: usize = 200;
const GROUPS: [usize; 2] = [128, 1024];
const ALL: [(&str, Compression); 3] =
    [("none", Compression::None), ("lz4", Compression::Lz4), ("deflate", Compression::Deflate)];

/// The rounds of one compression.
#[derive(Debug, Default)]
struct Figures {
    /// Bytes of the log, a byte of payload.
    size: Vec<f64>,
    /// Bytes of pages, a byte of payload.
    on_flash: Vec<f64>,
    /// Events a second.
    written: Vec<f64>,
    read: Vec<f64>,
}

/// JSON of sensors in groups of two sizes.
pub(crate) fn measure(plan: &Plan, table: &mut Table) {
    let mut events = Events::new(SIZE);
    for group in GROUPS {
        println!("\ncompressed, {SIZE} bytes of JSON, groups of {group}");
        let mut figures: [Figures; ALL.len()] = Default::default();
        for _ in 0..plan.rounds {
            for ((_, compression), figures) in ALL.into_iter().zip(&mut figures) {
                round(plan, compression, group, &mut events, figures);
            }
        }
        for ((name, compression), figures) in ALL.into_iter().zip(&figures) {
            let what = format!("{SIZE} B × {group}, {name}: bytes ÷ payload");
            let beside = format!(
                "in pages of flash {}; written {}/s, read {}/s",
                figure(median(&figures.on_flash)),
                figure(median(&figures.written)),
                figure(median(&figures.read))
            );
            let is_none = compression == Compression::None;
            let goal = Goal::AtMost(if is_none { 1.1 } else { 0.35 });
            table.row(what, (median(&figures.size), "×"), beside, goal);
        }
    }
}

fn round(
    plan: &Plan,
    compression: Compression,
    group: usize,
    events: &mut Events,
    figures: &mut Figures,
) {
    let parent = &plan.disk;
    let dir = tempfile::Builder::new().prefix("tidegate-").tempdir_in(parent).expect("a directory");
    let options = Options { compression, ..log::options(dir.path(), group * (SIZE + 40)) };
    let log = log::open(Beneath::Log, options);
    let mut ours = Ours::new(log.clone());
    let begin = Instant::now();
    while begin.elapsed() < plan.round {
        ours.commit(events.group(group));
    }
    ours.finish();
    figures.written.push(log.committed() as f64 / begin.elapsed().as_secs_f64());
    let written = log.written();
    figures.size.push(written.bytes as f64 / written.payload as f64);
    figures.on_flash.push(written.on_flash as f64 / written.payload as f64);
    let (count, time) = backlog::drain(&log);
    figures.read.push(count as f64 / time.as_secs_f64());
}
