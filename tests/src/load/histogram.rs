//! Latencies, to within 1.6 %.

use std::time::Duration;

/// Buckets for each power of two.
const STEPS: u64 = 64;

/// Counts durations in buckets that grow with the value, from 1 ns to hours.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        Self { buckets: vec![0; 64 * STEPS as usize], count: 0, max: Duration::ZERO }
    }

    /// Counts one.
    pub fn record(&mut self, value: Duration) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// Counts all of `other`.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The value that `percent` of all do not exceed, rounded up to its bucket's end; 0 when empty.
    pub fn percentile(&self, percent: f64) -> Duration {
        let wanted = ((self.count as f64) * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_nanos(upper_end(at as u64)).min(self.max);
            }
        }
        self.max
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let power = u64::from(nanos.ilog2() - STEPS.ilog2());
    (power * STEPS + (nanos >> power)) as usize
}

fn upper_end(bucket: u64) -> u64 {
    if bucket < 2 * STEPS {
        return bucket;
    }
    let power = bucket / STEPS - 1;
    let mantissa = bucket - power * STEPS;
    // The last bucket ends where u64 does.
    ((mantissa + 1) << power).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_within_a_bucket_of_the_truth() {
        let mut histogram = Histogram::new();
        (1..=100_000).for_each(|n| histogram.record(Duration::from_micros(n)));
        for percent in [1.0, 50.0, 99.0, 99.9] {
            let found = histogram.percentile(percent).as_secs_f64();
            let truth = percent / 100.0 * 0.1;
            assert!((found / truth - 1.0).abs() < 0.017, "p{percent}: {found}");
        }
        assert_eq!(histogram.percentile(100.0), Duration::from_millis(100));
        assert_eq!(histogram.count(), 100_000);
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        for nanos in (0..200).chain([1_000, 65_535, 65_536, 1 << 40, u64::MAX]) {
            let at = bucket(nanos) as u64;
            assert!(upper_end(at) >= nanos, "{nanos}");
            assert!(at == 0 || upper_end(at - 1) < nanos, "{nanos}");
        }
    }
}
