//! Makes room in lanes that are full: thins their oldest events out, or drops them; and drops what is too
//! old. What is lost so, and some sink has not got, stands in the ledger before it goes.

mod thin;

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_event::record::Item;
use tidegate_event::{EventRef, Lane, Lsn};
use tracing::{info, warn};

use super::ledger::Reason;
use super::rewrite::{self, Fate};
use super::segment::{self, Segment};
use super::shared::Shared;
use super::{Downsample, Log, WhenFull};
use thin::Thinning;

/// A segment that was rewritten and is smaller takes up the next one that is rewritten.
const SMALL: u64 = 256 << 10;

/// What may go.
#[derive(Debug, Clone, Copy)]
pub struct Covered {
    /// Events before this one are covered by checkpoints.
    pub before: Lsn,
    /// So are control records up to this [`Log::control_mark`].
    pub control: u64,
    /// Some sink has not got events from this one on.
    pub needed: Lsn,
}

impl Log {
    /// Resolves when a lane wants its oldest events dropped: now and then, while that is so.
    pub async fn pressed(&self) {
        self.shared.trim.notified().await;
    }

    /// Whether a lane that drops its oldest events has hardly any room.
    pub fn is_pressed(&self) -> bool {
        self.shared.pressed(&[]).is_some()
    }

    /// What may go, where checkpoints cover events up to `lsn` and control records up to `mark`
    /// ([`Log::control_mark`]), and some sink has not got the event `needed`.
    pub fn covered(&self, lsn: Lsn, mark: u64, needed: Lsn) -> Covered {
        let control = self.shared.table().covered(mark, lsn.saturating_add(2));
        Covered { before: lsn.saturating_add(1), control, needed }
    }

    /// Whether a lane has events older than its `max_age` in a segment that could go, at this time in
    /// microseconds since 1970.
    pub fn has_expired(&self, now: i64) -> bool {
        let lanes: Vec<_> = self.expiring(now).collect();
        let table = self.shared.table();
        let Some((_, sealed)) = table.0.split_last() else { return false };
        let is_older = |segment: &Segment, lane, to| self.shared.is_older(segment, lane, to);
        sealed.iter().any(|segment| lanes.iter().any(|(lane, to)| is_older(segment, *lane, *to)))
    }

    /// Makes room in all lanes that drop their oldest events and are full, as far as `covered` lets it.
    /// Answers how many events went. Waits for the disk.
    pub fn trim(&self, covered: &Covered) -> io::Result<u64> {
        let shared = &self.shared;
        let _alone = shared.housekeeping();
        let dropped = self.trim_all(covered);
        // Also where it failed: before that there may have been some to drop.
        shared.made_room();
        dropped
    }

    fn trim_all(&self, covered: &Covered) -> io::Result<u64> {
        let shared = &self.shared;
        let (mut dropped, mut stuck) = (0, Vec::new());
        // Each turn makes a lane smaller in one segment.
        while !shared.is_closed()
            && let Some(lane) = shared.pressed(&stuck)
        {
            let trim = Trim { shared, lane, covered };
            let once = trim.once()?;
            shared.lanes.dropped_some(lane);
            match once {
                Some(events) => dropped += events,
                None => {
                    trim.roll();
                    stuck.push(lane);
                }
            }
        }
        Ok(dropped)
    }

    /// Drops what is older than its lane's `max_age`, a segment at a time: those whose newest event of
    /// the lane is. Answers how many events went. Waits for the disk.
    pub fn expire(&self, now: i64, covered: &Covered) -> io::Result<u64> {
        let shared = &self.shared;
        let _alone = shared.housekeeping();
        let dropped = self.expire_all(now, covered);
        shared.made_room();
        dropped
    }

    fn expire_all(&self, now: i64, covered: &Covered) -> io::Result<u64> {
        let shared = &self.shared;
        let mut dropped = 0;
        for (lane, to) in self.expiring(now) {
            let trim = Trim { shared, lane, covered };
            for segment in trim.sealed() {
                if !shared.is_closed() && shared.is_older(&segment, lane, to) {
                    dropped += trim.drop_from(&segment, Reason::Expired)?;
                }
            }
        }
        Ok(dropped)
    }

    /// The lanes whose events expire; and up to when they have.
    fn expiring(&self, now: i64) -> impl Iterator<Item = (Lane, i64)> {
        let lanes = self.lanes();
        lanes.all().filter_map(move |lane| {
            let age = i64::try_from(lanes.rule(lane).max_age?.as_micros()).ok()?;
            Some((lane, now.checked_sub(age)?))
        })
    }
}

impl Shared {
    /// What events under the rule of `lane` take in a segment: how many they are, and the newest one's time.
    fn part(&self, segment: &Segment, lane: Lane) -> (u64, i64) {
        let lanes = segment.lanes();
        let ruled = lanes.iter().filter(|part| self.lanes.ruled_as(part.lane) == lane);
        ruled.filter(|part| part.events > 0).fold((0, i64::MIN), |(events, newest), part| {
            (events + u64::from(part.events), newest.max(part.newest))
        })
    }

    /// Whether all events of the lane in it were received before this time, and there are any.
    fn is_older(&self, segment: &Segment, lane: Lane, to: i64) -> bool {
        let (events, newest) = self.part(segment, lane);
        events > 0 && newest < to
    }

    /// A lane that lacks room, but for these.
    fn pressed(&self, but: &[Lane]) -> Option<Lane> {
        self.lanes.pressed(self.queue.total(self.bytes()), but)
    }

    fn made_room(&self) {
        self.note_lanes();
        self.queue.released();
    }

    /// Removes the oldest segment, of which nothing is needed.
    fn remove_oldest(&self, segment: &Arc<Segment>) -> io::Result<()> {
        self.begins_behind(|it| std::ptr::eq(it, &**segment))?;
        // Whoever finds it in the table and not on disk would take it for lost.
        if !self.table_mut().remove(segment.header.sequence) {
            return Ok(());
        }
        match self.storage.unlink(&segment.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.table_mut().put_back(Arc::clone(segment));
                return Err(error);
            }
            _ => {}
        }
        self.bytes.fetch_sub(segment.taken(), Ordering::AcqRel);
        self.lanes.remove(&segment.lanes());
        self.storage.sync_dir(&self.dir)
    }
}

/// Makes one lane smaller.
struct Trim<'a> {
    shared: &'a Arc<Shared>,
    lane: Lane,
    covered: &'a Covered,
}

impl Trim<'_> {
    /// The segments that may be rewritten, oldest first.
    fn sealed(&self) -> Vec<Arc<Segment>> {
        let table = self.shared.table();
        let Some((_, sealed)) = table.0.split_last() else { return Vec::new() };
        let may_go = |segment: &&Arc<Segment>| {
            segment.end() <= self.covered.before && segment.header.through() < self.covered.control
        };
        sealed.iter().take_while(may_go).cloned().collect()
    }

    /// Whether events of that lane are under the rule of this one.
    fn rules(&self, lane: Lane) -> bool {
        self.shared.lanes.ruled_as(lane) == self.lane
    }

    fn has_events(&self, segment: &Segment) -> bool {
        self.shared.part(segment, self.lane).0 > 0
    }

    /// Thins the oldest segment out that is not, or drops the lane's events from the oldest one. Answers
    /// how many events went; `None` where there is nothing to do.
    fn once(&self) -> io::Result<Option<u64>> {
        let sealed = self.sealed();
        let mut filled = sealed.iter().filter(|segment| self.has_events(segment));
        if let WhenFull::Downsample(downsample) = &self.shared.lanes.rule(self.lane).when_full
            && let Some(segment) =
                filled.clone().find(|segment| !segment.figures().thinned.contains(&self.lane))
        {
            return self.thin(segment, downsample).map(Some);
        }
        match filled.next() {
            Some(segment) => self.drop_from(segment, Reason::Dropped).map(Some),
            None => Ok(None),
        }
    }

    /// Asks for a new segment where all its events are in the newest one, which is not to be touched.
    fn roll(&self) {
        let table = self.shared.table();
        if let Some((newest, sealed)) = table.0.split_last()
            && self.has_events(newest)
            && !sealed.iter().any(|segment| self.has_events(segment))
        {
            self.shared.queue.roll();
        }
    }

    /// Drops the lane's events from a segment.
    fn drop_from(&self, segment: &Arc<Segment>, reason: Reason) -> io::Result<u64> {
        let (events, _) = self.shared.part(segment, self.lane);
        let goes = self.look(segment, |_| true)?;
        self.enter(&goes, reason)?;
        let is_oldest = self.shared.table().0.first().is_some_and(|it| Arc::ptr_eq(it, segment));
        if is_oldest && goes.are_all {
            self.shared.remove_oldest(segment)?;
            return Ok(events);
        }
        let mut thinned = segment.figures().thinned;
        thinned.retain(|lane| *lane != self.lane);
        let lane = self.lane;
        let first = segment.header.first;
        self.rewrite(segment, thinned, |event| {
            match self.rules(event.lane) && event.lsn() >= first {
                true => Fate::Gone(lane),
                false => Fate::Kept,
            }
        })?;
        Ok(events)
    }

    fn thin(&self, segment: &Arc<Segment>, downsample: &Downsample) -> io::Result<u64> {
        let mut thinning = Thinning::new(downsample);
        rewrite::read(self.shared, segment, |item| {
            if let Item::Event(event) = item
                && self.rules(event.lane)
            {
                thinning.look(&event);
            }
            Ok(())
        })?;
        let goes = self.look(segment, |event| thinning.is_gone(event))?;
        self.enter(&goes, Reason::Thinned)?;
        let mut thinned = segment.figures().thinned;
        thinned.push(self.lane);
        let (lane, first) = (self.lane, segment.header.first);
        let mut gone = 0;
        self.rewrite(segment, thinned, |event| {
            if !self.rules(event.lane) || event.lsn() < first {
                return Fate::Kept;
            }
            match thinning.fate(event) {
                Fate::Gone(_) => {
                    gone += 1;
                    Fate::Gone(lane)
                }
                kept => kept,
            }
        })?;
        Ok(gone)
    }

    /// Which events of the lane go from a segment.
    fn look(
        &self,
        segment: &Arc<Segment>,
        goes: impl Fn(&EventRef<'_>) -> bool,
    ) -> io::Result<Goes> {
        let mut found = Goes { needed: None, count: 0, are_all: true };
        rewrite::read(self.shared, segment, |item| {
            let Item::Event(event) = item else { return Ok(()) };
            if !self.rules(event.lane) || !goes(&event) {
                found.are_all = false;
            } else if event.lsn() >= self.covered.needed {
                let first = found.needed.as_ref().map_or(event.lsn(), |lsns| *lsns.start());
                found.needed = Some(first..=event.lsn());
                found.count += 1;
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Enters in the ledger what goes. Nothing goes before that is durable.
    fn enter(&self, goes: &Goes, reason: Reason) -> io::Result<()> {
        let Some(lsns) = goes.needed.clone() else { return Ok(()) };
        if self.shared.dropped(self.lane, lsns, goes.count, reason) {
            Ok(())
        } else {
            Err(io::Error::other("the loss ledger cannot be written"))
        }
    }

    /// Together with the one before it, if that is small.
    fn rewrite(
        &self,
        segment: &Arc<Segment>,
        mut thinned: Vec<Lane>,
        fate: impl FnMut(&EventRef<'_>) -> Fate,
    ) -> io::Result<()> {
        let before = {
            let table = self.shared.table();
            let place = table.0.iter().position(|it| Arc::ptr_eq(it, segment));
            place.and_then(|place| place.checked_sub(1)).map(|place| Arc::clone(&table.0[place]))
        };
        let is_small = |it: &Arc<Segment>| it.header.rewritten.is_some() && it.len() <= SMALL;
        let mut run = vec![Arc::clone(segment)];
        if let Some(small) = before.filter(is_small) {
            // A lane is thinned out where it is in both.
            let figures = small.figures();
            let has = |lane: Lane| figures.lanes.get(lane).is_some_and(|part| part.events > 0);
            thinned.retain(|lane| !has(*lane) || figures.thinned.contains(lane));
            let lanes = segment.lanes();
            let lacks = |lane: Lane| lanes.get(lane).is_none_or(|part| part.events == 0);
            thinned.extend(figures.thinned.iter().copied().filter(|lane| lacks(*lane)));
            run.insert(0, small);
        }
        let bytes: u64 = run.iter().map(|segment| segment.len()).sum();
        rewrite::rewrite(self.shared, &run, thinned, fate).inspect_err(|error| {
            warn!(path = %segment.path.display(), %error, "cannot be rewritten");
        })?;
        let (lane, path) = (self.shared.lanes.name(self.lane), segment.path.display());
        let left = bytes.saturating_sub(segment::HEADER_LEN as u64);
        info!(lane, %path, left, "rewritten, to make room in its lane");
        Ok(())
    }
}

/// Events of the lane that go from a segment.
struct Goes {
    /// The first and the last that some sink has not got; and how many they are.
    needed: Option<RangeInclusive<Lsn>>,
    count: u64,
    /// Whether no other event is in it. What its header says is not enough to lose one.
    are_all: bool,
}
