//! The methods that compare loads, ranks and draws: what they choose, over many servers and
//! clients.

use pen_config::maglev::positions;

use super::*;

fn weighted(weights: &[u32], selection: Selection) -> Settings {
    settings(
        weights.iter().map(|weight| Some(Server { weight: *weight, ..server() })).collect(),
        selection,
    )
}

const LEASTCONN: Selection = Selection { leastconn: true, ..NONE };
const WEIGHT: Selection = Selection { weight: true, ..NONE };
const P2C: Selection = Selection { p2c: true, ..NONE };
const PRIO: Selection = Selection { prio: true, ..NONE };
const NONE: Selection = Selection {
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
fn first_of(settings: &Settings, farm: &Model) -> Option<usize> {
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

fn is_less((a, b): (u64, u64), (c, d): (u64, u64)) -> bool {
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

    /// Of two servers it takes the less loaded one, and draws reach every server.
    #[test]
    fn p2c_leaves_no_server_behind(weights in prop::collection::vec(1u32..5, 2..60)) {
        let settings = weighted(&weights, P2C);
        let mut farm = Model { connections: vec![0; weights.len()], ..Model::default() };
        farm.choices.borrow_mut().renew(&settings, positions(&settings));
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
    farm.choices.borrow_mut().renew(&settings, positions(&settings));
    let mut had = [0u32; 4];
    (0..8000).for_each(|_| had[first_of(&settings, &farm).unwrap()] += 1);
    for (weight, had) in weights.iter().zip(had) {
        assert!(had.abs_diff(1000 * weight) <= 150, "{had} at {weight}");
    }
    let settings = farm_of(400, P2C);
    farm.states = vec![Some(Blacklist::Until(9)); 400];
    farm.choices.borrow_mut().renew(&settings, positions(&settings));
    for open in [[399, 7], [0, 1]] {
        open.iter().for_each(|n| farm.states[*n] = None);
        let mut had = [0; 400];
        (0..200).for_each(|_| had[first_of(&settings, &farm).unwrap()] += 1);
        assert!(open.iter().all(|n| had[*n] > 20), "{had:?}");
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

const MAGLEV: Selection = Selection { maglev: Maglev::On, ..NONE };

fn first_for(settings: &Settings, farm: &Model, client: Candidate) -> Option<usize> {
    let mut placement = Placement::new(settings, farm, client, &mut |_, _| ());
    placement.next(settings, farm).map(|trial| trial.target.code() as usize)
}

fn numbered(number: u32) -> Candidate {
    let ip = std::net::Ipv4Addr::from(0x0a00_0000 + number);
    Candidate { key: ClientKey::from_ip(ip.into()), ..client(None) }
}

/// Servers at addresses of their own.
fn farm_at(weights: &[u32], selection: Selection) -> Settings {
    let mut settings = weighted(weights, selection);
    for (number, server) in settings.servers.iter_mut().enumerate() {
        let address = ([10, 1, (number >> 8) as u8, number as u8], 80);
        server.as_mut().unwrap().address = Address::Inet(address.into());
    }
    settings
}

fn renewed(settings: &Settings, farm: &Model) {
    farm.choices.borrow_mut().renew(settings, positions(settings));
}

#[test]
fn without_weights_maglev_tries_the_servers_that_there_are_and_no_other() {
    let emergency = Some(server());
    let none = Settings { emergency, ..settings(vec![None, None], MAGLEV) };
    assert_eq!(order(&none, &Model::default(), None), [-1]);
    let weightless = weighted(&[0, 0, 0], MAGLEV);
    let mut tried = order(&weightless, &Model::default(), None);
    tried.sort_unstable();
    assert_eq!(tried, [0, 1, 2]);
}

#[test]
fn maglev_gives_a_client_the_same_server_whatever_happened_before() {
    let settings = farm_at(&[1, 2, 3, 0], MAGLEV);
    let (one, other) = (Model::default(), Model::default());
    renewed(&settings, &one);
    renewed(&settings, &other);
    other.cursor.set(77);
    let mut had = [0u32; 4];
    for client in (0..6000).map(numbered) {
        let server = first_for(&settings, &one, client);
        assert_eq!(server, first_for(&settings, &other, client));
        had[server.unwrap()] += 1;
    }
    for (had, expected) in had.into_iter().zip([1000u32, 2000, 3000, 0]) {
        assert!(had.abs_diff(expected) < 200, "{had}, not {expected}");
    }
    // The port does not count, also if nobody is tracked.
    let untracked =
        Settings { selection: Selection { roundrobin: true, ..MAGLEV }, ..settings.clone() };
    let client = Candidate { port: 1, recorded: Some(Target::Server(ServerId(3))), ..numbered(5) };
    assert_eq!(first_for(&untracked, &one, client), first_for(&settings, &one, numbered(5)));
}

#[test]
fn clients_of_a_server_that_fails_spread_over_the_others_and_no_other_moves() {
    let settings = farm_at(&[1; 5], MAGLEV);
    let mut farm = Model::default();
    renewed(&settings, &farm);
    let before: Vec<_> =
        (0..5000).map(|n| first_for(&settings, &farm, numbered(n)).unwrap()).collect();
    // A client whose connect fails, and one who comes when that is known, get the same server.
    let failed_over: Vec<_> = (0..5000)
        .map(|n| {
            let mut placement = Placement::new(&settings, &farm, numbered(n), &mut |_, _| ());
            placement.next(&settings, &farm);
            placement.next(&settings, &farm).unwrap().target.code() as usize
        })
        .collect();
    farm.states = vec![None, None, Some(Blacklist::Until(9))];
    let mut spread = [0u32; 5];
    for (n, at) in before.iter().enumerate() {
        let now = first_for(&settings, &farm, numbered(n as u32)).unwrap();
        if *at == 2 {
            assert_eq!(now, failed_over[n]);
            spread[now] += 1;
        } else {
            assert_eq!(now, *at);
        }
    }
    assert_eq!(spread[2], 0);
    assert!(spread.iter().enumerate().all(|(n, count)| n == 2 || *count > 150), "{spread:?}");
}

#[test]
fn a_bound_keeps_the_loads_even_and_moves_few() {
    let bounded = Selection { maglev: Maglev::Bounded(120), ..NONE };
    for weights in [vec![1; 10], vec![1, 2, 3, 4, 5], vec![1; 60]] {
        let settings = farm_at(&weights, bounded);
        let mut farm = Model { connections: vec![0; weights.len()], ..Model::default() };
        renewed(&settings, &farm);
        let free = farm_at(&weights, MAGLEV);
        let plain = Model::default();
        renewed(&free, &plain);
        let (total, clients) = (weights.iter().sum::<u32>(), 6000);
        let mut moved = 0;
        for client in (0..clients).map(numbered) {
            let server = first_for(&settings, &farm, client).unwrap();
            moved += usize::from(first_for(&free, &plain, client) != Some(server));
            farm.connections[server] += 1;
            farm.now.set(farm.now.get() + 10);
        }
        for (weight, connections) in weights.iter().zip(&farm.connections) {
            let mean = clients * weight / total;
            assert!(connections * 100 <= mean * 120 + 200, "{connections} at {weight}");
        }
        assert!(moved < clients as usize / 4, "{moved} for {weights:?}");
    }
    // If all are above the bound, the client gets the first that can be used.
    let settings = farm_at(&[1, 1], bounded);
    let mut farm = Model { connections: vec![9, 0], ..Model::default() };
    farm.states = vec![None, Some(Blacklist::Until(9))];
    renewed(&settings, &farm);
    assert_eq!(first_for(&settings, &farm, numbered(1)), Some(0));
}

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
