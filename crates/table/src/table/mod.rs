//! The table as the supervisor uses it: make it, give rows to workers, sum it up, change servers,
//! reclaim a dead worker.

#[cfg(not(loom))]
pub(crate) mod adopt;
pub(crate) mod export;
#[cfg(not(loom))]
pub(crate) mod foreign;
#[cfg(not(loom))]
mod mirror;
mod rows;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clients::entry::ClientEntry;
use crate::hash::HashKey;
use crate::layout::Layout;
use crate::numbers;
use crate::servers::ServerTotals;
use crate::servers::standing::{ServerView, Standing};
use crate::servers::statistics::{ServerStatistics, Traffic};
use crate::shape::{Shape, TableError};
use crate::sync::Ordering::*;
use crate::table::rows::Rows;
use crate::view::{Memory, View};
use crate::worker_table::WorkerTable;

/// The table: the supervisor makes it, and workers inherit it through fork(2). The supervisor uses
/// only the methods here; none of them waits.
pub struct Table {
    // Each process has its own copy: a worker cannot change the supervisor's.
    pub(crate) layout: Layout,
    hash_key: HashKey,
    pub(crate) memory: Memory,
    kind: TableKind,
    rows: Rows,
}

/// Whether a table has room to grow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum TableKind {
    /// It has address space for the most clients and connections that there can be.
    Growing,
    /// There was no address space for that: it keeps the size of its shape.
    Fixed,
}

impl Table {
    /// Makes a table. Its memory is allocated page by page as it is used. The table reserves
    /// address space for its maximum size (1.5 GB); if that is not available, the table cannot
    /// grow.
    ///
    /// # Errors
    /// The shape is out of range, or the memory is not available.
    pub fn create(shape: Shape) -> Result<Table, TableError> {
        // The atomics of a model checker are objects on the heap.
        if !cfg!(loom)
            && let Ok(table) = Table::of_kind(TableKind::Growing, shape)
        {
            return Ok(table);
        }
        Table::of_kind(TableKind::Fixed, shape)
    }

    pub(crate) fn of_kind(kind: TableKind, shape: Shape) -> Result<Table, TableError> {
        Table::with_layout(kind.layout(shape)?, kind)
    }

    pub(crate) fn with_layout(layout: Layout, kind: TableKind) -> Result<Table, TableError> {
        let shape = layout.shape;
        let hash_key = HashKey::random().map_err(|source| TableError::System {
            step: "getrandom",
            bytes: layout.bytes,
            source,
        })?;
        let memory = Memory::new(&layout)?;
        let table = Table { layout, hash_key, memory, kind, rows: Rows::default() };
        let share = table.layout.share(shape.clients);
        for shard in table.view().shards() {
            shard.lock.slots.store(share, Relaxed);
            shard.lock.wanted.store(share, Relaxed);
        }
        Ok(table)
    }

    /// A table with small shards and little room to grow, for tests that write into it. In a real
    /// table most memory is unused, so a random write would rarely have an effect. The hash key is
    /// always the same, so that a failure can be repeated.
    ///
    /// # Errors
    /// As for [`Table::create`].
    #[cfg(all(feature = "spoil", not(any(test, loom))))]
    pub fn cramped(shape: Shape, shard_slots: u32, clients: u32) -> Result<Table, TableError> {
        let room = crate::layout::Room {
            shard_slots,
            clients,
            connections: shape.connections,
            net_shards: 1,
            least_nets: 0,
        };
        let table = Table::with_layout(Layout::new(shape, room)?, TableKind::Fixed)?;
        Ok(Table { hash_key: HashKey([0, 0]), ..table })
    }

    /// All words of the memory, for tests that write as a hostile worker could.
    #[cfg(all(feature = "spoil", not(any(test, loom))))]
    pub fn words(&self) -> &[std::sync::atomic::AtomicU32] {
        self.memory.words()
    }

    /// The shape with which the table was made.
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// Whether the table has room to grow.
    pub fn kind(&self) -> TableKind {
        self.kind
    }

    /// Notes that a worker gets this row. Call it before the worker starts. From now on the row is
    /// part of the sums over the workers, and what is written in its name is valid. No effect for a
    /// row that does not exist, and for a row that has a worker.
    pub fn use_row(&self, row: u32) {
        if row >= self.layout.shape.rows || self.rows.has_worker(row) {
            return;
        }
        // A hostile worker may have written into rows that nobody had.
        self.clear_row(row);
        for row in self.rows.used()..=row {
            self.clear_row(row);
            self.view().row(row).iter().for_each(|figures| figures.set_bytes(0, 0));
        }
        self.rows.give(row);
        self.publish_rows_used();
    }

    /// Takes back all that a dead worker held: its connection counts, connection numbers and locks.
    /// Call it after waitpid(2) and before a replacement starts. Also takes back what a hostile
    /// worker wrote in the name of any other row without a worker. Returns whether a paused worker
    /// waits for a connection; then the caller must wake the workers.
    pub fn reclaim(&self, row: u32) -> bool {
        self.rows.take(row);
        self.publish_rows_used();
        let view = self.view();
        let is_lost = |row| !self.rows.has_worker(row);
        view.reclaim_locks(is_lost);
        for row in (0..view.rows_used()).filter(|row| is_lost(*row)) {
            self.clear_row(row);
        }
        numbers::reclaim(view, is_lost, |number| {
            if let Some(holder) = view.holder(number)
                && holder.load(Relaxed) != 0
            {
                holder.store(0, Relaxed);
            }
        });
        view.want_recounts();
        // This is needed even if nothing was freed here: the dead worker may have freed a number
        // and died before it woke a waiter.
        numbers::anyone_waits(view)
    }

    /// Makes the counts of a row 0. Its bytes stay, because they were relayed.
    fn clear_row(&self, row: u32) {
        self.view().reclaim_counts(row);
        if let Some(load) = self.view().loads.get(row as usize) {
            load.open.store(0, Relaxed);
            load.tarpitted.0.store(0, Relaxed);
        }
    }

    /// Writes how many rows were ever used, if the memory says something else.
    fn publish_rows_used(&self) {
        let (used, published) = (self.rows.used(), &self.view().globals.high_water.0.rows);
        if published.load(Relaxed) != used {
            published.store(used, Relaxed);
        }
    }

    /// The figures of a server; all 0 for one that does not exist.
    pub fn server_totals(&self, server: u32) -> ServerTotals {
        self.view().totals(server)
    }

    /// The connections of one row to a server; 0 for a row or a server that does not exist.
    pub fn connections_at(&self, row: u32, server: u32) -> u32 {
        self.view().figures(row, server).map_or(0, |figures| figures.connections.load(Relaxed))
    }

    /// When a server came back that was out of service, in monotonic milliseconds; 0: it never was.
    pub fn returned(&self, server: u32) -> u64 {
        self.view().server(server).map_or(0, |state| state.returned.load(Relaxed))
    }

    /// What was counted of the connections to a server; all 0 for one that does not exist.
    pub fn server_statistics(&self, server: u32) -> ServerStatistics {
        self.view().server_statistics(server)
    }

    /// How many connections reached a server, and its bytes; all 0 for one that does not exist. It
    /// reads one word of the statistics of each row, where [`Table::server_statistics`] reads all.
    pub fn server_traffic(&self, server: u32) -> Traffic {
        self.view().server_traffic(server)
    }

    /// Blacklists a server for an operator, until a time in monotonic milliseconds; `at` is Unix
    /// time in seconds. No effect for a server that does not exist.
    pub fn take_out(&self, server: u32, until: u64, at: u64) {
        if let Some(state) = self.view().server(server) {
            state.take_out(until, at);
        }
    }

    /// Ends the blacklisting of a server.
    pub fn clear_blacklist(&self, server: u32) {
        if let Some(state) = self.view().server(server) {
            state.clear_blacklist();
        }
    }

    /// Ends a blacklisting that a failure caused, because the server was seen to work. An
    /// operator's stays. `now`: when the server comes back into service by that. Returns whether
    /// the blacklisting ended.
    pub fn lift_blacklist(&self, server: u32, now: u64) -> bool {
        self.view().server(server).is_some_and(|state| state.lift_blacklist(now))
    }

    /// Ends the blacklisting of a server, which comes back into service now, in monotonic
    /// milliseconds.
    pub fn return_to_service(&self, server: u32, now: u64) {
        if let Some(state) = self.view().server(server) {
            state.return_to_service(now);
        }
    }

    /// What a choice asks of a server. One that does not exist is free.
    pub fn server_view(&self, server: u32, now: u64) -> ServerView {
        self.view().server(server).map_or(ServerView::FREE, |state| state.view(now))
    }

    /// Sets what workers must know of a server. Only the supervisor calls it. It does not write a
    /// correct value, because all workers read the line. No effect for one that does not exist.
    /// `now`: when the server comes back into service by that, if it does.
    pub fn set_standing(&self, server: u32, standing: Standing, now: u64) {
        if let Some(state) = self.view().server(server) {
            state.set_standing(standing, now);
        }
    }

    /// Notes that a server is new or came back into service, at a time in monotonic milliseconds.
    pub fn note_return(&self, server: u32, now: u64) {
        if let Some(state) = self.view().server(server) {
            state.note_return(now);
        }
    }

    /// Counts bytes and connections of a server from 0 again, and ends its blacklisting, because
    /// its number now belongs to another server. Only the supervisor calls it. It does not change
    /// the workers' rows, which have one writer. It subtracts their present content from now on.
    pub fn reset_server(&self, server: u32) {
        self.view().reset(server);
        self.clear_blacklist(server);
    }

    /// Uses the first address of a server again, because it has other addresses now. Only the
    /// supervisor calls it.
    pub fn reset_address(&self, server: u32) {
        if let Some(state) = self.view().server(server) {
            state.address.store(0, Relaxed);
        }
    }

    /// Uses the address of a server at this position, because its addresses have another order now.
    /// Only the supervisor calls it.
    pub fn set_address(&self, server: u32, position: u32) {
        if let Some(state) = self.view().server(server) {
            state.address.store(position, Relaxed);
        }
    }

    /// Enlarges the client table to this many slots for all workers at once; the table never
    /// shrinks. Returns the resulting number of slots, which is smaller if there is not enough
    /// room. Only the supervisor calls it, also after the death of a worker that may have made the
    /// table small, and it does not wait. The next worker that locks a shard rebuilds its links,
    /// which takes as long as after a death (a shard of 65536 slots: 5 ms).
    pub fn grow_clients(&self, clients: u32) -> u32 {
        let clients = clients.min(self.layout.most_clients());
        let share = self.layout.share(clients);
        for shard in self.view().shards() {
            shard.lock.wanted.fetch_max(share, Relaxed);
        }
        clients
    }

    /// The row that has this connection number; `None` if the number is free.
    pub fn connection_owner(&self, number: u32) -> Option<u32> {
        numbers::owner(self.view(), number).filter(|row| *row < self.layout.shape.rows)
    }

    /// Whether the worker of a row takes clients, as it says itself.
    pub fn takes_clients(&self, row: u32) -> bool {
        let load = self.view().loads.get(row as usize);
        load.is_some_and(|load| load.open.load(Relaxed) != 0)
    }

    /// The connection numbers that the worker of a row has.
    pub fn connections_of(&self, row: u32) -> u32 {
        numbers::taken_by(self.view(), row)
    }

    /// The code of the server that was last given to a connection; 0 before the first.
    pub fn current(&self) -> i32 {
        self.view().globals.current.0.load(Relaxed) as i32
    }

    /// Connections in use.
    pub fn connections_open(&self) -> u32 {
        numbers::taken(self.view())
    }

    /// The number of used client slots.
    pub fn clients_used(&self) -> u32 {
        self.view().shards().fold(0, |sum, shard| sum.saturating_add(shard.used()))
    }

    /// The used client slots, in order of slot. Each entry is either whole or omitted.
    pub fn clients(&self) -> impl Iterator<Item = ClientEntry> + '_ {
        self.view().shards().flat_map(|shard| {
            let used = &shard.entries[..shard.used() as usize];
            (shard.first..).zip(used).filter_map(|(slot, entry)| entry.read(slot))
        })
    }

    /// The view of the table for the worker that has a row. A row that no worker had before is
    /// noted as [`Table::use_row`] does.
    ///
    /// # Panics
    /// There is no such row: this is a mistake of the caller.
    pub fn worker_table(&self, row: u32) -> WorkerTable<'_> {
        assert!(row < self.layout.shape.rows, "row {row} of {}", self.layout.shape.rows);
        self.rows.give(row);
        self.view().raise_rows_used(row);
        WorkerTable::new(self.view(), row)
    }

    pub(crate) fn view(&self) -> View<'_> {
        self.memory.view(&self.layout, self.hash_key)
    }
}

impl TableKind {
    fn layout(self, shape: Shape) -> Result<Layout, TableError> {
        match self {
            TableKind::Growing => Layout::growing(shape),
            TableKind::Fixed => Layout::fixed(shape),
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("shape", &self.layout.shape).finish_non_exhaustive()
    }
}
