//! Servers that are elsewhere after a change of settings: which are others, which are the same with
//! another address, and what that means for the shared table, the checker and the log.

#![forbid(unsafe_code)]

mod records;

use pen_config::ids::{ServerId, Target};
use pen_config::settings::{Server, Settings};
use pen_status::event::EventKind;

use crate::clock;
use crate::event_loop::Supervisor;
use crate::event_loop::moves::records::RecordMoves;
use crate::log::Severity;
use crate::log::events::{incident, title};
use crate::log::recent::Incident;

/// What a change of settings does to the places of servers.
#[derive(Debug, Default, Eq, PartialEq)]
pub(in crate::event_loop) struct Moves {
    /// The numbers that belong to another server, or to none.
    others: Vec<Target>,
    /// The servers whose name has another address.
    moved: Vec<Move>,
    /// The positions of the addresses in use, of all servers with other addresses than before.
    positions: Vec<(Target, u32)>,
    /// The slots that follow names.
    records: RecordMoves,
    /// The marks that the same servers had before ([`Server::mark`]), if they have others now.
    marks: Vec<(Target, u64)>,
}

/// A server whose clients go to another address than before.
#[derive(Debug, Eq, PartialEq)]
struct Move {
    target: Target,
    from: String,
    to: String,
}

impl Moves {
    /// Compares settings. `in_use` gives the position of a server's address in use before.
    fn between(before: &Settings, after: &Settings, in_use: impl Fn(Target) -> u32) -> Moves {
        let records = RecordMoves::between(before, after);
        let mut moves = Moves { records, ..Moves::default() };
        // Below MAX_SERVERS.
        let regular = (0..after.servers.len()).map(|index| Target::Server(ServerId(index as u16)));
        for target in regular.chain([Target::Emergency, Target::Abuse]) {
            match (before.target(target), after.target(target)) {
                (None, None) => {}
                (Some(old), Some(new)) if old.epoch == new.epoch => {
                    moves.note(target, old, new, in_use(target));
                }
                (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => {
                    moves.others.push(target);
                    moves.positions.push((target, 0));
                }
            }
        }
        moves
    }

    /// Notes what became of a server that is still the same.
    fn note(&mut self, target: Target, old: &Server, new: &Server, in_use: u32) {
        if old.addresses().eq(new.addresses()) {
            return;
        }
        if old.mark() != new.mark() {
            self.marks.push((target, old.mark()));
        }
        let position = new.position_of(old.address_at(in_use));
        self.positions.push((target, position.unwrap_or(0)));
        if position.is_none() {
            let (from, to) = (old.place_at(in_use), new.place_at(0));
            self.moved.push(Move { target, from, to });
        }
    }
}

impl Supervisor {
    /// Compares these settings with those in force, and sets the addresses in use. Workers accept
    /// any address index in a table row, so this can happen before they know of the change.
    pub(in crate::event_loop) fn begin_moves(&mut self, settings: &Settings) -> Moves {
        let (running, table) = (&self.context.settings, &self.context.table);
        let row = |target: Target| target.row(settings.table_size());
        let moves =
            Moves::between(running, settings, |target| table.server_totals(row(target)).address);
        for (target, position) in &moves.positions {
            table.set_address(row(*target), *position);
        }
        // Before the workers know of them: they begin slowly, if servers do (`slow_start`).
        for target in &moves.others {
            table.note_return(row(*target), clock::monotonic());
        }
        self.names.former.note(&moves.others, &moves.marks);
        moves
    }

    /// Tells the checker, which has the new settings, which addresses are in use. It begins with
    /// the first one.
    pub(in crate::event_loop) fn tell_positions(&mut self, moves: &Moves) {
        let Some(checker) = self.checking.process_mut() else { return };
        for (target, position) in moves.positions.iter().filter(|(_, position)| *position > 0) {
            checker.address(target.code(), *position);
        }
    }

    /// Ends a change of places, when all workers have the new settings. Another server begins anew.
    /// One that moved keeps its counts, and its blacklisting if an operator caused it: a failure
    /// was one of the address before.
    pub(in crate::event_loop) fn finish_moves(&mut self, moves: Moves) {
        let servers = self.context.settings.table_size();
        for server in moves.others {
            self.context.table.reset_server(server.row(servers));
            self.obstructed.forget(server.code());
            self.past.rebalanced.remove(&server.code());
        }
        for Move { target, from, to } in moves.moved {
            self.context.table.lift_blacklist(target.row(servers), clock::monotonic());
            self.obstructed.forget(target.code());
            let given = self.context.settings.target(target).and_then(|now| now.given.as_ref());
            let name = given.map_or(String::new(), |given| format!(" ({given})"));
            let line =
                format!("{}{name}: {from} is no longer its address; using {to}", title(target));
            let incident = Incident::of(EventKind::ServerAddress)
                .with("server", incident::title(target.code()))
                .with("from", from)
                .with("address", to)
                .with("reason", "the name has other addresses");
            self.logger.event(Severity::Notice, incident, &line);
        }
        self.tell_records(moves.records);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use pen_config::address::{Address, Host};

    use super::*;

    fn server(epoch: u32, addresses: &[u8]) -> Option<Server> {
        let mut all = addresses.iter().map(|last| {
            let ip = IpAddr::from([10, 0, 0, *last]);
            Address::Inet((ip, 80).into())
        });
        let given = Some(Host::Name("www".into()));
        let first = Server::at(all.next().unwrap());
        Some(Server { epoch, given, alternatives: all.collect(), ..first })
    }

    fn settings(servers: Vec<Option<Server>>, emergency: Option<Server>) -> Settings {
        Settings { servers, emergency, ..Settings::default() }
    }

    #[test]
    fn others_begin_anew_and_servers_whose_address_is_gone_move() {
        let id = |number| Target::Server(ServerId(number));
        let before = settings(
            vec![
                server(0, &[1]),
                server(0, &[1, 2]),
                server(0, &[1, 2]),
                None,
                server(0, &[1]),
                server(0, &[1]),
            ],
            server(0, &[1, 2]),
        );
        let after = settings(
            vec![
                server(0, &[3]),
                server(0, &[3, 2]),
                server(0, &[2]),
                server(4, &[1]),
                server(4, &[5]),
                None,
            ],
            server(0, &[1, 2, 3]),
        );
        // Where there are two addresses, the second one is in use.
        let moves = Moves::between(&before, &after, |_| 1);
        assert_eq!(moves.others, [id(3), id(4), id(5)]);
        let (from, to) = ("10.0.0.1:80".to_owned(), "10.0.0.3:80".to_owned());
        assert_eq!(moves.moved, [Move { target: id(0), from, to }]);
        let positions = [(id(0), 0), (id(1), 1), (id(2), 0), (id(3), 0), (id(4), 0), (id(5), 0)];
        assert_eq!(moves.positions, [&positions[..], &[(Target::Emergency, 1)]].concat());
        assert_eq!(Moves::between(&after, &after, |_| 1), Moves::default());
    }
}
