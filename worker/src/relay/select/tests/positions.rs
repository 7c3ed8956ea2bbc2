//! `maglev`: which server a client gets, whatever happens to the others, and the bound.

use pen_config::maglev::positions;

use super::*;
use crate::relay::select::tests::methods::{NONE, weighted};

pub(super) const MAGLEV: Selection = Selection { maglev: Maglev::On, ..NONE };

pub(super) fn first_for(settings: &Settings, farm: &Model, client: Candidate) -> Option<usize> {
    let mut placement = Placement::new(settings, farm, client, &mut |_, _| ());
    placement.next(settings, farm).map(|trial| trial.target.code() as usize)
}

pub(super) fn numbered(number: u32) -> Candidate {
    let ip = std::net::Ipv4Addr::from(0x0a00_0000 + number);
    Candidate { key: ClientKey::from_ip(ip.into()), ..client(None) }
}

/// Servers at addresses of their own.
pub(super) fn farm_at(weights: &[u32], selection: Selection) -> Settings {
    let mut settings = weighted(weights, selection);
    for (number, server) in settings.servers.iter_mut().enumerate() {
        let address = ([10, 1, (number >> 8) as u8, number as u8], 80);
        server.as_mut().unwrap().address = Address::Inet(address.into());
    }
    settings
}

pub(super) fn renewed(settings: &Settings, farm: &Model) {
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

/// The servers of clients, by their addresses.
fn names(settings: &Settings, farm: &Model, clients: u32) -> Vec<String> {
    let name = |number: u32| {
        let server = first_for(settings, farm, numbered(number)).unwrap();
        settings.servers[server].as_ref().unwrap().address.to_string()
    };
    (0..clients).map(name).collect()
}

/// A server that has most of the weight is out: a walk over the table finds no other for a quarter
/// of its clients.
#[test]
fn the_rest_is_chosen_alike_whatever_the_numbers_and_the_cursor() {
    let settings = farm_at(&[5000, 1, 1, 2, 0], MAGLEV);
    let mut farm = Model { states: vec![Some(Blacklist::Until(9))], ..Model::default() };
    renewed(&settings, &farm);
    let first = names(&settings, &farm, 4000);
    farm.cursor.set(2);
    assert_eq!(names(&settings, &farm, 4000), first, "the cursor decides nothing");
    for (number, share) in [(1, 1000), (2, 1000), (3, 2000)] {
        let address = settings.servers[number].as_ref().unwrap().address.to_string();
        let had = first.iter().filter(|name| **name == address).count();
        assert!(had.abs_diff(share) < 150, "{had} at {address}");
    }
    // Other numbers, and a gap.
    let mut other = settings.clone();
    other.servers.reverse();
    other.servers.splice(2..2, [None, None, None]);
    let mut states = vec![None; 8];
    states[7] = Some(Blacklist::Until(9));
    let turned = Model { states, ..Model::default() };
    renewed(&other, &turned);
    assert_eq!(names(&other, &turned, 4000), first);
    // Those who fail over get the same, and those without weight come last.
    farm.states.clear();
    for (number, expected) in (0..500).zip(&first) {
        let mut placement = Placement::new(&settings, &farm, numbered(number), &mut |_, _| ());
        let order: Vec<_> = std::iter::from_fn(|| placement.next(&settings, &farm))
            .map(|trial| settings.target(trial.target).unwrap().address.to_string())
            .collect();
        assert_eq!(
            (order.len(), order.iter().find(|name| !name.contains(".1.0.0:"))),
            (5, Some(expected))
        );
        assert!(order[4].contains("10.1.0.4:"), "{order:?}");
    }
}

#[test]
fn limits_per_client_move_no_client() {
    let mut settings = farm_at(&[1; 5], MAGLEV);
    let farm = Model::default();
    renewed(&settings, &farm);
    let before = names(&settings, &farm, 300);
    settings.per_client.net = pen_config::per_client::ClientNet { v4: 24, v6: 48 };
    assert_eq!(names(&settings, &farm, 300), before);
}

/// Among more servers than are read at each choice, a worker counts its own clients at once, and
/// examines a few servers for each.
#[test]
fn a_bound_counts_each_client_of_this_worker_at_once() {
    let bounded = Selection { maglev: Maglev::Bounded(125), ..NONE };
    for (servers, clients) in [(60, 300), (200, 1000)] {
        let settings = farm_at(&vec![1; servers], bounded);
        // The clock stands still.
        let mut farm = Model { connections: vec![0; servers], ..Model::default() };
        renewed(&settings, &farm);
        for client in (0..clients).map(numbered) {
            let exact = Model { connections: farm.connections.clone(), ..Model::default() };
            exact.choices.replace(farm.choices.borrow().anew(&settings, 0));
            let server = first_for(&settings, &farm, client).unwrap();
            assert_eq!(Some(server), first_for(&settings, &exact, client), "{servers} servers");
            farm.connections[server] += 1;
            farm.choices.borrow_mut().note(server as u32);
        }
        let examined = farm.examined.get() / clients;
        assert!(examined <= 16, "{examined} for a client of {servers} servers");
    }
}

/// What other workers place is missing from the mean until all servers are read again.
#[test]
fn a_bound_learns_of_other_workers_clients_without_the_clock() {
    let settings = farm_at(&[1; 80], Selection { maglev: Maglev::Bounded(110), ..NONE });
    let mut farm = Model { connections: vec![50; 80], ..Model::default() };
    renewed(&settings, &farm);
    let owner = first_for(&settings, &farm, numbered(1)).unwrap();
    farm.connections = vec![0; 80];
    farm.connections[owner] = 10;
    assert_eq!(first_for(&settings, &farm, numbered(1)), Some(owner), "the mean is that of before");
    let other = (0..10).any(|_| first_for(&settings, &farm, numbered(1)) != Some(owner));
    assert!(other, "the mean is still that of before");
}

#[test]
fn failover_obeys_the_bound() {
    let bounded = Selection { maglev: Maglev::Bounded(120), ..NONE };
    let settings = farm_at(&[1; 5], bounded);
    let mut farm = Model { connections: vec![10, 10, 30, 10, 10], ..Model::default() };
    renewed(&settings, &farm);
    let mut tried = 0;
    for client in (0..500).map(numbered) {
        farm.states = vec![None; 5];
        let mut placement = Placement::new(&settings, &farm, client, &mut |_, _| ());
        let first = placement.next(&settings, &farm).unwrap().target.code();
        farm.states[first as usize] = Some(Blacklist::Until(9));
        let second = placement.next(&settings, &farm).unwrap().target.code();
        assert_ne!((first, second), (2, 2));
        assert_ne!(second, 2, "it has more than the bound");
        assert_eq!(first_for(&settings, &farm, client), Some(second as usize));
        let rest = std::iter::from_fn(|| placement.next(&settings, &farm));
        tried += rest.filter(|trial| trial.target == Target::Server(ServerId(2))).count();
    }
    assert_eq!(tried, 500, "it comes last");
}

/// If the client may use only servers above the bound, each is examined once.
#[test]
fn a_client_of_servers_above_the_bound_gets_one_of_them() {
    use pen_config::acl::{Acl, AclVerdict, Net};
    let bounded = Selection { maglev: Maglev::Bounded(110), ..NONE };
    let mut settings = farm_at(&[1; 200], bounded);
    let mut acl = Acl::default();
    let net = Net::v4_prefix("10.0.0.0".parse().unwrap(), 8).unwrap();
    assert!(acl.push(AclVerdict::Deny, net));
    settings.acls[3] = acl;
    (100..200).for_each(|n| settings.servers[n].as_mut().unwrap().acl = 3);
    let connections = (0..200).map(|n| if n < 100 { 50 } else { 0 }).collect();
    let farm = Model { connections, ..Model::default() };
    renewed(&settings, &farm);
    assert!(first_for(&settings, &farm, numbered(1)).is_some_and(|server| server < 100));
    farm.examined.set(0);
    for number in 0..20 {
        assert!(first_for(&settings, &farm, numbered(number)).is_some_and(|server| server < 100));
    }
    assert!(farm.examined.get() <= 20 * 200, "{}", farm.examined.get() / 20);
}
