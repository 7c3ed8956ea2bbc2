//! The share of new clients that a server gets after it came back (`slow_start`).

use super::*;
use crate::relay::select::tests::methods::{
    LEASTCONN, NONE, P2C, PRIO, WEIGHT, first_of, weighted,
};
use crate::relay::select::tests::positions::{MAGLEV, farm_at, first_for, numbered, renewed};

/// The share of new clients that a server gets which came back, at each time of its slow start.
#[test]
fn a_server_that_came_back_begins_with_a_tenth_and_gets_more() {
    for selection in [NONE, WEIGHT, LEASTCONN, P2C, PRIO, Selection { roundrobin: true, ..NONE }] {
        let mut settings = weighted(&[1; 4], selection);
        settings.slow_start = 10;
        let mut shares = Vec::new();
        for now in [1000, 6000, 11_000] {
            let farm = Model { returned: vec![1000], ..Model::default() };
            farm.now.set(now);
            renewed(&settings, &farm);
            let had = (0..8000).filter(|_| first_of(&settings, &farm) == Some(0)).count();
            shares.push(had);
        }
        // Alone it would have all in prio mode, and a quarter otherwise.
        let whole = if selection.prio { 8000.0 } else { 2000.0 };
        for (share, expected) in shares.iter().zip([0.1, 0.55, 1.0]) {
            let expected = if selection.prio {
                whole * expected
            } else {
                8000.0 * expected / (3.0 + expected)
            };
            let difference = (*share as f64 - expected).abs();
            assert!(difference < 0.12 * whole, "{selection:?}: {shares:?}, not {expected}");
        }
    }
    // The hash and positions do not know it, and a lonely server gets all.
    for selection in [Selection { hash: true, ..NONE }, MAGLEV] {
        let mut settings = farm_at(&[1; 4], selection);
        let client = numbered(1);
        let farm = Model { returned: vec![1000; 4], ..Model::default() };
        farm.now.set(1000);
        renewed(&settings, &farm);
        let before = first_for(&settings, &farm, client);
        settings.slow_start = 10;
        assert!((0..20).all(|_| first_for(&settings, &farm, client) == before));
    }
    for selection in [NONE, LEASTCONN, P2C, PRIO] {
        let mut settings = weighted(&[1], selection);
        settings.slow_start = 10;
        let farm = Model { returned: vec![1000], ..Model::default() };
        farm.now.set(1000);
        renewed(&settings, &farm);
        assert!((0..20).all(|_| first_of(&settings, &farm) == Some(0)), "{selection:?}");
    }
}

/// With loads that count, a server in slow start has its share of the connections.
#[test]
fn connections_are_shared_by_the_weights_of_the_moment() {
    for selection in [WEIGHT, LEASTCONN, P2C] {
        let mut settings = weighted(&[2; 4], selection);
        settings.slow_start = 10;
        let mut farm = Model { returned: vec![1000], connections: vec![0; 4], ..Model::default() };
        farm.now.set(1000);
        renewed(&settings, &farm);
        for _ in 0..310 {
            let chosen = first_of(&settings, &farm).unwrap();
            farm.connections[chosen] += 1;
        }
        assert!((7..=14).contains(&farm.connections[0]), "{selection:?} {:?}", farm.connections);
    }
}

/// With short connections one after the other, the server that came back is nearly always idle when
/// the other still has the last client. An idle server has no load that could be compared.
#[test]
fn an_idle_server_has_no_more_than_its_part_of_the_new_clients() {
    for selection in [WEIGHT, LEASTCONN, P2C] {
        let mut settings = weighted(&[1, 1], selection);
        settings.slow_start = 10;
        for (now, most) in [(1000, 100), (6000, 550)] {
            let mut farm =
                Model { returned: vec![1000], connections: vec![0, 0], ..Model::default() };
            farm.now.set(now);
            renewed(&settings, &farm);
            let mut had = 0;
            for _ in 0..1000 {
                let chosen = first_of(&settings, &farm).unwrap();
                farm.connections = vec![0, 0];
                farm.connections[chosen] = 1;
                had += usize::from(chosen == 0);
            }
            let range = most / 3..most + most / 2;
            assert!(range.contains(&had), "{selection:?}: {had} of 1000, not up to {most}");
        }
    }
}

/// Of two servers under p2c, both are compared for each client, whichever begins slowly.
#[test]
fn one_of_two_under_p2c_has_what_its_weight_of_the_moment_says() {
    let mut settings = weighted(&[1, 1], P2C);
    settings.slow_start = 10;
    for (now, share) in [(1000, 30), (6000, 117), (11_000, 165)] {
        let mut farm = Model { returned: vec![1000], connections: vec![0; 2], ..Model::default() };
        farm.now.set(now);
        renewed(&settings, &farm);
        for _ in 0..330 {
            let chosen = first_of(&settings, &farm).unwrap();
            assert!(farm.choices.borrow().compared().is_some());
            farm.connections[chosen] += 1;
        }
        assert!(farm.connections[0].abs_diff(share) <= 1, "{:?}, not {share}", farm.connections);
    }
}
