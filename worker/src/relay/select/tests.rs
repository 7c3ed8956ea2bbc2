//! The choice, compared with a model of the servers.

use std::cell::{Cell, RefCell};

use pen_config::address::Address;
use pen_config::settings::{Maglev, Selection, Server};
use pen_table::{DownCode, ServerView, Standing, TableMode};
use proptest::prelude::*;

use crate::relay::select::choices::{Choices, Choosing};
use crate::relay::select::farm::{Farm, Hindrance};
use crate::relay::select::*;

mod draws;
mod examined;
mod methods;
mod positions;
mod slow_start;
mod standings;

impl Default for Choices {
    fn default() -> Choices {
        Choices::new(&Settings::default(), 0)
    }
}

#[derive(Default)]
struct Model {
    states: Vec<Option<Blacklist>>,
    standings: Vec<Standing>,
    connections: Vec<u32>,
    cursor: Cell<u32>,
    /// Another worker writes the cursor all the time.
    has_hostile_sibling: bool,
    hindered: Vec<Option<Hindrance>>,
    choices: RefCell<Choices>,
    now: Cell<u64>,
    returned: Vec<u64>,
    skips: Skips,
    /// How often a server's state was asked for.
    examined: Cell<u32>,
}

/// Which servers failover skips without a step.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Skips {
    /// None, as in an explanation.
    #[default]
    None,
    /// Those that are out, as with real clients.
    Out,
}

impl Farm for Model {
    fn server(&self, row: u32) -> ServerView {
        self.examined.set(self.examined.get() + 1);
        let blacklist = self.states.get(row as usize).copied().flatten();
        ServerView {
            blacklist: blacklist.unwrap_or(Blacklist::Clear),
            standing: self.standings.get(row as usize).copied().unwrap_or_default(),
        }
    }
    fn connections(&self, row: u32) -> u32 {
        self.connections.get(row as usize).copied().unwrap_or(0)
    }
    fn cursor(&self) -> u32 {
        self.cursor.get()
    }
    fn advance_cursor(&self, from: u32, to: u32) -> bool {
        if self.has_hostile_sibling {
            self.cursor.set(self.cursor.get() ^ 1);
            return false;
        }
        assert_eq!(from, self.cursor.get());
        self.cursor.set(to);
        true
    }
    fn hindrance(&self, row: u32) -> Option<Hindrance> {
        self.hindered.get(row as usize).copied().flatten()
    }
    fn now(&self) -> u64 {
        self.now.get()
    }
    fn returned(&self, row: u32) -> u64 {
        self.returned.get(row as usize).copied().unwrap_or(0)
    }
    fn is_left_out(&self, row: u32, knows: Knows) -> bool {
        self.skips == Skips::Out && self.server(row).is_out(knows)
    }
}

impl Choosing for Model {
    fn choices(&self) -> &RefCell<Choices> {
        &self.choices
    }
}

fn server() -> Server {
    Server::at(Address::Inet("127.0.0.1:1".parse().unwrap()))
}

fn settings(servers: Vec<Option<Server>>, selection: Selection) -> Settings {
    Settings { servers, selection, ..Settings::default() }
}

fn farm_of(n: usize, selection: Selection) -> Settings {
    settings((0..n).map(|_| Some(server())).collect(), selection)
}

fn client(recorded: Option<Target>) -> Candidate {
    Candidate {
        key: ClientKey::from_ip("10.1.2.3".parse().unwrap()),
        port: 4711,
        recorded,
        permitted: true,
    }
}

/// A placement by what these settings need, made anew.
fn placed(
    settings: &Settings,
    farm: &Model,
    client: Candidate,
    note: &mut impl FnMut(ServerId, SelectionRefusal),
) -> Placement {
    farm.choices.borrow_mut().renew(settings, pen_config::maglev::positions(settings));
    Placement::new(settings, farm, client, note)
}

fn order(settings: &Settings, farm: &Model, recorded: Option<Target>) -> Vec<i32> {
    let client = client(recorded);
    let client = Candidate { permitted: client_permitted(settings, client.key), ..client };
    let mut placement = placed(settings, farm, client, &mut |_, _| ());
    std::iter::from_fn(|| placement.next(settings, farm)).map(|trial| trial.target.code()).collect()
}

#[test]
fn a_sibling_that_writes_the_cursor_all_the_time_ends_no_choice() {
    for leastconn in [false, true] {
        let selection = Selection { leastconn, ..Selection::default() };
        let settings = farm_of(3, selection);
        let farm = Model { has_hostile_sibling: true, ..Model::default() };
        assert_eq!(order(&settings, &farm, None).len(), 3);
    }
}

#[test]
fn a_fresh_round_robin_begins_with_server_1() {
    let (settings, farm) = (farm_of(3, Selection::default()), Model::default());
    let firsts: Vec<i32> = (0..4).map(|_| order(&settings, &farm, None)[0]).collect();
    assert_eq!(firsts, [1, 2, 0, 1]);
}

#[test]
fn failover_leaves_the_cursor_where_the_selection_put_it() {
    // Server 1 dead, with -r: 1->2, 2, 0, 2, 0.
    let settings = farm_of(3, Selection { roundrobin: true, ..Selection::default() });
    let mut farm = Model::default();
    assert_eq!(order(&settings, &farm, None), [1, 2, 0]);
    farm.states = vec![None, Some(Blacklist::Until(1))];
    let firsts: Vec<i32> = (0..4).map(|_| order(&settings, &farm, None)[0]).collect();
    assert_eq!(firsts, [2, 0, 2, 0]);
}

#[test]
fn the_recorded_server_comes_first_unless_roundrobin() {
    let recorded = Some(Target::Server(ServerId(2)));
    assert_eq!(order(&farm_of(4, Selection::default()), &Model::default(), recorded), [2, 3, 0, 1]);
    let roundrobin = Selection { roundrobin: true, ..Selection::default() };
    assert_eq!(order(&farm_of(4, roundrobin), &Model::default(), recorded)[0], 1);
    let always = Selection { hash_always: true, ..Selection::default() };
    let hashed = order(&farm_of(4, always), &Model::default(), None);
    assert_eq!(order(&farm_of(4, always), &Model::default(), recorded), hashed);
    // Emergency and abuse server, and servers that no longer exist, do not count as recorded.
    for recorded in [Target::Emergency, Target::Abuse, Target::Server(ServerId(9))] {
        assert_eq!(
            order(&farm_of(4, Selection::default()), &Model::default(), Some(recorded))[0],
            1
        );
    }
}

#[test]
fn a_cursor_that_means_nothing_harms_nobody() {
    // Any worker can write it.
    for cursor in [3, u32::MAX - 1, u32::MAX] {
        let farm = Model { states: vec![Some(Blacklist::Until(9)); 3], ..Model::default() };
        farm.cursor.set(cursor);
        let mut servers = order(&farm_of(3, Selection::default()), &farm, None);
        servers.sort_unstable();
        assert_eq!(servers, [0, 1, 2]);
    }
}

#[test]
fn stubborn_tries_one_and_bars_the_emergency_server() {
    let mut settings = farm_of(3, Selection { stubborn: true, ..Selection::default() });
    settings.emergency = Some(server());
    assert_eq!(order(&settings, &Model::default(), Some(Target::Server(ServerId(2)))), [2]);
    let farm = Model { states: vec![Some(Blacklist::Until(9)); 3], ..Model::default() };
    assert_eq!(order(&settings, &farm, None), [] as [i32; 0]);
}

#[test]
fn weight_counts_connections_and_keeps_new_clients_from_weight_0() {
    let weighted = |weight| Some(Server { weight, ..server() });
    let modes = Selection { weight: true, ..Selection::default() };
    let settings = settings(vec![weighted(2), weighted(1), weighted(0)], modes);
    let mut farm = Model { connections: vec![0, 0, 0], ..Model::default() };
    for _ in 0..6 {
        let first = order(&settings, &farm, None)[0];
        farm.connections[first as usize] += 1;
    }
    assert_eq!(farm.connections, [4, 2, 0]);
    assert_eq!(order(&settings, &farm, None)[2], 2);
}

#[test]
fn weight_lets_equal_loads_take_turns() {
    // Clients that come one after the other leave no connection open.
    let weighted = |weight| Some(Server { weight, ..server() });
    let modes = Selection { weight: true, ..Selection::default() };
    let (settings, farm) =
        (settings(vec![weighted(2), weighted(1), weighted(1)], modes), Model::default());
    let mut clients = [0; 3];
    for _ in 0..12 {
        clients[order(&settings, &farm, None)[0] as usize] += 1;
    }
    assert_eq!(clients, [6, 3, 3]);
}

#[test]
fn prio_goes_by_rank_then_number() {
    let ranked = |prio| Some(Server { prio, ..server() });
    let modes = Selection { prio: true, ..Selection::default() };
    let settings = settings(vec![ranked(7), ranked(1), None, ranked(1), ranked(0)], modes);
    assert_eq!(order(&settings, &Model::default(), None), [4, 1, 3, 0]);
    let farm = Model {
        states: vec![None, None, None, None, Some(Blacklist::Until(1))],
        ..Model::default()
    };
    assert_eq!(order(&settings, &farm, None), [1, 4, 3, 0]);
}

#[test]
fn full_servers_are_passed_over_and_known_clients_get_the_hard_limit() {
    let limited = Some(Server { soft: 2, hard: 3, ..server() });
    let settings = settings(vec![limited.clone(), limited], Selection::default());
    let farm = Model { connections: vec![0, 2], ..Model::default() };
    assert_eq!(order(&settings, &farm, None), [0, 1]);
    let placement =
        placed(&settings, &farm, client(Some(Target::Server(ServerId(1)))), &mut |_, _| ());
    assert!(
        placement.knows(Target::Server(ServerId(1)))
            && !placement.knows(Target::Server(ServerId(0)))
    );
    assert!(!placement.knows(Target::Emergency));
}

#[test]
fn a_server_under_probe_is_joined_only_when_nothing_else_is_left() {
    let farm = Model { states: vec![Some(Blacklist::Probed), None], ..Model::default() };
    let settings = farm_of(2, Selection::default());
    let mut placement = placed(&settings, &farm, client(None), &mut |_, _| ());
    let order: Vec<_> = std::iter::from_fn(|| placement.next(&settings, &farm)).collect();
    let first = |n| Trial::first(ServerId(n));
    assert_eq!(order, [first(1), first(0), Trial::last(Target::Server(ServerId(0)))]);
}

proptest! {
    #[test]
    fn every_configured_server_comes_exactly_once_then_the_emergency_server(
        present in prop::collection::vec(any::<bool>(), 1..200),
        modes in any::<[bool; 8]>(),
        recorded in prop::option::of(0u16..220),
        states in prop::collection::vec(prop::option::of(0u8..3), 200),
    ) {
        let [roundrobin, hash, hash_always, weight, prio, leastconn, p2c, maglev] = modes;
        let maglev = if maglev { Maglev::On } else { Maglev::Off };
        let selection = Selection {
            roundrobin, hash, hash_always, weight, prio, leastconn, p2c, maglev, stubborn: false,
        };
        let mut settings = settings(present.iter().map(|p| p.then(server)).collect(), selection);
        settings.emergency = Some(server());
        let states = states.iter().map(|s| s.map(|s| match s {
            0 => Blacklist::Until(5), 1 => Blacklist::Expired, _ => Blacklist::Clear,
        })).collect();
        let farm = Model { states, ..Model::default() };
        let mut order = order(&settings, &farm, recorded.map(|n| Target::Server(ServerId(n))));
        prop_assert_eq!(order.pop(), Some(-1));
        order.retain(|code| settings.target(Target::from_code(*code).unwrap()).is_some());
        order.sort_unstable();
        let expected: Vec<i32> = settings.configured().map(|(id, _)| i32::from(id.0)).collect();
        prop_assert_eq!(order, expected);
    }
}

#[test]
fn a_refused_client_is_for_the_abuse_server_alone() {
    use pen_config::acl::{Acl, AclVerdict, Net};
    let mut acl = Acl::default();
    assert!(acl.push(AclVerdict::Deny, Net::v4_prefix("10.0.0.0".parse().unwrap(), 8).unwrap()));
    let mut settings = farm_of(3, Selection::default());
    settings.emergency = Some(server());
    settings.acls[7] = acl;
    settings.client_acl = 7;
    let farm = Model::default();
    assert_eq!(order(&settings, &farm, Some(Target::Server(ServerId(1)))), [-2]);
    assert_eq!(farm.cursor.get(), 0);
    // Its own access list does not keep away the clients that it is for; a blacklist does.
    settings.abuse = Some(Server { acl: 7, ..server() });
    let mut placement =
        placed(&settings, &farm, Candidate { permitted: false, ..client(None) }, &mut |_, _| ());
    let step = placement.next(&settings, &farm).unwrap();
    assert_eq!(placement.judge(&settings, &farm, client(None).key, step), Ok(Usable::InUse));
    let farm = Model {
        states: [vec![None; 4], vec![Some(Blacklist::Until(9))]].concat(),
        ..Model::default()
    };
    assert_eq!(
        placement.judge(&settings, &farm, client(None).key, step),
        Err(SelectionRefusal::Blacklisted(9))
    );
}

#[test]
fn eligible_is_who_exists_is_in_use_permits_and_is_not_full() {
    let farm = Model { connections: vec![2, 2], ..Model::default() };
    let limited = Some(Server { soft: 2, hard: 3, ..server() });
    let at_port_0 =
        Some(Server { address: Address::Inet("127.0.0.1:0".parse().unwrap()), ..server() });
    let settings = settings(vec![limited.clone(), limited, None, at_port_0], Selection::default());
    let judge = |recorded, number| {
        let placement = placed(&settings, &farm, client(recorded), &mut |_, _| ());
        placement.judge(&settings, &farm, client(None).key, Trial::first(ServerId(number)))
    };
    let known = Some(Target::Server(ServerId(1)));
    assert_eq!(judge(known, 1), Ok(Usable::InUse));
    assert_eq!(judge(known, 0), Err(SelectionRefusal::Full { connections: 2, most: 2 }));
    assert_eq!(
        (judge(None, 2), judge(None, 3)),
        (Err(SelectionRefusal::Absent), Err(SelectionRefusal::Absent))
    );
}

#[test]
fn a_first_choice_notes_what_it_passes_over() {
    let settings = farm_of(3, Selection::default());
    let farm = Model { states: vec![None, Some(Blacklist::Until(5))], ..Model::default() };
    let mut noted = Vec::new();
    placed(&settings, &farm, client(None), &mut |id, refusal| noted.push((id.0, refusal)));
    assert_eq!(noted, [(1, SelectionRefusal::Blacklisted(5))]);
}

#[test]
fn without_a_client_there_is_the_next_of_the_rotation_and_no_other() {
    let settings = farm_of(3, Selection { prio: true, ..Selection::default() });
    let farm = Model { states: vec![None, Some(Blacklist::Until(5))], ..Model::default() };
    let order = || {
        let mut placement = Placement::without_client(&settings, &farm);
        std::iter::from_fn(|| placement.next(&settings, &farm))
            .map(|trial| trial.target.code())
            .collect::<Vec<_>>()
    };
    assert_eq!([order(), order(), order()], [[2], [0], [2]]);
}

#[test]
fn a_hindered_server_is_passed_over_and_left_for_the_end() {
    let settings = Settings { emergency: Some(server()), ..farm_of(3, Selection::default()) };
    let hindered = vec![None, Some(Hindrance::Ports), Some(Hindrance::Pending)];
    let farm = Model { hindered, ..Model::default() };
    let candidate = client(Some(Target::Server(ServerId(1))));
    let mut placement = placed(&settings, &farm, candidate, &mut |_, _| ());
    let mut seen = Vec::new();
    while let Some(trial) = placement.next(&settings, &farm) {
        let judged = placement.judge(&settings, &farm, candidate.key, trial);
        if let Err(SelectionRefusal::Hindered(_)) = judged {
            placement.hold(trial.target);
        }
        seen.push((trial.target.code(), judged.is_ok()));
    }
    // Its own server is tried again at the end: a port may be free now.
    assert_eq!(seen, [(1, false), (2, false), (0, true), (-1, true), (1, true)]);
    assert!(placement.is_over());
}
