//! Tests of the assignment: each case of a slot, and properties over random answers.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::address::{Address, Service};
use crate::names::Names;
use crate::strategies;

const FROM: &str = "a.example";

fn from(records: Records, first: u16, last: u16) -> ServersFrom {
    ServersFrom { name: FROM.into(), port: Service::Port(80), first, last, records }
}

/// Six slots, of which 1 to 4 follow a name, and 0 has an address of its own.
fn settings() -> Settings {
    let mut settings = Settings { servers: vec![None; 6], ..Settings::default() };
    settings.servers[0] = Some(Server::at(Address::Inet(([10, 0, 0, 200], 80).into())));
    settings.servers_from.push(from(Records::Addresses, 1, 4));
    settings
}

fn address(last: u8) -> NameRecord {
    NameRecord { address: IpAddr::from([10, 0, 0, last]).into(), service: None }
}

fn srv(last: u8, port: u16, priority: u16, weight: u16) -> NameRecord {
    NameRecord { service: Some(SrvFields { port, weight, priority }), ..address(last) }
}

/// Assigns addresses by their last bytes; `busy` are the slots with connections. Returns what
/// changed.
fn answer(settings: &mut Settings, found: &[u8], busy: &[u16]) -> Vec<(u16, SlotChangeKind)> {
    let records: Vec<_> = found.iter().map(|last| address(*last)).collect();
    let (from, before) = (settings.servers_from[0].clone(), settings.clone());
    let connections = |server: ServerId| u64::from(busy.contains(&server.0));
    assign(settings, &from, 80, &records, connections);
    changed(&before, settings)
}

fn changed(before: &Settings, after: &Settings) -> Vec<(u16, SlotChangeKind)> {
    let all = changes(before, after).into_iter();
    all.inspect(|change| assert_eq!(change.name, FROM))
        .map(|change| (change.server.0, change.kind))
        .collect()
}

/// How many servers the name has, and how many of them have no slot.
fn counts(settings: &Settings) -> (u32, u32) {
    let placed = settings.placed(&settings.servers_from[0]);
    (placed.records, placed.unplaced())
}

/// The slots 1 to 4: the last byte of the address, with `-` if its record is gone.
fn slots(settings: &Settings) -> String {
    let slot = |server: &Option<Server>| match server {
        None => "_".to_owned(),
        Some(Server { address: Address::Inet(address), record, .. }) => {
            let IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
            let gone = if *record == Record::Gone { "-" } else { "" };
            assert_ne!(*record, Record::Own);
            format!("{}{gone}", ip.octets()[3])
        }
        Some(other) => panic!("{other:?}"),
    };
    settings.servers[1..5].iter().map(slot).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_server_that_is_there_keeps_its_slot_and_new_ones_get_empty_ones() {
    let mut now = settings();
    let added = answer(&mut now, &[3, 1, 2], &[]);
    assert_eq!(added, [1, 2, 3].map(|slot| (slot, SlotChangeKind::Added)));
    assert_eq!((slots(&now).as_str(), counts(&now)), ("1 2 3 _", (3, 0)));
    assert_eq!(answer(&mut now, &[2, 3, 1, 1], &[]), []);
    answer(&mut now, &[9, 2, 3, 1], &[]);
    assert_eq!(slots(&now), "1 2 3 9");
    assert_eq!(now.servers[0], settings().servers[0]);
    assert_eq!(now.servers[5], None);
}

#[test]
fn one_that_is_gone_drains_until_a_lookup_finds_it_without_connections() {
    let mut now = settings();
    answer(&mut now, &[1, 2], &[]);
    assert_eq!(answer(&mut now, &[1], &[]), [(2, SlotChangeKind::Gone)]);
    assert_eq!(slots(&now), "1 2- _ _");
    assert_eq!(answer(&mut now, &[1], &[2]), []);
    assert_eq!(slots(&now), "1 2- _ _");
    assert_eq!(answer(&mut now, &[1, 2], &[2]), [(2, SlotChangeKind::Back)]);
    assert_eq!(slots(&now), "1 2 _ _");
    answer(&mut now, &[1], &[2]);
    assert_eq!(answer(&mut now, &[1], &[]), [(2, SlotChangeKind::Freed)]);
    assert_eq!(slots(&now), "1 _ _ _");
}

#[test]
fn without_an_empty_slot_a_new_one_takes_that_of_one_that_is_gone_and_idle() {
    let mut now = settings();
    answer(&mut now, &[1, 2, 3, 4], &[]);
    answer(&mut now, &[1, 4, 5, 6], &[2]);
    assert_eq!((slots(&now).as_str(), counts(&now)), ("1 2- 5 4", (4, 1)));
    let warning = |now: &Settings| now.placed(&now.servers_from[0]).warning("a.example");
    assert_eq!(warning(&now).as_deref(), Some("1 of 4 addresses of a.example have no slot"));
    let replaced = answer(&mut now, &[1, 4, 5, 6], &[]);
    assert_eq!(replaced, [(2, SlotChangeKind::Freed), (2, SlotChangeKind::Added)]);
    assert_eq!((slots(&now).as_str(), counts(&now)), ("1 6 5 4", (4, 0)));
    assert_eq!(warning(&now), None);
}

#[test]
fn if_all_addresses_are_others_new_ones_take_slots_with_connections() {
    let all = [1, 2, 3, 4];
    let mut now = settings();
    answer(&mut now, &[1, 2, 3, 4], &[]);
    answer(&mut now, &[4, 5], &all);
    assert_eq!((slots(&now).as_str(), counts(&now)), ("1- 2- 3- 4", (2, 1)));
    let replaced = answer(&mut now, &[6, 7], &all);
    use SlotChangeKind::{Added, Freed, Gone};
    assert_eq!(replaced, [(1, Freed), (1, Added), (2, Freed), (2, Added), (4, Gone)]);
    assert_eq!((slots(&now).as_str(), counts(&now)), ("6 7 3- 4-", (2, 0)));
    assert_eq!(answer(&mut now, &[6, 7, 8], &all), []);
    assert_eq!((slots(&now).as_str(), counts(&now)), ("6 7 3- 4-", (3, 1)));
}

#[test]
fn slots_out_of_use_do_not_count_as_room_for_other_addresses() {
    let set = |now: &mut Settings, line: &str| {
        crate::apply::apply(now, &strategies::parsed(line), &Names::default(), None).unwrap()
    };
    let mut now = settings();
    answer(&mut now, &[1, 2, 3, 4], &[]);
    set(&mut now, "server 1 state drain");
    // A server in slot 1 would get no client, whether it is new or was there before.
    let mut stays = now.clone();
    answer(&mut now, &[5], &[2, 3, 4]);
    assert_eq!(slots(&now), "1- 5 3- 4-");
    answer(&mut stays, &[1, 5], &[2, 3, 4]);
    assert_eq!(slots(&stays), "1 5 3- 4-");
    // All are out of use, as the operator said: nobody's connections are taken from their slot.
    for slot in 2..5 {
        set(&mut stays, &format!("server {slot} state maint"));
    }
    answer(&mut stays, &[6], &[1, 2, 3, 4]);
    assert_eq!(slots(&stays), "1- 5- 3- 4-");
}

#[test]
fn what_an_operator_sets_stays_with_the_slot_and_slots_out_of_use_come_last() {
    let mut now = settings();
    let set = |now: &mut Settings, line: &str| {
        crate::apply::apply(now, &strategies::parsed(line), &Names::default(), None)
    };
    set(&mut now, "server 1 state drain").unwrap();
    set(&mut now, "server 3 max 7 weight 2").unwrap();
    let mut fresh = now.clone();
    answer(&mut fresh, &[1, 2], &[]);
    assert_eq!(slots(&fresh), "1 2 _ _", "as the file that is written now has it");
    now.servers[4] = fresh.servers[2].take();
    answer(&mut now, &[1, 2], &[]);
    assert_eq!(slots(&now), "_ 1 _ 2");
    answer(&mut now, &[1, 2, 3], &[]);
    assert_eq!(slots(&now), "_ 1 3 2");
    let limits = |now: &Settings| now.servers[3].as_ref().map(|one| (one.soft, one.weight));
    assert_eq!(limits(&now), Some((7, 2)));
    answer(&mut now, &[1], &[]);
    answer(&mut now, &[1], &[]);
    assert_eq!((slots(&now).as_str(), now.vacant.len()), ("_ 1 _ _", 2));
    answer(&mut now, &[1, 8, 9, 10], &[]);
    assert_eq!(slots(&now), "10 1 8 9");
    assert_eq!(now.servers[1].as_ref().unwrap().mode, ServerMode::Drain);
    assert_eq!((limits(&now), now.vacant.len()), (Some((7, 2)), 0));
    // The name that is followed no more takes its servers along, and what was set of them.
    answer(&mut now, &[1], &[]);
    answer(&mut now, &[1], &[]);
    set(&mut now, "no servers_from a.example").unwrap();
    let left: Vec<_> = now.configured().map(|(id, _)| id.0).collect();
    assert_eq!((left, now.vacant.len()), (vec![0], 0));
}

#[test]
fn a_smaller_range_leaves_out_the_servers_beyond_it() {
    let mut now = settings();
    answer(&mut now, &[1, 2, 3, 4], &[]);
    let smaller = strategies::parsed("servers_from a.example 80 3-4");
    crate::apply::apply(&mut now, &smaller, &Names::default(), None).unwrap();
    assert_eq!(slots(&now), "_ _ 3 4");
    answer(&mut now, &[1, 2, 3, 4], &[]);
    assert_eq!((slots(&now).as_str(), counts(&now)), ("_ _ 3 4", (4, 2)));
}

#[test]
fn srv_records_say_port_weight_and_priority() {
    let mut now = settings();
    now.servers_from[0].records = Records::Srv;
    let from = now.servers_from[0].clone();
    let assigned = |now: &mut Settings, records: &[NameRecord]| {
        let before = now.clone();
        assign(now, &from, 80, records, |_| 0);
        changed(&before, now)
    };
    let rows = |now: &Settings| -> Vec<_> {
        now.configured()
            .skip(1)
            .map(|(_, one)| (one.address.to_string(), one.prio, one.weight))
            .collect()
    };
    assigned(&mut now, &[srv(1, 8080, 0, 0), srv(1, 8081, 10, 5), srv(2, 0, 1, 3)]);
    let row = |at: &str, prio, weight| (at.to_owned(), prio, weight);
    assert_eq!(
        rows(&now),
        [row("10.0.0.1:8080", 0, 1), row("10.0.0.1:8081", 10, 5), row("10.0.0.2:80", 1, 3)]
    );
    let again = [srv(2, 80, 1, 4), srv(1, 8080, 0, 1), srv(1, 8081, 10, 5), srv(1, 8081, 20, 9)];
    assert_eq!(assigned(&mut now, &again), [(3, SlotChangeKind::Ranked { weight: 4, prio: 1 })]);
    assert_eq!(rows(&now)[2], row("10.0.0.2:80", 1, 4));
    let refused = |line: &str| {
        let mut now = now.clone();
        crate::apply::apply(&mut now, &strategies::parsed(line), &Names::default(), None)
    };
    assert!(refused("server 2 weight 3").unwrap_err().contains("which gives its weight"));
    assert_eq!(refused("server 2 max 3"), Ok(()));
}

/// The last byte of a server's address.
fn last(server: &Server) -> u8 {
    let Address::Inet(address) = server.address else { panic!("{server:?}") };
    let IpAddr::V4(ip) = address.ip() else { panic!("{server:?}") };
    ip.octets()[3]
}

/// Answers in turn, each with the slots that have connections.
fn answers() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u16>)>> {
    vec((vec(0u8..10, 0..12), vec(1u16..5, 0..4)), 1..8)
}

proptest! {
    #[test]
    fn servers_that_stay_never_move_and_none_has_two_slots(
        answers in answers(),
        order in any::<prop::sample::Index>(),
    ) {
        let mut now = settings();
        for (found, busy) in answers {
            let before = now.clone();
            let mut other = now.clone();
            answer(&mut now, &found, &busy);
            // The order of the answer and repetitions change nothing.
            let mut turned = found.clone();
            turned.rotate_left(order.index(found.len().max(1)).min(found.len()));
            turned.extend(found.first());
            answer(&mut other, &turned, &busy);
            prop_assert_eq!(&other, &now);
            let mut at: Vec<_> = now.configured().map(|(_, one)| one.address.to_string()).collect();
            let count = at.len();
            at.sort();
            at.dedup();
            prop_assert_eq!(at.len(), count, "each server has one slot");
            prop_assert_eq!(&now.servers[0], &before.servers[0]);
            let mut known: Vec<u8> = found.clone();
            known.sort();
            known.dedup();
            let (records, unplaced) = counts(&now);
            prop_assert_eq!(records as usize, known.len());
            // Nobody stays, and no slot is free: then others may take slots with connections.
            let is_all_new = !found.is_empty() && (1..5u16).all(|slot| match &before.servers[usize::from(slot)] {
                Some(was) => busy.contains(&slot) && !found.contains(&last(was)),
                None => false,
            });
            if !found.is_empty() {
                let present = |slot: &Option<Server>| {
                    slot.as_ref().is_some_and(|one| one.record == Record::Present)
                };
                prop_assert!(now.servers[1..5].iter().any(present), "somebody serves");
            }
            for slot in 1..5u16 {
                let Some(was) = &before.servers[usize::from(slot)] else { continue };
                let stays = found.contains(&last(was));
                if stays || (busy.contains(&slot) && !is_all_new) {
                    let is = now.servers[usize::from(slot)].as_ref().unwrap();
                    prop_assert_eq!(&is.address, &was.address);
                    prop_assert_eq!(is.record == Record::Present, stays);
                }
            }
            if unplaced > 0 {
                let free = now.servers[1..5].iter().filter(|slot| slot.is_none()).count();
                prop_assert_eq!(free, 0);
            }
            // The same answer again frees slots, which servers without one get. Then it is settled.
            let again = answer(&mut now, &found, &busy);
            for (_, kind) in again {
                let is_expected = match kind {
                    SlotChangeKind::Freed => true,
                    SlotChangeKind::Added => unplaced > 0,
                    SlotChangeKind::Gone
                    | SlotChangeKind::Back
                    | SlotChangeKind::Ranked { .. } => false,
                };
                prop_assert!(is_expected, "{:?}", kind);
            }
            prop_assert_eq!(answer(&mut now, &found, &busy), []);
        }
    }
}
