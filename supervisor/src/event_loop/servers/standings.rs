//! The standings of the servers in the shared table: which clients operators let them have.
//!
//! The settings are the truth, and the table has a copy that all workers read. It is written again
//! whenever it may be wrong: at a start, after the commit of an upgrade, with new settings, and
//! after the death of a worker, which may have overwritten anything.

#![forbid(unsafe_code)]

use pen_config::checks::ServerMode;
use pen_config::settings::Settings;
use pen_ipc::start::Begins;
use pen_table::{Standing, Table, TableMode};

use crate::event_loop::Supervisor;

impl Supervisor {
    /// Writes the standings of all servers, as far as the table says something else. Not before
    /// this program is in charge: if it fails, the earlier one goes on with the table as it is.
    pub(in crate::event_loop) fn restate(&self) {
        match self.begins {
            Begins::AtOnce => restate(&self.context.settings, &self.context.table),
            Begins::OnOrder => {}
        }
    }
}

fn restate(settings: &Settings, table: &Table) {
    // The first rows are the regular servers'. The emergency and the abuse server have no mode. A
    // row without a server is ready, so that its next server begins so.
    for row in 0..table.shape().servers {
        let server = settings.servers.get(row as usize).and_then(Option::as_ref);
        let mode = server.map_or(ServerMode::Ready, |server| server.mode);
        table.set_standing(row, Standing { mode: table_mode(mode), down: None });
    }
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
    use pen_config::settings::Server;
    use pen_table::{DownCode, Shape};

    use super::*;

    #[test]
    fn the_table_says_what_the_settings_say_whatever_it_said_before() {
        let shape = Shape { clients: 1, servers: 18, rows: 1, connections: 8 };
        let table = Table::create(shape).unwrap();
        let wrong = Standing { mode: TableMode::Maint, down: DownCode::new(7) };
        (0..18).for_each(|row| table.set_standing(row, wrong));
        let server = |mode| {
            let address = Address::Inet(([10, 0, 0, 1], 80).into());
            Some(Server { mode, ..Server::at(address) })
        };
        let settings = Settings {
            servers: vec![
                server(ServerMode::Ready),
                server(ServerMode::Drain),
                None,
                server(ServerMode::Maint),
            ],
            emergency: server(ServerMode::Ready),
            ..Settings::default()
        };
        restate(&settings, &table);
        let standings: Vec<_> = (0..18).map(|row| table.server_totals(row).standing).collect();
        let mut expected = [TableMode::Ready; 18];
        (expected[1], expected[3]) = (TableMode::Drain, TableMode::Maint);
        assert_eq!(standings, expected.map(|mode| Standing { mode, down: None }));
    }
}
