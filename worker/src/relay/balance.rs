//! Which server a client gets: the order in which servers are tried.
//!
//! A pure choice over the settings and what the shared table says of the servers ([`Farm`]); no clock, no socket. The caller
//! tries each target that [`Placement::next`] yields, until one takes the client.

use std::net::IpAddr;

use pen_contract::ids::{ClientKey, MAX_SERVERS, ServerId, Target};
use pen_contract::settings::{Server, Settings};
use pen_table::Blacklist;

/// What a choice needs to know about the servers, by row of the shared table.
pub trait Farm {
    /// Whether a server is left out.
    fn blacklist(&self, row: u32) -> Blacklist;
    /// Connections to a server, of all workers.
    fn connections(&self, row: u32) -> u32;
    /// The server that the last round-robin selection returned.
    fn cursor(&self) -> u32;
    /// Moves the cursor; false if another was faster.
    fn advance_cursor(&self, from: u32, to: u32) -> bool;
}

/// The client that is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Who it is.
    pub key: ClientKey,
    /// Its source port; counts only where a hash is used for every connection.
    pub port: u16,
    /// Its recorded server.
    pub recorded: Option<Target>,
}

/// Whether a target may be tried although another connection is probing it after its blacklist time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probed {
    /// No: the probe's outcome is awaited.
    Skip,
    /// Yes: there is nothing else for this client.
    Join,
}

/// The order of servers for one client, and how far it has been followed. Every server comes at most once, but one that another
/// connection is probing comes again at the end, when nothing else is left.
#[derive(Debug)]
pub struct Placement {
    seen: Seen,
    step: Step,
    known: Option<ServerId>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Nothing was tried yet.
    First(Option<ServerId>),
    /// The servers after this one, round once.
    Scan(u32),
    /// Servers under probe, from this one on.
    Probed(u32),
    /// The emergency server.
    Emergency,
    /// Nothing is left.
    Done,
}

impl Placement {
    /// The order for a client; moves the round-robin cursor if that is how the first server is chosen.
    pub fn new(settings: &Settings, farm: &impl Farm, client: Candidate) -> Placement {
        let recorded = match client.recorded {
            Some(Target::Server(id)) if settings.target(Target::Server(id)).is_some() => Some(id),
            _ => None,
        };
        Placement { seen: Seen::default(), step: Step::First(first(settings, farm, client, recorded)), known: recorded }
    }

    /// Whether the client is known to a target: then the target's hard limit holds.
    pub fn knows(&self, target: Target) -> bool {
        matches!((target, self.known), (Target::Server(id), Some(known)) if id == known)
    }

    /// The next target to try.
    pub fn next(&mut self, settings: &Settings, farm: &impl Farm) -> Option<(Target, Probed)> {
        let stubborn = settings.selection.stubborn;
        loop {
            match self.step {
                Step::First(Some(id)) => {
                    self.step = if stubborn { Step::Done } else { Step::Scan(u32::from(id.0)) };
                    self.seen.add(id);
                    return Some((Target::Server(id), if stubborn { Probed::Join } else { Probed::Skip }));
                }
                Step::First(None) => self.step = if stubborn { Step::Done } else { Step::Scan(farm.cursor()) },
                Step::Scan(after) => match self.scan(settings, after) {
                    Some(id) => {
                        self.step = Step::Scan(u32::from(id.0));
                        self.seen.add(id);
                        return Some((Target::Server(id), Probed::Skip));
                    }
                    None => self.step = Step::Probed(0),
                },
                Step::Probed(from) => match under_probe(settings, farm, from) {
                    Some(id) => {
                        self.step = Step::Probed(u32::from(id.0) + 1);
                        return Some((Target::Server(id), Probed::Join));
                    }
                    None => self.step = Step::Emergency,
                },
                Step::Emergency => {
                    self.step = Step::Done;
                    if settings.emergency.is_some() {
                        return Some((Target::Emergency, Probed::Join));
                    }
                }
                Step::Done => return None,
            }
        }
    }

    /// The unseen server that failover tries after `after`: by prio in prio mode, those without weight last in weight mode.
    fn scan(&self, settings: &Settings, after: u32) -> Option<ServerId> {
        let count = settings.server_count();
        let unseen = (1..=count)
            .map(|step| ServerId(((u64::from(after) + u64::from(step)) % u64::from(count)) as u16))
            .filter(|id| !self.seen.has(*id))
            .filter_map(|id| Some((id, settings.target(Target::Server(id))?)));
        if settings.selection.prio {
            unseen.min_by_key(|(id, server)| (server.prio, id.0)).map(|(id, _)| id)
        } else if settings.selection.weight {
            // The first of the least: false (has a weight) is less than true.
            unseen.min_by_key(|(_, server)| server.weight == 0).map(|(id, _)| id)
        } else {
            unseen.map(|(id, _)| id).next()
        }
    }
}

/// The server that is tried first.
fn first(settings: &Settings, farm: &impl Farm, client: Candidate, recorded: Option<ServerId>) -> Option<ServerId> {
    let modes = settings.selection;
    if let (Some(id), false) = (recorded, modes.roundrobin || modes.hash_always) {
        return Some(id);
    }
    let available = || settings.configured().filter(|(id, server)| is_available(farm, *id, server));
    if modes.prio {
        available().min_by_key(|(id, server)| (server.prio, id.0)).map(|(id, _)| id)
    } else if modes.weight {
        available()
            .filter(|(_, server)| server.weight > 0)
            .min_by_key(|(id, server)| (load(farm, *id, server), id.0))
            .map(|(id, _)| id)
    } else if modes.hash || modes.hash_always {
        let port = modes.roundrobin.then_some(client.port);
        hashed(client.key, port, settings.server_count())
    } else {
        round_robin(settings, farm)
    }
}

/// The next available server after the cursor, which moves there: one sequence for all workers.
fn round_robin(settings: &Settings, farm: &impl Farm) -> Option<ServerId> {
    let count = settings.server_count();
    loop {
        let cursor = farm.cursor();
        let id = (1..=count)
            .map(|step| ServerId(((u64::from(cursor) + u64::from(step)) % u64::from(count)) as u16))
            .find(|id| settings.target(Target::Server(*id)).is_some_and(|server| is_available(farm, *id, server)))?;
        if farm.advance_cursor(cursor, u32::from(id.0)) {
            return Some(id);
        }
    }
}

/// Neither left out nor full for a client that it does not know.
fn is_available(farm: &impl Farm, id: ServerId, server: &Server) -> bool {
    let row = u32::from(id.0);
    matches!(farm.blacklist(row), Blacklist::Clear | Blacklist::Expired)
        && server.limit(false).is_none_or(|limit| farm.connections(row) < limit)
}

/// 256 × connections ÷ weight.
fn load(farm: &impl Farm, id: ServerId, server: &Server) -> u64 {
    256 * u64::from(farm.connections(u32::from(id.0))) / u64::from(server.weight.max(1))
}

/// The first server from `from` on that another connection is probing.
fn under_probe(settings: &Settings, farm: &impl Farm, from: u32) -> Option<ServerId> {
    settings
        .configured()
        .skip_while(|(id, _)| u32::from(id.0) < from)
        .map(|(id, _)| id)
        .find(|id| farm.blacklist(u32::from(id.0)) == Blacklist::Probed)
}

/// The server that a client's address hashes to: FNV-1a (64 bits) over the address's bytes, 4 for IPv4 and 16 for IPv6, and the port's two where it
/// counts, then a jump consistent hash (Lamping and Veach, 2014) onto the servers, so that one more server moves as few clients as can be.
/// The same on every run, worker and machine.
fn hashed(key: ClientKey, port: Option<u16>, servers: u32) -> Option<ServerId> {
    let hash = match key.ip() {
        Some(IpAddr::V4(ip)) => fnv1a(FNV_OFFSET, &ip.octets()),
        Some(IpAddr::V6(ip)) => fnv1a(FNV_OFFSET, &ip.octets()),
        None => FNV_OFFSET,
    };
    let hash = port.map_or(hash, |port| fnv1a(hash, &port.to_be_bytes()));
    (servers > 0).then(|| ServerId(jump(hash, servers) as u16))
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn jump(mut key: u64, buckets: u32) -> u32 {
    let (mut bucket, mut next) = (0, 0i64);
    while next < i64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
    }
    bucket as u32
}

/// The servers that were tried. Takes memory only from the second on: most clients are served by the first.
#[derive(Debug, Default)]
struct Seen {
    only: Option<ServerId>,
    bits: Option<Box<[u64; SEEN_WORDS]>>,
}

/// A bit for every server there can be.
const SEEN_WORDS: usize = MAX_SERVERS as usize / 64;

impl Seen {
    fn add(&mut self, id: ServerId) {
        match self.only {
            None => self.only = Some(id),
            Some(_) => {
                let bits = self.bits.get_or_insert_with(|| Box::new([0; SEEN_WORDS]));
                bits[id.index() / 64 % SEEN_WORDS] |= 1 << (id.index() % 64);
            }
        }
    }

    fn has(&self, id: ServerId) -> bool {
        let in_bits = |bits: &[u64; SEEN_WORDS]| bits[id.index() / 64 % SEEN_WORDS] >> (id.index() % 64) & 1 == 1;
        self.only == Some(id) || self.bits.as_deref().is_some_and(in_bits)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use pen_contract::address::Address;
    use pen_contract::settings::Selection;
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Model {
        states: Vec<Option<Blacklist>>,
        connections: Vec<u32>,
        cursor: Cell<u32>,
    }

    impl Farm for Model {
        fn blacklist(&self, row: u32) -> Blacklist {
            self.states.get(row as usize).copied().flatten().unwrap_or(Blacklist::Clear)
        }
        fn connections(&self, row: u32) -> u32 {
            self.connections.get(row as usize).copied().unwrap_or(0)
        }
        fn cursor(&self) -> u32 {
            self.cursor.get()
        }
        fn advance_cursor(&self, from: u32, to: u32) -> bool {
            assert_eq!(from, self.cursor.get());
            self.cursor.set(to);
            true
        }
    }

    fn server() -> Server {
        Server { address: Address::Inet("127.0.0.1:1".parse().unwrap()), soft: 0, hard: 0, weight: 1, prio: 0 }
    }

    fn settings(servers: Vec<Option<Server>>, selection: Selection) -> Settings {
        Settings {
            servers,
            emergency: None,
            abuse: None,
            selection,
            blacklist: 30,
            connect_timeout: 5,
            tracking: 0,
            connections_max: 256,
            clients_max: 2048,
            pending_max: 100,
            accept_batch: 100,
            debug: 0,
            ascii: false,
        }
    }

    fn farm_of(n: usize, selection: Selection) -> Settings {
        settings((0..n).map(|_| Some(server())).collect(), selection)
    }

    fn client(recorded: Option<Target>) -> Candidate {
        Candidate { key: ClientKey::from_ip("10.1.2.3".parse().unwrap()), port: 4711, recorded }
    }

    fn order(settings: &Settings, farm: &Model, recorded: Option<Target>) -> Vec<i32> {
        let mut placement = Placement::new(settings, farm, client(recorded));
        std::iter::from_fn(|| placement.next(settings, farm)).map(|(target, _)| target.code()).collect()
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
        // Emergency, abuse and servers that are no more do not count as recorded.
        for recorded in [Target::Emergency, Target::Abuse, Target::Server(ServerId(9))] {
            assert_eq!(order(&farm_of(4, Selection::default()), &Model::default(), Some(recorded))[0], 1);
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
        assert_eq!(order(&settings, &farm, None), [0, 1, 2]);
    }

    #[test]
    fn prio_goes_by_rank_then_number() {
        let ranked = |prio| Some(Server { prio, ..server() });
        let modes = Selection { prio: true, ..Selection::default() };
        let settings = settings(vec![ranked(7), ranked(1), None, ranked(1), ranked(0)], modes);
        assert_eq!(order(&settings, &Model::default(), None), [4, 1, 3, 0]);
        let farm = Model { states: vec![None, None, None, None, Some(Blacklist::Until(1))], ..Model::default() };
        assert_eq!(order(&settings, &farm, None), [1, 4, 3, 0]);
    }

    #[test]
    fn full_servers_are_passed_over_and_known_clients_get_the_hard_limit() {
        let limited = Some(Server { soft: 2, hard: 3, ..server() });
        let settings = settings(vec![limited.clone(), limited], Selection::default());
        let farm = Model { connections: vec![0, 2], ..Model::default() };
        assert_eq!(order(&settings, &farm, None), [0, 1]);
        let placement = Placement::new(&settings, &farm, client(Some(Target::Server(ServerId(1)))));
        assert!(placement.knows(Target::Server(ServerId(1))) && !placement.knows(Target::Server(ServerId(0))));
        assert!(!placement.knows(Target::Emergency));
    }

    #[test]
    fn a_server_under_probe_is_joined_only_when_nothing_else_is_left() {
        let farm = Model { states: vec![Some(Blacklist::Probed), None], ..Model::default() };
        let settings = farm_of(2, Selection::default());
        let mut placement = Placement::new(&settings, &farm, client(None));
        let order: Vec<_> = std::iter::from_fn(|| placement.next(&settings, &farm)).collect();
        let server = |n| Target::Server(ServerId(n));
        assert_eq!(order, [(server(1), Probed::Skip), (server(0), Probed::Skip), (server(0), Probed::Join)]);
    }

    #[test]
    fn the_hash_is_stable_and_spreads_a_subnet() {
        let key = |n: u32| ClientKey::from_ip(IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n)));
        // Frozen: other machines and later releases must agree.
        assert_eq!((0..8).map(|n| hashed(key(n), None, 4).unwrap().0).collect::<Vec<_>>(), FROZEN);
        let mut counts = [0; 8];
        (0..8000).for_each(|n| counts[hashed(key(n), None, 8).unwrap().index()] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        let moved = (0..8000).filter(|n| hashed(key(*n), None, 8) != hashed(key(*n), None, 9)).count();
        assert!((600..1200).contains(&moved), "{moved}");
        assert!((0..1000).any(|port| hashed(key(1), Some(port), 8) != hashed(key(1), Some(0), 8)));
        assert_eq!(hashed(key(1), None, 0), None);
    }

    const FROZEN: [u16; 8] = [1, 2, 2, 0, 0, 3, 2, 3];

    proptest! {
        #[test]
        fn every_configured_server_comes_exactly_once_then_the_emergency_server(
            present in prop::collection::vec(any::<bool>(), 1..200),
            modes in any::<[bool; 5]>(),
            recorded in prop::option::of(0u16..220),
            states in prop::collection::vec(prop::option::of(0u8..3), 200),
        ) {
            let [roundrobin, hash, hash_always, weight, prio] = modes;
            let selection = Selection { roundrobin, hash, hash_always, weight, prio, stubborn: false };
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
}
