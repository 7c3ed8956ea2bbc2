//! The table of an earlier pen: adopted as it is, or its clients enter a new one.
//!
//! Its workers are dead. Any of them could have written any byte of it, so all is checked as always
//! ([`pen_table`]). A start also ends what a running pen would wait for: a blacklist time that
//! nobody can have set.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use pen_config::ids::{ServerId, Target};
use pen_config::settings::Settings;
use pen_table::{
    ExportedBlacklist, ExportedClient, ExportedServer, ExportedServers, Imported, ServerStatistics,
    Shape, Table, TableDescription, TableError, TableKind,
};

use crate::clock;
use crate::kept::state::{KeptServer, KeptServers};

/// A table for this start, and what became of the earlier one.
pub(in crate::kept) enum Regained {
    /// It is the same memory.
    Adopted(Table),
    /// Clients of it are in a new one.
    Imported(Table, Imported),
}

/// Uses the memory of an earlier table, of which nobody else has a row. `before` are the servers
/// whose numbers are in it.
///
/// # Errors
/// It is not the described table, or no other one can be made.
pub(in crate::kept) fn regain(
    memory: OwnedFd,
    description: TableDescription,
    before: &KeptServers,
    shape: Shape,
    settings: &Settings,
) -> Result<Regained, TableError> {
    let now = &KeptServers::of(settings);
    let present = clock::monotonic();
    let old = Table::adopt(memory, TableDescription { rows: Vec::new(), ..description })?;
    // No row has a worker, so this takes back what all of them held.
    old.reclaim(0);
    // The configuration of this start says anew which servers it blacklists.
    for (row, server) in (0..).zip(old.export_servers(&[]).servers) {
        let is_out = matches!(server.blacklist, ExportedBlacklist::TakenOut { .. });
        if is_out && before.blacklisted.iter().any(|number| u32::from(*number) == row) {
            old.clear_blacklist(row);
        }
    }
    if fits(&old, shape) && have_same_numbers(before, now) {
        for (target, server) in targets(now) {
            let before = server_of(before, target);
            if !before.is_some_and(|before| before.has_addresses_of(server)) {
                old.reset_address(target.row(now.regular.len() as u32));
            }
        }
        for (row, server) in (0..).zip(old.export_servers(&[]).servers) {
            if !is_possible(server.blacklist, settings, present) {
                old.clear_blacklist(row);
            }
        }
        return Ok(Regained::Adopted(old));
    }
    let new = Table::create(shape)?;
    let clients = old.export_clients().filter_map(|client| {
        let server = code_now(client.server, before, now)?;
        let last_use = client.last_use.min(present);
        Some(ExportedClient { server, last_use, ..client })
    });
    let imported = new.import_clients(clients);
    let mut servers = servers_now(old.export_servers(&[]), before, now);
    let wrong = |server: &&mut ExportedServer| !is_possible(server.blacklist, settings, present);
    servers.servers.iter_mut().filter(wrong).for_each(|server| {
        server.blacklist = ExportedBlacklist::Clear;
    });
    new.import_servers(&servers);
    Ok(Regained::Imported(new, imported))
}

/// Whether a table is as one that this start would make.
fn fits(table: &Table, wanted: Shape) -> bool {
    let shape = table.shape();
    match table.kind() {
        // It has room for all connection numbers.
        TableKind::Growing => Shape { connections: shape.connections, ..wanted } == shape,
        TableKind::Fixed => wanted == shape,
    }
}

/// Whether a failure or an operator can have blacklisted a server for so long.
fn is_possible(blacklist: ExportedBlacklist, settings: &Settings, present: u64) -> bool {
    let (until, most) = match blacklist {
        ExportedBlacklist::Clear => return true,
        // A probe of the server takes as long as a connect.
        ExportedBlacklist::Failed { until } => {
            (until, settings.blacklist.max(settings.connect_timeout))
        }
        ExportedBlacklist::TakenOut { until } => (until, u32::MAX),
    };
    until <= present.saturating_add(u64::from(most) * 1000)
}

/// Whether the same servers have the same numbers.
fn have_same_numbers(before: &KeptServers, now: &KeptServers) -> bool {
    let all = |servers: &KeptServers| {
        let others = [servers.emergency.clone(), servers.abuse.clone()];
        servers.regular.iter().cloned().chain(others).collect::<Vec<_>>()
    };
    let (before, now) = (all(before), all(now));
    before.len() == now.len()
        && before.iter().zip(&now).all(|pair| match pair {
            (None, None) => true,
            (Some(before), Some(now)) => before.is_same(now),
            (Some(_), None) | (None, Some(_)) => false,
        })
}

fn server_of(servers: &KeptServers, target: Target) -> Option<&KeptServer> {
    match target {
        Target::Server(id) => servers.regular.get(id.index())?.as_ref(),
        Target::Emergency => servers.emergency.as_ref(),
        Target::Abuse => servers.abuse.as_ref(),
    }
}

fn targets(servers: &KeptServers) -> impl Iterator<Item = (Target, &KeptServer)> {
    // Below MAX_SERVERS.
    let regular = (0..servers.regular.len()).map(|index| Target::Server(ServerId(index as u16)));
    let all = regular.chain([Target::Emergency, Target::Abuse]);
    all.filter_map(|target| Some((target, server_of(servers, target)?)))
}

/// The server that `target` was before: under its number, or else under another.
fn target_now(target: Target, before: &KeptServers, now: &KeptServers) -> Option<Target> {
    let before = server_of(before, target)?;
    let is_it = |other: Target| server_of(now, other).is_some_and(|now| before.is_same(now));
    let is_regular = matches!(target, Target::Server(_));
    is_it(target).then_some(target).or_else(|| {
        targets(now)
            .map(|(other, _)| other)
            .find(|other| matches!(other, Target::Server(_)) == is_regular && is_it(*other))
    })
}

fn code_now(code: i32, before: &KeptServers, now: &KeptServers) -> Option<i32> {
    target_now(Target::from_code(code)?, before, now).map(Target::code)
}

/// The state of the servers under their numbers of now. One that has a new address begins anew.
fn servers_now(old: ExportedServers, before: &KeptServers, now: &KeptServers) -> ExportedServers {
    let (size_before, size) = (before.regular.len() as u32, now.regular.len() as u32);
    let mut servers = vec![fresh(); size as usize + 2];
    for (target, _) in targets(before) {
        let Some(other) = target_now(target, before, now) else { continue };
        let there = servers.get_mut(other.row(size) as usize);
        let known = old.servers.get(target.row(size_before) as usize);
        if let (Some(there), Some(known)) = (there, known) {
            let pair = server_of(before, target).zip(server_of(now, other));
            let are_same = pair.is_some_and(|(before, now)| before.has_addresses_of(now));
            *there = ExportedServer { address: if are_same { known.address } else { 0 }, ..*known };
        }
    }
    ExportedServers {
        cursor: old.cursor,
        current: code_now(old.current, before, now).unwrap_or(0),
        servers,
    }
}

/// The state of a server of which nothing is known.
fn fresh() -> ExportedServer {
    ExportedServer {
        sent: 0,
        received: 0,
        blacklist: ExportedBlacklist::Clear,
        failed_at: 0,
        last_failure: None,
        address: 0,
        statistics: ServerStatistics::default(),
    }
}

#[cfg(test)]
mod tests {
    use pen_config::address::Address;
    use pen_config::settings::Server;

    use super::*;

    const SHAPE: Shape = Shape { clients: 64, servers: 5, rows: 4, connections: 256 };

    fn settings(ports: [u16; 3]) -> Settings {
        let server =
            |port| (port != 0).then(|| Server::at(Address::Inet(([10, 0, 0, 1], port).into())));
        Settings { servers: ports.map(server).into(), ..Settings::default() }
    }

    fn used() -> (OwnedFd, TableDescription) {
        let table = Table::create(SHAPE).unwrap();
        let worker = table.worker_table(1);
        for client in 0..9u8 {
            let mut locked = worker.lock([client; 16]).unwrap();
            let arrival = locked.arrive(1000 + u64::from(client), 0);
            locked.record(arrival.client, i32::from(client % 3));
        }
        let _ = worker.claim_connection(10);
        assert!(worker.reserve(1, None));
        worker.add_server_bytes(1, 10, 20);
        worker.count_reached(1);
        table.take_out(2, clock::monotonic() + 1_000_000, 5);
        table.take_out(3, u64::MAX >> 8, 5);
        (table.descriptor().try_clone_to_owned().unwrap(), table.description())
    }

    fn regained(shape: Shape, ports: [u16; 3]) -> (Table, Option<Imported>) {
        let (memory, description) = used();
        let before = KeptServers::of(&settings([1, 2, 3]));
        match regain(memory, description, &before, shape, &settings(ports)).unwrap() {
            Regained::Adopted(table) => (table, None),
            Regained::Imported(table, imported) => (table, Some(imported)),
        }
    }

    #[test]
    fn a_table_that_fits_is_adopted_without_what_its_workers_held() {
        let (table, imported) = regained(Shape { connections: 512, ..SHAPE }, [1, 2, 3]);
        assert_eq!((imported, table.clients().count()), (None, 9));
        assert_eq!(table.connections_open(), 0);
        let totals = table.server_totals(1);
        assert_eq!((totals.connections, totals.sent), (0, 10));
        assert_eq!(table.server_statistics(1).reached, 1);
        assert!(table.server_totals(2).is_taken_out);
        assert_eq!(table.server_totals(3).blacklisted_until, 0, "nobody can have set that");
    }

    #[test]
    fn in_another_shape_clients_and_servers_are_the_same() {
        let shape = Shape { clients: 6, rows: 6, ..SHAPE };
        let (table, imported) = regained(shape, [1, 2, 3]);
        assert_eq!(imported, Some(Imported { kept: 6, left_out: 3 }));
        assert!(table.clients().all(|client| client.server == i32::from(client.key[0] % 3)));
        assert!(table.clients().all(|client| client.key[0] >= 3), "the last used are kept");
        assert_eq!(table.server_totals(1).received, 20);
        assert_eq!(table.server_statistics(1).reached, 1);
    }

    #[test]
    fn clients_follow_the_addresses_of_their_servers() {
        let (table, imported) = regained(SHAPE, [3, 0, 1]);
        assert_eq!(imported, Some(Imported { kept: 6, left_out: 0 }));
        for client in table.clients() {
            let expected = match client.key[0] % 3 {
                0 => 2,
                2 => 0,
                _ => panic!("server 2 is gone"),
            };
            assert_eq!(client.server, expected);
        }
        assert!(table.server_totals(0).is_taken_out);
        assert_eq!((table.server_totals(1).sent, table.server_totals(2).is_taken_out), (0, false));
    }

    #[test]
    fn a_server_whose_name_has_another_address_is_the_same() {
        let (memory, description) = used();
        let named = |settings: &mut Settings, last| {
            let server = settings.servers[1].as_mut().unwrap();
            server.address = Address::Inet(([10, 0, 0, last], 2).into());
            server.given = Some(pen_config::address::Host::Name("www".into()));
        };
        let (mut before, mut now) = (settings([1, 2, 3]), settings([1, 2, 3]));
        named(&mut before, 1);
        named(&mut now, 9);
        let before = KeptServers::of(&before);
        let Regained::Adopted(table) = regain(memory, description, &before, SHAPE, &now).unwrap()
        else {
            panic!("it fits")
        };
        assert_eq!((table.clients().count(), table.server_totals(1).sent), (9, 10));
    }

    #[test]
    fn another_memory_or_layout_is_an_error() {
        let (_, description) = used();
        let all = settings([1, 2, 3]);
        let before = KeptServers::of(&all);
        let other = crate::files::memory::new().unwrap();
        assert!(regain(other.into(), description, &before, SHAPE, &all).is_err());
        let (memory, mut description) = used();
        description.layout += 1;
        assert!(regain(memory, description, &before, SHAPE, &all).is_err());
    }
}
