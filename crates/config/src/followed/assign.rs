//! Which record of a name gets which slot: settings, records and connections become new settings.
//! The order of the records changes nothing.
//!
//! A server that is gone keeps its slot while it has connections. Exception: if none of the name
//! could serve a client otherwise, new servers take such slots. A service whose addresses all
//! changed would have no server until connections end.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::ConfigurationError;
use crate::address::Address;
use crate::checks::{ServerMode, ServersFrom};
use crate::command::{Setting, SourcedCommand};
use crate::followed::{Answers, NameRecord, Record, SlotKeys};
use crate::ids::ServerId;
use crate::names::{Names, resolve_port};
use crate::settings::{Server, Settings};

/// Puts the records that were found into the slots of all names in `names`. Of names without an
/// answer, nothing changes. Returns errors about unknown ports; nothing is changed of such a name.
pub fn answered(
    settings: &mut Settings,
    names: &Names,
    connections: impl Fn(ServerId) -> u64,
) -> Vec<ConfigurationError> {
    let mut errors = Vec::new();
    for from in settings.servers_from.clone() {
        let Some(Ok(records)) = found(&names.records, &from) else { continue };
        match resolve_port(&from.port, names, || format!("servers_from: {}", from.name)) {
            Ok(port) => assign(settings, &from, port, records, &connections),
            Err(error) => errors.push(error),
        }
    }
    errors
}

/// A line for each name in `names` that servers follow and that has no answer, with the source line
/// of its command.
pub fn unanswered<'c>(
    settings: &Settings,
    names: &Names,
    commands: impl Iterator<Item = &'c SourcedCommand> + Clone,
) -> Vec<String> {
    let mut lines = Vec::new();
    for from in &settings.servers_from {
        let Some(Err(why)) = found(&names.records, from) else { continue };
        let is_it = |sourced: &&SourcedCommand| match sourced.setting() {
            Some(Setting::ServersFrom(named)) => named.name == from.name,
            Some(_) | None => false,
        };
        let at = commands.clone().filter(is_it).last().map_or(String::new(), SourcedCommand::at);
        lines.push(format!("{at}servers_from: cannot resolve {}: {why}", from.name));
    }
    lines
}

/// The answer for a name.
fn found<'a>(
    answers: &'a Answers,
    from: &ServersFrom,
) -> Option<&'a Result<Vec<NameRecord>, String>> {
    answers.get(&(from.name.clone(), from.records))
}

/// Puts records into the slots of a name; `port` is the one of records without a port. A server
/// that is there keeps its slot. A new one gets an empty slot, or else one of a server that is gone
/// and has no connection; with connections, if the name would have no server in use otherwise. One
/// whose record is gone is marked so; if it was so before, and has no connection left, its slot
/// becomes empty.
pub fn assign(
    settings: &mut Settings,
    from: &ServersFrom,
    port: u16,
    records: &[NameRecord],
    connections: impl Fn(ServerId) -> u64,
) {
    let mut wanted = servers_of(records, port);
    let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    settings.answered.insert(from.name.clone(), count);
    let mut gone = Gone::default();
    for number in from.first..=from.last {
        let id = ServerId(number);
        let Some(Some(server)) = settings.servers.get_mut(id.index()) else { continue };
        let Address::Inet(address) = server.address else { continue };
        match (wanted.remove(&address), server.record) {
            (Some(rank), Record::Own | Record::Present | Record::Gone) => {
                server.record = Record::Present;
                rank.give_to(server);
            }
            (None, Record::Gone) if connections(id) == 0 => vacate(settings, from, number),
            (None, Record::Gone) => gone.busy.push(number),
            (None, Record::Own | Record::Present) => {
                server.record = Record::Gone;
                let which = if connections(id) == 0 { &mut gone.idle } else { &mut gone.busy };
                which.push(number);
            }
        }
    }
    for number in places(settings, from, &gone) {
        let Some((address, rank)) = wanted.pop_first() else { break };
        settle(settings, from, number, address, rank);
    }
}

/// Empties a slot of a name, and keeps what an operator set of it.
fn vacate(settings: &mut Settings, from: &ServersFrom, number: u16) {
    let keys = settings.slot_keys(from, number);
    if let Some(slot) = settings.servers.get_mut(ServerId(number).index()) {
        *slot = None;
        keep(settings, number, keys);
    }
}

/// Keeps what an operator set of an empty slot.
pub(crate) fn keep(settings: &mut Settings, number: u16, keys: SlotKeys) {
    match keys == SlotKeys::default() {
        true => settings.vacant.remove(&number),
        false => settings.vacant.insert(number, keys),
    };
}

/// Forgets the servers that follow no name any more, and what operators set of such slots.
pub fn retain_followed(settings: &mut Settings) {
    let Settings { servers, servers_from, vacant, answered, .. } = settings;
    let is_followed = |number: u16| servers_from.iter().any(|from| from.contains(number));
    for (number, slot) in (0u16..).zip(servers.iter_mut()) {
        let follows = slot.as_ref().is_some_and(|server| server.record != Record::Own);
        if follows && !is_followed(number) {
            *slot = None;
        }
    }
    vacant.retain(|number, _| is_followed(*number));
    answered.retain(|name, _| servers_from.iter().any(|from| from.name == *name));
}

/// What an SRV record makes of a server.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    /// Nothing: an operator says it.
    Operators,
    /// Priority and weight.
    Records(u32, u32),
}

impl Rank {
    fn of(record: &NameRecord) -> Rank {
        match record.service {
            // In weight mode a server of weight 0 gets no client, but a record of weight 0 a few.
            Some(srv) => Rank::Records(srv.priority.into(), u32::from(srv.weight).max(1)),
            None => Rank::Operators,
        }
    }

    /// Gives a server its rank.
    fn give_to(self, server: &mut Server) {
        match self {
            Rank::Records(prio, weight) => (server.prio, server.weight) = (prio, weight),
            Rank::Operators => {}
        }
    }
}

/// The servers that the records are, each once: of records of one address and port, the first
/// priority and then the smallest weight counts.
fn servers_of(records: &[NameRecord], port: u16) -> BTreeMap<SocketAddr, Rank> {
    let mut servers = BTreeMap::new();
    for record in records {
        let own = record.service.map_or(0, |srv| srv.port);
        let port = if own == 0 { port } else { own };
        if let Address::Inet(address) = record.address.with_port(port) {
            let rank = Rank::of(record);
            let present = servers.entry(address).or_insert(rank);
            *present = rank.min(*present);
        }
    }
    servers
}

/// The slots of servers that are gone.
#[derive(Debug, Default)]
struct Gone {
    /// Those without a connection.
    idle: Vec<u16>,
    /// Those with connections.
    busy: Vec<u16>,
}

/// The slots that new servers get, in this order: the empty ones, and then those of servers that
/// are gone. Those that an operator took out of use come last. Where no server is yet, as at a
/// start, the numbers alone count: with the same records, a slot gets the same server again, for
/// which a written file has a state.
fn places(settings: &Settings, from: &ServersFrom, gone: &Gone) -> Vec<u16> {
    let slots = from.first..=from.last;
    let server = |number: &u16| settings.servers.get(usize::from(*number));
    let is_empty = |number: &u16| server(number).is_some_and(Option::is_none);
    if slots.clone().all(|number| is_empty(&number)) {
        return slots.collect();
    }
    let is_ready = |number: &u16| settings.slot_keys(from, *number).mode == ServerMode::Ready;
    let is_in_use = |number: &u16| {
        let server = server(number).and_then(Option::as_ref);
        server.is_some_and(|server| server.record == Record::Present) && is_ready(number)
    };
    let free = slots.clone().filter(is_empty).chain(gone.idle.iter().copied());
    let (mut ready, out): (Vec<u16>, Vec<u16>) = free.partition(is_ready);
    if ready.is_empty() && !slots.clone().any(|number| is_in_use(&number)) {
        ready.extend(gone.busy.iter().copied().filter(is_ready));
    }
    ready.into_iter().chain(out).collect()
}

/// Puts a server into a slot, which keeps what an operator set of it.
fn settle(settings: &mut Settings, from: &ServersFrom, number: u16, at: SocketAddr, rank: Rank) {
    let keys = settings.slot_keys(from, number);
    settings.vacant.remove(&number);
    let mut server = Server::at(Address::Inet(at));
    keys.give_to(&mut server, from.records);
    server.record = Record::Present;
    rank.give_to(&mut server);
    if let Some(slot) = settings.servers.get_mut(usize::from(number)) {
        *slot = Some(server);
    }
}
