//! Whose turn it is among servers of equal load.
//!
//! Clients that come one after the other leave every server at load 0. If a tie went to the lowest
//! number, server 0 would get all of them. So tied servers share the turns by their weights.

use crate::relay::select::farm::{CURSOR_TRIES, Farm};

/// A turn that no other worker gets: the cursor's value before it moved. If a hostile worker writes
/// the cursor all the time, others may get the same.
pub(super) fn next_turn(farm: &impl Farm) -> u32 {
    let mut turn = farm.cursor();
    for _ in 0..CURSOR_TRIES {
        if farm.advance_cursor(turn, turn.wrapping_add(1)) {
            break;
        }
        turn = farm.cursor();
    }
    turn
}

/// The order of turns, with the stride of the last sum of weights, which mostly comes again.
#[derive(Debug, Default)]
pub(super) struct Turns {
    total: u64,
    stride: u64,
}

impl Turns {
    /// The place of a turn in a row of `total` places, in which each server has as many places as
    /// its weight. In a cycle of `total` turns, each place comes once. They are mixed, so that no
    /// server has many turns in a row.
    pub fn rank(&mut self, total: u64, turn: u32) -> u64 {
        let total = total.max(1);
        if self.total != total {
            *self = Turns { total, stride: stride(total) };
        }
        match u32::try_from(total) {
            Ok(_) => u64::from(turn) % total * self.stride % total,
            Err(_) => {
                let place = u128::from(turn) * u128::from(self.stride) % u128::from(total);
                // Below `total`.
                u64::try_from(place).unwrap_or(0)
            }
        }
    }
}

/// A step that visits each of `total` positions once before it repeats, and separates neighbours
/// widely. It is the number nearest to the golden section that is coprime to `total`.
fn stride(total: u64) -> u64 {
    let near = u64::try_from(u128::from(total) * 618 / 1000).unwrap_or(1).max(1);
    (near..).find(|step| gcd(*step, total) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        // A division of short numbers takes half the time.
        (a, b) = match (u32::try_from(a), u32::try_from(b)) {
            (Ok(short), Ok(other)) => (b, u64::from(short % other)),
            (_, _) => (b, a % b),
        };
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The number of the server that has a turn, if it is there.
    fn owner(weights: &[u64], turn: u32) -> Option<usize> {
        let mut rank = Turns::default().rank(weights.iter().sum(), turn);
        weights.iter().position(|weight| match rank.checked_sub(*weight) {
            Some(rest) => {
                rank = rest;
                false
            }
            None => true,
        })
    }

    fn turns(weights: &[u64], count: u32) -> Vec<usize> {
        (0..count).map(|turn| owner(weights, turn).unwrap()).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        for count in [2usize, 3, 7, 16] {
            let mut round = turns(&vec![1; count], count as u32);
            round.sort_unstable();
            assert_eq!(round, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn large_weights_make_no_long_rows() {
        let order = turns(&[100, 50], 150);
        let longest = order.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
        assert!(longest <= Some(4), "{order:?}");
    }

    proptest! {
        #[test]
        fn a_round_of_turns_is_shared_by_weight(
            weights in prop::collection::vec(1u64..50, 2..12),
            start in 0u32..1_000_000,
        ) {
            let total: u64 = weights.iter().sum();
            let mut had = vec![0; weights.len()];
            for turn in start..start + total as u32 {
                had[owner(&weights, turn).unwrap()] += 1;
            }
            prop_assert_eq!(had, weights);
        }

        #[test]
        fn every_turn_has_an_owner(
            weights in prop::collection::vec(1..u64::from(u32::MAX), 2..200),
            turn in any::<u32>(),
        ) {
            prop_assert!(owner(&weights, turn).is_some());
        }
    }
}
