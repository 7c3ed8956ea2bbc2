//! The content of a table in a form that no layout changes, for a program with another layout.

use serde::{Deserialize, Serialize};

use crate::parts::Figures;
use crate::servers::blacklist::Failure;
use crate::servers::statistics::ServerStatistics;
use crate::sync::Ordering::*;
use crate::table::Table;

/// What a table knows of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExportedClient {
    /// Its key.
    pub key: [u8; 16],
    /// The recorded server's code.
    pub server: i32,
    /// Last use, monotonic milliseconds.
    pub last_use: u64,
    /// Connections accepted.
    pub connects: u64,
    /// Bytes sent to the client.
    pub sent: u64,
    /// Bytes received from the client.
    pub received: u64,
}

/// What a table knows of its servers.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct ExportedServers {
    /// The server that the last round-robin selection returned.
    pub cursor: u32,
    /// The code of the server that was last given to a connection; 0 before the first.
    pub current: i32,
    /// The servers, in the order of their numbers.
    pub servers: Vec<ExportedServer>,
}

/// What a table knows of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ExportedServer {
    /// Bytes sent to the server.
    pub sent: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Whether it is in use.
    pub blacklist: ExportedBlacklist,
    /// Unix time, in seconds, at which it was last blacklisted.
    pub failed_at: u64,
    /// The last failed connect to it.
    pub last_failure: Option<Failure>,
    /// Which of its addresses is in use, as a position among those in the settings.
    pub address: u32,
    /// What was counted of its connections. Layout 1 counted nothing.
    #[serde(default)]
    pub statistics: ServerStatistics,
}

/// Whether a server is in use. A probe is not carried: the server is as before it, for the rest of
/// the probe's lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ExportedBlacklist {
    /// In use.
    Clear,
    /// Blacklisted because it failed, until this time in monotonic milliseconds.
    Failed {
        /// The time.
        until: u64,
    },
    /// Blacklisted by an operator, until this time in monotonic milliseconds.
    TakenOut {
        /// The time.
        until: u64,
    },
}

/// The result of an import of clients.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Imported {
    /// Clients that the table has now.
    pub kept: u64,
    /// Clients that it has not: they were in it already, or there were more clients than slots.
    pub left_out: u64,
}

impl Table {
    /// The clients, for [`Table::import_clients`] of another table. Each is either whole or
    /// omitted.
    pub fn export_clients(&self) -> impl Iterator<Item = ExportedClient> + '_ {
        self.clients().map(|entry| ExportedClient {
            key: entry.key,
            server: entry.server,
            last_use: entry.last_use,
            connects: entry.connects,
            sent: entry.sent,
            received: entry.received,
        })
    }

    /// Enters clients of another table, in any order. Call it before a worker uses this table. If
    /// there are more clients than slots, those that were used last are kept, but not exactly.
    pub fn import_clients(&self, clients: impl Iterator<Item = ExportedClient>) -> Imported {
        let view = self.view();
        let mut seen = 0u64;
        for client in clients {
            seen += 1;
            let key = view.hash_key.of(client.key);
            let shard = view.shard_of(key.hash);
            let slots = view.client_slots(shard);
            // Nobody else writes, so nothing contradicts itself.
            if let Ok(Some(entry)) = view.shard(shard, slots).import(key, client.last_use) {
                entry.import(client.server, client.connects, client.sent, client.received);
            }
        }
        // This brings the clients into the order of their last use.
        let kept = view.shards().map(|shard| u64::from(shard.rebuild())).sum();
        Imported { kept, left_out: seen.saturating_sub(kept) }
    }

    /// The state of the servers, for [`Table::import_servers`] of another table. Their bytes and
    /// statistics are without those of the rows `mirrored`, which [`Table::mirror`] brings over.
    pub fn export_servers(&self, mirrored: &[u32]) -> ExportedServers {
        let view = self.view();
        let server = |server| {
            let totals = self.server_totals(server);
            let rest = |total: u64, part: fn(&Figures) -> u64| {
                let figures = mirrored.iter().filter_map(|row| view.figures(*row, server));
                figures.fold(total, |rest, figures| rest.wrapping_sub(part(figures)))
            };
            ExportedServer {
                sent: rest(totals.sent, |figures| figures.sent.load(Relaxed)),
                received: rest(totals.received, |figures| figures.received.load(Relaxed)),
                blacklist: match (totals.blacklisted_until, totals.is_taken_out) {
                    (0, _) => ExportedBlacklist::Clear,
                    (until, false) => ExportedBlacklist::Failed { until },
                    (until, true) => ExportedBlacklist::TakenOut { until },
                },
                failed_at: totals.failed_at,
                last_failure: totals.last_failure,
                address: totals.address,
                statistics: view.statistics_without(server, mirrored),
            }
        };
        ExportedServers {
            cursor: view.globals.cursor.0.load(Relaxed),
            current: self.current(),
            servers: (0..self.layout.shape.servers).map(server).collect(),
        }
    }

    /// Sets the state of the servers as it was in another table. Call it before a worker uses this
    /// table. Servers that this table does not have are left out.
    pub fn import_servers(&self, exported: &ExportedServers) {
        let view = self.view();
        view.globals.cursor.0.store(exported.cursor, Relaxed);
        view.globals.current.0.store(exported.current as u32, Relaxed);
        for (number, server) in (0..).zip(&exported.servers) {
            let Some(state) = view.server(number) else { return };
            view.import_bytes(number, server.sent, server.received);
            view.import_statistics(number, &server.statistics);
            match server.blacklist {
                ExportedBlacklist::Clear => {
                    state.clear_blacklist();
                }
                ExportedBlacklist::Failed { until } => {
                    state.set_blacklist(until, server.failed_at);
                }
                ExportedBlacklist::TakenOut { until } => state.take_out(until, server.failed_at),
            }
            state.set_failed_at(server.failed_at);
            if let Some(Failure { at, cause }) = server.last_failure {
                state.note_failure(at, cause);
            }
            state.address.store(server.address, Relaxed);
        }
    }
}
