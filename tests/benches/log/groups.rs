//! Rates, by the size of the groups and of the events; and what that writes to disk.

use std::path::Path;
use std::time::Instant;

use tidegate_tests::table::{Goal, Table, figure, median, range};

use crate::Plan;
use crate::engine::Kind;
use crate::payload::Events;
use crate::process;

const SIZES: [usize; 2] = [200, 2048];
const GROUPS: [usize; 4] = [1, 16, 128, 1024];
/// A round ends before its time where it wrote this many bytes of events.
const LARGEST: u64 = 1 << 30;

/// What is measured: bytes of an event, and events of a group.
pub(crate) fn all() -> impl Iterator<Item = (usize, usize)> {
    SIZES.into_iter().flat_map(|size| GROUPS.map(|group| (size, group)))
}

/// Where the files lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Disk,
    Memory,
}

/// The rounds of one engine.
#[derive(Debug, Default)]
struct Figures {
    /// Events a second.
    rates: Vec<f64>,
    /// Bytes that the process wrote, a byte of payload.
    written: Vec<f64>,
    /// Bytes that the disk wrote, a byte of payload.
    on_device: Vec<f64>,
}

/// Every size in every group, or the one that is wanted.
pub(crate) fn measure(plan: &Plan, place: Place, table: &mut Table) {
    for size in SIZES {
        let mut events = Events::new(size);
        for group in GROUPS {
            if plan.only.is_some_and(|only| only != (size, group)) {
                continue;
            }
            println!("\n{place:?}, {size} bytes, groups of {group}");
            let figures = compare(plan, place, group, &mut events);
            add(place, size, group, &figures, table);
        }
    }
}

fn compare(
    plan: &Plan,
    place: Place,
    group: usize,
    events: &mut Events,
) -> [Figures; Kind::ALL.len()] {
    let parent = if place == Place::Disk { &plan.disk } else { &plan.memory };
    let mut figures: [Figures; Kind::ALL.len()] = Default::default();
    for _ in 0..plan.rounds {
        for (kind, figures) in Kind::ALL.into_iter().zip(&mut figures) {
            if plan.is_bare && kind.is_peer() {
                continue;
            }
            round(plan, kind, parent, group, events, figures);
        }
    }
    figures
}

fn round(
    plan: &Plan,
    kind: Kind,
    parent: &Path,
    group: usize,
    events: &mut Events,
    figures: &mut Figures,
) {
    let dir = tempfile::Builder::new().prefix("tidegate-").tempdir_in(parent).expect("a directory");
    let mut engine = kind.begin(dir.path(), group, events);
    let (mut count, mut payload) = (0u64, 0u64);
    // What was written before the round is not part of it.
    std::fs::File::open(parent).and_then(|it| Ok(rustix::fs::syncfs(it)?)).expect("a sync");
    let before = (process::bytes_written(), process::device_written(parent));
    let begin = Instant::now();
    while begin.elapsed() < plan.round && payload < LARGEST {
        let group = events.group(group);
        engine.commit(group);
        count += group.len() as u64;
        payload += group.iter().map(|event| event.payload.len() as u64).sum::<u64>();
    }
    engine.finish();
    figures.rates.push(count as f64 / begin.elapsed().as_secs_f64());
    drop(engine);
    let (written, on_device) = (process::bytes_written(), process::device_written(parent));
    figures.written.push((written - before.0) as f64 / payload as f64);
    figures.on_device.push((on_device - before.1) as f64 / payload as f64);
}

fn add(
    place: Place,
    size: usize,
    group: usize,
    figures: &[Figures; Kind::ALL.len()],
    table: &mut Table,
) {
    let rate = |kind: Kind| median(&of(figures, kind).rates);
    let raw = rate(Kind::Append).max(rate(Kind::Prewritten));
    let measured = || Kind::ALL.into_iter().filter(|kind| !of(figures, *kind).rates.is_empty());
    let beside: Vec<String> = measured()
        .map(|kind| {
            let rates = &of(figures, kind).rates;
            format!("{} {}/s ({})", kind.name(), figure(median(rates)), range(rates))
        })
        .collect();
    let name =
        |kind: Kind, what: &str| format!("{place:?}, {size} B × {group}: {}{what}", kind.name());
    let kinds = [
        (Kind::Warm, beside.join(", ")),
        (Kind::OneInFlight, String::new()),
        (Kind::Fresh, String::new()),
    ];
    for (kind, beside) in kinds {
        let goal = match place {
            Place::Disk if group >= 16 && kind != Kind::OneInFlight => Goal::AtLeast(0.85),
            _ => Goal::None,
        };
        table.row(name(kind, " ÷ faster raw file"), (rate(kind) / raw, "×"), beside, goal);
    }
    if place == Place::Memory {
        let goal =
            if (size, group) == (200, 128) { Goal::AtLeast(1_500_000.0) } else { Goal::None };
        let rates = &of(figures, Kind::Warm).rates;
        table.row(name(Kind::Warm, ""), (median(rates), "/s"), range(rates), goal);
        return;
    }
    let others = |of_kind: fn(&Figures) -> &Vec<f64>, without: &[Kind]| {
        let kinds = measured().filter(|kind| !without.contains(kind));
        let line =
            |kind: Kind| format!("{} {}", kind.name(), figure(median(of_kind(of(figures, kind)))));
        kinds.map(line).collect::<Vec<String>>().join(", ")
    };
    // What the kernel counts in a file that was written before is not what is written.
    let written = median(&of(figures, Kind::Fresh).written);
    // Of a small group the last page is written again with the next one, whoever writes it.
    let goal = if size * group >= 1 << 17 { Goal::AtMost(1.1) } else { Goal::None };
    let without = [Kind::Warm, Kind::OneInFlight, Kind::Prewritten, Kind::HandedOver];
    let beside = others(|figures| &figures.written, &without);
    table.row(name(Kind::Fresh, ": bytes to disk ÷ payload"), (written, "×"), beside, goal);
    let on_device = median(&of(figures, Kind::Warm).on_device);
    let beside = others(|figures| &figures.on_device, &[Kind::Warm]);
    let what = name(Kind::Warm, ": bytes on the device ÷ payload");
    table.row(what, (on_device, "×"), beside, Goal::None);
}

fn of(figures: &[Figures; Kind::ALL.len()], kind: Kind) -> &Figures {
    &figures[kind as usize]
}
