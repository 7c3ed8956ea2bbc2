//! The standings of the servers in the shared table: which clients operators let them have, which
//! have lost the record that they follow, and which are down by their checks.
//!
//! The settings and the verdicts are the truth, and the table has a copy that all workers read. It
//! is written again whenever it may be wrong: at a start, after the commit of an upgrade, with new
//! settings, and after the death of a worker, which may have overwritten anything.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use pen_config::checks::ServerMode;
use pen_config::followed::Record;
use pen_config::ids::{ServerId, Target};
use pen_config::settings::{Server, Settings};
use pen_ipc::start::Begins;
use pen_table::{Standing, Table, TableMode};

use crate::clock;
use crate::event_loop::Supervisor;
use crate::verdicts::Checks;

impl Supervisor {
    /// Writes the standings of all servers, as far as the table says something else. Not before
    /// this program is in charge: if it fails, the earlier one goes on with the table as it is.
    pub(in crate::event_loop) fn restate(&self) {
        match self.begins {
            Begins::AtOnce => {
                let (settings, table) = (&self.context.settings, &self.context.table);
                restate(settings, &self.checking.known, &self.leaving, table);
            }
            Begins::OnOrder => {}
        }
    }

    /// The same before the workers have the settings in force; `before` is what they have. Servers
    /// that leave, or whose records are gone, keep their standing until the workers know what comes
    /// instead: otherwise a worker could have no server for a client in between, or send one to a
    /// server that has left. [`Supervisor::restate_left`] follows when all have the settings.
    pub(in crate::event_loop) fn restate_new(&mut self, before: &Settings) {
        let table = &self.context.table;
        let is_closed = |id: ServerId| is_closed(table, id);
        self.leaving = leaving(before, &self.context.settings, is_closed);
        self.restate();
    }

    /// The same once the workers have the settings in force.
    pub(in crate::event_loop) fn restate_left(&mut self) {
        self.leaving.clear();
        self.restate();
    }

    /// The same for one server, of which checks say something new.
    pub(in crate::event_loop::servers) fn restate_server(&self, server: ServerId) {
        let (settings, known) = (&self.context.settings, &self.checking.known);
        match self.begins {
            Begins::AtOnce if self.leaving.contains(&server) => {}
            Begins::AtOnce => {
                let standing = standing(server, settings, known);
                state(&self.context.table, u32::from(server.0), standing);
            }
            Begins::OnOrder => {}
        }
    }
}

/// The servers that are no more, or whose records are gone, by other settings than before. Also
/// those that are closed to new clients (`is_closed`), and of which another server has the number
/// now, or the same at another address: a worker would send new clients to where it was.
fn leaving(
    before: &Settings,
    after: &Settings,
    is_closed: impl Fn(ServerId) -> bool,
) -> BTreeSet<ServerId> {
    let leaves = |id: &ServerId| {
        let target = Target::Server(*id);
        match (before.target(target), after.target(target)) {
            (Some(_), None) => true,
            (Some(old), Some(new)) => match (old.record, new.record) {
                (Record::Own | Record::Present, Record::Gone) => true,
                (Record::Gone, Record::Own | Record::Present | Record::Gone)
                | (Record::Own | Record::Present, Record::Own | Record::Present) => {
                    old.address != new.address && is_closed(*id)
                }
            },
            (None, Some(_) | None) => false,
        }
    };
    before.configured().map(|(id, _)| id).filter(leaves).collect()
}

/// Whether the table says that a server is not for new clients.
fn is_closed(table: &Table, server: ServerId) -> bool {
    table.server_totals(server.0.into()).standing != Standing::default()
}

fn restate(settings: &Settings, known: &Checks, leaving: &BTreeSet<ServerId>, table: &Table) {
    // The first rows are the regular servers'. The emergency and the abuse server have no mode. A
    // row without a server is ready, so that its next server begins so.
    for row in 0..table.shape().servers {
        let standing = match u16::try_from(row).map(ServerId) {
            Ok(server) if leaving.contains(&server) => continue,
            Ok(server) => standing(server, settings, known),
            // There are not so many servers.
            Err(_) => Standing::default(),
        };
        state(table, row, standing);
    }
}

/// Writes a standing. A server that new clients can use again by it begins slowly, if servers do
/// (`slow_start`).
fn state(table: &Table, row: u32, standing: Standing) {
    table.set_standing(row, standing, clock::monotonic());
}

fn standing(server: ServerId, settings: &Settings, known: &Checks) -> Standing {
    let target = Target::Server(server);
    let mode = settings.target(target).map_or(ServerMode::Ready, Server::mode_in_effect);
    Standing { mode: table_mode(mode), down: known.down(target) }
}

fn table_mode(mode: ServerMode) -> TableMode {
    match mode {
        ServerMode::Ready => TableMode::Ready,
        ServerMode::Drain => TableMode::Drain,
        ServerMode::Maint => TableMode::Maint,
    }
}

#[cfg(test)]
mod tests {
    use pen_config::address::Address;
    use pen_table::{DownCode, Shape};

    use super::*;

    #[test]
    fn the_table_says_what_the_settings_say_whatever_it_said_before() {
        let shape = Shape { clients: 1, servers: 18, rows: 1, connections: 8 };
        let table = Table::create(shape).unwrap();
        let wrong = Standing { mode: TableMode::Maint, down: DownCode::new(7) };
        for row in 0..18 {
            table.set_standing(row, wrong, 1);
        }
        let server = |mode| {
            let address = Address::Inet(([10, 0, 0, 1], 80).into());
            Some(Server { mode, ..Server::at(address) })
        };
        let gone = |mode| server(mode).map(|server| Server { record: Record::Gone, ..server });
        let settings = Settings {
            servers: vec![
                server(ServerMode::Ready),
                server(ServerMode::Drain),
                None,
                server(ServerMode::Maint),
                gone(ServerMode::Ready),
                gone(ServerMode::Maint),
            ],
            emergency: server(ServerMode::Ready),
            ..Settings::default()
        };
        restate(&settings, &Checks::default(), &BTreeSet::new(), &table);
        let standings: Vec<_> = (0..18).map(|row| table.server_totals(row).standing).collect();
        let mut expected = [TableMode::Ready; 18];
        (expected[1], expected[3]) = (TableMode::Drain, TableMode::Maint);
        // One whose record is gone drains, unless an operator says more.
        (expected[4], expected[5]) = (TableMode::Drain, TableMode::Maint);
        assert_eq!(standings, expected.map(|mode| Standing { mode, down: None }));
    }

    #[test]
    fn servers_that_leave_keep_their_standing_until_the_workers_know() {
        let shape = Shape { clients: 1, servers: 9, rows: 1, connections: 8 };
        let table = Table::create(shape).unwrap();
        let at = |last, mode, record| {
            let address = Address::Inet(([10, 0, 0, last], 80).into());
            Some(Server { mode, record, ..Server::at(address) })
        };
        let server = |mode, record| at(1, mode, record);
        use Record::{Gone, Own, Present};
        use ServerMode::{Drain, Maint, Ready};
        let settings = |servers| Settings { servers, ..Settings::default() };
        let before = settings(vec![
            server(Ready, Present),
            server(Drain, Own),
            server(Ready, Own),
            None,
            server(Ready, Gone),
            server(Ready, Gone),
            server(Maint, Own),
            server(Ready, Own),
        ]);
        let after = settings(vec![
            server(Ready, Gone),
            None,
            server(Maint, Own),
            server(Drain, Own),
            server(Ready, Present),
            at(2, Ready, Present),
            at(2, Ready, Own),
            at(2, Maint, Own),
        ]);
        let modes = || (0..8).map(|row| table.server_totals(row).standing.mode).collect::<Vec<_>>();
        let (known, none) = (Checks::default(), BTreeSet::new());
        restate(&before, &known, &none, &table);
        use TableMode as M;
        let was = [M::Ready, M::Drain, M::Ready, M::Ready, M::Drain, M::Drain, M::Maint, M::Ready];
        assert_eq!(modes(), was);
        let leaving = leaving(&before, &after, |id| is_closed(&table, id));
        assert_eq!(leaving, BTreeSet::from([0, 1, 5, 6].map(ServerId)));
        // The last one is closed at once: those who know it are to leave it alone.
        let between =
            [M::Ready, M::Drain, M::Maint, M::Drain, M::Ready, M::Drain, M::Maint, M::Maint];
        // A verdict or the death of a worker may have it done again in between.
        for _ in 0..2 {
            restate(&after, &known, &leaving, &table);
            assert_eq!(modes(), between);
        }
        restate(&after, &known, &none, &table);
        let now = [M::Drain, M::Ready, M::Maint, M::Drain, M::Ready, M::Ready, M::Ready, M::Maint];
        assert_eq!(modes(), now);
        // The one whose record is there again has come back, and begins slowly.
        let returned = |row| table.worker_table(0).returned(row) > 0;
        assert_eq!([returned(0), returned(2), returned(4)], [false, false, true]);
    }
}
