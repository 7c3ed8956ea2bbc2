//! The methods that compare loads and ranks: what they choose, over many servers and clients.

use pen_config::maglev::positions;

use super::*;

pub(super) fn weighted(weights: &[u32], selection: Selection) -> Settings {
    settings(
        weights.iter().map(|weight| Some(Server { weight: *weight, ..server() })).collect(),
        selection,
    )
}

pub(super) const LEASTCONN: Selection = Selection { leastconn: true, ..NONE };
pub(super) const WEIGHT: Selection = Selection { weight: true, ..NONE };
pub(super) const P2C: Selection = Selection { p2c: true, ..NONE };
pub(super) const PRIO: Selection = Selection { prio: true, ..NONE };
pub(super) const NONE: Selection = Selection {
    roundrobin: false,
    hash: false,
    hash_always: false,
    weight: false,
    prio: false,
    stubborn: false,
    leastconn: false,
    p2c: false,
    maglev: Maglev::Off,
};

/// The first server of a new client, by what the worker has derived so far.
pub(super) fn first_of(settings: &Settings, farm: &Model) -> Option<usize> {
    let mut placement = Placement::new(settings, farm, client(None), &mut |_, _| ());
    placement.next(settings, farm).map(|trial| trial.target.code() as usize)
}

/// The load of leastconn as a fraction: twice the connections and one more, and twice the weight.
fn fraction(connections: u32, weight: u32) -> (u64, u64) {
    match connections {
        0 => (0, 1),
        some => (2 * u64::from(some) + 1, 2 * u64::from(weight)),
    }
}

pub(super) fn is_less((a, b): (u64, u64), (c, d): (u64, u64)) -> bool {
    a * d < c * b
}

proptest! {
    /// With clients that come and go, servers that fail and return, and counts that another worker
    /// changes.
    #[test]
    fn no_server_has_a_smaller_load_than_the_chosen_one(
        weights in prop::collection::vec(0u32..9, 1..80),
        is_weight in any::<bool>(),
        steps in prop::collection::vec((0u8..6, any::<prop::sample::Index>(), 0u32..5), 1..60),
    ) {
        let settings = weighted(&weights, if is_weight { WEIGHT } else { LEASTCONN });
        let count = weights.len();
        let mut farm = Model {
            connections: vec![0; count],
            states: vec![None; count],
            ..Model::default()
        };
        farm.choices.borrow_mut().renew(&settings, positions(&settings));
        for (what, which, number) in steps {
            let which = which.index(count);
            match what {
                // This worker's clients end.
                0 => {
                    farm.connections[which] = farm.connections[which].saturating_sub(number);
                    farm.choices.borrow_mut().note(which as u32);
                }
                // Another worker's clients begin.
                1 => farm.connections[which] += number,
                // What is noticed after a while only.
                2 => {
                    farm.connections[which] = number;
                    farm.states[which] = [None, Some(Blacklist::Until(9))][number as usize % 2];
                    farm.now.set(farm.now.get() + 10);
                }
                _ => {
                    let usable = |n: &usize| weights[*n] > 0 && farm.states[*n].is_none();
                    let Some(chosen) = first_of(&settings, &farm) else {
                        prop_assert_eq!((0..count).filter(usable).count(), 0);
                        continue;
                    };
                    if (0..count).any(|n| usable(&n)) {
                        prop_assert!(usable(&chosen));
                        let load = |n: usize| match is_weight {
                            true => (u64::from(256 * farm.connections[n] / weights[n]), 1),
                            false => fraction(farm.connections[n], weights[n]),
                        };
                        for n in (0..count).filter(usable) {
                            prop_assert!(!is_less(load(n), load(chosen)), "{n}, not {chosen}");
                        }
                    }
                    farm.connections[chosen] += 1;
                    farm.choices.borrow_mut().note(chosen as u32);
                }
            }
        }
    }

    /// Clients that stay: each server has its share by weight, within one connection.
    #[test]
    fn leastconn_shares_clients_that_stay_by_weight(
        weights in prop::collection::vec(1u32..20, 2..120),
    ) {
        let settings = weighted(&weights, LEASTCONN);
        let mut farm = Model { connections: vec![0; weights.len()], ..Model::default() };
        farm.choices.borrow_mut().renew(&settings, positions(&settings));
        let total: u32 = weights.iter().sum();
        let clients = 20 * total;
        for _ in 0..clients {
            let chosen = first_of(&settings, &farm).unwrap();
            farm.connections[chosen] += 1;
            farm.choices.borrow_mut().note(chosen as u32);
        }
        for (weight, connections) in weights.iter().zip(&farm.connections) {
            prop_assert!(connections.abs_diff(20 * weight) <= 1, "{connections} at {weight}");
        }
    }

    /// Clients that are gone before the next one comes: every turn goes by weight.
    #[test]
    fn leastconn_gives_equals_their_turns_by_weight(
        weights in prop::collection::vec(1u32..20, 1..80),
        cursor in any::<u32>(),
    ) {
        let settings = weighted(&weights, LEASTCONN);
        let farm = Model::default();
        farm.choices.borrow_mut().renew(&settings, positions(&settings));
        farm.cursor.set(cursor.min(u32::MAX - 2000));
        let mut had = vec![0; weights.len()];
        for _ in 0..weights.iter().sum() {
            had[first_of(&settings, &farm).unwrap()] += 1;
        }
        prop_assert_eq!(had, weights);
    }
}

#[test]
fn what_only_one_client_cannot_use_stays_for_others() {
    use pen_config::acl::{Acl, AclVerdict, Net};
    for selection in [LEASTCONN, WEIGHT, P2C, PRIO] {
        let mut settings = weighted(&[1; 40], selection);
        let mut acl = Acl::default();
        let net = Net::v4_prefix("10.0.0.0".parse().unwrap(), 8).unwrap();
        assert!(acl.push(AclVerdict::Deny, net));
        settings.acls[3] = acl;
        for (number, server) in settings.servers.iter_mut().enumerate() {
            server.as_mut().unwrap().acl = if number == 30 { 0 } else { 3 };
        }
        let farm = Model::default();
        farm.choices.borrow_mut().renew(&settings, positions(&settings));
        let other =
            Candidate { key: ClientKey::from_ip("192.0.2.1".parse().unwrap()), ..client(None) };
        for _ in 0..3 {
            assert_eq!(first_of(&settings, &farm), Some(30), "{selection:?}");
            let mut placement = Placement::new(&settings, &farm, other, &mut |_, _| ());
            let first = placement.next(&settings, &farm).unwrap().target;
            let trial = Trial::first(ServerId(first.code() as u16));
            assert!(placement.judge(&settings, &farm, other.key, trial).is_ok());
            assert!(selection != PRIO || first == Target::Server(ServerId(0)));
        }
    }
}

#[test]
fn the_first_method_that_is_on_counts() {
    let all = Selection {
        maglev: Maglev::On,
        prio: true,
        weight: true,
        leastconn: true,
        p2c: true,
        hash: true,
        ..NONE
    };
    let mut rest = all;
    let mut methods = Vec::new();
    for off in [
        |modes: &mut Selection| modes.prio = false,
        |modes: &mut Selection| modes.weight = false,
        |modes: &mut Selection| modes.leastconn = false,
        |modes: &mut Selection| modes.p2c = false,
        |modes: &mut Selection| modes.maglev = Maglev::Off,
        |modes: &mut Selection| modes.hash = false,
    ] {
        methods.push(rest.method());
        off(&mut rest);
    }
    methods.push(rest.method());
    use Method::{Hash, Leastconn, P2c, Prio, RoundRobin, Weight};
    assert_eq!(methods, [Prio, Weight, Leastconn, P2c, Method::Maglev, Hash, RoundRobin]);
}
