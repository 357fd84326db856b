//! Events a second, over the last few seconds.

/// Seconds that are averaged.
const SPAN: u64 = 5;

/// Counts by second. Time is in seconds since any fixed moment.
#[derive(Debug, Default)]
pub(in crate::receiver) struct Rate {
    /// The second and its count, at `second % slots`.
    slots: [(u64, u64); SPAN as usize + 1],
}

impl Rate {
    /// Counts `events` in the second `now`.
    pub(in crate::receiver) fn add(&mut self, now: u64, events: u64) {
        let slot = &mut self.slots[(now % self.slots.len() as u64) as usize];
        if slot.0 != now {
            *slot = (now, 0);
        }
        slot.1 += events;
    }

    /// Events a second over the whole seconds before `now`.
    pub(in crate::receiver) fn per_second(&self, now: u64) -> f64 {
        let recent = |(second, _): &&(u64, u64)| *second < now && *second + SPAN >= now;
        let count: u64 = self.slots.iter().filter(recent).map(|(_, count)| count).sum();
        count as f64 / SPAN as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_averages_over_whole_seconds_and_falls_to_zero() {
        let mut rate = Rate::default();
        (10..15).for_each(|second| rate.add(second, 100));
        rate.add(15, 7);
        assert_eq!(rate.per_second(15), 100.0);
        assert_eq!(rate.per_second(17), (300.0 + 7.0) / 5.0);
        assert_eq!(rate.per_second(21), 0.0);
    }
}
