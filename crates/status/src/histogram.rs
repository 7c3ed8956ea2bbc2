//! Histograms of durations: fixed buckets, so that workers, releases and machines can be added up.

use serde::{Deserialize, Serialize};

/// How many buckets a histogram has. The last one has no upper bound.
pub const BUCKETS: usize = 24;

/// The upper bounds of all buckets but the last, in microseconds, each belonging to its bucket.
pub type Bounds = [u64; BUCKETS - 1];

/// The bounds for the time that a connect to a server takes: 20 µs to 500 s.
pub const CONNECT: Bounds = [
    20,
    50,
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
];

/// The bounds for the length of a connection: 1 ms to 20 000 s.
pub const LENGTH: Bounds = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    20_000_000_000,
];

/// The bucket for a duration in microseconds.
pub fn bucket(bounds: &Bounds, micros: u64) -> usize {
    bounds.partition_point(|bound| *bound < micros)
}

/// How many durations fell into each bucket, and their sum. Both only grow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// The durations in each bucket alone, not in those below it.
    pub buckets: [u64; BUCKETS],
    /// The sum of all durations, in microseconds.
    pub sum: u64,
}

impl Histogram {
    /// How many durations there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(*bucket))
    }

    /// Counts one duration, in microseconds.
    pub fn record(&mut self, bounds: &Bounds, micros: u64) {
        let count = &mut self.buckets[bucket(bounds, micros)];
        *count = count.saturating_add(1);
        self.sum = self.sum.saturating_add(micros);
    }

    /// Adds another histogram with the same bounds.
    pub fn add(&mut self, other: &Histogram) {
        for (own, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *own = own.saturating_add(theirs);
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// The duration below which this share of all durations is, in microseconds; none if there was
    /// none. Within its bucket it is estimated in proportion, as Prometheus does. In the last
    /// bucket it is that bucket's lower bound.
    pub fn quantile(&self, bounds: &Bounds, share: f64) -> Option<u64> {
        let count = self.count();
        let rank = share.clamp(0.0, 1.0) * count as f64;
        let mut below = 0.0;
        let (index, inside) = self.buckets.iter().enumerate().find_map(|(index, inside)| {
            let inside = *inside as f64;
            let found = inside > 0.0 && below + inside >= rank;
            if !found {
                below += inside;
            }
            found.then_some((index, inside))
        })?;
        let lower = index.checked_sub(1).map_or(0, |last| bounds[last]);
        let Some(upper) = bounds.get(index) else { return Some(lower) };
        let part = ((rank - below) / inside).clamp(0.0, 1.0);
        Some(lower + ((upper - lower) as f64 * part) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise_and_belong_to_their_bucket() {
        for bounds in [&CONNECT, &LENGTH] {
            assert!(bounds.is_sorted_by(|one, next| one < next));
            assert_eq!(bucket(bounds, 0), 0);
            for (index, bound) in bounds.iter().enumerate() {
                assert_eq!((bucket(bounds, *bound), bucket(bounds, bound + 1)), (index, index + 1));
            }
            assert_eq!(bucket(bounds, u64::MAX), BUCKETS - 1);
        }
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_rank() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(&CONNECT, 0.5), None);
        for _ in 0..99 {
            histogram.record(&CONNECT, 150);
        }
        histogram.record(&CONNECT, u64::MAX / 2);
        assert_eq!(histogram.count(), 100);
        let half = histogram.quantile(&CONNECT, 0.5).unwrap();
        assert!((100..=200).contains(&half), "{half}");
        assert_eq!(histogram.quantile(&CONNECT, 0.99), Some(200));
        assert_eq!(histogram.quantile(&CONNECT, 1.0), Some(500_000_000));
    }

    #[test]
    fn sums_do_not_overflow() {
        let mut histogram = Histogram { buckets: [u64::MAX; BUCKETS], sum: u64::MAX };
        histogram.record(&LENGTH, 7);
        histogram.add(&histogram.clone());
        assert_eq!((histogram.count(), histogram.sum), (u64::MAX, u64::MAX));
    }
}
