//! Whether the parts that must never stand still get on.
//!
//! A part counts its steps and says whether it has work. Who watches compares: work, and no step for
//! longer than a limit, is standing still, whatever the reason: a disk that answers no more, a lock,
//! an endless loop. No work is no reason to worry, and neither is a sink that cannot be reached: to try
//! again is a step.

use std::time::{Duration, Instant};

/// How far a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Changes with every step.
    pub steps: u64,
    /// Whether there is something to do now.
    pub has_work: bool,
}

/// Watches parts, always the same ones in the same order.
#[derive(Debug, Default)]
pub struct Watch(Vec<Seen>);

#[derive(Debug)]
struct Seen {
    steps: u64,
    /// Since when it has had work without a step, as far as anybody looked.
    since: Option<Instant>,
}

impl Watch {
    /// Looks at every part at `now`. Answers the index of the first that has stood still for longer than
    /// `limit`, and for how long.
    pub fn standing_still(
        &mut self,
        parts: impl IntoIterator<Item = Progress>,
        now: Instant,
        limit: Duration,
    ) -> Option<(usize, Duration)> {
        let mut still = None;
        for (index, part) in parts.into_iter().enumerate() {
            if self.0.len() == index {
                self.0.push(Seen { steps: part.steps, since: None });
            }
            let seen = &mut self.0[index];
            if !part.has_work || part.steps != seen.steps {
                *seen = Seen { steps: part.steps, since: part.has_work.then_some(now) };
                continue;
            }
            let lasts = now.saturating_duration_since(*seen.since.get_or_insert(now));
            if still.is_none() && lasts > limit {
                still = Some((index, lasts));
            }
        }
        still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// What the watch says at each second of what one part does.
    fn watch(part: impl Fn(u64) -> Progress, seconds: u64) -> Option<u64> {
        let (mut watch, start) = (Watch::default(), Instant::now());
        (0..seconds).find(|second| {
            let now = start + Duration::from_secs(*second);
            watch.standing_still([part(*second)], now, LIMIT).is_some()
        })
    }

    #[test]
    fn work_without_a_step_is_standing_still() {
        assert_eq!(watch(|_| Progress { steps: 7, has_work: true }, 60), Some(11));
    }

    #[test]
    fn a_step_in_time_is_enough() {
        assert_eq!(watch(|second| Progress { steps: second / 10, has_work: true }, 60), None);
        assert!(watch(|second| Progress { steps: second / 12, has_work: true }, 60).is_some());
    }

    #[test]
    fn without_work_nobody_has_to_get_on() {
        assert_eq!(watch(|_| Progress { steps: 0, has_work: false }, 60), None);
        // The time counts from the first look that saw work.
        let part = |second| Progress { steps: 0, has_work: second >= 20 };
        assert_eq!(watch(part, 60), Some(31));
    }

    #[test]
    fn each_part_is_watched_alone() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        for second in 0..=11 {
            let parts = [(second, true), (3, true), (0, false)];
            let parts = parts.map(|(steps, has_work)| Progress { steps, has_work });
            let still = watch.standing_still(parts, start + Duration::from_secs(second), LIMIT);
            assert_eq!(still, (second == 11).then_some((1, Duration::from_secs(11))));
        }
    }
}
