//! The choice of weight mode: the server with the least load, and servers of equal load in turn.
//!
//! Clients that come one after the other leave every server at load 0. If a tie went to the lowest
//! number, server 0 would get all of them. So tied servers share the turns by their weights.

use pen_config::ids::ServerId;
use pen_config::settings::{Server, Settings};

use crate::relay::select::farm::Farm;

/// The available server with the least load; among several, the one whose turn it is. The cursor
/// moves by one if there is a tie.
pub(in crate::relay::select) fn least_loaded(
    settings: &Settings,
    farm: &impl Farm,
    is_available: &mut impl FnMut(ServerId) -> bool,
) -> Option<ServerId> {
    let mut least = u64::MAX;
    let mut tied = Vec::new();
    for (id, server) in settings.configured().filter(|(id, _)| is_available(*id)) {
        let load = load(farm, id, server);
        if load < least {
            least = load;
            tied.clear();
        }
        if load == least {
            tied.push((id, u64::from(server.weight.max(1))));
        }
    }
    match tied.as_slice() {
        [] => None,
        [(only, _)] => Some(*only),
        several => owner_of_turn(several, next_turn(farm)),
    }
}

/// 256 × connections ÷ weight, rounded down.
fn load(farm: &impl Farm, id: ServerId, server: &Server) -> u64 {
    256 * u64::from(farm.connections(u32::from(id.0))) / u64::from(server.weight.max(1))
}

/// A turn that no other worker gets: the cursor's value before it moved.
fn next_turn(farm: &impl Farm) -> u32 {
    loop {
        let turn = farm.cursor();
        if farm.advance_cursor(turn, turn.wrapping_add(1)) {
            return turn;
        }
    }
}

/// The server that a turn belongs to. In a cycle as long as the sum of the weights, each server has
/// as many turns as its weight. They are mixed, so that no server has many turns in a row.
fn owner_of_turn(servers: &[(ServerId, u64)], turn: u32) -> Option<ServerId> {
    let total: u64 = servers.iter().map(|(_, weight)| weight).sum();
    let spread = u128::from(turn) * u128::from(stride(total)) % u128::from(total.max(1));
    let mut rank = u64::try_from(spread).unwrap_or(0);
    for (id, weight) in servers {
        match rank.checked_sub(*weight) {
            Some(rest) => rank = rest,
            None => return Some(*id),
        }
    }
    None
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
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn servers(weights: &[u64]) -> Vec<(ServerId, u64)> {
        (0u16..).zip(weights).map(|(number, weight)| (ServerId(number), *weight)).collect()
    }

    fn turns(weights: &[u64], count: u32) -> Vec<u16> {
        let servers = servers(weights);
        (0..count).map(|turn| owner_of_turn(&servers, turn).unwrap().0).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        for count in [2usize, 3, 7, 16] {
            let mut round = turns(&vec![1; count], count as u32);
            round.sort_unstable();
            assert_eq!(round, (0..count as u16).collect::<Vec<_>>());
        }
    }

    #[test]
    fn large_weights_make_no_long_rows() {
        let order = turns(&[100, 50], 150);
        let longest = order.chunk_by(|a, b| a == b).map(<[u16]>::len).max();
        assert!(longest <= Some(4), "{order:?}");
    }

    proptest! {
        #[test]
        fn a_round_of_turns_is_shared_by_weight(
            weights in prop::collection::vec(1u64..50, 2..12),
            start in 0u32..1_000_000,
        ) {
            let servers = servers(&weights);
            let total: u64 = weights.iter().sum();
            let mut had = vec![0; weights.len()];
            for turn in start..start + total as u32 {
                had[owner_of_turn(&servers, turn).unwrap().index()] += 1;
            }
            prop_assert_eq!(had, weights);
        }

        #[test]
        fn every_turn_has_an_owner(
            weights in prop::collection::vec(1..u64::from(u32::MAX), 2..200),
            turn in any::<u32>(),
        ) {
            prop_assert!(owner_of_turn(&servers(&weights), turn).is_some());
        }
    }
}
