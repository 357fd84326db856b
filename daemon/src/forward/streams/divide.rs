//! How streams divide when a sink falls behind, and become one again.

use tidegate_event::Lsn;
use tokio::time::Instant;

use super::Streams;
use crate::forward::batch::Batch;
use crate::forward::behind::Behind;
use crate::forward::inflight::{InFlight, StreamId};
use crate::forward::intake::Again;
use crate::forward::stream::Stream;
use crate::state::{MAX_SPANS, Span};

impl Streams {
    /// Drops streams that are over, divides those that are behind, unites those that are not. Answers
    /// whether one was divided.
    pub(in crate::forward) fn arrange(
        &mut self,
        in_flight: &mut InFlight,
        behind: &Behind,
        is_held_back: bool,
        committed: Lsn,
        now: Instant,
    ) -> bool {
        self.list.retain(|stream| stream.to.is_none() || !stream.is_over(in_flight));
        let mut divided = false;
        in_flight.let_go();
        // While the bus takes nothing, nothing is gained; and more comes until it does.
        if !is_held_back {
            let late: Vec<StreamId> = self
                .list
                .iter()
                .filter(|stream| stream.to.is_none() && behind.is_late(stream.cursor))
                .map(|stream| stream.id)
                .collect();
            for id in late {
                divided |= self.divide(id, in_flight, committed, now).is_some();
            }
        }
        self.unite(in_flight, behind);
        divided
    }

    /// Divides a stream that is behind: by time where the newest events go first, and by priority.
    fn divide(
        &mut self,
        id: StreamId,
        in_flight: &mut InFlight,
        committed: Lsn,
        now: Instant,
    ) -> Option<()> {
        let at = self.list.iter().position(|stream| stream.id == id)?;
        let all = self.list[at].lanes;
        let mut classes = self.source.rules.classes(all);
        // The last one keeps the number, and so what flies.
        let last = classes.pop()?;
        let more = classes.len() + usize::from(self.live_first);
        if more == 0 || self.list.len() + more > MAX_SPANS {
            return None;
        }
        let Some(mut intake) = self.list[at].intake.take() else {
            // A read is under way. What is cut does not leave in the order of before, meanwhile.
            in_flight.hold(id);
            return None;
        };
        // What waits is read again, each event by the stream that it is of now. What the bus may have stays.
        let mut back = in_flight.withdraw(id);
        back.extend(intake.opens.take().iter().flat_map(Batch::lsns));
        let again = intake.again(back);
        let from = again.lsns.first().map_or(intake.next(), |first| intake.next().min(*first));
        let live = again.until.max(committed + 1);
        let to = self.live_first.then_some(live);

        let mut rest = self.list.remove(at);
        let cursor = rest.cursor;
        let intake = self.source.intake(Span { from, to, lanes: last }, again.share());
        (rest.lanes, rest.to, rest.tail, rest.keeps_up) = (last, to, None, false);
        rest.priority = self.source.rules.priority(last);
        rest.intake = Some(Box::new(intake));
        self.list.push(rest);
        for lanes in classes {
            let part = self.open(Span { from, to, lanes }, again.share(), now);
            in_flight.divide(id, part);
            // What flies is not done with, and it may be read before the cursors move.
            if let Some(part) = self.get_mut(part) {
                part.cursor = cursor;
            }
        }
        if self.live_first {
            // What flies is not historical: the newest events of its sources come after it.
            let live = Span { from: live, to: None, lanes: all };
            let live = self.open(live, Again::default(), now);
            in_flight.precede(id, live);
        }
        self.sort();
        Some(())
    }

    /// Those that go on with the log.
    pub(super) fn live(&self) -> impl Iterator<Item = &Stream> {
        self.list.iter().filter(|stream| stream.to.is_none())
    }

    /// Where streams meet that are to become one: the next LSN of the one that is furthest. Only while
    /// all of them can get there.
    pub(super) fn meeting(&self) -> Option<Lsn> {
        let is_ready = |stream: &Stream| stream.keeps_up && stream.intake.is_some();
        if self.live().count() < 2 || !self.live().all(is_ready) {
            return None;
        }
        self.live().filter_map(Stream::next).max()
    }

    /// Makes one stream of those that go on with the log, once all stand at the same place.
    fn unite(&mut self, in_flight: &mut InFlight, behind: &Behind) -> Option<()> {
        let place = self.meeting()?;
        let is_there =
            |stream: &Stream| stream.next() == Some(place) && !behind.is_late(stream.cursor);
        if !self.live().all(is_there) {
            return None;
        }
        let (live, mut others): (Vec<Stream>, Vec<Stream>) =
            std::mem::take(&mut self.list).into_iter().partition(|stream| stream.to.is_none());
        let mut live = live.into_iter();
        let mut one = live.next()?;
        for part in live {
            one.lanes = one.lanes.union(part.lanes);
            one.priority = self.source.rules.priority(one.lanes);
            one.cursor = one.cursor.min(part.cursor);
            in_flight.unite(part.id, one.id, one.rank());
            for batch in part.intake.into_iter().flat_map(|mut intake| intake.opens.take()) {
                in_flight.push(batch, one.id, one.rank());
            }
        }
        if let Some(intake) = &mut one.intake {
            intake.take_over(one.lanes);
        }
        one.tail = None;
        others.push(one);
        self.list = others;
        self.sort();
        Some(())
    }
}
