//! Which of some servers comes first, each as often as its weight says (rendezvous hashing by
//! weight). Pure and frozen, like the table of `maglev`: other machines and later releases must
//! compute the same. So it has no fractions of the processor, whose logarithms are not the same
//! everywhere.

use std::cmp::Ordering;

/// When a server arrives, if each server arrives after a time of its own, exponentially distributed
/// with its weight as the rate. Each is the first one as often as its weight says. Without it, the
/// others are, each as often as its own weight says.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The time of a server of weight 1.
    time: u64,
    weight: u64,
}

impl Arrival {
    /// The arrival that a random word, or a hash, decides. A weight of 0 counts as 1.
    pub fn new(word: u64, weight: u64) -> Arrival {
        Arrival { time: minus_log2(word), weight: weight.max(1) }
    }
}

/// The earlier one is less.
impl Ord for Arrival {
    fn cmp(&self, other: &Arrival) -> Ordering {
        // A time is at most 2^46, so the products are below 2^110.
        let product = |time: u64, weight: u64| u128::from(time) * u128::from(weight);
        product(self.time, other.weight).cmp(&product(other.time, self.weight))
    }
}

impl PartialOrd for Arrival {
    fn partial_cmp(&self, other: &Arrival) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Arrival {
    fn eq(&self, other: &Arrival) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Arrival {}

/// Bits of a logarithm behind the point.
const FRACTION: u32 = 40;

/// The logarithm to the base 2 of a word as a fraction of 2^64, without its sign; never 0. Of an
/// evenly distributed word it is exponentially distributed.
fn minus_log2(word: u64) -> u64 {
    let word = word | 1;
    let zeros = word.leading_zeros();
    // From 1 to below 2, in units of 2^-63.
    let mut mantissa = word << zeros;
    let mut log = u64::from(63 - zeros);
    for _ in 0..FRACTION {
        // The square is from 1 to below 4. Its first bit is the next one of the logarithm.
        let square = u128::from(mantissa) * u128::from(mantissa);
        let bit = u64::from(square >> 127 == 1);
        mantissa = (square >> (63 + bit)) as u64;
        log = log << 1 | bit;
    }
    (64 << FRACTION) - log
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::maglev::mixed;

    #[test]
    fn the_logarithm_is_frozen_and_right() {
        for (word, expected) in FROZEN {
            assert_eq!(minus_log2(word), expected, "{word:x}");
        }
        for word in (0..2000).map(mixed).chain([1, 3, u64::MAX, u64::MAX / 3]) {
            let expected = -((word as f64 / 2f64.powi(64)).log2());
            let found = minus_log2(word) as f64 / 2f64.powi(40);
            assert!((found - expected).abs() < 1e-9 || word < 2, "{word:x}: {found} {expected}");
        }
    }

    const FROZEN: [(u64, u64); 5] = [
        (0, 64 << 40),
        (1, 64 << 40),
        (1 << 63, 1 << 40),
        (u64::MAX, 1),
        (0xb504_f333_f9de_6484, 1 << 39),
    ];

    #[test]
    fn each_comes_first_as_often_as_its_weight_says() {
        let weights = [1u64, 2, 5, 100];
        let mut first = [0u64; 4];
        for round in 0..108_000u64 {
            let arrival = |place: usize| {
                Arrival::new(mixed(round ^ mixed(77 + place as u64)), weights[place])
            };
            let best = (0..4).min_by_key(|place| arrival(*place)).unwrap();
            first[best] += 1;
        }
        for (weight, had) in weights.into_iter().zip(first) {
            assert!(had.abs_diff(1000 * weight) < 100 + 20 * weight, "{first:?}");
        }
    }

    proptest! {
        #[test]
        fn with_the_same_word_the_heavier_one_comes_first(word: u64, weight in 1u64..1 << 62) {
            prop_assert!(Arrival::new(word, weight + 1) < Arrival::new(word, weight));
            prop_assert!(Arrival::new(word, 0) == Arrival::new(word, 1));
        }

        #[test]
        fn arrivals_have_an_order(words: [u64; 3], weights: [u64; 3]) {
            let mut all = [0, 1, 2].map(|n| Arrival::new(words[n], weights[n]));
            all.sort_unstable();
            prop_assert!(all[0] <= all[2]);
        }
    }
}
