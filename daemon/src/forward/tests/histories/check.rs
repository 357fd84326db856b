//! What must hold at the end of a history.

use super::super::bus::Arrived;
use super::*;
use crate::log::Loss;

impl History {
    pub(super) fn check(&self) {
        let arrived = self.bus.arrived();
        let letters = self.letters();
        let ids: HashSet<&str> = arrived
            .iter()
            .map(|event| event.id.as_str())
            .chain(letters.iter().map(String::as_str))
            .collect();
        let mut missing: BTreeMap<Lane, Vec<Lsn>> = BTreeMap::new();
        let log = &self.gateway.shared.log;
        for (lsn, (_, topic)) in (1..).zip(&self.published) {
            if *topic != "other" && !ids.contains(log.id(lsn).to_string().as_str()) {
                missing.entry(log.lanes().of(topic)).or_default().push(lsn);
            }
        }
        let losses = log.losses();
        for (lane, lsns) in &missing {
            let of_lane = |loss: &&Loss| loss.lane == *lane && loss.reason == Reason::Dropped;
            let entries: Vec<&Loss> = losses.iter().filter(of_lane).collect();
            let is_entered = |lsn: &Lsn| entries.iter().any(|loss| loss.lsns.contains(lsn));
            assert!(self.kind.drops && lsns.iter().all(is_entered), "{missing:?} of {self}");
            let count: u64 = entries.iter().map(|loss| loss.count).sum();
            assert!(lsns.len() as u64 <= count, "{missing:?} of {self}");
        }
        if self.life == 0 && !self.kind.unheard {
            assert_eq!(arrived.len() + letters.len(), ids.len(), "nothing comes twice: {self}");
            let missing: usize = missing.values().map(Vec::len).sum();
            let unwanted = self.published.iter().filter(|(_, topic)| *topic == "other").count();
            let metrics = self.gateway.metrics();
            let counters = [
                &metrics.events,
                &metrics.dead_letters,
                &metrics.filtered,
                &metrics.lost,
                &metrics.expired,
            ];
            let counted = [arrived.len(), letters.len(), unwanted, missing, 0];
            assert_eq!(counters.map(|counter| counter.get() as usize), counted, "{self}");
        }
        self.in_order(&arrived);
    }

    /// What the cursor has passed has arrived.
    pub(super) fn check_cursor(&self, spans: &[Range]) {
        if self.kind.drops {
            return;
        }
        let arrived = self.bus.arrived();
        let ids: HashSet<&str> = arrived.iter().map(|event| event.id.as_str()).collect();
        let log = &self.gateway.shared.log;
        let lost = |lsn: Lsn, payload: &str, topic: &str| {
            let lane = log.lanes().of(topic);
            let is_open = |span: &Range| {
                (span.from..span.to.unwrap_or(Lsn::MAX)).contains(&lsn) && span.lanes.contains(lane)
            };
            topic != "other"
                && !payload.contains("poison")
                && !spans.iter().any(is_open)
                && !ids.contains(log.id(lsn).to_string().as_str())
        };
        let events = (1..).zip(&self.published);
        let lost: Vec<Lsn> = events
            .filter(|(lsn, (payload, topic))| lost(*lsn, payload, topic))
            .map(|(lsn, _)| lsn)
            .collect();
        assert!(lost.is_empty(), "the cursor {spans:?} has passed {lost:?}, of {self}");
    }

    /// Of each forwarder each source's events come for the first time in order: those of the backlog, and
    /// the others. Not those that the bus put off.
    fn in_order(&self, arrived: &[Arrived]) {
        let mut last: BTreeMap<(usize, &str, bool), usize> = BTreeMap::new();
        let mut seen = HashSet::new();
        for event in arrived.iter().filter(|event| seen.insert((event.life, &event.id))) {
            let Ok(number) = event.data.parse() else { continue };
            let before = last.insert((event.life, &event.source, event.historical), number);
            let in_order = before.is_none_or(|before| before < number);
            assert!(in_order, "{event:?} behind {before:?} of {self}");
        }
    }

    /// The ids of what is in the dead-letter queue.
    fn letters(&self) -> Vec<String> {
        let dir = self.gateway.dir.path().join("dlq").join("cloud");
        let (queue, _) = Log::open(Arc::new(FileSystem), options(dir)).unwrap();
        let (mut reader, mut chunk) = (queue.reader(1), Chunk::default());
        let mut ids = Vec::new();
        while reader.read(&mut chunk, 1 << 20).unwrap() == Read::Frames {
            for event in chunk.frames().flat_map(|frame| frame.events()) {
                ids.extend(event.unwrap().properties.iter().find_map(|property| match property {
                    Property::User(dead_letter::ID, id) => Some(id.to_owned()),
                    _ => None,
                }));
            }
        }
        ids
    }
}

impl std::fmt::Display for History {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, published, life, most_streams, .. } = self;
        let drain = self.gateway.config.drain;
        write!(
            out,
            "{} events, {life} restarts, {most_streams} streams at most, {kind:?}, {drain:?}",
            published.len(),
        )
    }
}
