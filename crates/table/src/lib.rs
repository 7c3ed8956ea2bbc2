//! The shared-memory table, which holds all state that the workers share: clients and their
//! servers, the state of the servers, counts and limits, connection numbers.
//!
//! The supervisor makes a [`Table`] before it forks; each worker takes its [`WorkerTable`]. Any
//! worker can write any byte of the memory, so nothing in it is trusted: values that are read are
//! checked, and loops are bounded. The worst result of any content is lost stickiness or a wrong
//! count, never a panic, a hang, or an access outside the memory. A worker can die at any
//! instruction; then `Table::reclaim` takes back what it held.
//!
//! | File | Content |
//! |---|---|
//! | `layout` | the position of each part |
//! | `map` | the mapping; the only unsafe file |
//! | `view` | the parts as slices |
//! | `lock` | a futex lock that can be reclaimed from a dead owner |
//! | `entry`, `clients`, `rebuild` | one client, a shard of clients, and the rebuild of a shard |
//! | `hash` | the keyed hash that chooses a client's shard and bucket |
//! | `numbers` | connection numbers, which are the slots under `-x` |
//! | `servers` | blacklist, counts, limits |
//! | `worker_table` | the operations of workers |
//! | `sync` | atomics: the real ones, or a model checker's |

#![deny(unsafe_code)]

#[cfg(test)]
mod checks;
mod clients;
mod entry;
mod hash;
mod layout;
mod lock;
#[cfg(not(loom))]
mod map;
mod numbers;
mod rebuild;
mod servers;
#[cfg(all(test, not(loom)))]
mod steps;
mod sync;
mod view;
mod worker_table;

use std::fmt;

use crate::hash::HashKey;
use crate::layout::{Layout, MAGIC, MAX_WORKERS};
use crate::numbers::Numbers;
use crate::sync::Ordering::*;
use crate::view::{Memory, View};

pub use crate::layout::LAYOUT_VERSION;
pub use crate::worker_table::{Locked, WorkerTable};

/// The size of a table when it is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// Client slots, 1 to 16777216. Up to 65536 slots the replacement is exactly LRU to the second.
    /// Larger tables are divided by a hash of the client into equal shards of at most 65536 slots,
    /// each LRU by itself. [`Table::grow_clients`] makes the shards larger, not more.
    pub clients: u32,
    /// Server rows: regular servers, then emergency, then abuse; 1 to 4098.
    pub servers: u32,
    /// Workers, 1 to 64.
    pub workers: u32,
    /// Most connections at the beginning, 1 to 1048576. There is always room for all 1048576
    /// numbers, so a higher limit needs no change of the table.
    pub connections: u32,
}

/// The table cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A system call failed.
    #[error("shared table of {bytes} bytes: {step}: {source}")]
    System {
        /// The name of the system call.
        step: &'static str,
        /// The requested size, in bytes.
        bytes: usize,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// The shape is out of range.
    #[error("shared table: {0}")]
    Shape(&'static str),
}

/// The table: the supervisor makes it, and workers inherit it through fork(2). The supervisor uses
/// only the methods here; none of them waits.
pub struct Table {
    // These three are private to each process: a worker cannot change the supervisor's.
    layout: Layout,
    hash_key: HashKey,
    memory: Memory,
}

/// The figures of all workers together for one server row.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServerTotals {
    /// Open and pending connections.
    pub connections: u32,
    /// Bytes sent to the server.
    pub sent: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Monotonic milliseconds until which it is blacklisted; 0 = it is not. The time may have
    /// passed, if no worker has tried the server since. While one connection probes the server: the
    /// end of that probe's lease.
    pub blacklisted_until: u64,
    /// Whether an operator blacklisted it. Meaningless while it is not blacklisted.
    pub is_taken_out: bool,
    /// Unix time, in seconds, at which it was last blacklisted.
    pub failed_at: u64,
    /// Which of its addresses is in use. The value may be out of range.
    pub address: u32,
    /// The last failed connect to it.
    pub last_failure: Option<Failure>,
    /// Whether a worker has the maximum of pending connects to it, so that clients are passed on.
    pub is_pending: bool,
}

/// When and why a connect to a server failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Unix time, in seconds.
    pub at: u64,
    /// The code that the caller gave.
    pub cause: u16,
}

/// One client's entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientEntry {
    /// Its slot.
    pub slot: u32,
    /// Its key.
    pub key: [u8; 16],
    /// Last use, monotonic milliseconds.
    pub last_use: u64,
    /// Recorded server's code.
    pub server: i32,
    /// Connections accepted.
    pub connects: u64,
    /// Bytes sent to the client.
    pub sent: u64,
    /// Bytes received from the client.
    pub received: u64,
}

impl Table {
    /// Makes a table. Its memory is allocated page by page as it is used. The table reserves
    /// address space for its maximum size (1.2 GB); if that is not available, the table cannot
    /// grow.
    ///
    /// # Errors
    /// The shape is out of range, or the memory is not available.
    pub fn create(shape: Shape) -> Result<Table, TableError> {
        // The atomics of a model checker are objects on the heap.
        if !cfg!(loom)
            && let Ok(table) = Layout::growing(shape).and_then(Table::with_layout)
        {
            return Ok(table);
        }
        Table::with_layout(Layout::fixed(shape)?)
    }

    fn with_layout(layout: Layout) -> Result<Table, TableError> {
        let shape = layout.shape;
        let hash_key = HashKey::random().map_err(|source| TableError::System {
            step: "getrandom",
            bytes: layout.bytes,
            source,
        })?;
        let memory = Memory::new(&layout)?;
        let table = Table { layout, hash_key, memory };
        let header = table.view().header;
        header.version.store(LAYOUT_VERSION, Relaxed);
        header.clients.store(shape.clients, Relaxed);
        header.servers.store(shape.servers, Relaxed);
        header.workers.store(shape.workers, Relaxed);
        header.connections.store(shape.connections, Relaxed);
        let share = table.layout.share(shape.clients);
        for shard in table.view().shards() {
            shard.state.lock.0.slots.store(share, Relaxed);
            shard.state.lock.0.wanted.store(share, Relaxed);
        }
        header.magic.store(MAGIC, Release);
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
        let room = layout::Room { shard_slots, clients, connections: shape.connections };
        let table = Table::with_layout(Layout::new(shape, room)?)?;
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

    /// Takes back all that a dead worker held: its connection counts, connection numbers and locks.
    /// Call it after waitpid(2) and before a replacement starts. Returns whether a paused worker
    /// waits for a connection; then the caller must wake the workers.
    pub fn reclaim(&self, worker: u32) -> bool {
        let numbers = Numbers { view: self.view(), worker };
        if worker < self.layout.shape.workers {
            self.view().bury_locks(worker);
            self.view().bury_counts(worker);
            self.view().loads[worker as usize].open.store(0, Relaxed);
            numbers.reclaim();
        }
        // This is needed even if nothing was freed here: the dead worker may have freed a number
        // and died before it woke a waiter.
        numbers.anyone_waits()
    }

    /// The figures of a server row; all 0 for a row that does not exist.
    pub fn server_totals(&self, server: u32) -> ServerTotals {
        self.view().totals(server)
    }

    /// Blacklists a server row for an operator, until a time in monotonic milliseconds; `at` is
    /// Unix time in seconds. No effect for a row that does not exist.
    pub fn take_out(&self, server: u32, until: u64, at: u64) {
        if let Some(state) = self.view().servers.get(server as usize) {
            state.take_out(until, at);
        }
    }

    /// Ends the blacklisting of a server row.
    pub fn clear_blacklist(&self, server: u32) {
        if let Some(state) = self.view().servers.get(server as usize) {
            state.clear_blacklist();
        }
    }

    /// Counts the bytes of a server row from 0 again, and ends its blacklisting, because the row
    /// now belongs to another server. Only the supervisor calls it. It does not change the workers'
    /// rows, which have one writer. It subtracts their present content from now on.
    pub fn reset_server(&self, server: u32) {
        self.view().reset(server);
        self.clear_blacklist(server);
    }

    /// Uses the first address of a server again, because it has other addresses now. Only the
    /// supervisor calls it.
    pub fn reset_address(&self, server: u32) {
        if let Some(state) = self.view().servers.get(server as usize) {
            state.address.store(0, Relaxed);
        }
    }

    /// Enlarges the client table to this many slots for all workers at once; the table never
    /// shrinks. Returns the resulting number of slots, which is smaller if there is not enough
    /// room. Only the supervisor calls it, and it does not wait. The next worker that locks a shard
    /// rebuilds its links, which takes as long as after a death (a shard of 65536 slots: 5 ms).
    pub fn grow_clients(&self, clients: u32) -> u32 {
        let clients = clients.min(self.layout.most_clients());
        let share = self.layout.share(clients);
        for shard in self.view().shards() {
            shard.state.lock.0.wanted.fetch_max(share, Relaxed);
        }
        clients
    }

    /// The worker that has this connection number; `None` if the number is free.
    pub fn connection_owner(&self, number: u32) -> Option<u32> {
        numbers::owner(self.view(), number).filter(|worker| *worker < self.layout.shape.workers)
    }

    /// The code of the server that was last given to a connection; 0 before the first.
    pub fn current(&self) -> i32 {
        self.view().globals.current.0.load(Relaxed) as i32
    }

    /// Connections in use.
    pub fn connections_open(&self) -> u32 {
        numbers::taken(self.view())
    }

    /// The used client slots, in order of slot. Each entry is either whole or omitted.
    pub fn clients(&self) -> impl Iterator<Item = ClientEntry> + '_ {
        self.view().shards().flat_map(|shard| {
            let used = &shard.entries[..shard.used() as usize];
            (shard.first..).zip(used).filter_map(|(slot, entry)| entry.read(slot))
        })
    }

    /// The view of the table for one worker.
    ///
    /// # Panics
    /// There is no such worker: this is a mistake of the caller.
    pub fn worker_table(&self, worker: u32) -> WorkerTable<'_> {
        assert!(
            worker < self.layout.shape.workers,
            "worker {worker} of {}",
            self.layout.shape.workers
        );
        WorkerTable::new(self.view(), worker)
    }

    fn view(&self) -> View<'_> {
        self.memory.view(&self.layout, self.hash_key)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("shape", &self.layout.shape).finish_non_exhaustive()
    }
}

/// A reference to a client's entry at its arrival. It may outlive the entry: later writes through
/// it are dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientRef {
    /// Slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
}

impl ClientRef {
    /// No client entry: writes through it are dropped. For a client that could not be remembered.
    pub const NOBODY: ClientRef = ClientRef { slot: u32::MAX, generation: 0 };
}

impl Default for ClientRef {
    fn default() -> ClientRef {
        ClientRef::NOBODY
    }
}

/// The result of a client's arrival.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arrival {
    /// The entry.
    pub client: ClientRef,
    /// The recorded server's code; -3 for a new or forgotten client.
    pub recorded: i32,
}

/// The lock was not available in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LockStuck;

/// The state of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blacklist {
    /// In use.
    Clear,
    /// Blacklisted until this time, in monotonic milliseconds.
    Until(u64),
    /// The blacklist time is over, and no worker has tried the server yet.
    Expired,
    /// The blacklist time is over, and one connection probes the server.
    Probed,
}

/// The code of "no recorded server".
const NO_SERVER: i32 = -3;

/// The number of an owner must fit a byte; 0 means no owner.
const _: () = assert!(MAX_WORKERS < 255);
