//! The shared-memory table: what all workers know together. Clients and the servers they belong to,
//! the state of the servers, counts and limits, connection numbers.
//!
//! The supervisor makes a [`Table`] before it forks; each worker takes its [`WorkerTable`] at it.
//! Nothing in the memory is trusted, for any worker can write any byte of it: what is read is
//! checked, loops are bounded, and whatever is in there, the worst is lost stickiness or a wrong
//! count, never a panic, a hang, or an access outside. A worker can die at any instruction:
//! `Table::reclaim` gives back what it held.
//!
//! | File | What |
//! |---|---|
//! | `layout` | what lies where |
//! | `map` | the mapping; the only unsafe file |
//! | `view` | the parts as slices |
//! | `lock` | a futex whose dead owner can be reclaimed |
//! | `entry`, `clients`, `rebuild` | one client, a shard of them, and how a shard is made whole again |
//! | `hash` | the keyed hash that places clients |
//! | `numbers` | connection numbers, which are the places under `-x` |
//! | `servers` | blacklist, counts, limits |
//! | `worker_table` | what workers do with it |
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

/// How large a table is when it is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// Client slots, 1 to 16777216. Up to 65536 slots the replacement is exactly LRU to the
    /// second; larger tables are divided in equal shards of at most 65536 slots by a hash of
    /// the client, each LRU by itself. [`Table::grow_clients`] makes the shards larger, not more.
    pub clients: u32,
    /// Server rows: regular servers, then emergency, then abuse; 1 to 4098.
    pub servers: u32,
    /// Workers, 1 to 64.
    pub workers: u32,
    /// Most connections at the beginning, 1 to 1048576. There is room for all 1048576 numbers, so
    /// that a higher limit is all that it takes to have more.
    pub connections: u32,
}

/// The table cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A system call failed.
    #[error("shared table of {bytes} bytes: {step}: {source}")]
    System {
        /// Which.
        step: &'static str,
        /// Size wanted.
        bytes: usize,
        /// Why.
        source: std::io::Error,
    },
    /// The shape is out of range.
    #[error("shared table: {0}")]
    Shape(&'static str),
}

/// The table: made by the supervisor, inherited by workers through fork(2). The supervisor uses it
/// only through the methods here; none of them waits for anybody.
pub struct Table {
    // These three are private to each process. A worker cannot change the supervisor's.
    layout: Layout,
    hash_key: HashKey,
    memory: Memory,
}

/// What all workers together have for one server row.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServerTotals {
    /// Open and pending connections.
    pub connections: u32,
    /// Bytes sent to the server.
    pub sent: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Monotonic milliseconds until which it is left out; 0 = it is not. May have passed: nobody
    /// has tried it since. While one connection tries it: the end of that one's time.
    pub blacklisted_until: u64,
    /// Whether it is an operator who left it out. Means nothing while it is not left out.
    pub is_taken_out: bool,
    /// Unix time, in seconds, at which it was left out last.
    pub failed_at: u64,
    /// Which of its addresses is in use. Not to be trusted to be in range.
    pub address: u32,
    /// The last connect to it that failed.
    pub last_failure: Option<Failure>,
    /// Whether as many connects to it are pending in a worker as there may be, so that clients are
    /// passed on.
    pub is_pending: bool,
}

/// When and why a connect to a server failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Unix time, in seconds.
    pub at: u64,
    /// What the caller noted.
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
    /// Makes a table. Its memory is taken page by page as it is used. It has address space for all
    /// that it can grow to (1.2 GB); where that cannot be had, it cannot grow.
    ///
    /// # Errors
    /// The shape is out of range, or the memory cannot be had.
    pub fn create(shape: Shape) -> Result<Table, TableError> {
        // A model checker's atomics are objects on the heap.
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

    /// A table with shards of few slots and little room to grow, for tests that write into it: of
    /// all that a real one can grow to, next to nothing is in use, and hardly a word written
    /// anywhere would be seen by anybody. Always the same, so that what is found once is found
    /// again.
    ///
    /// # Errors
    /// As for [`Table::create`].
    #[cfg(all(feature = "spoil", not(any(test, loom))))]
    pub fn cramped(shape: Shape, shard_slots: u32, clients: u32) -> Result<Table, TableError> {
        let room = layout::Room { shard_slots, clients, connections: shape.connections };
        let table = Table::with_layout(Layout::new(shape, room)?)?;
        Ok(Table { hash_key: HashKey([0, 0]), ..table })
    }

    /// All of the memory, for tests that write into it what a hostile worker would.
    #[cfg(all(feature = "spoil", not(any(test, loom))))]
    pub fn words(&self) -> &[std::sync::atomic::AtomicU32] {
        self.memory.words()
    }

    /// The shape it was made with.
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// Takes back all that a dead worker held: its connection counts, connection numbers and locks.
    /// Call after waitpid(2) and before a replacement starts. Returns whether a paused worker
    /// waits for a connection: then tell the workers.
    pub fn reclaim(&self, worker: u32) -> bool {
        let numbers = Numbers { view: self.view(), worker };
        if worker < self.layout.shape.workers {
            self.view().bury_locks(worker);
            self.view().bury_counts(worker);
            self.view().loads[worker as usize].open.store(0, Relaxed);
            numbers.reclaim();
        }
        // Also if nothing was freed here: the dead worker may have freed a number and died before
        // it woke anybody.
        numbers.anyone_waits()
    }

    /// The figures of a server row; all 0 for a row that does not exist.
    pub fn server_totals(&self, server: u32) -> ServerTotals {
        self.view().totals(server)
    }

    /// Leaves a server row out until a time, monotonic milliseconds, because an operator wants it;
    /// `at` is Unix time in seconds. Nothing for a row that does not exist.
    pub fn take_out(&self, server: u32, until: u64, at: u64) {
        if let Some(state) = self.view().servers.get(server as usize) {
            state.take_out(until, at);
        }
    }

    /// Puts a server row back into use.
    pub fn clear_blacklist(&self, server: u32) {
        if let Some(state) = self.view().servers.get(server as usize) {
            state.clear_blacklist();
        }
    }

    /// Has the bytes of a server row counted from 0 again, and puts it back into use: it stands for
    /// another server now. Only the supervisor does this. The workers' rows are not touched,
    /// which have one writer: what they held so far is subtracted from now on.
    pub fn reset_server(&self, server: u32) {
        self.view().reset(server);
        self.clear_blacklist(server);
    }

    /// Has the first address of a server used again: it has other addresses now. Only the
    /// supervisor does this.
    pub fn reset_address(&self, server: u32) {
        if let Some(state) = self.view().servers.get(server as usize) {
            state.address.store(0, Relaxed);
        }
    }

    /// Enlarges the client table to so many slots, for all workers at once; it never shrinks.
    /// Returns how many it can have: less than what was asked for where it has no room. Only
    /// the supervisor does this, and waits for nobody: whoever next locks a shard makes its links
    /// anew, which takes as long as after a death (a shard of 65536 slots: 5 ms).
    pub fn grow_clients(&self, clients: u32) -> u32 {
        let clients = clients.min(self.layout.most_clients());
        let share = self.layout.share(clients);
        for shard in self.view().shards() {
            shard.state.lock.0.wanted.fetch_max(share, Relaxed);
        }
        clients
    }

    /// The worker that has this connection number; none if nobody has.
    pub fn connection_owner(&self, number: u32) -> Option<u32> {
        numbers::owner(self.view(), number).filter(|worker| *worker < self.layout.shape.workers)
    }

    /// The code of the server that any connection was last given; 0 before the first.
    pub fn current(&self) -> i32 {
        self.view().globals.current.0.load(Relaxed) as i32
    }

    /// Connections in use.
    pub fn connections_open(&self) -> u32 {
        numbers::taken(self.view())
    }

    /// The used client slots, in order of slot; at any moment each entry is whole or left out.
    pub fn clients(&self) -> impl Iterator<Item = ClientEntry> + '_ {
        self.view().shards().flat_map(|shard| {
            let used = &shard.entries[..shard.used() as usize];
            (shard.first..).zip(used).filter_map(|(slot, entry)| entry.read(slot))
        })
    }

    /// A worker's own seat at the table.
    ///
    /// # Panics
    /// There is no such worker: the caller's mistake.
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

/// A client's entry as it was when the client arrived; outlives the entry harmlessly (what is
/// written through it afterwards is dropped).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientRef {
    /// Slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
}

impl ClientRef {
    /// No client's entry: what is written through it is dropped. For a client that could not be
    /// remembered.
    pub const NOBODY: ClientRef = ClientRef { slot: u32::MAX, generation: 0 };
}

impl Default for ClientRef {
    fn default() -> ClientRef {
        ClientRef::NOBODY
    }
}

/// What the table knew about a client that arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arrival {
    /// The entry.
    pub client: ClientRef,
    /// The recorded server's code; -3 for a new or forgotten client.
    pub recorded: i32,
}

/// Why a lock was not had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LockStuck;

/// The state of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blacklist {
    /// In use.
    Clear,
    /// Left out.
    Until(u64),
    /// Its time is up and nobody has tried it yet.
    Expired,
    /// Its time is up and one connection is trying it.
    Probed,
}

/// The code of "no recorded server".
const NO_SERVER: i32 = -3;

/// An owner's number must fit a byte, with 0 for nobody.
const _: () = assert!(MAX_WORKERS < 255);
