//! `[[lane]]`: events that share a part of the log, and what happens when it is used up.

use tidegate_event::Filter;

use crate::budget::{Budget, rounded};
use crate::grammar;
use crate::log::Log;
use crate::problem::Unfit;
use crate::reader::{Names, Section};
use crate::value::{ByteSize, Choice, Span, TopicFilter};

/// The lane of what no other lane's topics match.
const DEFAULT: &str = "default";
/// The lane of the alerts, and of what the log says about its own losses.
const ALERTS: &str = "alerts";
/// Lanes beside these two.
const MAX_OTHERS: usize = 14;
/// Topic filters of one lane; they are looked at for every event.
const MAX_TOPICS: usize = 64;
/// What `alerts` has if the log is large.
const ALERTS_SIZE: ByteSize = ByteSize::mib(64);

/// `[[lane]]`, with what it does not say filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Names the lane: 1 to 64 of `a-z 0-9 -`. `"default"` and `"alerts"` are always there.
    pub name: String,
    /// Which topics; an event is in the first lane that matches, in the order of the file, `alerts`
    /// after all others. 1 to 64; none for `default`, which has what is left. `alerts`: `["alerts/#"]`.
    pub topics: Vec<TopicFilter>,
    /// Bytes of it in the log; when they are used up, `when_full` says what happens. At least
    /// `log.commit.max-bytes`; together no more than `log.max-size` leaves the log ([`Budget::left`]), and
    /// three quarters of that without `default`. Default: `default` has what the others leave, `alerts` 64 MiB or
    /// a sixteenth of `log.max-size`.
    pub max_size: ByteSize,
    /// How old its events get, sent or not; older ones are not sent, and go to the loss ledger. 1 s to
    /// 10 years; default: none, as old as it takes.
    pub max_age: Option<Span>,
    /// Default `"reject"`; `alerts`: `"drop-oldest"`.
    pub when_full: WhenFull,
    /// Which backlog is sent first: the higher. 0 to 9; default 0, `alerts` 9.
    pub priority: u8,
}

/// What happens to events of a lane that is full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhenFull {
    /// `"reject"`: the publisher of a new one is refused, or made to wait: backpressure.
    Reject,
    /// `"drop-oldest"`: the oldest make room, and go to the loss ledger.
    DropOldest,
    /// `"drop-newest"`: a new one is acknowledged and not kept; it goes to the loss ledger.
    DropNewest,
    /// `"downsample"`: the oldest are thinned first, and dropped when that is not enough.
    Downsample(Downsample),
}

impl WhenFull {
    /// As it is written.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::DropOldest => "drop-oldest",
            Self::DropNewest => "drop-newest",
            Self::Downsample(_) => "downsample",
        }
    }
}

/// `downsample` of a lane: one event a topic and interval is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downsample {
    /// 1 s to 7 d.
    pub interval: Span,
    /// Which one. Default `"last"`.
    pub keep: Keep,
    /// For `"mean"`, `"min"` and `"max"`: where the number stands in the payload, a JSON pointer
    /// (RFC 6901). Default `""`: the payload is the number.
    pub value: String,
}

/// What stands for the events of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// `"last"`: the newest of them.
    Last,
    /// `"mean"`: the newest, with the mean of their values in it.
    Mean,
    /// `"min"`: the one with the smallest value.
    Min,
    /// `"max"`: the one with the largest value.
    Max,
}

impl Choice for Keep {
    const WORDS: &'static [(&'static str, Self)] =
        &[("last", Self::Last), ("mean", Self::Mean), ("min", Self::Min), ("max", Self::Max)];
}

/// `when-full`, before what belongs to it is read.
#[derive(Clone, Copy)]
enum Policy {
    Reject,
    DropOldest,
    DropNewest,
    Downsample,
}

impl Choice for Policy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("reject", Self::Reject),
        ("drop-oldest", Self::DropOldest),
        ("drop-newest", Self::DropNewest),
        ("downsample", Self::Downsample),
    ];
}

impl Downsample {
    fn read(section: &Section<'_>) -> Option<Self> {
        let interval: Option<Span> = section.require("interval", "\"1m\"");
        let interval = interval.inspect(|interval| {
            let bounds = Span::seconds(1)..=Span::seconds(7 * 86_400);
            section.check_bounds("interval", interval, &bounds);
        });
        let keep = section.or("keep", Keep::Last);
        let value: String = section.or("value", String::new());
        section.check("value", grammar::check_pointer(&value));
        Some(Self { interval: interval?, keep, value })
    }
}

/// One section as it is written; what it leaves out depends on the others.
struct Written {
    /// Its place among the sections, from 1.
    number: usize,
    max_size: Option<ByteSize>,
    lane: Lane,
}

impl Lane {
    /// `default` and `alerts` as they are where the file says nothing, in that order.
    pub fn standard(budget: &Budget) -> Vec<Self> {
        resolve(Vec::new(), budget)
    }

    /// Reads all lanes: `default`, `alerts`, then the others in the order of the file.
    pub(crate) fn read_all(top: &Section<'_>, log: &Log, budget: &Budget) -> Vec<Self> {
        let mut names = Names::default();
        let (mut number, mut others) = (0, 0);
        let written = top.list("lane", |section| {
            number += 1;
            let written = Written::read(section, number, budget, &mut names)?;
            if ![DEFAULT, ALERTS].contains(&written.lane.name.as_str()) {
                others += 1;
                if others == MAX_OTHERS + 1 {
                    let why = format!("is one lane too many beside {DEFAULT:?} and {ALERTS:?}");
                    let so = format!("expected {MAX_OTHERS} at most");
                    section.refuse("name", Unfit::because(why).so(so));
                }
            }
            Some(written)
        });
        check_sizes(top, &written, log, budget);
        resolve(written, budget)
    }

    fn standard_of(name: &str, budget: &Budget) -> Self {
        let is_alerts = name == ALERTS;
        let alerts = || Filter::new("alerts/#").ok().map(TopicFilter);
        Self {
            name: name.to_owned(),
            topics: is_alerts.then(alerts).flatten().into_iter().collect(),
            max_size: if is_alerts {
                ByteSize(budget.max_size.0 / 16).min(ALERTS_SIZE)
            } else {
                budget.left()
            },
            max_age: None,
            when_full: if is_alerts { WhenFull::DropOldest } else { WhenFull::Reject },
            priority: if is_alerts { 9 } else { 0 },
        }
    }
}

impl Written {
    fn read(
        section: &Section<'_>,
        number: usize,
        budget: &Budget,
        names: &mut Names,
    ) -> Option<Self> {
        let name: Option<String> = section.require("name", "\"telemetry\"");
        if let Some(name) = &name {
            section.check("name", grammar::check_lane(name));
            section.check("name", names.take(name));
        }
        let standard = Lane::standard_of(name.as_deref().unwrap_or_default(), budget);
        let (is_default, is_alerts) = (standard.name == DEFAULT, standard.name == ALERTS);
        let topics = if is_default {
            let why = "cannot be chosen: the lane has what no other lane's topics match";
            section.refuse_key("topics", why, "expected no such key");
            Some(Vec::new())
        } else if is_alerts {
            Some(section.or("topics", standard.topics))
        } else {
            section.require("topics", "[\"plant/+/telemetry/#\"]")
        };
        if topics.as_ref().is_some_and(|topics: &Vec<_>| topics.len() > MAX_TOPICS) {
            let why = format!("has more than {MAX_TOPICS} topic filters");
            section.refuse("topics", Unfit::because(why));
        }
        let max_size: Option<ByteSize> = if is_default || is_alerts {
            section.get("max-size")
        } else {
            section.require("max-size", "\"512MiB\"")
        };
        if let Some(size) = &max_size {
            section.check_bounds("max-size", size, &(ByteSize::kib(4)..=ByteSize::gib(64 << 10)));
        }
        let bounds = Span::seconds(1)..=Span::seconds(3650 * 86_400);
        let lane = Lane {
            max_age: section.get_bounded("max-age", bounds),
            priority: section.bounded("priority", standard.priority, 0..=9),
            when_full: read_when_full(section, standard.when_full),
            max_size: max_size.unwrap_or(standard.max_size),
            topics: topics.unwrap_or_default(),
            name: name?,
        };
        Some(Self { number, max_size, lane })
    }
}

fn read_when_full(section: &Section<'_>, standard: WhenFull) -> WhenFull {
    let policy: Option<Policy> = section.get("when-full");
    let downsample = if matches!(policy, Some(Policy::Downsample)) {
        if section.has("downsample") {
            section.table("downsample", Downsample::read)
        } else {
            section.require::<String>("downsample", "{ interval = \"1m\" }");
            None
        }
    } else {
        // What is wrong with `when-full` is said once.
        if policy.is_some() || !section.has("when-full") {
            let so = "expected when-full = \"downsample\", or no such key";
            section.refuse_key("downsample", "belongs to another when-full", so);
        } else {
            section.pass_unknown_keys();
        }
        None
    };
    match policy {
        None => standard,
        Some(Policy::Reject) => WhenFull::Reject,
        Some(Policy::DropOldest) => WhenFull::DropOldest,
        Some(Policy::DropNewest) => WhenFull::DropNewest,
        Some(Policy::Downsample) => downsample.map_or(standard, WhenFull::Downsample),
    }
}

/// What the sizes must be, together and beside those of the log.
fn check_sizes(top: &Section<'_>, written: &[Written], log: &Log, budget: &Budget) {
    let (whole, commit) = (budget.left(), log.commit.max_bytes);
    let beside = rounded(ByteSize(whole.0 / 4 * 3));
    let alerts = Lane::standard_of(ALERTS, budget).max_size;
    let alerts_written = written.iter().any(|lane| lane.lane.name == ALERTS);
    let mut others = if alerts_written { 0 } else { alerts.0 };
    let mut told = false;
    for lane in written {
        let section = format!("lane[{}]", lane.number);
        let refuse = |unfit| {
            let (own, of_log) = ([section.as_str(), "max-size"], ["log", "max-size"]);
            top.refuse_path(&[&own, &of_log], unfit);
        };
        let Some(size) = lane.max_size else { continue };
        if size < commit {
            let why = format!("has no room for a commit of {commit}");
            refuse(Unfit::because(why).so("expected at least log.commit.max-bytes"));
        }
        if lane.lane.name == DEFAULT {
            continue;
        }
        others = others.saturating_add(size.0);
        if others > beside.0 && !told {
            let why = format!(
                "makes {} for the lanes beside {DEFAULT:?}, {ALERTS:?} among them",
                ByteSize(others)
            );
            let so = format!(
                "expected {beside} at most, three quarters of what log.max-size leaves the log ({whole})"
            );
            refuse(Unfit::because(why).so(so));
            told = true;
        }
    }
    let default = written.iter().find(|lane| lane.lane.name == DEFAULT);
    if let Some((number, size)) = default.and_then(|lane| Some((lane.number, lane.max_size?)))
        && !told
        && size.0.saturating_add(others) > whole.0
    {
        let why =
            format!("is more than the other lanes leave of the log ({whole} of log.max-size)");
        let left = ByteSize(whole.0.saturating_sub(others));
        let section = format!("lane[{number}]");
        let unfit = Unfit::because(why).so(format!("expected {left} at most"));
        top.refuse_path(&[&[&section, "max-size"]], unfit);
    }
}

/// The lanes in the order of [`Lane::read_all`], with what `default` has left.
fn resolve(written: Vec<Written>, budget: &Budget) -> Vec<Lane> {
    let mut lanes = vec![Lane::standard_of(DEFAULT, budget), Lane::standard_of(ALERTS, budget)];
    let mut default_size = None;
    for Written { max_size, lane, .. } in written {
        match lane.name.as_str() {
            DEFAULT => {
                default_size = max_size;
                lanes[0] = lane;
            }
            ALERTS => lanes[1] = lane,
            _ => lanes.push(lane),
        }
    }
    let others = lanes[1..].iter().fold(0_u64, |sum, lane| sum.saturating_add(lane.max_size.0));
    let left = ByteSize(budget.left().0.saturating_sub(others));
    lanes[0].max_size = default_size.unwrap_or(left);
    lanes
}
