//! `p2c`: what is drawn and compared, and how much of it.

use super::*;
use crate::relay::select::tests::methods::{P2C, first_of, is_less, weighted};
use crate::relay::select::tests::positions::renewed;

proptest! {
    /// Of two servers it takes the less loaded one, and draws reach every server.
    #[test]
    fn p2c_leaves_no_server_behind(weights in prop::collection::vec(1u32..5, 2..60)) {
        let settings = weighted(&weights, P2C);
        let mut farm = Model { connections: vec![0; weights.len()], ..Model::default() };
        renewed(&settings, &farm);
        let total: u32 = weights.iter().sum();
        for _ in 0..50 * total {
            let chosen = first_of(&settings, &farm).unwrap();
            let compared = farm.choices.borrow().compared();
            if let Some((one, other)) = compared {
                let load = |id: ServerId| {
                    (u64::from(farm.connections[id.index()]), u64::from(weights[id.index()]))
                };
                prop_assert!(one != other);
                let best = if is_less(load(other), load(one)) { other } else { one };
                prop_assert_eq!(chosen, best.index());
            }
            farm.connections[chosen] += 1;
        }
        for (weight, connections) in weights.iter().zip(&farm.connections) {
            // The gap does not grow with the number of clients: it is log log n of servers.
            prop_assert!(connections.abs_diff(50 * weight) <= 25 + 2 * weight, "{connections} at {weight}");
        }
    }
}

#[test]
fn p2c_draws_by_weight_and_finds_the_few_that_can_be_used() {
    let weights = [4, 0, 1, 3];
    let (settings, mut farm) = (weighted(&weights, P2C), Model::default());
    renewed(&settings, &farm);
    let mut had = [0u32; 4];
    (0..8000).for_each(|_| had[first_of(&settings, &farm).unwrap()] += 1);
    for (weight, had) in weights.iter().zip(had) {
        assert!(had.abs_diff(1000 * weight) <= 150, "{had} at {weight}");
    }
    let settings = farm_of(400, P2C);
    farm.states = vec![Some(Blacklist::Until(9)); 400];
    renewed(&settings, &farm);
    for open in [[399, 7], [0, 1]] {
        open.iter().for_each(|n| farm.states[*n] = None);
        let mut had = [0; 400];
        (0..200).for_each(|_| had[first_of(&settings, &farm).unwrap()] += 1);
        assert!(open.iter().all(|n| had[*n] > 20), "{had:?}");
    }
}

/// The servers that are examined for a choice, on average.
fn examined(settings: &Settings, farm: &Model) -> u32 {
    let choices = 1000;
    farm.examined.set(0);
    (0..choices).for_each(|_| assert!(first_of(settings, farm).is_some()));
    farm.examined.get() / choices
}

#[test]
fn a_choice_examines_few_while_most_are_out_or_all_begin_slowly() {
    let mut settings = farm_of(400, P2C);
    let mut farm = Model::default();
    renewed(&settings, &farm);
    assert_eq!(examined(&settings, &farm), 2);
    farm.states = (0..400).map(|n| (n % 10 > 0).then_some(Blacklist::Until(9))).collect();
    let few = examined(&settings, &farm);
    assert!(few < 30, "nine of ten are out: {few}");
    farm = Model { returned: vec![1000; 400], ..Model::default() };
    farm.now.set(1000);
    settings.slow_start = 10;
    renewed(&settings, &farm);
    let slow = examined(&settings, &farm);
    assert!(slow < 20, "all begin slowly: {slow}");
}

#[test]
fn two_are_compared_also_if_all_begin_slowly() {
    let mut settings = weighted(&[1; 300], P2C);
    settings.slow_start = 10;
    let farm = Model { returned: vec![1000; 300], ..Model::default() };
    farm.now.set(1000);
    renewed(&settings, &farm);
    for _ in 0..300 {
        assert!(first_of(&settings, &farm).is_some());
        assert!(farm.choices.borrow().compared().is_some());
    }
}

/// Those that are left of many are drawn by weight, and one that begins slowly by its share of it.
#[test]
fn the_few_that_are_left_have_their_shares() {
    let mut weights = vec![1000; 200];
    (weights[10], weights[150], weights[199]) = (10, 30, 100);
    let mut settings = weighted(&weights, P2C);
    settings.slow_start = 10;
    let mut farm = Model {
        returned: vec![0; 200],
        states: vec![Some(Blacklist::Until(9)); 200],
        ..Model::default()
    };
    farm.returned[199] = 1000;
    farm.now.set(1000);
    [10, 150, 199].iter().for_each(|n| farm.states[*n] = None);
    renewed(&settings, &farm);
    let mut had = [0u32; 200];
    (0..10_000).for_each(|_| had[first_of(&settings, &farm).unwrap()] += 1);
    // Five of a hundred choices draw one of them, mostly the last one, and have no second.
    for (number, expected) in [(10, 1930u32), (150, 5780), (199, 2290)] {
        assert!(had[number].abs_diff(expected) < 250, "{number}: {}", had[number]);
    }
}
